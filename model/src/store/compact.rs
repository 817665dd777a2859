//! Forgetting the past.

use alloc::vec::Vec;

use super::{Store, bytes_of};
use crate::error::Error;

impl Store {
    /// Forgets what only reads before `revision` could see.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] if a compaction got there before, [`Error::FutureRevision`].
    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        self.remember_hash(revision);
        self.compacted = revision;
        self.keys.retain(|_, history| {
            history.compact(revision);
            !history.is_empty()
        });
        // What the compacted revision itself did can still be watched, if it wasn't undone in the same revision.
        let after = self.log.partition_point(|change| change.revision() <= revision);
        let before = self.log.partition_point(|change| change.revision() < revision);
        let mut kept: Vec<_> = self.log.drain(..after).skip(before).collect();
        kept.retain(|change| {
            let history = self.keys.get(&change.kv.key);
            history.and_then(|history| history.last_until(revision)) == Some(change)
        });
        for change in kept.into_iter().rev() {
            self.log.push_front(change);
        }
        let changes = self.keys.values().flat_map(|history| history.until(i64::MAX));
        self.bytes = changes.map(|change| bytes_of(&change.kv)).sum();
        Ok(())
    }
}
