//! Changing keys.

use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse};
use etcd_proxy_proto::mvccpb::KeyValue;

use super::history::Change;
use super::{KeyRange, Store, bytes_of};
use crate::error::Error;
use crate::lease::Leases;

/// Changes that make one revision, or none if nothing changes. Must be [finished](Writer::finish) or
/// [undone](Writer::undo).
#[must_use]
pub(crate) struct Writer<'a> {
    pub(super) store: &'a mut Store,
    pub(super) leases: &'a mut Leases,
    /// Changes made so far: the next one's sub-revision.
    changes: i64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(store: &'a mut Store, leases: &'a mut Leases) -> Self {
        Self {
            store,
            leases,
            changes: 0,
        }
    }

    /// The revision that reads see from here on.
    pub(super) fn revision(&self) -> i64 {
        if self.changes == 0 {
            self.store.revision
        } else {
            self.next_revision()
        }
    }

    fn next_revision(&self) -> i64 {
        // A store that wrote a million revisions a second would get to the end in 292,000 years.
        self.store.revision.saturating_add(1)
    }

    /// Puts a key. Whether the lease exists was checked before.
    pub(crate) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Error> {
        let revision = self.next_revision();
        let history = self.store.keys.get(&request.key);
        let previous = history.and_then(|history| history.at(revision));
        if previous.is_none() && (request.ignore_value || request.ignore_lease) {
            return Err(Error::KeyNotFound);
        }
        let mut kv = KeyValue {
            // The key as it was first given is shared by all its revisions.
            key: previous.map_or_else(|| request.key.clone(), |previous| previous.key.clone()),
            value: request.value.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: request.lease,
        };
        let mut response = PutResponse {
            header: Store::header(revision),
            prev_kv: None,
        };
        if let Some(previous) = previous {
            kv.create_revision = previous.create_revision;
            kv.version = previous.version.saturating_add(1);
            if request.ignore_value {
                kv.value = previous.value.clone();
            }
            if request.ignore_lease {
                kv.lease = previous.lease;
            }
            if request.prev_kv {
                response.prev_kv = Some(previous.clone());
            }
        }
        self.leases.attach(&kv.key, kv.lease);
        self.push(kv);
        Ok(response)
    }

    /// Deletes the keys of a range, by key.
    pub(crate) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::new(&request.key, &request.range_end);
        let previous: Vec<&KeyValue> = self.store.scan(range, self.revision()).collect();
        let keys: Vec<Bytes> = previous.iter().map(|kv| kv.key.clone()).collect();
        let prev_kvs = if request.prev_kv {
            previous.into_iter().cloned().collect()
        } else {
            Vec::new()
        };
        let deleted = keys.len() as i64;
        for key in keys {
            self.delete(key);
        }
        DeleteRangeResponse {
            header: Store::header(self.revision()),
            deleted,
            prev_kvs,
        }
    }

    /// Deletes one key, which exists.
    pub(crate) fn delete(&mut self, key: Bytes) {
        self.leases.attach(&key, 0);
        self.push(KeyValue {
            key,
            mod_revision: self.next_revision(),
            ..Default::default()
        });
    }

    /// Makes the revision. Answers the current one.
    pub(crate) fn finish(self) -> i64 {
        self.store.revision = self.revision();
        self.store.revision
    }

    /// Takes everything back.
    pub(super) fn undo(self) {
        let revision = self.next_revision();
        while self
            .store
            .log
            .back()
            .is_some_and(|change| change.revision() == revision)
            && let Some(change) = self.store.log.pop_back()
        {
            let key = change.kv.key;
            let Some(history) = self.store.keys.get_mut(&key) else {
                continue;
            };
            if let Some(change) = history.pop() {
                self.store.bytes -= bytes_of(&change.kv);
            }
            let lease = history.at(revision).map_or(0, |kv| kv.lease);
            if history.is_empty() {
                self.store.keys.remove(&key);
            }
            self.leases.attach(&key, lease);
        }
    }

    fn push(&mut self, kv: KeyValue) {
        let change = Change {
            sub: self.changes,
            kv,
        };
        self.changes += 1;
        self.store.bytes += bytes_of(&change.kv);
        self.store.log.push_back(change.clone());
        match self.store.keys.get_mut(&change.kv.key) {
            Some(history) => history.push(change),
            None => self
                .store
                .keys
                .entry(change.kv.key.clone())
                .or_default()
                .push(change),
        }
    }
}
