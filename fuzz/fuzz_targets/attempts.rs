//! The rules of sending a call again, over any story of failures.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use etcd_proxy_core::retry::{Attempts, Failure, Next};
use fastrand::Rng;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    repeatable: bool,
    seed: u64,
    story: Vec<Met>,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Met {
    NotSent,
    Refused,
    ConnectionLost,
    MovedAway,
    Unavailable,
}

fuzz_target!(|input: Input| {
    let mut rng = Rng::with_seed(input.seed);
    let mut attempts = Attempts::new(input.repeatable);
    let mut again = Vec::new();
    for met in input.story {
        let failure = match met {
            Met::NotSent => Failure::NotSent,
            Met::Refused => Failure::Refused,
            Met::ConnectionLost => Failure::ConnectionLost,
            Met::MovedAway => Failure::MovedAway,
            Met::Unavailable => Failure::Unavailable,
        };
        let before = |met: Met| again.iter().filter(|other| **other == met).count();
        match attempts.after(failure, &mut rng) {
            Next::Again(wait) => {
                // A write goes out again only when it certainly wasn't carried out.
                assert!(input.repeatable || matches!(met, Met::NotSent | Met::Refused));
                match met {
                    Met::NotSent => {
                        assert!(resent(&again) < 16);
                        assert_eq!(wait, Duration::ZERO);
                    }
                    Met::MovedAway => {
                        assert!(input.repeatable && resent(&again) < 16);
                        assert_eq!(wait, Duration::ZERO);
                    }
                    Met::Refused => {
                        assert!(resent(&again) < 16);
                        assert!((22_500..=27_500).contains(&wait.as_micros()), "{wait:?}");
                    }
                    Met::ConnectionLost => {
                        assert_eq!(before(met), 0, "a second member would be killed");
                        assert_eq!(wait, Duration::ZERO);
                    }
                    Met::Unavailable => {
                        let millis = [25, 100, 400][before(met)];
                        let spread = Duration::from_millis(millis) / 10;
                        let wait_min = Duration::from_millis(millis) - spread;
                        assert!((wait_min..=wait_min + spread * 2).contains(&wait), "{wait:?}");
                    }
                }
                again.push(met);
            }
            Next::GiveUp => {
                // It isn't given up lightly either.
                let may = match met {
                    Met::MovedAway => input.repeatable && resent(&again) < 16,
                    Met::NotSent | Met::Refused => resent(&again) < 16,
                    Met::ConnectionLost => input.repeatable && before(met) < 1,
                    Met::Unavailable => input.repeatable && before(met) < 3,
                };
                assert!(!may, "{met:?} after {again:?}");
                return;
            }
        }
        assert!(again.len() <= 16 + 1 + 3);
    }
});

/// How many of the bounded kind were sent again.
fn resent(again: &[Met]) -> usize {
    again
        .iter()
        .filter(|met| matches!(met, Met::NotSent | Met::Refused | Met::MovedAway))
        .count()
}
