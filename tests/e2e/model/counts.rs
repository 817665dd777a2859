//! What was done, how often, and how it ended; and what has to have happened for the comparison to mean anything.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use etcd_proxy_proto::{
    etcdserverpb::{self as pb, request_op::Request},
    mvccpb::Event,
};

use crate::calls::{Answer, Call};

/// Of all programs of this process.
static TOTAL: Mutex<Counts> = Mutex::new(Counts::new());

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Programs that ran.
    pub(crate) programs: usize,
    /// What the model and a real etcd differed in when a second run of the real etcd took the model's side.
    pub(crate) odd_runs: Vec<String>,
    /// Operations by kind.
    pub(crate) kinds: BTreeMap<&'static str, Kind>,
    /// What else is worth counting.
    pub(crate) situations: BTreeMap<&'static str, usize>,
}

/// How operations of one kind ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kind {
    pub(crate) succeeded: usize,
    /// By message.
    pub(crate) failed: BTreeMap<String, usize>,
}

impl Kind {
    pub(crate) fn failures(&self) -> usize {
        self.failed.values().sum()
    }
}

impl Counts {
    pub(crate) const fn new() -> Self {
        Self {
            programs: 0,
            odd_runs: Vec::new(),
            kinds: BTreeMap::new(),
            situations: BTreeMap::new(),
        }
    }

    /// An operation, and with which message it failed.
    pub(crate) fn op(&mut self, kind: &'static str, failure: Option<String>) {
        let kind = self.kinds.entry(kind).or_default();
        match failure {
            None => kind.succeeded += 1,
            Some(message) => *kind.failed.entry(message).or_default() += 1,
        }
    }

    /// A call that succeeded.
    pub(crate) fn call(&mut self, kind: &'static str, call: &Call, answer: &Answer) {
        self.op(kind, None);
        match (call, answer) {
            (Call::Range(request), Answer::Range(answer)) => self.range(request, answer),
            (Call::Txn(request), Answer::Txn(answer)) => self.txn(request, answer),
            (Call::DeleteRange(_), Answer::DeleteRange(answer)) => {
                self.happened(answer.deleted > 1, "delete of several keys");
                self.happened(!answer.prev_kvs.is_empty(), "delete with prev_kv");
            }
            (Call::Put(request), Answer::Put(answer)) => {
                self.happened(answer.prev_kv.is_some(), "put with prev_kv");
                self.happened(request.ignore_value, "put with ignore_value");
                self.happened(request.ignore_lease, "put with ignore_lease");
                self.happened(request.lease != 0, "put with a lease");
            }
            (Call::LeaseTimeToLive(_), Answer::LeaseTimeToLive(answer)) => {
                self.happened(answer.ttl == -1, "TTL of no lease");
                self.happened(!answer.keys.is_empty(), "keys of a lease");
            }
            (Call::LeaseGrant(request), _) => self.happened(request.id == 0, "lease id by the server"),
            (Call::AuthStatus(_), Answer::AuthStatus(answer)) => {
                self.happened(answer.enabled, "auth enabled");
                self.happened(!answer.enabled, "auth disabled");
            }
            _ => {}
        }
    }

    fn range(&mut self, request: &pb::RangeRequest, answer: &pb::RangeResponse) {
        self.happened(answer.more, "range with more");
        self.happened(request.count_only && answer.count > 0, "range count_only");
        self.happened(request.keys_only && !answer.kvs.is_empty(), "range keys_only");
        self.happened(request.revision > 0, "range at an old revision");
        let sorted = request.sort_order != 0 && answer.kvs.len() > 1;
        self.happened(sorted, "range sorted");
        let bounds = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        self.happened(bounds.iter().any(|bound| *bound != 0), "range by revisions");
        self.happened(request.serializable, "range serializable");
        self.happened(answer.count > 1, "range of several keys");
    }

    fn txn(&mut self, request: &pb::TxnRequest, answer: &pb::TxnResponse) {
        self.happened(answer.succeeded && !request.compare.is_empty(), "txn succeeded");
        self.happened(!answer.succeeded, "txn failed");
        let ops = if answer.succeeded {
            &request.success
        } else {
            &request.failure
        };
        let nested = ops
            .iter()
            .any(|op| matches!(op.request, Some(Request::RequestTxn(_))));
        self.happened(nested, "txn nested");
        let ranges = request
            .compare
            .iter()
            .any(|compare| !compare.range_end.is_empty());
        self.happened(ranges, "txn compares a range");
    }

    /// A watch response of the real etcd.
    pub(crate) fn watch(&mut self, response: &pb::WatchResponse) {
        let rejected = response.created && response.canceled;
        self.happened(response.created && !rejected, "watch created");
        if rejected {
            self.op("watch create", Some(response.cancel_reason.clone()));
        }
        let by_compaction = response.compact_revision != 0;
        self.happened(by_compaction, "watch canceled by compaction");
        self.happened(
            response.canceled && !rejected && !by_compaction,
            "watch canceled by its client",
        );
        self.happened(response.fragment, "watch response in fragments");
        let empty = response.events.is_empty() && !response.created && !response.canceled;
        self.happened(empty, "watch progress");
        self.add("watch events", response.events.len());
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        if let (Some(first), Some(last)) = (response.events.first(), response.events.last()) {
            let span = revision(first) != revision(last);
            self.happened(span, "watch response with several revisions");
            self.happened(
                !span && response.events.len() > 1,
                "watch response with one revision's events",
            );
            let previous = response.events.iter().any(|event| event.prev_kv.is_some());
            self.happened(previous, "watch events with prev_kv");
        }
        self.happened(response.events.len() >= 1000, "watch response with 1000 events");
    }

    fn happened(&mut self, whether: bool, what: &'static str) {
        self.add(what, usize::from(whether));
    }

    fn add(&mut self, what: &'static str, count: usize) {
        *self.situations.entry(what).or_default() += count;
    }

    /// How many operations.
    pub(crate) fn operations(&self) -> usize {
        let kinds = self.kinds.iter();
        // A rejected watcher is counted when it is asked for.
        kinds
            .map(|(name, kind)| match *name {
                "watch create" => kind.succeeded,
                _ => kind.succeeded + kind.failures(),
            })
            .sum()
    }

    /// Of all programs of this process.
    pub(crate) fn total() -> Self {
        TOTAL.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a program's counts to those of the process.
    pub(crate) fn record(self, odd_runs: impl Iterator<Item = String>) {
        let mut total = TOTAL.lock().unwrap_or_else(PoisonError::into_inner);
        total.programs += 1;
        total.odd_runs.extend(odd_runs);
        for (name, kind) in self.kinds {
            let sum = total.kinds.entry(name).or_default();
            sum.succeeded += kind.succeeded;
            for (message, count) in kind.failed {
                *sum.failed.entry(message).or_default() += count;
            }
        }
        for (what, count) in self.situations {
            total.add(what, count);
        }
    }
}
