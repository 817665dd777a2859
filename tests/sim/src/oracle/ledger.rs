//! The cluster's log as the oracle has read it: what every key was at every revision, and who wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::store::{Change, Store};
use etcd_proxy_proto::etcdserverpb::RangeRequest;
use etcd_proxy_proto::mvccpb::{Event, KeyValue};

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
    /// Every change, in order, and when it was committed.
    changes: Vec<Logged>,
    /// Revisions of which changes may have been compacted before anybody could look.
    unseen: Vec<Range<i64>>,
    /// Every compaction.
    compactions: BTreeSet<i64>,
}

/// A change of a key, as a watcher is told of it.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) revision: i64,
    pub(super) at: Instant,
    pub(super) event: Event,
}

impl Ledger {
    /// What it was at a revision, with what was compacted then.
    pub(super) fn until(&self, revision: i64, compacted: i64) -> Self {
        let keys = self.keys.iter().map(|(key, versions)| {
            let kept = versions.iter().filter(|version| version.revision <= revision);
            (key.clone(), kept.cloned().collect())
        });
        let writes = self.writes.iter().filter(|(_, written)| **written <= revision);
        let deletes = self.deletes.iter().map(|(key, deletes)| {
            let kept = deletes.range(..=revision);
            (key.clone(), kept.copied().collect())
        });
        let changes = self.changes.iter().filter(|change| change.revision <= revision);
        Self {
            revision,
            unseen: self
                .unseen
                .iter()
                .map(|unseen| unseen.start..unseen.end.min(revision + 1))
                .collect(),
            keys: keys.collect(),
            writes: writes.map(|(call, written)| (*call, *written)).collect(),
            deletes: deletes.collect(),
            changes: changes.cloned().collect(),
            compactions: self.compactions.range(..=compacted).copied().collect(),
        }
    }

    /// Reads what was committed since it last looked; gives the calls whose writes that brought.
    ///
    /// # Panics
    /// When the log contains a write twice.
    pub(super) fn read(&mut self, now: Instant, store: &Store) -> Vec<CallTag> {
        let mut writers = Vec::new();
        if store.compacted() > self.compacted() {
            self.compactions.insert(store.compacted());
            if store.compacted() > self.revision + 1 {
                self.unseen.push(self.revision + 1..store.compacted());
            }
        }
        if store.revision() == self.revision {
            return writers;
        }
        assert!(
            store.revision() > self.revision,
            "committed revisions were taken back"
        );
        let compacted = self.left_of_compacted(store);
        for change in compacted.iter().chain(store.log_from(self.revision + 1)) {
            let revision = change.revision();
            self.changes.push(Logged {
                revision,
                at: now,
                event: change.event(),
            });
            let versions = self.keys.entry(change.kv.key.clone()).or_default();
            if change.is_delete() {
                let before = versions.last().and_then(|version| version.value.as_ref());
                let ends_with_lease = before.is_some_and(|before| before.lease != 0);
                versions.push(Version {
                    revision,
                    value: None,
                });
                if ends_with_lease {
                    // Nobody deletes those but the end of their lease.
                    continue;
                }
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
                assert!(
                    before.is_none_or(|before| before == revision),
                    "{writer:?} was written at {before:?}, and again at {revision}"
                );
                writers.push(writer);
            }
        }
        self.revision = store.revision();
        writers
    }

    /// What was committed since the log was read and is left of what was compacted since: each key's last change.
    fn left_of_compacted(&self, store: &Store) -> Vec<Change> {
        if store.compacted() <= self.revision + 1 {
            return Vec::new();
        }
        let request = RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            revision: store.compacted(),
            min_mod_revision: self.revision + 1,
            max_mod_revision: store.compacted() - 1,
            ..RangeRequest::default()
        };
        let left = store.range(&request).map_or(Vec::new(), |response| response.kvs);
        let mut changes: Vec<Change> = left.into_iter().map(|kv| Change { sub: 0, kv }).collect();
        changes.sort_by_key(Change::revision);
        changes
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision of the last change that was committed by a time; 0 before the first.
    pub(super) fn revision_at(&self, at: Instant) -> i64 {
        let after = self.changes.partition_point(|change| change.at <= at);
        self.changes[..after].last().map_or(0, |change| change.revision)
    }

    /// The last compaction; 0 before the first.
    pub(super) fn compacted(&self) -> i64 {
        self.compactions.last().copied().unwrap_or_default()
    }

    /// A compaction was acknowledged. Another one may have followed at once.
    pub(super) fn note_compaction(&mut self, revision: i64) {
        if revision < self.compacted() {
            self.compactions.insert(revision);
        }
    }

    /// Whether what this revision changed is known, or else was committed and compacted at once.
    pub(super) fn is_seen(&self, revision: i64) -> bool {
        !self.unseen.iter().any(|unseen| unseen.contains(&revision))
    }

    /// Whether there was a compaction at this revision.
    pub(super) fn was_compacted_at(&self, revision: i64) -> bool {
        self.compactions.contains(&revision)
    }

    /// All changes from a revision on.
    pub(super) fn changes_from(&self, revision: i64) -> &[Logged] {
        let from = self.changes.partition_point(|change| change.revision < revision);
        &self.changes[from..]
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
