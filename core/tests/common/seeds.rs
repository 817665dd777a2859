//! Many seeds of a simulation.

use std::any::Any;
use std::panic::{catch_unwind, resume_unwind};

use crate::environment::number_from_environment;

/// Runs `SIM_SEEDS` seeds from `SIM_START` on, or so many, each eighth of them twice: the traces must be the same. `run` answers the hash of its
/// trace and what happened, `add` takes that. With `SIM_SEED` only that one runs, and tells what it does; answers whether
/// there is something to look at.
pub(crate) fn run_all<T>(seeds: u64, run: fn(u64, bool) -> (u64, T), mut add: impl FnMut(T)) -> bool {
    if let Some(seed) = number_from_environment("SIM_SEED") {
        run(seed, true);
        return false;
    }
    let start = number_from_environment("SIM_START").unwrap_or(0);
    let seeds = number_from_environment("SIM_SEEDS").unwrap_or(seeds);
    for seed in start..start.saturating_add(seeds) {
        let outcome = catch_unwind(|| run(seed, false));
        let (trace, happened) = outcome.unwrap_or_else(|panic: Box<dyn Any + Send>| {
            eprintln!("seed {seed} fails; replay it with SIM_SEED={seed}");
            resume_unwind(panic)
        });
        if seed % 8 == 0 {
            assert_eq!(run(seed, false).0, trace, "two runs of seed {seed} differ");
        }
        add(happened);
    }
    true
}
