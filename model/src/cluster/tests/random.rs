//! Random programs under random faults.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;

use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, TxnRequest, WatchCreateRequest,
    WatchRequest, WatchResponse, watch_request::RequestUnion,
};

use super::*;
use crate::store::Store;

const SEEDS: u64 = 150;
const STEPS: usize = 250;
const TXN: &str = "/etcdserverpb.KV/Txn";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";

/// What was asked, and what must hold of the answer.
enum Asked {
    Put {
        key: String,
        value: String,
    },
    /// The committed revision when it was asked.
    Linearizable(i64),
    Serializable(RangeRequest),
    Other,
}

struct Run {
    world: World,
    random: fastrand::Rng,
    asked: BTreeMap<CallId, (Member, Asked)>,
    /// Calls whose client left or whose member crashed.
    lost: BTreeSet<CallId>,
    checked: BTreeSet<CallId>,
    watches: BTreeMap<StreamId, (Member, Seen)>,
    keep_alives: BTreeMap<StreamId, Member>,
    outcomes: BTreeMap<String, usize>,
    trace: u64,
    revision: i64,
}

/// What a watcher of everything has seen.
#[derive(Default)]
struct Seen {
    start: Option<i64>,
    revisions: Vec<i64>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let members = [1, 3, 3, 5][random.usize(..4)];
        Self {
            world: World::with(Config {
                members,
                seed,
                ..Config::default()
            }),
            random,
            asked: BTreeMap::new(),
            lost: BTreeSet::new(),
            checked: BTreeSet::new(),
            watches: BTreeMap::new(),
            keep_alives: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            trace: 0,
            revision: 1,
        }
    }

    fn run(mut self) -> (u64, BTreeMap<String, usize>) {
        for step in 0..STEPS {
            self.step(step);
            self.check();
        }
        self.heal();
        self.check_end();
        (self.trace, self.outcomes)
    }

    fn member(&mut self) -> Member {
        self.random.usize(..self.world.cluster.nodes.len())
    }

    fn step(&mut self, step: usize) {
        let member = self.member();
        let key = format!("k{}", self.random.u8(..4));
        match self.random.u8(..24) {
            0..6 => {
                let value = format!("v{step}");
                let request = PutRequest {
                    key: key.clone().into(),
                    value: value.clone().into(),
                    lease: i64::from(self.random.u8(..8) == 0),
                    ..Default::default()
                };
                self.call(member, PUT, &request, Asked::Put { key, value });
            }
            6..9 => {
                let committed = self.world.cluster.committed().store().revision();
                let request = RangeRequest {
                    key: key.into(),
                    ..Default::default()
                };
                self.call(member, RANGE, &request, Asked::Linearizable(committed));
            }
            9..11 => {
                let request = RangeRequest {
                    key: "k".into(),
                    range_end: "l".into(),
                    serializable: true,
                    ..Default::default()
                };
                self.call(member, RANGE, &request, Asked::Serializable(request.clone()));
            }
            11 => self.call(member, TXN, &TxnRequest::default(), Asked::Other),
            12 => {
                let request = LeaseGrantRequest {
                    id: i64::from(self.random.u8(..4)),
                    ttl: i64::from(self.random.u8(..10)),
                };
                self.call(member, GRANT, &request, Asked::Other);
            }
            13 => {
                let request = LeaseRevokeRequest {
                    id: i64::from(self.random.u8(..4)),
                };
                self.call(member, REVOKE, &request, Asked::Other);
            }
            14 => self.cancel(),
            15 => self.open(member),
            16 => {
                if let Some(stream) = self.random.choice(self.keep_alives.keys()).copied() {
                    let request = LeaseKeepAliveRequest {
                        id: i64::from(self.random.u8(..4)),
                    };
                    self.world.message(stream, &request);
                }
            }
            17 => {
                let streams = self.watches.keys().chain(self.keep_alives.keys()).copied();
                let streams: Vec<_> = streams.collect();
                if let Some(stream) = self.random.choice(&streams).copied() {
                    self.close(stream);
                }
            }
            18..20 => self.fault(member),
            _ => {
                let most = [10, 600, 3000][self.random.usize(..3)];
                let time = millis(self.random.u64(..most));
                self.world.pass(time);
            }
        }
    }

    fn call(&mut self, member: Member, path: &str, request: &impl Message, asked: Asked) {
        let metadata = Metadata {
            require_leader: self.random.u8(..8) == 0,
            ..Metadata::default()
        };
        let call = self.world.call_with(member, path, request, metadata);
        if self.world.cluster.nodes[member].process == crate::cluster::Process::Crashed {
            assert!(self.world.is_open(call));
            self.lost.insert(call);
        }
        self.asked.insert(call, (member, asked));
    }

    fn cancel(&mut self) {
        let open = self
            .asked
            .keys()
            .copied()
            .filter(|call| self.world.is_open(*call));
        let open: Vec<_> = open.filter(|call| !self.lost.contains(call)).collect();
        if let Some(call) = self.random.choice(&open).copied() {
            self.world.handle(Event::CancelCall(call));
            self.lost.insert(call);
        }
    }

    fn open(&mut self, member: Member) {
        if self.world.cluster.nodes[member].process == crate::cluster::Process::Crashed {
            return;
        }
        let metadata = Metadata {
            require_leader: self.random.bool(),
            ..Metadata::default()
        };
        if self.random.bool() {
            let stream = self.world.open(member, KEEP_ALIVE, metadata, 1_000_000);
            self.keep_alives.insert(stream, member);
            return;
        }
        let stream = self.world.open(member, WATCH, metadata, 1_000_000);
        let create = WatchCreateRequest {
            key: b"\0".as_slice().into(),
            range_end: b"\0".as_slice().into(),
            ..Default::default()
        };
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        self.world.message(stream, &request);
        self.watches.insert(stream, (member, Seen::default()));
    }

    fn close(&mut self, stream: StreamId) {
        if self.random.bool() {
            self.world.handle(Event::Reset(stream));
            self.forget(stream);
        } else {
            self.world.handle(Event::HalfClose(stream));
        }
    }

    fn forget(&mut self, stream: StreamId) {
        self.watches.remove(&stream);
        self.keep_alives.remove(&stream);
    }

    fn fault(&mut self, member: Member) {
        let fault = match self.random.u8(..12) {
            0 => Fault::Crash(member),
            1 | 2 => Fault::Start(member),
            3 => Fault::Freeze(member),
            4 | 5 => Fault::Thaw(member),
            6 => Fault::Isolate(member),
            7 | 8 => Fault::Heal(member),
            9 => Fault::Lag(member, millis(self.random.u64(..400))),
            10 => Fault::Lag(member, Duration::ZERO),
            _ => Fault::LoseLeader,
        };
        let crash = matches!(fault, Fault::Crash(_));
        self.world.fault(fault);
        if crash {
            let asked = self.asked.iter().filter(|(_, (of, _))| *of == member);
            self.lost.extend(
                asked
                    .map(|(call, _)| *call)
                    .filter(|call| self.world.is_open(*call)),
            );
            self.watches.retain(|_, (of, _)| *of != member);
            self.keep_alives.retain(|_, of| *of != member);
        }
    }

    /// What holds at any time.
    fn check(&mut self) {
        let cluster = &self.world.cluster;
        let committed = cluster.committed();
        assert!(
            committed.store().revision() >= self.revision,
            "what is committed stays"
        );
        self.revision = committed.store().revision();
        for member in 0..cluster.nodes.len() {
            let applied = cluster.applied(member);
            assert!(applied.index() <= committed.index());
            assert!(applied.store().revision() <= self.revision);
        }
        self.trace = self.trace.rotate_left(7) ^ self.world.now.as_nanos() ^ committed.index();

        let replies = self
            .world
            .replies
            .iter()
            .filter(|(call, _)| !self.checked.contains(call));
        let new: Vec<_> = replies
            .map(|(call, (_, result))| (*call, result.clone()))
            .collect();
        for (call, result) in new {
            assert!(
                !self.lost.contains(&call),
                "{call:?} was answered, but its client or its member was gone"
            );
            self.trace = format!("{result:?}").bytes().fold(self.trace, |trace, byte| {
                (trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            self.checked.insert(call);
            let asked = &self.asked.get(&call).expect("it was asked").1;
            let outcome = match &result {
                Ok(message) => {
                    check_answer(asked, message, committed.store());
                    "ok"
                }
                Err(status) => &status.message,
            };
            *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
        }
        let ended: Vec<_> = core::mem::take(&mut self.world.ended).into_iter().collect();
        for (stream, (_, status)) in ended {
            let kind = if self.watches.contains_key(&stream) {
                "watch"
            } else {
                "keepalive"
            };
            *self
                .outcomes
                .entry(format!("{kind}: {}", status.message))
                .or_default() += 1;
            self.forget(stream);
        }
        self.check_watches();
    }

    fn check_watches(&mut self) {
        for (stream, (_, seen)) in &mut self.watches {
            for response in self.world.take::<WatchResponse>(*stream) {
                let revision = response.header.map_or(0, |header| header.revision);
                if response.created {
                    assert!(seen.start.replace(revision).is_none());
                }
                assert!(!response.canceled);
                let revisions = response.events.iter().filter_map(|event| event.kv.as_ref());
                seen.revisions.extend(revisions.map(|kv| kv.mod_revision));
            }
        }
    }

    /// Everything is well again, for a while.
    fn heal(&mut self) {
        for member in 0..self.world.cluster.nodes.len() {
            for fault in [
                Fault::Thaw(member),
                Fault::Start(member),
                Fault::Heal(member),
                Fault::Lag(member, Duration::ZERO),
            ] {
                self.world.fault(fault);
            }
        }
        self.world.pass(secs(60));
        self.check();
    }

    fn check_end(&mut self) {
        let cluster = &self.world.cluster;
        assert!(cluster.leader().is_some());
        let committed = cluster.committed();
        let store = committed.store();
        for member in 0..cluster.nodes.len() {
            let applied = cluster.applied(member);
            assert_eq!(applied.index(), committed.index());
            assert_eq!(applied.store().hash_kv(0), store.hash_kv(0));
            assert_eq!(applied.leases(), committed.leases());
            let node = &cluster.nodes[member];
            assert!(node.proposed.is_empty() && node.after.is_empty() && node.leaderless.is_empty());
            assert!(node.inbox.is_empty() && node.missed.is_empty());
        }
        assert_eq!(committed.leases().iter().count(), 0, "nobody renewed them");
        for call in self.asked.keys() {
            let lost = self.lost.contains(call);
            assert_ne!(
                self.world.is_open(*call),
                !lost,
                "{call:?} is answered if it isn't lost"
            );
        }
        assert_eq!((cluster.calls(), cluster.calls.len()), (0, 0));
        assert!(cluster.uncommitted.is_empty() && cluster.asking_leases.is_empty());
        for (call, (_, asked)) in &self.asked {
            if let Asked::Put { key, value } = asked {
                let times = written(store, key, value).len();
                match self.world.replies.get(call).map(|(_, result)| result) {
                    Some(Ok(_)) => assert_eq!(times, 1),
                    // Refused, or never proposed.
                    Some(Err(status)) if status.code != 14 || status.message.ends_with("no leader") => {
                        assert_eq!(times, 0, "{status:?}");
                    }
                    _ => assert!(times <= 1),
                }
            }
        }
        let history: Vec<i64> = store.log_from(0).map(|change| change.revision()).collect();
        for (_, seen) in self.watches.values() {
            let start = seen.start.expect("it was created");
            let missed = history.iter().copied().filter(|revision| *revision > start);
            assert_eq!(seen.revisions, missed.collect::<Vec<_>>());
        }
    }
}

fn check_answer(asked: &Asked, message: &Bytes, committed: &Store) {
    match asked {
        Asked::Put { key, value } => {
            let response = PutResponse::decode(message.clone()).expect("a response");
            let revision = response.header.expect("a header").revision;
            assert_eq!(written(committed, key, value), [revision]);
        }
        Asked::Linearizable(revision) => {
            let response = RangeResponse::decode(message.clone()).expect("a response");
            assert!(response.header.expect("a header").revision >= *revision);
        }
        Asked::Serializable(request) => {
            let response = RangeResponse::decode(message.clone()).expect("a response");
            let revision = response.header.expect("a header").revision;
            let then = committed.range(&RangeRequest {
                revision,
                ..request.clone()
            });
            assert_eq!(Ok(response.kvs), then.map(|then| then.kvs));
        }
        Asked::Other => {}
    }
}

/// The revisions at which a key got a value.
fn written(store: &Store, key: &str, value: &str) -> Vec<i64> {
    let changes = store.changes(0, key.as_bytes(), b"");
    let puts = changes.filter(|(_, event)| event.kv.as_ref().is_some_and(|kv| kv.value == value.as_bytes()));
    puts.map(|(revision, _)| revision).collect()
}

#[test]
fn nothing_is_lost_answered_twice_or_different_the_second_time() {
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..SEEDS {
        let (trace, seen) = Run::new(seed).run();
        assert_eq!(trace, Run::new(seed).run().0, "seed {seed}");
        for (outcome, times) in seen {
            *outcomes.entry(outcome).or_default() += times;
        }
    }
    for outcome in [
        "ok",
        "context deadline exceeded",
        "etcdserver: leader changed",
        "etcdserver: no leader",
        "etcdserver: request timed out",
        "etcdserver: request timed out, possibly due to connection lost",
        "etcdserver: request timed out, possibly due to previous leader failure",
        "etcdserver: requested lease not found",
        "keepalive: ",
        "keepalive: etcdserver: no leader",
        "watch: etcdserver: no leader",
    ] {
        assert!(
            outcomes.get(outcome).is_some_and(|times| *times >= 5),
            "{outcome}: {outcomes:#?}"
        );
    }
}
