//! The cluster's log as the oracle has read it: what every key was at every revision, and who wrote it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use etcd_proxy_model::store::Store;
use etcd_proxy_proto::mvccpb::KeyValue;

use crate::delivery::CallTag;
use crate::op::writer;

/// A key from one revision on: `None` if it was deleted then.
#[derive(Clone, Debug)]
struct Version {
    revision: i64,
    value: Option<KeyValue>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Ledger {
    revision: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    writes: BTreeMap<CallTag, i64>,
    /// Revisions that deleted a key and that nobody has claimed.
    deletes: BTreeMap<Bytes, BTreeSet<i64>>,
}

impl Ledger {
    /// Reads what was committed since it last looked; gives the calls whose writes that brought.
    ///
    /// # Panics
    /// When the log contains a write twice.
    pub(super) fn read(&mut self, store: &Store) -> Vec<CallTag> {
        let mut writers = Vec::new();
        if store.revision() == self.revision {
            return writers;
        }
        assert!(
            store.revision() > self.revision,
            "committed revisions were taken back"
        );
        for change in store.log_from(self.revision + 1) {
            let revision = change.revision();
            let versions = self.keys.entry(change.kv.key.clone()).or_default();
            if change.is_delete() {
                versions.push(Version {
                    revision,
                    value: None,
                });
                self.deletes
                    .entry(change.kv.key.clone())
                    .or_default()
                    .insert(revision);
                continue;
            }
            versions.push(Version {
                revision,
                value: Some(change.kv.clone()),
            });
            if let Some(writer) = writer(&change.kv.value) {
                let before = self.writes.insert(writer, revision);
                assert_eq!(
                    before, None,
                    "{writer:?} was written twice, and again at {revision}"
                );
                writers.push(writer);
            }
        }
        self.revision = store.revision();
        writers
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision at which this call's write was committed.
    pub(super) fn written(&self, call: CallTag) -> Option<i64> {
        self.writes.get(&call).copied()
    }

    /// A key at a revision.
    pub(super) fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let versions = self.keys.get(key)?;
        let after = versions.partition_point(|version| version.revision <= revision);
        versions[..after].last()?.value.as_ref()
    }

    /// The keys of a range at a revision, in order.
    pub(super) fn range(&self, from: &[u8], to: &[u8], revision: i64) -> Vec<&KeyValue> {
        let keys = self
            .keys
            .range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)));
        keys.filter_map(|(key, _)| self.at(key, revision)).collect()
    }

    /// The revision of the last write of a key that is there now; 0 if it isn't.
    pub(super) fn modified(&self, key: &[u8]) -> i64 {
        self.at(key, i64::MAX).map_or(0, |value| value.mod_revision)
    }

    /// An acknowledged delete takes its place in the log. Tells whether it was there, and nobody else's.
    pub(super) fn claim_delete(&mut self, key: &[u8], revision: i64) -> bool {
        self.deletes
            .get_mut(key)
            .is_some_and(|revisions| revisions.remove(&revision))
    }

    /// Deletes that nobody was told of.
    pub(super) fn unclaimed_deletes(&self) -> impl Iterator<Item = (&Bytes, usize)> {
        self.deletes.iter().map(|(key, revisions)| (key, revisions.len()))
    }
}
