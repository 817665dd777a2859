//! What a router may do: a heartbeat is sent only while somebody waits for it, and answered once to each who asked
//! before it was sent; a call ends only for a reason.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::lease::{Config, UpstreamId};
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use prost::Message as _;

use super::{Leasing, Waiting};
use crate::delivery::LeaseTag;
use crate::io::{Io, LeaseUpstreamNote};
use crate::settings::Settings;
use crate::situations::Situation;

/// How long what a member says may be held up on its way.
const HELD_UP_MAX: Duration = Duration::from_secs(15);

/// How long a member may take for a heartbeat, besides its way.
const AT_MEMBER_MAX: Duration = Duration::from_millis(10);

/// A lease as the clients of a proxy with the same token know it.
type Key = (usize, Option<Bytes>, i64);

/// A call to a member.
#[derive(Debug)]
struct Upstream {
    token: Option<Bytes>,
    /// Leases whose heartbeats aren't answered.
    in_flight: BTreeSet<i64>,
}

/// A heartbeat that was sent.
#[derive(Clone, Debug)]
struct Sent {
    at: Instant,
    /// What happened before it, in numbers.
    after: u64,
    /// The answer.
    said: Option<Bytes>,
}

/// How a member has refused a heartbeat, and what it may have been about.
#[derive(Clone, Debug)]
struct Refusal {
    proxy: usize,
    token: Option<Bytes>,
    /// None if there were several.
    lease: Option<i64>,
    status: Status,
}

/// The routers of all proxies.
#[derive(Debug)]
pub(super) struct Routing {
    config: Config,
    upstreams: BTreeMap<(usize, UpstreamId), Upstream>,
    /// The last heartbeat that was sent, of each lease.
    sent: BTreeMap<Key, Sent>,
    refusal: Option<Refusal>,
    /// Numbers what happens.
    number: u64,
    /// Calls made so far.
    opened: u64,
    counts: Heartbeats,
    /// The longest time to a member and back.
    round_trip: Duration,
}

/// Heartbeats of all clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeats {
    /// Those that routers heard.
    pub heard: u64,
    /// Those that they sent.
    pub sent: u64,
    /// Those whose call to a member was lost before they were answered.
    pub lost: u64,
    /// Those that members answered.
    pub answered: u64,
}

impl Routing {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            config: settings.proxy.lease,
            upstreams: BTreeMap::new(),
            sent: BTreeMap::new(),
            refusal: None,
            number: 0,
            opened: 0,
            counts: Heartbeats::default(),
            round_trip: settings.latency.end * 3 + AT_MEMBER_MAX,
        }
    }

    /// How long heartbeats of one group may wait for each other, when only so many may be on their way: each lease has
    /// its turn once before one has it again.
    pub(super) fn queueing(&self, proxy: usize, token: &Option<Bytes>, since: Instant) -> Duration {
        let is_of_group = |key: &Key| key.0 == proxy && key.1 == *token;
        let sent = self.sent.iter();
        let turns = sent.filter(|(key, sent)| is_of_group(key) && sent.at >= since);
        let turns = turns.count() / (self.config.in_flight_max * self.config.streams_max);
        self.round_trip * u32::try_from(turns).unwrap_or(u32::MAX)
    }

    pub(super) fn share_within(&self) -> Duration {
        self.config.share_within.unwrap_or_default()
    }

    /// Calls to members that are open.
    fn open(&self) -> usize {
        self.upstreams.len()
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn gone(&mut self, proxy: usize, id: UpstreamId) -> Upstream {
        let upstream = self.upstreams.remove(&(proxy, id));
        let upstream = upstream.unwrap_or_else(|| panic!("{id:?} isn't open, and ends"));
        self.counts.lost += upstream.in_flight.len() as u64;
        upstream
    }
}

