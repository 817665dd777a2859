//! One watcher: what it wants and how far it is.

use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, watch_create_request::FilterType};
use etcd_proxy_proto::mvccpb::{Event, event::EventType};

use super::BATCH_REVISIONS_MAX;
use crate::store::Store;

#[derive(Clone, Debug)]
pub(super) struct Watcher {
    pub(super) range: Range,
    pub(super) phase: Phase,
    /// The first revision that it hasn't got.
    pub(super) min_revision: i64,
    /// The first revision that it asked for.
    start_revision: i64,
    no_put: bool,
    no_delete: bool,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
    /// Whether it is to be notified of progress at all, and then whether next time.
    pub(super) progress: Option<bool>,
}

/// How far a watcher is.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Cancelled because its history is gone; holds its id.
    Compacted,
    /// It has a response that didn't fit in.
    Held(Batch),
    /// It gets what is applied.
    Synced,
    /// It is still to get some of what was applied.
    Unsynced,
}

/// Events of one watcher, before its filters.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// The revision that follows: there is nothing in between.
    pub(super) next: i64,
}

impl Watcher {
    pub(super) fn new(range: Range, phase: Phase, min_revision: i64, request: &WatchCreateRequest) -> Self {
        let filters = |filter: FilterType| request.filters.contains(&filter.into());
        Self {
            range,
            phase,
            min_revision,
            start_revision: request.start_revision,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress: request.progress_notify.then_some(true),
        }
    }

    pub(super) fn is_unsynced(&self) -> bool {
        matches!(self.phase, Phase::Unsynced)
    }

    /// Whether it can be told that it has everything up to the current revision.
    pub(super) fn has_progress(&self, store: &Store) -> bool {
        matches!(self.phase, Phase::Synced) && self.start_revision <= store.revision()
    }

    /// Whether its filters leave this event.
    pub(super) fn wants(&self, event: &Event) -> bool {
        match event.r#type() {
            EventType::Put => !self.no_put,
            EventType::Delete => !self.no_delete,
        }
    }

    /// What it hasn't got, as far as it fits into one response. etcd counts revisions before it filters events.
    pub(super) fn history(&self, store: &Store) -> Batch {
        let (mut events, mut revisions, mut last) = (Vec::new(), 0, 0);
        for (revision, event) in store.changes(self.min_revision, self.range.key(), &self.range.end) {
            if revision != last {
                if revisions == BATCH_REVISIONS_MAX {
                    return Batch {
                        events,
                        next: revision,
                    };
                }
                revisions += 1;
                last = revision;
            }
            events.push(event);
        }
        let next = store.revision().saturating_add(1);
        Batch { events, next }
    }
}

/// Adds the value before a change, if there was one and it isn't compacted.
pub(super) fn add_previous(event: &mut Event, store: &Store) {
    let is_put = event.r#type() == EventType::Put;
    let Some(kv) = &event.kv else {
        return;
    };
    if is_put && kv.create_revision == kv.mod_revision {
        return;
    }
    event.prev_kv = store.at(&kv.key, kv.mod_revision.saturating_sub(1)).cloned();
}

/// The keys of a watcher.
#[derive(Clone, Debug)]
pub(super) struct Range {
    key: Bytes,
    /// As in requests: empty for a single key, `\0` for no end.
    end: Bytes,
}

impl Range {
    /// The empty key stands for the smallest one.
    pub(super) fn new(key: Bytes, end: Bytes) -> Self {
        let key = if key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            key
        };
        Self { key, end }
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The key, if it is the only one.
    pub(super) fn single(&self) -> Option<&Bytes> {
        self.end.is_empty().then_some(&self.key)
    }

    /// The end that permission to read is checked for: etcd takes an open range for its first key there.
    pub(super) fn end_checked(&self) -> &[u8] {
        if self.is_open() { b"" } else { &self.end }
    }

    /// Whether no key can be in it.
    pub(super) fn is_empty(&self) -> bool {
        !self.end.is_empty() && !self.is_open() && self.key >= self.end
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        if self.end.is_empty() {
            return key == self.key;
        }
        key >= self.key && (self.is_open() || key < self.end)
    }

    fn is_open(&self) -> bool {
        self.end.as_ref() == b"\0"
    }
}
