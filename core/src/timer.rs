//! One queue for all timers of a machine, keyed by what they are for.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

/// Timers keyed by identity: setting a key again moves it, so a key never fires twice for one
/// purpose and a component needs no bookkeeping of its own.
///
/// Equal deadlines fire in key order, which keeps a run reproducible.
#[derive(Clone, Debug)]
pub struct TimerQueue<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: BTreeMap<K, Instant>,
    next: Option<Instant>,
}

impl<K> Default for TimerQueue<K> {
    fn default() -> Self {
        Self {
            by_time: BTreeSet::new(),
            by_key: BTreeMap::new(),
            next: None,
        }
    }
}

impl<K: Copy + Ord> TimerQueue<K> {
    /// Sets or moves the timer `key` to `at`.
    pub fn set(&mut self, key: K, at: Instant) {
        if let Some(old) = self.by_key.insert(key, at) {
            self.by_time.remove(&(old, key));
        }
        self.by_time.insert((at, key));
        self.refresh();
    }

    /// Removes the timer `key`; does nothing if it isn't set.
    pub fn cancel(&mut self, key: K) {
        if let Some(old) = self.by_key.remove(&key) {
            self.by_time.remove(&(old, key));
            self.refresh();
        }
    }

    /// Takes the earliest timer whose time has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        self.refresh();
        Some(key)
    }

    /// When the earliest timer is due. O(1).
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Whether no timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// All that there is, one after the other: there may be too much of it to be dropped at once.
    pub fn into_pieces(self) -> impl Iterator<Item = ()> {
        let by_time = self.by_time.into_iter().map(drop);
        by_time.chain(self.by_key.into_iter().map(drop))
    }

    fn refresh(&mut self) {
        self.next = self.by_time.first().map(|(at, _)| *at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_a_key_again_moves_it() {
        let mut timers = TimerQueue::default();
        timers.set('a', Instant::from_nanos(5));
        timers.set('b', Instant::from_nanos(3));
        timers.set('b', Instant::from_nanos(9));
        assert_eq!(timers.next_timeout(), Some(Instant::from_nanos(5)));
        assert_eq!(timers.pop_due(Instant::from_nanos(4)), None);
        assert_eq!(timers.pop_due(Instant::from_nanos(9)), Some('a'));
        assert_eq!(timers.pop_due(Instant::from_nanos(9)), Some('b'));
        assert_eq!(timers.pop_due(Instant::from_nanos(9)), None);
        assert!(timers.is_empty());
    }

    #[test]
    fn cancelled_keys_never_fire() {
        let mut timers = TimerQueue::default();
        timers.set(1, Instant::from_nanos(1));
        timers.cancel(1);
        timers.cancel(2);
        assert_eq!(timers.next_timeout(), None);
        assert_eq!(timers.pop_due(Instant::from_nanos(u64::MAX)), None);
    }
}
