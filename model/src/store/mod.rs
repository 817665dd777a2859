//! Keys with all their revisions.
//!
//! A [`Store`] is what etcd calls its MVCC store: every transaction that changes something makes the next revision,
//! and every change within it has a place, its sub-revision. Reads see the state after any revision that is not
//! compacted. Deleted keys stay, as a delete, until they are compacted.
//!
//! What a client may ask for at all is decided by [`validate`], before anything goes through the log.

mod compact;
mod hash;
mod history;
mod key_range;
mod range;
mod txn;
pub mod validate;
mod write;

use alloc::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::ResponseHeader;
use etcd_proxy_proto::mvccpb::{Event, KeyValue};

pub use self::hash::Hash;
pub use self::history::Change;
use self::history::History;
pub use self::key_range::KeyRange;
pub(crate) use self::txn::{check_lease, has_put};
pub use self::txn::{is_read_only, is_serializable};
pub(crate) use self::write::Writer;

/// Keys, their revisions, and the log of changes.
#[derive(Clone, Debug)]
pub struct Store {
    /// The last revision that was made.
    revision: i64,
    /// The last compaction; -1 before the first, which a client can tell from 0.
    compacted: i64,
    keys: BTreeMap<Bytes, History>,
    /// Every change from the last compaction on, in order.
    log: VecDeque<Change>,
    /// Bytes of the keys and values in the histories.
    bytes: u64,
    /// Checksums of the last compacted revisions.
    hashes: VecDeque<Hash>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store, at revision 1 as etcd's.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            bytes: 0,
            hashes: VecDeque::new(),
        }
    }

    /// The current revision, 1 or more.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision of the last compaction, -1 if there was none. Reads and watches may start at this revision, not
    /// before.
    #[must_use]
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The key at a revision: None if it didn't exist then, or if the revision is compacted or not above 0.
    #[must_use]
    pub fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        if revision <= 0 || revision < self.compacted {
            return None;
        }
        self.keys.get(key)?.at(revision)
    }

    /// The changes of a key range from a revision on, with the revisions they made: in order, nothing left out.
    /// Revisions below the [compacted](Self::compacted) one are gone, and of those that the compacted revision made,
    /// changes that the same revision changed again.
    pub fn changes<'a>(
        &'a self,
        from_revision: i64,
        key: &'a [u8],
        range_end: &'a [u8],
    ) -> impl Iterator<Item = (i64, Event)> + 'a {
        let range = KeyRange::new(key, range_end);
        self.log_from(from_revision)
            .filter(move |change| range.contains(&change.kv.key))
            .map(|change| (change.revision(), change.event()))
    }

    /// All changes from a revision on, in order: see [`changes`](Self::changes).
    pub fn log_from(&self, from_revision: i64) -> impl Iterator<Item = &Change> {
        let start = self
            .log
            .partition_point(|change| change.revision() < from_revision);
        self.log.range(start..)
    }

    /// Bytes of all keys and values that are not compacted: about what a database would hold.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// A header that says the revision; the rest is the answering member's to fill in.
    fn header(revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision,
            ..Default::default()
        })
    }
}

fn bytes_of(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64
}

#[cfg(test)]
mod tests;
