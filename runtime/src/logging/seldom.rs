//! Lines that clients can cause as often as they like, and that nobody needs to read more than now and then.

use core::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

/// The shortest time between two lines.
pub(crate) const SELDOM: Duration = Duration::from_secs(10);

/// Lets one line through in each [`SELDOM`].
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State {
            last: None,
            left_out: 0,
        }))
    }

    /// Whether to write a line now; then, how many were left out before it.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        // Threads may have looked at the clock in another order than they come here.
        if state
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < SELDOM)
        {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(core::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_a_while_tells_of_the_others() {
        let seldom = Seldom::new();
        let start = Instant::now();
        assert_eq!(seldom.admit(start), Some(0));
        for after in 0..10_000 {
            assert_eq!(seldom.admit(start + Duration::from_millis(after)), None);
        }
        assert_eq!(seldom.admit(start + SELDOM), Some(10_000));
        assert_eq!(seldom.admit(start), None);
        assert_eq!(seldom.admit(start + SELDOM * 2), Some(1));
    }
}
