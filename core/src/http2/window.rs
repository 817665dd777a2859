//! How much of an answer a member may send ahead of its reader: the receive window of a call.
//!
//! A call gets at most one window a round trip, so on a long link a fixed one is slow: 256 KiB over 100 ms are 2.6 MB/s.
//! A large one for everybody would be kept in memory for each client that doesn't read. So the window follows what
//! the link holds (its bandwidth times its round trip, measured as grpc-go does with a PING beside the data), and all
//! windows of a connection together have a bound: the more calls are open, the smaller they are (HTTP/2 lets a window
//! shrink below what is used already, RFC 9113, section 6.9.2).

use core::time::Duration;

/// The smallest window of a call, in bytes, and the first one.
pub const CALL_WINDOW_MIN: u32 = 256 * 1024;

/// The largest window of a call, in bytes: half of grpc-go's limit, 670 Mbit/s for one call over 100 ms.
pub const CALL_WINDOW_MAX: u32 = 8 * 1024 * 1024;

/// What the windows of a connection may come to together, in bytes, if they are larger than the smallest. Twice as much
/// for a while.
const ALL_WINDOWS: u32 = 16 * 1024 * 1024;

/// Calls come in crowds, and the next change can only follow once the member has confirmed one: so many times as many
/// calls must fit.
const CROWD: usize = 8;

/// A DATA frame of so many bytes belongs to an answer that is long enough for a measurement.
pub const LONG_FRAME: usize = 8 * 1024;

/// The window of the calls on a connection. It only says what the window should be; telling the peer is its user's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallWindow {
    bytes: u32,
    /// The shortest round trip that was measured: longer ones have waited in line behind data.
    round_trip: Duration,
}

impl Default for CallWindow {
    fn default() -> Self {
        Self {
            bytes: CALL_WINDOW_MIN,
            round_trip: Duration::MAX,
        }
    }
}

impl CallWindow {
    /// What a call may be sent ahead, in bytes, from [`CALL_WINDOW_MIN`] to [`CALL_WINDOW_MAX`].
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// A PING was answered after `took`, and so many bytes came meanwhile. So many calls are open.
    pub fn measured(&mut self, bytes: u64, took: Duration, calls_open: usize) {
        let took = took.max(Duration::from_nanos(1));
        self.round_trip = self.round_trip.min(took);
        // What was under way at a time, without what only stood in line.
        let held = u128::from(bytes) * self.round_trip.as_nanos() / took.as_nanos();
        if 3 * held >= 2 * u128::from(self.bytes) {
            let wanted = (2 * held).min(u128::from(CALL_WINDOW_MAX)) as u32;
            let wanted = wanted.next_power_of_two().min(share(calls_open));
            self.bytes = self.bytes.max(wanted);
        }
    }

    /// Makes the window smaller if with so many calls open all together could hold twice what they may.
    pub fn fit(&mut self, calls_open: usize) {
        let all = u64::from(self.bytes).saturating_mul(calls_open as u64);
        if all > 2 * u64::from(ALL_WINDOWS) {
            self.bytes = share(calls_open.saturating_mul(CROWD));
        }
    }
}

/// The window of each of so many calls, as a power of two.
fn share(calls_open: usize) -> u32 {
    let calls = u32::try_from(calls_open.max(1)).unwrap_or(u32::MAX);
    let share = (ALL_WINDOWS / calls).clamp(CALL_WINDOW_MIN, CALL_WINDOW_MAX);
    1 << share.ilog2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_millis(100);

    /// A list over a link: as much a round trip as the window and the link allow. Returns the round trips it took.
    fn list(window: &mut CallWindow, bytes: u64, link: u64, calls: usize) -> u32 {
        let (mut left, mut trips) = (bytes, 0);
        while left > 0 {
            let sent = u64::from(window.bytes()).min(link).min(left);
            left -= sent;
            trips += 1;
            window.measured(sent * calls as u64, LONG, calls);
            window.fit(calls);
        }
        trips
    }

    #[test]
    fn a_list_over_a_long_link_takes_one_round_trip_once_warm() {
        let mut window = CallWindow::default();
        assert!(list(&mut window, 4 << 20, u64::MAX, 1) <= 5);
        list(&mut window, 4 << 20, u64::MAX, 1);
        assert_eq!(list(&mut window, 4 << 20, u64::MAX, 1), 1);
    }

    #[test]
    fn the_window_stops_at_what_the_link_holds() {
        let mut window = CallWindow::default();
        list(&mut window, 1 << 30, 600_000, 1);
        assert_eq!(window.bytes(), 1 << 20);
    }

    #[test]
    fn what_stands_in_line_is_not_what_the_link_holds() {
        let mut window = CallWindow::default();
        // A short link that is full: the PING's answer waits behind ever more data, at the same rate.
        window.measured(1_000, Duration::from_millis(1), 1);
        for trip in 1..1_000 {
            window.measured(trip * 100_000, Duration::from_millis(trip), 1);
        }
        assert_eq!(window.bytes(), CALL_WINDOW_MIN);
    }

    #[test]
    fn many_calls_have_small_windows() {
        let mut window = CallWindow::default();
        window.measured(1 << 30, LONG, 1);
        assert_eq!(window.bytes(), CALL_WINDOW_MAX);
        window.fit(4);
        assert_eq!(window.bytes(), CALL_WINDOW_MAX, "twice what they may");
        window.fit(5);
        assert_eq!(window.bytes(), CALL_WINDOW_MIN, "room for a crowd");
        window.measured(1 << 30, LONG, 5);
        assert_eq!(window.bytes(), 2 << 20);
        window.fit(10_000);
        assert_eq!(window.bytes(), CALL_WINDOW_MIN);
        // Twice the least, which is not twice what so many may have.
        let mut window = CallWindow::default();
        window.measured(174_763, Duration::ZERO, 1);
        assert_eq!(window.bytes(), 2 * CALL_WINDOW_MIN);
        window.fit(97);
        assert_eq!(window.bytes(), CALL_WINDOW_MIN);
        window.measured(1 << 30, LONG, 10_000);
        assert_eq!(window.bytes(), CALL_WINDOW_MIN);
    }

    proptest! {
        #[test]
        fn all_windows_together_are_bounded(steps in prop::collection::vec((any::<u64>(), any::<u64>(), 0usize..1 << 20), 1..50)) {
            let mut window = CallWindow::default();
            for (bytes, nanos, calls) in steps {
                window.measured(bytes, Duration::from_nanos(nanos), calls);
                window.fit(calls);
                prop_assert!((CALL_WINDOW_MIN..=CALL_WINDOW_MAX).contains(&window.bytes()));
                let all = u64::from(window.bytes()) * calls as u64;
                prop_assert!(all <= 2 * u64::from(ALL_WINDOWS) || window.bytes() == CALL_WINDOW_MIN);
            }
        }
    }
}
