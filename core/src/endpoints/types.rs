//! The vocabulary of the endpoint machine: settings, events, actions.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use slotmap::new_key_type;

use crate::class::Class;
use crate::grpc::Code;

new_key_type! {
    /// An endpoint. Generational: the id of a removed endpoint finds nothing.
    pub struct EndpointId;

    /// A connection, from the wish to have it to its end. Generational.
    pub struct ConnectionId;
}

/// Who a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The calls of the worker thread with this number, from 0 to [`Config::lanes`] - 1.
    Worker(u32),
    /// The same, beside the connection that is [`Lane::Worker`]'s: it was asked for with [`Event::Wanted`].
    Further(u32, Class),
    /// Nobody's calls: it is opened to learn whether its endpoint is fit, and closed then.
    Candidate,
}

/// Settings of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of lanes, at least 1.
    pub lanes: u32,
    /// How long a connection may take to be established.
    pub connect_timeout: Duration,
    /// How long a search waits for a candidate before it tries the next one beside it.
    pub stagger: Duration,
    /// Time between the answer to a probe and the next probe of a connection; `None` turns periodic
    /// probes off, candidates are still probed once.
    pub probe_interval: Option<Duration>,
    /// How long a probe may stay without answer while nothing else is read from its connection; what is
    /// read counts as read up to a quarter of this later. A candidate must answer within this in any case.
    pub probe_timeout: Duration,
    /// Time between two searches for a better member while the one in use has no leader, at least 1 ms
    /// (less counts as that).
    pub challenge_interval: Duration,
    /// First wait before a failed endpoint is tried again, at least 1 ms (less counts as that).
    pub backoff_min: Duration,
    /// Longest wait before a failed endpoint is tried again, jitter of ±20 % not counted; at least
    /// `backoff_min` (less counts as that). An endpoint that is well for so long starts over with
    /// `backoff_min` when it fails again.
    pub backoff_max: Duration,
    /// A connection that its peer ends gracefully earlier than this counts as failed, so that a peer
    /// which accepts and says goodbye isn't dialled in a loop.
    pub graceful_age_min: Duration,
    /// How long an endpoint may stay without answer before it has no say any more in which cluster is the right one.
    pub say: Duration,
    /// Most endpoints that are kept; a longer list is cut.
    pub endpoints_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lanes: 1,
            connect_timeout: Duration::from_secs(2),
            stagger: Duration::from_millis(200),
            probe_interval: Some(Duration::from_secs(1)),
            probe_timeout: Duration::from_millis(2500),
            challenge_interval: Duration::from_secs(1),
            backoff_min: Duration::from_millis(50),
            // Short: a member in use may fail while the others are still hidden but well again.
            backoff_max: Duration::from_secs(1),
            graceful_age_min: Duration::from_secs(1),
            // A member that is started again is back earlier.
            say: Duration::from_secs(10),
            endpoints_max: 1024,
        }
    }
}

/// What a probe's answer says of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// The member serves, and it knows a leader.
    Fit,
    /// The member answers, but can't do its work: no leader, a learner, or shutting down.
    Unfit,
}

impl Health {
    /// What a health check's answer says: `grpc.health.v1.HealthCheckResponse.ServingStatus`, by its number.
    #[must_use]
    pub const fn of_serving_status(status: i32) -> Self {
        const NOT_SERVING: i32 = 2;
        match status {
            NOT_SERVING => Self::Unfit,
            _ => Self::Fit,
        }
    }

    /// What an error in answer to a health check says, by its gRPC code. An error is an answer too: one that isn't
    /// about the member's state shows that it lives.
    #[must_use]
    pub fn of_error(code: u8) -> Self {
        match Code::of_number(code) {
            // `etcdserver: no leader`, and on 3.5 `etcdserver: rpc not supported for learner`.
            Some(Code::Unavailable) => Self::Unfit,
            // The latter from 3.6 on.
            Some(Code::FailedPrecondition) => Self::Unfit,
            // What came was no gRPC answer, or none at all.
            Some(Code::Cancelled | Code::Unknown | Code::Internal) => Self::Unfit,
            _ => Self::Fit,
        }
    }
}

