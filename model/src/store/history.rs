//! What became of one key.

use alloc::vec::Vec;

use etcd_proxy_proto::mvccpb::{Event, KeyValue, event::EventType};

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its place among the changes of its revision, from 0.
    pub sub: i64,
    /// The key as it was put, or, of a delete, the key and the revision only.
    pub kv: KeyValue,
}

impl Change {
    /// The revision that the change made.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.kv.mod_revision
    }

    /// Whether the key was deleted.
    #[must_use]
    pub fn is_delete(&self) -> bool {
        // What is put has a version of 1 or more.
        self.kv.version == 0
    }

    /// The event that a watcher is sent, without the previous value.
    #[must_use]
    pub fn event(&self) -> Event {
        let kind = if self.is_delete() {
            EventType::Delete
        } else {
            EventType::Put
        };
        Event {
            r#type: kind.into(),
            kv: Some(self.kv.clone()),
            prev_kv: None,
        }
    }
}

/// The changes of one key that are not compacted, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    changes: Vec<Change>,
}

impl History {
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(super) fn pop(&mut self) -> Option<Change> {
        self.changes.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The value at a revision, if there was one.
    pub(super) fn at(&self, revision: i64) -> Option<&KeyValue> {
        let change = self.last_until(revision)?;
        (!change.is_delete()).then_some(&change.kv)
    }

    /// The last change at or before a revision.
    pub(super) fn last_until(&self, revision: i64) -> Option<&Change> {
        match self.changes.last() {
            // By far the most frequent question is for the present.
            Some(last) if last.revision() <= revision => Some(last),
            _ => {
                let after = self
                    .changes
                    .partition_point(|change| change.revision() <= revision);
                self.changes[..after].last()
            }
        }
    }

    /// Forgets what a compaction at `revision` forgets: everything before the last change until then, and that change
    /// too if it is a delete from before `revision`.
    pub(super) fn compact(&mut self, revision: i64) {
        let after = self
            .changes
            .partition_point(|change| change.revision() <= revision);
        let Some(last) = after.checked_sub(1) else {
            return;
        };
        let kept = &self.changes[last];
        let gone = if kept.is_delete() && kept.revision() < revision {
            after
        } else {
            last
        };
        self.changes.drain(..gone);
    }

    /// The changes until a revision.
    pub(super) fn until(&self, revision: i64) -> &[Change] {
        let after = self
            .changes
            .partition_point(|change| change.revision() <= revision);
        &self.changes[..after]
    }
}
