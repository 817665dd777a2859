//! Reading, with every option that Range has.

use alloc::vec::Vec;
use core::cmp::Ordering;

use etcd_proxy_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse};
use etcd_proxy_proto::mvccpb::KeyValue;

use super::{KeyRange, Store};
use crate::error::Error;

impl Store {
    /// Answers a Range. The header says the current revision; the rest of it is the member's to fill in.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.range_within(request, self.revision)
    }

    /// Answers a Range for which `current` is the current revision: within a transaction that has changed something,
    /// that is the one it makes.
    pub(super) fn range_within(&self, request: &RangeRequest, current: i64) -> Result<RangeResponse, Error> {
        let revision = match request.revision {
            revision if revision > current => return Err(Error::FutureRevision),
            ..=0 => current,
            revision if revision < self.compacted => return Err(Error::Compacted),
            revision => revision,
        };
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut response = RangeResponse {
            header: Self::header(current),
            ..Default::default()
        };
        if request.count_only {
            response.count = self.scan(range, revision).count() as i64;
            return Ok(response);
        }
        let filtered = request.min_mod_revision != 0
            || request.max_mod_revision != 0
            || request.min_create_revision != 0
            || request.max_create_revision != 0;
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        // Sorting and filtering come before cutting off, but for an order that etcd chooses itself: it then sorts
        // what it has read, which is one more than asked for.
        let fetch = match limit {
            Some(limit) if request.sort_order == SortOrder::None as i32 && !filtered => {
                limit.saturating_add(1)
            }
            _ => usize::MAX,
        };
        let mut kvs: Vec<&KeyValue> = Vec::new();
        for kv in self.scan(range, revision) {
            response.count += 1;
            if kvs.len() < fetch {
                kvs.push(kv);
            }
        }
        if filtered {
            kvs.retain(|kv| {
                (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision)
                    && (request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision)
                    && (request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision)
                    && (request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision)
            });
        }
        sort(&mut kvs, request);
        if let Some(limit) = limit
            && kvs.len() > limit
        {
            kvs.truncate(limit);
            response.more = true;
        }
        response.kvs = kvs
            .into_iter()
            .map(|kv| {
                if request.keys_only {
                    KeyValue {
                        key: kv.key.clone(),
                        value: bytes::Bytes::new(),
                        ..*kv
                    }
                } else {
                    kv.clone()
                }
            })
            .collect();
        Ok(response)
    }

    /// The keys of a range that exist at a revision, by key.
    pub(super) fn scan(&self, range: KeyRange<'_>, revision: i64) -> impl Iterator<Item = &KeyValue> {
        let bounds = range.bounds();
        let histories = bounds.map(|bounds| self.keys.range::<[u8], _>(bounds));
        histories
            .into_iter()
            .flatten()
            .filter_map(move |(_, history)| history.at(revision))
    }
}

/// The order in which etcd sorts: None if it leaves the keys as they come, by key.
pub(super) fn order(request: &RangeRequest) -> Option<SortOrder> {
    match SortOrder::try_from(request.sort_order) {
        Ok(SortOrder::None) if request.sort_target != SortTarget::Key as i32 => Some(SortOrder::Ascend),
        Ok(SortOrder::None) | Err(_) => None,
        Ok(order) => Some(order),
    }
}

/// Sorts what comes by key. Keys that compare equal stay in the order of their keys; in etcd that holds for up to
/// twelve keys, and beyond that their order is its sorting algorithm's.
fn sort(kvs: &mut [&KeyValue], request: &RangeRequest) {
    // A target that doesn't exist was refused before it got here.
    let (Some(order), Ok(target)) = (order(request), SortTarget::try_from(request.sort_target)) else {
        return;
    };
    let compare: fn(&KeyValue, &KeyValue) -> Ordering = match target {
        SortTarget::Key => |a, b| a.key.cmp(&b.key),
        SortTarget::Version => |a, b| a.version.cmp(&b.version),
        SortTarget::Create => |a, b| a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => |a, b| a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => |a, b| a.value.cmp(&b.value),
    };
    match order {
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
        SortOrder::Ascend | SortOrder::None => kvs.sort_by(|a, b| compare(a, b)),
    }
}
