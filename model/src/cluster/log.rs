//! The log that the members share.

use alloc::collections::VecDeque;

use etcd_proxy_core::time::Instant;

use crate::state::Entry;

/// Entries that are kept for members that are behind. One that is further behind gets all that the others hold at
/// once, as an etcd server gets a snapshot (etcd: 5,000 entries after each of its snapshots).
const ENTRIES_MAX: usize = 10_000;

/// What is committed, from the first entry that a member may still need.
#[derive(Debug)]
pub(super) struct Log {
    /// The index of the front entry, or of the next one if there is none.
    first: u64,
    entries: VecDeque<Committed>,
}

#[derive(Debug)]
pub(super) struct Committed {
    pub(super) entry: Entry,
    pub(super) at: Instant,
}

impl Log {
    /// A log whose entries up to `last` are applied everywhere.
    pub(super) const fn new(last: u64) -> Self {
        Self {
            first: last + 1,
            entries: VecDeque::new(),
        }
    }

    /// The index of the last entry.
    pub(super) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// Appends an entry; answers its index.
    pub(super) fn push(&mut self, at: Instant, entry: Entry) -> u64 {
        self.entries.push_back(Committed { entry, at });
        self.last()
    }

    /// The entry with this index, if it is still there.
    pub(super) fn get(&self, index: u64) -> Option<&Committed> {
        let position = index.checked_sub(self.first)?;
        self.entries.get(usize::try_from(position).ok()?)
    }

    /// Forgets what every member has applied, and what there is too much of.
    pub(super) fn trim(&mut self, applied: u64) {
        while let Some(surplus) = self.entries.len().checked_sub(1)
            && (self.first <= applied || surplus >= ENTRIES_MAX)
        {
            self.entries.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Command;

    fn push(log: &mut Log) -> u64 {
        let entry = Entry {
            user: None,
            command: Command::NoOp,
        };
        log.push(Instant::ZERO, entry)
    }

    #[test]
    fn keeps_what_is_needed_up_to_a_bound() {
        let mut log = Log::new(4);
        assert_eq!(log.last(), 4);
        assert_eq!((push(&mut log), push(&mut log)), (5, 6));
        log.trim(5);
        assert!(log.get(4).is_none() && log.get(5).is_none() && log.get(7).is_none());
        assert!(log.get(6).is_some());
        log.trim(6);
        assert!(log.get(6).is_none());
        assert_eq!(push(&mut log), 7);
        for _ in 0..2 * ENTRIES_MAX {
            push(&mut log);
        }
        log.trim(6);
        assert!(log.get(7).is_none());
        assert_eq!(log.entries.len(), ENTRIES_MAX);
        assert!(log.get(log.last()).is_some());
    }
}
