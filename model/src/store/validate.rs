//! What a server refuses before it looks at its store.

use alloc::collections::{BTreeMap, BTreeSet};

use etcd_proxy_proto::etcdserverpb::range_request::SortTarget;
use etcd_proxy_proto::etcdserverpb::request_op::Request;
use etcd_proxy_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::range::order;
use crate::error::Error;

/// Whether a server takes this Range.
///
/// # Errors
///
/// [`Error::EmptyKey`]; [`Error::InvalidSortOption`] for a sort target that kills a 3.5 server and that later ones
/// answer so. Other unknown orders and targets are ignored.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortTarget::try_from(request.sort_target).is_err() && order(request).is_some() {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Whether a server takes this Put.
///
/// # Errors
///
/// [`Error::EmptyKey`], [`Error::ValueProvided`], [`Error::LeaseProvided`].
pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(Error::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(Error::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Whether a server takes this DeleteRange.
///
/// # Errors
///
/// [`Error::EmptyKey`].
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    Ok(())
}

/// Whether a server takes this Txn. `operations_max` is its `--max-txn-ops`.
///
/// # Errors
///
/// Those of the operations; [`Error::TooManyOperations`], [`Error::KeyNotFound`] for an empty operation,
/// [`Error::DuplicateKey`].
pub fn txn(request: &TxnRequest, operations_max: usize) -> Result<(), Error> {
    check(request, operations_max)?;
    Effects::of(&request.success)?;
    Effects::of(&request.failure)?;
    Ok(())
}

fn check(request: &TxnRequest, operations_max: usize) -> Result<(), Error> {
    let operations = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    // What a transaction uses up is not there for those nested in it.
    let left = operations_max
        .checked_sub(operations)
        .ok_or(Error::TooManyOperations)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    let operations = request.success.iter().chain(&request.failure);
    for RequestOp { request } in operations {
        match request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => check(request, left)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that operations may put and delete.
#[derive(Default)]
struct Effects<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

impl<'a> Effects<'a> {
    /// Collects them in etcd's order, on which it depends what counts as a duplicate: a key that an earlier nested
    /// transaction puts may be deleted by a later one, not the other way round.
    fn of(operations: &'a [RequestOp]) -> Result<Self, Error> {
        let mut effects = Self::default();
        let requests = || {
            operations
                .iter()
                .filter_map(|operation| operation.request.as_ref())
        };
        for request in requests() {
            if let Request::RequestDeleteRange(delete) = request {
                effects.deletes.insert(&delete.key, &delete.range_end);
            }
        }
        for request in requests() {
            if let Request::RequestTxn(nested) = request {
                effects.join(Self::of(&nested.success)?, Self::of(&nested.failure)?)?;
            }
        }
        for request in requests() {
            if let Request::RequestPut(put) = request {
                effects.put(&put.key)?;
            }
        }
        Ok(effects)
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Error> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }

    /// Adds a nested transaction, of whose branches only one is taken.
    fn join(&mut self, success: Self, failure: Self) -> Result<(), Error> {
        for key in success.puts.union(&failure.puts) {
            self.put(key)?;
        }
        self.deletes.join(success.deletes);
        self.deletes.join(failure.deletes);
        Ok(())
    }
}

/// Ranges of keys, merged where they overlap.
#[derive(Default)]
struct Deletes<'a> {
    keys: BTreeSet<&'a [u8]>,
    /// From the first key to the end, exclusive.
    spans: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Deletes<'a> {
    fn insert(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            self.keys.insert(key);
            return;
        }
        // etcd doesn't read a zero byte as "no end" here: a range to the end of all keys ends before it begins, and
        // what it deletes may be put in the same transaction.
        if range_end <= key {
            return;
        }
        let (mut start, mut end) = (key, range_end);
        while let Some((&other_start, &other_end)) = self.spans.range(..=end).next_back()
            && other_end >= start
        {
            start = start.min(other_start);
            end = end.max(other_end);
            self.spans.remove(other_start);
        }
        self.spans.insert(start, end);
    }

    fn join(&mut self, other: Self) {
        self.keys.extend(other.keys);
        for (start, end) in other.spans {
            self.insert(start, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        let span = self.spans.range(..=key).next_back();
        self.keys.contains(key) || span.is_some_and(|(_, end)| key < *end)
    }
}

#[cfg(test)]
mod tests;
