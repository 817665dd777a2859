//! What every part of the world uses: time, chance, the network, the record.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::history::Known;
use etcd_proxy_core::lease;
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch::{Header, UpstreamId, UpstreamKind};
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::watch_request::RequestUnion;
use fastrand::Rng;

use crate::delivery::{Answer, CallTag, Delivery, LeaseTag, WatchTag};
use crate::net::{LinkId, Net};
use crate::queue::Queue;
use crate::situations::{Counts, Situation};
use crate::trace::{Lines, Trace};

/// Something that the oracle must know, told by the part of the world where it happened.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// A proxy has handed a call to a connection.
    Sent { call: CallTag },
    /// A call has been handed to the model at this member.
    Reached { call: CallTag },
    /// A member has answered.
    Replied {
        call: CallTag,
        answer: Answer,
        link: LinkId,
    },
    /// A member has reset a call that it had processed.
    MemberReset { call: CallTag },
    /// A proxy learns that a member refused a call, or left it out of its GOAWAY: it didn't process it.
    NotProcessed { call: CallTag },
    /// A connection broke under a call, or its proxy gave it up for dead.
    Lost { call: CallTag },
    /// A proxy closed a connection under a call to have it made on a member with a leader.
    Moved { call: CallTag },
    /// A proxy's connection took a call no more: it wasn't sent.
    NotTaken { call: CallTag },
    /// A proxy keeps its client's calls about a member on the leader from now on, which this call was looking for.
    TakenAlong { call: CallTag, to: LinkId },
    /// A proxy answers a read from its cache.
    Hit { call: CallTag, message: Bytes },
    /// A proxy has asked at this time, in a way that a member without a quorum doesn't answer, and was told this revision.
    Confirmed {
        proxy: usize,
        at: Instant,
        revision: i64,
    },
    /// A proxy's cache has kept the answer to this read, when it had heard of all changes up to a revision.
    Kept {
        call: CallTag,
        message: Bytes,
        watched: i64,
    },
    /// A proxy answers a read with the answer to another one.
    Shared {
        call: CallTag,
        leader: CallTag,
        answer: Answer,
    },
    /// A proxy asks a read again, as its answer was older than what was shown.
    Refreshes { call: CallTag },
    /// The client has its answer.
    Answered { call: CallTag, answer: Answer },
    /// The client's stream was reset.
    AnsweredByReset { call: CallTag },
    /// The client has stopped waiting, or has lost its connection.
    Abandoned { call: CallTag },
    /// Something happens to a client's Watch call.
    Watch { watch: WatchTag, what: WatchNote },
    /// A proxy's hub wants a Watch call to a member.
    UpstreamOpened {
        proxy: usize,
        upstream: UpstreamId,
        kind: UpstreamKind,
    },
    /// It sends a request on one.
    UpstreamAsked {
        proxy: usize,
        upstream: UpstreamId,
        message: Bytes,
    },
    /// It is told something on one.
    UpstreamSaid {
        proxy: usize,
        upstream: UpstreamId,
        message: Bytes,
    },
    /// One has ended.
    UpstreamGone { proxy: usize, upstream: UpstreamId },
    /// A hub asks a member what it has, for want of a quorum.
    MemberAsked,
    /// Something happens to a client's LeaseKeepAlive call.
    Lease { lease: LeaseTag, what: LeaseNote },
    /// Something happens to a LeaseKeepAlive call of a proxy's router to a member.
    LeaseUpstream {
        proxy: usize,
        upstream: lease::UpstreamId,
        what: LeaseUpstreamNote,
    },
    /// A member has answered a heartbeat that reached it then.
    Renewed { reached: Instant, message: Bytes },
    /// A member accepts a connection.
    Accepted { link: LinkId },
    /// What a proxy knows of the store's history, when it knows more by what came over this connection.
    Known {
        proxy: usize,
        known: Known,
        link: LinkId,
    },
    /// A proxy takes an answer that came over this connection for one of another history.
    AnotherHistory {
        proxy: usize,
        header: Header,
        link: LinkId,
    },
    /// A proxy dials a member.
    Dialling { proxy: usize, member: usize },
    /// A proxy sends a probe.
    Probing { proxy: usize },
}

