//! All that can be on its way.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::endpoints::{ConnectionId, Event};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_model::status::Status;

use crate::net::{LinkId, Side};

/// A call of a client, as the oracle knows it. Travels with the call like a tracing header; no decision is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallTag(pub u64);

impl CallTag {
    /// A proxy's probe of a member.
    pub(crate) const PROBE: Self = Self(0);

    /// A question of a proxy's watch hub.
    pub(crate) const CHECK: Self = Self(u64::MAX);

    /// Whether it is a proxy's own call.
    pub(crate) fn is_own(self) -> bool {
        self == Self::PROBE || self == Self::CHECK
    }
}

/// A Watch call of a client, as the oracle knows it: the client, and the number of the call among its Watch calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchTag {
    /// Which client.
    pub client: usize,
    /// Which of its Watch calls, from 1.
    pub number: u32,
}

/// A LeaseKeepAlive call of a client, as the oracle knows it: the client, and the number of the call among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseTag {
    /// Which client.
    pub client: usize,
    /// Which of its LeaseKeepAlive calls, from 1.
    pub number: u32,
}

/// The number of a stream on its link; the side that dialled counts up from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamNo(pub(crate) u32);

/// The response message of a call, or the status it ended with.
pub type Answer = Result<Bytes, Status>;

/// The head of a call and its request message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) tag: CallTag,
    pub(crate) rpc: Rpc,
    pub(crate) token: Option<Bytes>,
    pub(crate) require_leader: bool,
    /// What the caller says is left until its deadline.
    pub(crate) timeout: Option<Duration>,
    pub(crate) message: Bytes,
}

/// The head of a streaming call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Opening {
    /// [`Rpc::Watch`] or [`Rpc::LeaseKeepAlive`].
    pub(crate) rpc: Rpc,
    /// A LeaseKeepAlive call of a client has one, as unary calls do.
    pub(crate) tag: Option<LeaseTag>,
    pub(crate) token: Option<Bytes>,
    pub(crate) require_leader: bool,
    /// Messages that may be sent to the caller before it gives room for more.
    pub(crate) window: u32,
}

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// CANCEL: nobody waits for the answer any more.
    Cancel,
    /// INTERNAL_ERROR.
    Internal,
    /// REFUSED_STREAM: it wasn't processed.
    Refused,
}

/// What travels on a link: HTTP/2 as far as a proxy's decisions depend on it, and the end of the connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Frame {
    /// A call with its whole request.
    Request(StreamNo, Rc<Request>),
    /// The whole answer to a call.
    Answer(StreamNo, Answer),
    /// The beginning of a streaming call.
    Open(StreamNo, Rc<Opening>),
    /// A message of a streaming call.
    Message(StreamNo, Bytes),
    /// The caller of a streaming call sends no more.
    HalfClose(StreamNo),
    /// The caller of a streaming call has room for so many messages more.
    Window(StreamNo, u32),
    /// The end of a streaming call.
    End(StreamNo, Status),
    /// The end of a stream without an answer.
    Reset(StreamNo, Reason),
    /// No new streams are taken. Those above the number weren't processed; `None` says nothing of any yet.
    GoAway(Option<StreamNo>),
    /// Is anybody there?
    Ping,
    /// Yes.
    Pong,
    /// The connection has ended.
    Gone,
}

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Makes its next call.
    Call,
    /// Gives a call up.
    GiveUp(CallTag),
    /// Closes its connection and makes a new one.
    Reconnect,
    /// Does something about its watches.
    Watch,
    /// Reads the messages of a Watch call again.
    ReadOn(WatchTag),
    /// Does something about its leases.
    Lease,
    /// Sends a heartbeat for a lease that it keeps alive.
    Beat(i64),
    /// Reads the messages of a LeaseKeepAlive call again.
    ReadLeaseOn(LeaseTag),
}

/// What a proxy's connections tell its control task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Report {
    Connected(ConnectionId),
    Event(Event),
}

/// What ends a wait of a call at a proxy. Carries the number of the wait, as it may be over before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alarm {
    /// No connection came in time.
    Patience(u32),
    /// The pause before the next attempt is over.
    Pause(u32),
    /// Asking one of the other members has taken too long.
    Other(u32),
    /// An attempt to get a newer answer, of this number, has taken too long.
    Refresh(u32),
    /// The deadline has passed by more than what a member may take to say so.
    Expiry,
}

/// What ends a wait of a proxy's watch hub, or of what carries its actions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WatchAlarm {
    /// The hub's own timer.
    Hub,
    /// No connection came in time for a Watch call of this number.
    NoConnection(u32),
    /// The deadline of a question of this number.
    CheckDeadline(u32),
}

/// What ends a wait of a proxy's read cache, or of what carries its actions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ReadAlarm {
    /// The cache's own timer.
    Cache,
    /// The cache reads what the hub has sent on the feed of this number.
    Feed(u32),
    /// The feed of this number is opened, or opened again.
    Reopen(u32),
}

/// What ends a wait of a proxy's lease router, or of what carries its actions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LeaseAlarm {
    /// The router's own timer.
    Router,
    /// No connection came in time for a LeaseKeepAlive call of this number.
    NoConnection(u32),
}

/// All that can be on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Delivery {
    /// A connection is asked for at the side that accepts.
    Dial(LinkId),
    /// The side that dialled learns whether its connection was accepted.
    Dialled(LinkId, bool),
    /// The next frame for this side.
    Frame(LinkId, Side, Frame),
    /// What was held up on the way to this side comes through.
    Drain(LinkId, Side),
    /// This side learns that the connection broke, whatever is still on its way.
    Broken(LinkId, Side),
    /// A kernel looks after a silent connection of this side.
    Keepalive(LinkId, Side),
    /// The second half of a member's graceful goodbye.
    LastGoAway(LinkId),
    /// The deadline of a call passes at its member.
    MemberDeadline(u64),
    /// A timer of the cluster.
    ClusterTimeout,
    /// A timer of a proxy's endpoint machine.
    MachineTimeout(usize),
    /// Something reaches a proxy's control task.
    Report(usize, Report),
    /// A call at a proxy has waited.
    Alarm(usize, u64, Alarm),
    /// A connection that a proxy's endpoint machine doesn't know is looked after.
    AsidePing(usize, LinkId),
    /// Something of a proxy's watch hub has waited.
    WatchAlarm(usize, WatchAlarm),
    /// Something of a proxy's read cache has waited.
    ReadAlarm(usize, ReadAlarm),
    /// Something of a proxy's lease router has waited.
    LeaseAlarm(usize, LeaseAlarm),
    /// What waits for a proxy's client on a streaming call is written.
    Flush(usize, LinkId, StreamNo),
    /// A client acts.
    Client(usize, Step),
    /// A fault is over: the number of its remedy.
    Remedy(u64),
    /// The properties that need no event are looked at.
    Look,
}
