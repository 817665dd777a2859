//! The cluster from outside, through its door.

mod calls;
mod elections;
mod hostile;
mod random;
mod restore;
mod streams;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{PutRequest, PutResponse, RangeRequest, RangeResponse};
use prost::Message;

use super::{Action, Actions, CallId, Cluster, Config, Event, Fault, Member, Metadata, StreamId};
use crate::status::Status;

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// A cluster with everything that it did.
struct World {
    cluster: Cluster,
    now: Instant,
    next_id: u64,
    replies: BTreeMap<CallId, (Instant, Result<Bytes, Status>)>,
    sent: BTreeMap<StreamId, Vec<Bytes>>,
    ended: BTreeMap<StreamId, (Instant, Status)>,
}

impl World {
    fn new(members: usize) -> Self {
        Self::with(Config {
            members,
            ..Config::default()
        })
    }

    fn with(config: Config) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        Self {
            cluster: Cluster::new(now, config),
            now,
            next_id: 0,
            replies: BTreeMap::new(),
            sent: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    fn handle(&mut self, event: Event) {
        let mut actions = Actions::new();
        self.cluster.handle(self.now, event, &mut actions);
        for action in actions {
            match action {
                Action::Reply { call, result } => {
                    let old = self.replies.insert(call, (self.now, result));
                    assert!(old.is_none(), "{call:?} is answered twice");
                }
                Action::Send { stream, message } => {
                    assert!(
                        !self.ended.contains_key(&stream),
                        "{stream:?} sends after its end"
                    );
                    self.sent.entry(stream).or_default().push(message);
                }
                Action::End { stream, status } => {
                    let old = self.ended.insert(stream, (self.now, status));
                    assert!(old.is_none(), "{stream:?} ends twice");
                }
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.handle(Event::Fault(fault));
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.cluster.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.handle(Event::Timeout);
        }
        self.now = end;
    }

    fn call(&mut self, member: Member, path: &str, message: &impl Message) -> CallId {
        self.call_with(member, path, message, Metadata::default())
    }

    fn call_with(
        &mut self,
        member: Member,
        path: &str,
        message: &impl Message,
        metadata: Metadata,
    ) -> CallId {
        self.next_id += 1;
        let call = CallId(self.next_id);
        self.handle(Event::Call {
            call,
            member,
            path: path.to_owned(),
            metadata,
            message: message.encode_to_vec().into(),
        });
        call
    }

    /// Calls, and expects the answer at once.
    fn answer<R: Message + Default>(&mut self, member: Member, path: &str, message: &impl Message) -> R {
        let call = self.call(member, path, message);
        self.response(call)
    }

    fn response<R: Message + Default>(&self, call: CallId) -> R {
        let (_, result) = &self.replies[&call];
        R::decode(result.clone().expect("the call succeeds")).expect("a response")
    }

    /// Calls, and expects a refusal at once.
    fn refusal(&mut self, member: Member, path: &str, message: &impl Message) -> Status {
        let call = self.call(member, path, message);
        self.status(call)
    }

    fn status(&self, call: CallId) -> Status {
        self.replies[&call].1.clone().expect_err("the call fails")
    }

    fn is_open(&self, call: CallId) -> bool {
        !self.replies.contains_key(&call)
    }

    fn put(&mut self, member: Member, key: &'static str) -> PutResponse {
        self.answer(member, PUT, &put(key))
    }

    fn get(&mut self, member: Member, key: &'static str) -> RangeResponse {
        self.answer(member, RANGE, &range(key))
    }

    fn open(&mut self, member: Member, path: &str, metadata: Metadata, credit: u32) -> StreamId {
        self.next_id += 1;
        let stream = StreamId(self.next_id);
        self.handle(Event::Open {
            stream,
            member,
            path: path.to_owned(),
            metadata,
            credit,
        });
        stream
    }

    fn message(&mut self, stream: StreamId, message: &impl Message) {
        self.handle(Event::Message {
            stream,
            message: message.encode_to_vec().into(),
        });
    }

    /// What a stream has sent since the last time.
    fn take<R: Message + Default>(&mut self, stream: StreamId) -> Vec<R> {
        let sent = self.sent.remove(&stream).unwrap_or_default();
        sent.into_iter()
            .map(|message| R::decode(message).expect("a response"))
            .collect()
    }

    fn leader(&self) -> Member {
        self.cluster.leader().expect("there is a leader")
    }

    fn follower(&self) -> Member {
        (self.leader() + 1) % 3
    }

    fn other_follower(&self) -> Member {
        (self.leader() + 2) % 3
    }
}

fn put(key: &'static str) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: "value".into(),
        ..Default::default()
    }
}

fn range(key: &'static str) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        ..Default::default()
    }
}

fn serializable(key: &'static str) -> RangeRequest {
    RangeRequest {
        serializable: true,
        ..range(key)
    }
}

fn require_leader() -> Metadata {
    Metadata {
        require_leader: true,
        ..Metadata::default()
    }
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