impl Leasing {
    /// Takes in what happens to a router's call to a member.
    pub(in crate::oracle) fn hear_upstream(
        &mut self,
        io: &mut Io,
        proxy: usize,
        id: UpstreamId,
        what: LeaseUpstreamNote,
    ) {
        let routing = &mut self.routing;
        match what {
            LeaseUpstreamNote::Opened(token) => {
                routing.opened += 1;
                let upstream = Upstream {
                    token,
                    in_flight: BTreeSet::new(),
                };
                let before = routing.upstreams.insert((proxy, id), upstream);
                assert!(before.is_none(), "{id:?} is opened twice");
            }
            LeaseUpstreamNote::Asked(message) => self.sent(io.now, proxy, id, &message),
            LeaseUpstreamNote::Said(message) => {
                let response = LeaseKeepAliveResponse::decode(message.clone()).expect("a member wrote it");
                let lease = response.id;
                let upstream = routing.upstreams.get_mut(&(proxy, id));
                let upstream = upstream.unwrap_or_else(|| panic!("{id:?} isn't open, and is answered"));
                assert!(upstream.in_flight.remove(&lease), "{response:?} to nothing");
                let key = (proxy, upstream.token.clone(), lease);
                let sent = routing.sent.get_mut(&key).expect("it is in flight");
                sent.said = Some(message);
                routing.counts.answered += 1;
            }
            LeaseUpstreamNote::Ended(status) => {
                let upstream = routing.gone(proxy, id);
                let mut leases = upstream.in_flight.iter().copied();
                routing.refusal = Some(Refusal {
                    proxy,
                    token: upstream.token.clone(),
                    lease: leases.next().filter(|_| leases.next().is_none()),
                    status,
                });
            }
            LeaseUpstreamNote::Gone => {
                routing.gone(proxy, id);
            }
        }
    }

    /// A heartbeat leaves. Somebody must wait for it, and none for the same lease be on its way.
    fn sent(&mut self, now: Instant, proxy: usize, id: UpstreamId, message: &Bytes) {
        let request = LeaseKeepAliveRequest::decode(message.clone()).expect("a client wrote it");
        let lease = request.id;
        let after = self.routing.next();
        let open = &mut self.routing.upstreams;
        let upstream = open.get(&(proxy, id));
        let token = upstream.unwrap_or_else(|| panic!("{id:?} isn't open, and is sent to"));
        let token = token.token.clone();
        let mut same = open
            .iter()
            .filter(|((other, _), upstream)| *other == proxy && upstream.token == token);
        let is_on_its_way = same.any(|(_, upstream)| upstream.in_flight.contains(&lease));
        assert!(
            !is_on_its_way,
            "two heartbeats for lease {lease} are on their way"
        );
        if let Some(upstream) = open.get_mut(&(proxy, id)) {
            upstream.in_flight.insert(lease);
        }
        let is_waited_for = |waiting: &Waiting| waiting.after < after;
        let mut group = self
            .live()
            .filter(|(_, call)| call.proxy == proxy && call.token == token);
        let is_wanted = group.any(|(_, call)| {
            let waiting = call.waiting.get(&lease);
            waiting.is_some_and(|waiting| waiting.iter().any(is_waited_for))
        });
        assert!(
            is_wanted,
            "a heartbeat for lease {lease} is sent, and nobody waits for it"
        );
        drop(group);
        self.routing.counts.sent += 1;
        let said = None;
        let sent = Sent { at: now, after, said };
        self.routing.sent.insert((proxy, token, lease), sent);
    }

    /// The router hears what a client sent.
    pub(super) fn heard(&mut self, now: Instant, tag: LeaseTag, message: Bytes) {
        let after = self.routing.next();
        if let Ok(request) = LeaseKeepAliveRequest::decode(message) {
            self.routing.counts.heard += 1;
            let waiting = Waiting { since: now, after };
            let call = self.call_mut(tag);
            call.waiting.entry(request.id).or_default().push_back(waiting);
            let count: usize = call.waiting.values().map(VecDeque::len).sum();
            let max = self.routing.config.requests_max;
            assert!(count <= max, "{count} heartbeats of {tag:?} are read");
        }
    }

