//! The endpoint machine in a simulated world: see `world.rs` and `sim.rs` for the world, `story.rs` for
//! what happens in it, and `oracle.rs` for the rules.
//!
//! `SIM_SEEDS=1000000` sets the number of seeds, `SIM_START=5000` the first, `SIM_SEED=7` replays one and prints what
//! happens in it.

mod count;
#[path = "../common/environment.rs"]
mod environment;
mod faults;
mod oracle;
mod regressions;
mod sim;
mod story;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use count::Counts;
use environment::number_from_environment;
use proptest::prelude::*;
use story::{Outcome, run};

/// Seeds of one run of the tests.
const SEEDS: u64 = 3_000;

/// Runs a seed twice; if it fails, once more with its trace on stderr.
fn run_and_replay(seed: u64) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let outcome = run(seed, false);
        assert_eq!(run(seed, false).hash, outcome.hash, "two runs of one seed differ");
        outcome
    }));
    outcome.unwrap_or_else(|panic| {
        eprintln!("seed {seed} fails; replay it with SIM_SEED={seed}. Its trace:");
        let _ = catch_unwind(AssertUnwindSafe(|| run(seed, true)));
        resume_unwind(panic)
    })
}

#[test]
fn many_seeds() {
    if let Some(seed) = number_from_environment("SIM_SEED") {
        let outcome = run(seed, true);
        eprintln!("{}", outcome.counts.report());
        return;
    }
    let seeds = number_from_environment("SIM_SEEDS").unwrap_or(SEEDS);
    let mut counts = Counts::default();
    let mut slowest = 0.0f64;
    let start = number_from_environment("SIM_START").unwrap_or(0);
    for seed in start..start.saturating_add(seeds) {
        let outcome = run_and_replay(seed);
        counts.merge(&outcome.counts);
        slowest = slowest.max(outcome.slowest);
    }
    eprintln!(
        "{}slowest rest: {:.0} % of its bound",
        counts.report(),
        slowest * 100.0
    );
    if seeds >= SEEDS {
        let missing = counts.missing();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

#[test]
fn the_first_choice_is_spread_over_all_members() {
    let mut chosen = [[0u32; 5]; 5];
    let runs = 4_000;
    for seed in 0..runs {
        let (members, first) = sim::first_choice(seed);
        chosen[members - 1][first] += 1;
    }
    for (row, members) in chosen.iter().zip(1..) {
        let runs: u32 = row.iter().sum();
        let fair = runs / members;
        for count in &row[..members as usize] {
            assert!(
                (fair * 3 / 4..=fair * 5 / 4).contains(count),
                "{members} members: {row:?}"
            );
        }
    }
}

/// Members that don't answer cost a search [`Config::stagger`] each, not their timeouts.
///
/// [`Config::stagger`]: etcd_proxy_core::endpoints::Config::stagger
#[test]
fn a_search_does_not_wait_for_the_silent() {
    for seed in 0..500 {
        sim::search_among_silent_members(seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_seed(seed: u64) {
        run_and_replay(seed);
    }
}
