//! The read cache in a simulated world: see `cluster.rs` and `world` for the world, `oracle.rs` for what must be true.
//!
//! `SIM_SEEDS=100000` sets the number of seeds, `SIM_SEED=7` replays one.

mod cluster;
mod counts;
mod oracle;
mod regressions;
mod sim;
mod world;

use counts::Counts;
use sim::run;

/// Seeds of one run of the tests.
const SEEDS: u64 = 1_000;

#[expect(clippy::disallowed_methods, reason = "the tests aren't the core")]
fn number_from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} isn't a number: {value}")),
    )
}

#[test]
fn many_seeds() {
    if let Some(seed) = number_from_environment("SIM_SEED") {
        run(seed, true);
        return;
    }
    let mut counts = Counts::default();
    for seed in 0..number_from_environment("SIM_SEEDS").unwrap_or(SEEDS) {
        let outcome = std::panic::catch_unwind(|| run(seed, false));
        let (trace, happened) = outcome.unwrap_or_else(|panic| {
            eprintln!("seed {seed} fails; replay it with SIM_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        if seed % 8 == 0 {
            assert_eq!(run(seed, false).0, trace, "two runs of seed {seed} differ");
        }
        counts.add(&happened);
    }
    eprintln!("{counts:?}");
    counts.check();
}
