//! Some hundred seeds, each twice, and every situation among them.

use etcd_proxy_sim::{Counts, run_twice};

/// Seeds of one run of the tests, which is unoptimised; the command runs as many as one likes.
const SEEDS: u64 = 600;

#[test]
fn seeds_pass_and_meet_every_situation() {
    let mut counts = Counts::default();
    for seed in 0..SEEDS {
        match run_twice(seed, &[]) {
            Ok(passed) => counts.merge(&passed.counts),
            Err(failure) => panic!("{failure}"),
        }
    }
    let missing: Vec<_> = counts.missing().collect();
    assert!(
        missing.is_empty(),
        "never came up: {missing:?}\n{}",
        counts.report()
    );
}