/// What happens to a client's Watch call.
#[derive(Clone, Debug)]
pub(crate) enum WatchNote {
    /// It begins.
    Opened { as_whom: Identity, require_leader: bool },
    /// The client asks for something.
    Asked(Option<RequestUnion>),
    /// The client sends what isn't a request.
    AskedNonsense,
    /// The client is told something.
    Told(Bytes),
    /// The client reads nothing for a while, or reads again.
    Reads(bool),
    /// The proxy has ended it.
    Ended(Status),
    /// The client has ended it, or its connection broke.
    Gone,
}

/// What happens to a client's LeaseKeepAlive call.
#[derive(Clone, Debug)]
pub(crate) enum LeaseNote {
    /// It begins.
    Opened {
        proxy: usize,
        token: Option<Bytes>,
        require_leader: bool,
    },
    /// The client sends a heartbeat for this lease.
    Asked(i64),
    /// The client sends what isn't a heartbeat.
    AskedNonsense,
    /// The client sends no more.
    HalfClosed,
    /// The client is told something.
    Told(Bytes),
    /// The client reads nothing for a while, or reads again.
    Reads(bool),
    /// The client learns that it has ended.
    Ended(Status),
    /// The client has ended it, or its connection broke.
    Gone,
    /// The proxy's router knows of it.
    Known,
    /// The router is told what the client sent.
    Heard(Bytes),
    /// The router has an answer for the client.
    Put(Bytes),
    /// The router ends it.
    EndPut(Status),
    /// The router is told that the client is gone.
    Left,
}

/// What happens to a LeaseKeepAlive call of a router's to a member.
#[derive(Clone, Debug)]
pub(crate) enum LeaseUpstreamNote {
    /// It is wanted, with these credentials.
    Opened(Option<Bytes>),
    /// A heartbeat is sent.
    Asked(Bytes),
    /// An answer comes.
    Said(Bytes),
    /// It has ended, or couldn't be opened.
    Ended(Status),
    /// The router has ended it.
    Gone,
}

/// Who makes a streaming call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// Nobody says.
    Anonymous,
    /// Who may read some of the keys, where users must authenticate.
    Reader,
    /// Who may do everything, where users must authenticate.
    Root,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) queue: Queue,
    pub(crate) net: Net,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    /// What the oracle hasn't heard yet.
    pub(crate) notes: Vec<Note>,
}

impl Io {
    pub(crate) fn new(seed: u64, latency: Range<Duration>, lines: Lines) -> Self {
        Self {
            now: Instant::ZERO,
            rng: Rng::with_seed(seed),
            queue: Queue::default(),
            net: Net::new(latency),
            trace: Trace::new(lines),
            counts: Counts::default(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn at(&mut self, at: Instant, delivery: Delivery) {
        self.queue.push(at.max(self.now), delivery);
    }

    pub(crate) fn after(&mut self, wait: Duration, delivery: Delivery) {
        self.queue.push(self.now + wait, delivery);
    }

    /// Any duration of the range, to the microsecond.
    pub(crate) fn within(&mut self, range: Range<Duration>) -> Duration {
        within(&mut self.rng, range)
    }

    pub(crate) fn chance(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }

    pub(crate) fn count(&mut self, situation: Situation) {
        self.counts.add(situation);
    }
}

/// Any duration of the range, to the microsecond; its start if it is empty.
pub(crate) fn within(rng: &mut Rng, range: Range<Duration>) -> Duration {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let (start, end) = (micros(range.start), micros(range.end));
    Duration::from_micros(if start < end { rng.u64(start..end) } else { start })
}
