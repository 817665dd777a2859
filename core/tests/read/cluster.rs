//! A naive cluster: every state that it was ever in, and which of them each member has come to.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use etcd_proxy_core::read::{Header, Status};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use etcd_proxy_proto::mvccpb::KeyValue;

pub(crate) const CLUSTER_ID: u64 = 0xc1;
pub(crate) const TERM: u64 = 3;

/// What all members come to, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) revision: i64,
    pub(crate) kvs: BTreeMap<Vec<u8>, KeyValue>,
    pub(crate) compacted: i64,
    /// Whether whoever has no credentials is refused.
    pub(crate) auth: bool,
}

/// A put, or a delete of all keys in a range.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>, Vec<u8>),
}

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) states: Vec<Rc<State>>,
    /// The keys that each revision changed.
    pub(crate) changed: BTreeMap<i64, Vec<Vec<u8>>>,
    /// Which states the members have come to, and when.
    pub(crate) applied: Vec<Vec<(Instant, usize)>>,
    /// Which member calls go to, since when.
    pub(crate) used: Vec<(Instant, usize)>,
}

/// Whether a range of a request has a key; written down once more, not the core's.
pub(crate) fn has_key(key: &[u8], end: &[u8], asked: &[u8]) -> bool {
    match end {
        b"" => asked == key,
        b"\0" => asked >= key,
        _ => key <= asked && asked < end,
    }
}

pub(crate) fn denied() -> Status {
    Status::new(3, "etcdserver: user name is empty")
}

impl State {
    /// What a member in this state answers, if it can still look up this one.
    pub(crate) fn answer(
        &self,
        request: &RangeRequest,
        member: usize,
        at: impl Fn(i64) -> Rc<Self>,
    ) -> Result<RangeResponse, Status> {
        if self.auth {
            return Err(denied());
        }
        if request.revision > self.revision {
            return Err(Status::new(
                11,
                "etcdserver: mvcc: required revision is a future revision",
            ));
        }
        if request.revision > 0 && request.revision < self.compacted {
            return Err(Status::new(
                11,
                "etcdserver: mvcc: required revision has been compacted",
            ));
        }
        let revision = if request.revision > 0 {
            request.revision
        } else {
            self.revision
        };
        let mut response = at(revision).range(request);
        response.header = Some(ResponseHeader {
            cluster_id: CLUSTER_ID,
            member_id: member as u64 + 1,
            revision: self.revision,
            raft_term: TERM,
        });
        Ok(response)
    }

    /// What is true of this state, without header.
    pub(crate) fn range(&self, request: &RangeRequest) -> RangeResponse {
        let has = |key: &[u8]| has_key(&request.key, &request.range_end, key);
        let mut kvs: Vec<KeyValue> = self.kvs.values().filter(|kv| has(&kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        let mut more = false;
        if request.count_only {
            kvs.clear();
        }
        if request.limit > 0 && request.limit < kvs.len() as i64 {
            kvs.truncate(request.limit as usize);
            more = true;
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Vec::new().into();
            }
        }
        RangeResponse {
            header: None,
            kvs,
            more,
            count,
        }
    }
}

impl Cluster {
    pub(crate) fn new(members: usize) -> Self {
        let first = State {
            revision: 1,
            kvs: BTreeMap::new(),
            compacted: 0,
            auth: false,
        };
        Self {
            states: vec![Rc::new(first)],
            changed: BTreeMap::new(),
            applied: vec![vec![(Instant::ZERO, 0)]; members],
            used: vec![(Instant::ZERO, 0)],
        }
    }

    pub(crate) fn last(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    /// The state of a revision.
    pub(crate) fn at(&self, revision: i64) -> Rc<State> {
        let index = self.states.partition_point(|state| state.revision < revision);
        let state = &self.states[index];
        assert_eq!(state.revision, revision, "there is every revision");
        Rc::clone(state)
    }

    pub(crate) fn member(&self) -> usize {
        self.used[self.used.len() - 1].1
    }

    pub(crate) fn use_member(&mut self, now: Instant, member: usize) {
        self.used.push((now, member));
    }

    /// The state that a member is in.
    pub(crate) fn state_of(&self, member: usize) -> &Rc<State> {
        let (_, index) = self.applied[member][self.applied[member].len() - 1];
        &self.states[index]
    }

    pub(crate) fn apply(&mut self, now: Instant, member: usize, index: usize) {
        let applied = &mut self.applied[member];
        if applied[applied.len() - 1].1 < index {
            applied.push((now, index));
        }
    }

    /// The states that the members which were in use since `at` were in at that time.
    pub(crate) fn states_at(&self, at: Instant) -> impl Iterator<Item = &State> {
        let first = self
            .used
            .partition_point(|(since, _)| *since <= at)
            .saturating_sub(1);
        self.used[first..].iter().map(move |(_, member)| {
            let applied = &self.applied[*member];
            let index = applied
                .partition_point(|(since, _)| *since <= at)
                .saturating_sub(1);
            &*self.states[applied[index].1]
        })
    }

    /// The states that these members have been in since then.
    pub(crate) fn states_since(&self, at: Instant) -> impl Iterator<Item = &State> {
        let first = self
            .used
            .partition_point(|(since, _)| *since <= at)
            .saturating_sub(1);
        self.used[first..].iter().flat_map(move |(_, member)| {
            let applied = &self.applied[*member];
            let index = applied
                .partition_point(|(since, _)| *since <= at)
                .saturating_sub(1);
            applied[index..].iter().map(|(_, state)| &*self.states[*state])
        })
    }

    pub(crate) fn push(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.last().clone();
        change(&mut state);
        self.states.push(Rc::new(state));
    }

    /// One revision, if it changes anything. Answers the revision of the store.
    pub(crate) fn write(&mut self, changes: &[Change]) -> i64 {
        let revision = self.last().revision + 1;
        let mut keys = Vec::new();
        let mut kvs = self.last().kvs.clone();
        for change in changes {
            match change {
                Change::Put(key, value) => {
                    let before = kvs.get(key);
                    let kv = KeyValue {
                        key: key.clone().into(),
                        value: value.clone().into(),
                        create_revision: before.map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: before.map_or(1, |kv| kv.version + 1),
                        lease: 0,
                    };
                    kvs.insert(key.clone(), kv);
                    keys.push(key.clone());
                }
                Change::Delete(key, end) => {
                    let gone: Vec<Vec<u8>> = kvs
                        .keys()
                        .filter(|other| has_key(key, end, other))
                        .cloned()
                        .collect();
                    for key in gone {
                        kvs.remove(&key);
                        keys.push(key);
                    }
                }
            }
        }
        if keys.is_empty() {
            return revision - 1;
        }
        self.changed.insert(revision, keys);
        self.push(|state| {
            state.kvs = kvs;
            state.revision = revision;
        });
        revision
    }

    pub(crate) fn header(revision: i64, member: usize) -> Header {
        Header {
            cluster_id: CLUSTER_ID,
            member_id: member as u64 + 1,
            revision,
            raft_term: TERM,
        }
    }
}

/// Some time before, or the start.
pub(crate) fn before(at: Instant, time: Duration) -> Instant {
    Instant::from_nanos(at.as_nanos().saturating_sub(time.as_nanos() as u64))
}