/// Why an endpoint counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCause {
    /// No connection could be established, or not in time.
    Connect,
    /// An established connection broke.
    Lost,
    /// The peer keeps ending connections right after they were established.
    Refusing,
    /// A probe stayed without answer and nothing else came either: frozen, or a black hole.
    Silent,
    /// What answers isn't what it should be: a member of another cluster than the one in use.
    Foreign,
    /// What answers doesn't do so as an etcd does.
    Stranger,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The proxy starts. Comes once, first.
    Start,
    /// A connection asked for with [`Action::Connect`] is established.
    Connected(ConnectionId),
    /// A connection asked for couldn't be established.
    ConnectFailed(ConnectionId),
    /// The peer takes no new calls on the connection, open ones go on (GOAWAY `NO_ERROR`, or its
    /// stream ids are used up).
    Draining(ConnectionId),
    /// The connection has ended, or its last call has after it was withdrawn or began to drain.
    Lost {
        /// The one that it is.
        connection: ConnectionId,
        /// Whether the peer had announced the end with GOAWAY `NO_ERROR`.
        graceful: bool,
    },
    /// Bytes have been read from the connection since this was last reported. Need not be reported
    /// for every read, but before an [`Event::Timeout`], and before an [`Event::Doubt`] about the same
    /// connection, that follows one.
    Active(ConnectionId),
    /// The answer to [`Action::Probe`].
    ProbeAnswered(ConnectionId, Health),
    /// What is at the other end of a connection has told the id of its cluster, which isn't 0. Comes before the answer to
    /// the first probe, if it is told at all.
    Identified(ConnectionId, u64),
    /// There will be no answer to [`Action::Probe`], though the connection hasn't ended: the member reset the stream, or
    /// the probe found no way. That says nothing of the member.
    ProbeLost(ConnectionId),
    /// A call on this connection was answered as a member without leader would: worth a look.
    Doubt(ConnectionId),
    /// A call that the member of this connection has answered with UNAVAILABLE was answered by another one: this one isn't fit,
    /// whatever its probes say.
    Outdone(ConnectionId),
    /// What is at the other end of a connection is no etcd: it gives no gRPC answers, or none that an etcd would give. Comes
    /// instead of the answer to a probe.
    Stranger(ConnectionId),
    /// A worker wants one more connection for calls of this class, to the member that it has one to.
    Wanted(u32, Class),
    /// The list of endpoints is now this one (discovery, member list). Those already known keep
    /// their state. An empty list is ignored: it would only take away what may still work.
    Replace(Vec<Box<str>>),
    /// [`Endpoints::next_timeout`](super::Endpoints::next_timeout) has come.
    Timeout,
}

/// Why a connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCause {
    /// The connection was only opened to learn about its endpoint, or isn't wanted any more before it was used.
    Unneeded,
    /// The connection took too long to establish.
    ConnectTimeout,
    /// Nothing came from it in time.
    Silent,
    /// The member has no leader and another one has.
    LeaderLost,
    /// The connection leads to another cluster than the one in use, or to no etcd.
    Foreign,
}

/// What must happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Establish a connection, answer with `Connected` or `ConnectFailed`.
    Connect {
        /// The id that it has from now on.
        connection: ConnectionId,
        /// To where.
        endpoint: EndpointId,
        /// For whom.
        lane: Lane,
    },
    /// Send a health check with `hasleader: true` on the connection. Comes for established connections
    /// that aren't draining, one at a time.
    Probe(ConnectionId),
    /// Close the connection at once; the calls on it fail as if it had broken.
    Close(ConnectionId, CloseCause),
    /// New calls of this worker go to this connection from now on.
    Serve {
        /// The worker's number.
        worker: u32,
        /// The connection.
        connection: ConnectionId,
    },
    /// This worker has no connection for new calls; calls wait. The former connection and those that have joined it, as
    /// far as they are still alive, end by themselves when their last call does.
    Withdraw {
        /// The worker's number.
        worker: u32,
    },
    /// What this worker wanted is there: new calls of the class may go to this connection too, until the worker's next
    /// [`Action::Withdraw`].
    Join {
        /// The worker's number.
        worker: u32,
        /// Whose calls.
        class: Class,
        /// The connection.
        connection: ConnectionId,
    },
    /// What this worker wanted can't be had now.
    NotJoined {
        /// The worker's number.
        worker: u32,
        /// Whose calls it was for.
        class: Class,
    },
    /// The endpoint is the one in use now. For logs and metrics.
    Chosen(EndpointId),
    /// The endpoint failed and is hidden for a while. For logs and metrics.
    Hidden {
        /// The one that it is.
        endpoint: EndpointId,
        /// What happened.
        cause: FailureCause,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// A hidden endpoint answers again. For logs and metrics.
    Restored(EndpointId),
    /// The endpoint in use has lost its leader, or is a learner, or was [outdone](Event::Outdone); others are asked. For logs
    /// and metrics.
    LeaderLost(EndpointId),
    /// The endpoint in use is fit again. For logs and metrics.
    LeaderRegained(EndpointId),
    /// The endpoint answers as a member of another cluster than the one in use; it stays hidden for as long as it does. Comes
    /// once for each change. For logs and metrics.
    Foreign {
        /// The one that it is.
        endpoint: EndpointId,
        /// The cluster that it is of.
        cluster: u64,
        /// The cluster in use.
        ours: u64,
    },
    /// All endpoints that have a say answer as members of another cluster than the one in use before: that is followed now.
    /// For logs and metrics.
    Followed {
        /// The cluster in use from now on.
        cluster: u64,
        /// The one before.
        former: u64,
    },
}

/// The list that actions are pushed to, in the order in which they must be carried out.
pub type Actions = Vec<Action>;