    /// The router has an answer: byte for byte what a member said, to a heartbeat that was sent after the client asked,
    /// or within the time for which answers are shared.
    pub(super) fn put(&mut self, io: &mut Io, tag: LeaseTag, message: Bytes) {
        let response = LeaseKeepAliveResponse::decode(message.clone()).expect("a member wrote it");
        let call = self.call_mut(tag);
        let key = (call.proxy, call.token.clone(), response.id);
        let list = call.waiting.get_mut(&response.id);
        let waiting = list.and_then(VecDeque::pop_front);
        let waiting = waiting.unwrap_or_else(|| panic!("{tag:?} is answered twice: {response:?}"));
        call.put.push_back(message.clone());
        let sent = self.routing.sent.get(&key).expect("a heartbeat was sent");
        assert_eq!(
            sent.said,
            Some(message),
            "{tag:?} is told what no member said: {response:?}"
        );
        if waiting.after >= sent.after {
            io.count(Situation::CheckedLeaseShared);
            let within = self.routing.config.share_within;
            assert!(
                response.ttl > 0 && within.is_some_and(|within| io.now - sent.at <= within),
                "{tag:?} asked after the heartbeat had left that it is told of: {waiting:?}, {sent:?}"
            );
        }
        self.lives.asked(io.now, response.id);
    }

    /// A call is ended only for a reason.
    pub(super) fn is_right_end(
        &self,
        io: &mut Io,
        leaderless: Option<Instant>,
        tag: LeaseTag,
        status: &Status,
    ) {
        let call = &self.calls[&tag];
        let (config, now) = (&self.routing.config, io.now);
        let first = |(lease, waiting): (&i64, &VecDeque<Waiting>)| Some((*lease, waiting.front()?.since));
        let waiting: Vec<(i64, Instant)> = call.waiting.iter().filter_map(first).collect();
        let waited_for_long = || {
            waiting.iter().any(|(lease, since)| {
                let least = self
                    .lives
                    .ttl(*lease)
                    .map_or(config.answer_timeout, |ttl| ttl.min(config.answer_timeout));
                now - *since >= least.min(config.wait_max) && !self.is_calm(*since)
            })
        };
        // A server that has no leader doesn't wait for one any longer.
        let waited_for_leader = || {
            let least = config.answer_timeout / 2;
            let mut waiting = waiting.iter();
            waiting.any(|(_, since)| now - *since >= least && !self.is_calm(*since))
        };
        let was_leaderless = leaderless.is_some_and(|at| at + HELD_UP_MAX >= call.opened);
        let (situation, is_right) = match (status.code, &*status.message) {
            (0, _) => (
                Situation::CheckedLeaseHalfClosed,
                call.half_closed && waiting.is_empty(),
            ),
            (13, message) => (
                Situation::LeaseToldNonsense,
                call.nonsense && message.starts_with("grpc: failed to unmarshal the received message: "),
            ),
            (14, "etcdserver: no leader") => (
                Situation::LeaseToldNoLeader,
                was_leaderless
                    && (call.require_leader && !self.is_calm(call.opened)
                        || waited_for_long()
                        || waited_for_leader()),
            ),
            (14, "etcdserver: request timed out") => (Situation::LeaseToldTimeout, waited_for_long()),
            (code, _) => {
                let refusal = self.routing.refusal.as_ref();
                let is_about = |lease: Option<i64>| match (code, lease) {
                    (0 | 1 | 13 | 14, _) => false,
                    (3 | 16, _) => !waiting.is_empty(),
                    (_, Some(lease)) => waiting.iter().any(|(waiting, _)| *waiting == lease),
                    (_, None) => false,
                };
                let is_right = refusal.is_some_and(|refusal| {
                    refusal.status == *status
                        && refusal.proxy == call.proxy
                        && refusal.token == call.token
                        && is_about(refusal.lease)
                });
                let situation = match code {
                    3 | 16 => Situation::LeaseToldNobody,
                    7 => Situation::LeaseToldDenied,
                    _ => Situation::LeaseToldAsMemberSaid,
                };
                (situation, is_right)
            }
        };
        io.count(situation);
        assert!(
            is_right,
            "there is no reason why {tag:?} should end with {status:?}: {call:?}, {:?}",
            self.routing.refusal
        );
    }

    /// Calls of routers to members so far, and those that are open.
    pub(crate) fn upstreams(&self) -> (u64, usize) {
        (self.routing.opened, self.routing.open())
    }

    /// Heartbeats so far.
    pub(crate) fn heartbeats(&self) -> Heartbeats {
        self.routing.counts
    }
}
