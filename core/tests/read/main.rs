//! The read cache in a simulated world: see `cluster.rs` and `world` for the world, `oracle.rs` for what must be true.
//!
//! `SIM_SEEDS=100000` sets the number of seeds, `SIM_START=5000` the first, `SIM_SEED=7` replays one.

#[path = "../common/agenda.rs"]
mod agenda;
mod cluster;
mod counts;
#[path = "../common/environment.rs"]
mod environment;
mod oracle;
mod regressions;
#[path = "../common/seeds.rs"]
mod seeds;
mod sim;
mod world;

use counts::Counts;
use sim::run;

/// Seeds of one run of the tests.
const SEEDS: u64 = 1_000;

#[test]
fn many_seeds() {
    let mut counts = Counts::default();
    if !seeds::run_all(SEEDS, run, |happened| counts.add(&happened)) {
        return;
    }
    eprintln!("{counts:?}");
    counts.check();
}
