//! Waits between failures.

use core::time::Duration;

use fastrand::Rng;

/// The shortest wait that is repeated for as long as its cause lasts.
pub(crate) const WAIT_MIN: Duration = Duration::from_millis(1);

/// A wait that doubles with each failure before, from `min` to `max`, spread between half and full.
pub(crate) fn backoff(rng: &mut Rng, min: Duration, max: Duration, failures: u32) -> Duration {
    let full = min.saturating_mul(1 << failures.min(16)).min(max);
    let nanos = u64::try_from(full.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(nanos / 2..=nanos))
}
