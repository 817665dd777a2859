//! The watch hub in a simulated world: see `server.rs` and `world.rs` for the world, `client.rs` for the rules.
//!
//! `SIM_SEEDS=100000` sets the number of seeds, `SIM_START=5000` the first, `SIM_SEED=7` replays one.

mod client;
#[path = "../common/environment.rs"]
mod environment;
mod regressions;
#[path = "../common/seeds.rs"]
mod seeds;
mod server;
mod sim;
mod store;
mod world;

use sim::{Counts, run};

/// Seeds of one run of the tests.
const SEEDS: u64 = 1_000;

#[test]
fn many_seeds() {
    let mut counts = Counts::default();
    if !seeds::run_all(SEEDS, run, |happened| counts.add(happened)) {
        return;
    }
    eprintln!("{counts:?}");
    let Counts {
        events,
        lagged,
        catch_ups,
        resumes,
        compacted,
        refused,
        progress,
        notified,
        fragments,
        ended,
        restored,
        histories,
    } = counts;
    let counted = [
        lagged as usize,
        catch_ups as usize,
        resumes as usize,
        events,
        compacted,
        refused,
        progress,
        notified,
        fragments,
        ended,
        restored,
        histories as usize,
    ];
    assert!(
        counted.iter().all(|count| *count > 100),
        "too little happens: {counts:?}"
    );
}
