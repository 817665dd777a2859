//! The vocabulary of the router: settings, events, actions.

use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use slotmap::new_key_type;

pub use super::wire::Heartbeat;
pub use crate::watch::{Caller, Status};

new_key_type! {
    /// A LeaseKeepAlive call of a client, from its beginning to its end. Generational.
    pub struct ClientId;

    /// A LeaseKeepAlive call to a server, from the wish to have it to its end. Generational.
    pub struct UpstreamId;
}

/// Settings of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Requests of a client stream that may wait for their answer before no more are read from it, at least 1.
    pub requests_max: usize,
    /// Requests of all streams of a client connection, in the same way.
    pub connection_requests_max: usize,
    /// Requests of all connections: when there are many that wait for something, each has its part of this, but never
    /// less than 16.
    pub all_requests_max: usize,
    /// A client for whom so many bytes wait isn't read from. Answers to what was read always find room, so
    /// [`Self::requests_max`] of them may be added.
    pub outbox_bytes_max: usize,
    /// Heartbeats without answer on one upstream stream, at least 1. The rest waits here, where connections take turns,
    /// and where it can still be sent on another stream or be dropped with its client.
    pub in_flight_max: usize,
    /// Shared streams of a group, and as many doubtful ones, at least 1. More than one is opened only when heartbeats
    /// are answered too late.
    pub streams_max: usize,
    /// Streams of a group that carry one heartbeat at a time, at least 1.
    pub alone_max: usize,
    /// Leases that are remembered between two heartbeats. Of those above, neither the TTL nor the end is known.
    pub leases_max: usize,
    /// A stream is slow when its first heartbeat has waited for so long, or for eight round trips if that is longer.
    pub queue_time_max: Duration,
    /// When all streams have been slow for so long, another one is opened: heartbeats come faster than the server works
    /// through them.
    pub slow_max: Duration,
    /// When a heartbeat has waited for an eighth of its lease's TTL another stream is opened at once, but not earlier
    /// than this.
    pub patience_min: Duration,
    /// And not later than this. Half of it if the TTL isn't known.
    pub patience_max: Duration,
    /// How long a stream may stay without any answer before its first heartbeat is suspected. Four round trips if
    /// that is longer; doubled each time as long as nothing is answered. Eight times as long for a heartbeat alone,
    /// which is sent again then.
    pub stall: Duration,
    /// Longest such time.
    pub stall_max: Duration,
    /// How long leases that never were renewed here are doubtful after a heartbeat was suspected.
    pub careful: Duration,
    /// How long a request waits at least for its answer, or for the TTL of its lease if that is shorter. What an etcd
    /// server gives a renewal itself is 7 s (`ReqTimeout` with an election timeout of 1 s).
    pub answer_timeout: Duration,
    /// How long a request waits at most, whatever the TTL.
    pub wait_max: Duration,
    /// Shortest wait before a stream is opened after one that failed without any answer.
    pub backoff_min: Duration,
    /// Longest such wait. Waits double from one failure to the next, and are spread between half and full.
    pub backoff_max: Duration,
    /// How long an upstream stream that isn't needed is kept, and a lease remembered after its end.
    pub linger: Duration,
    /// How long a cluster may be without leader before streams end that had one: three election timeouts, as a server
    /// does (3 s unless the election timeout is set).
    pub leader_grace: Duration,
    /// Answers are shared for so long: a request is answered with the last answer of its lease if the heartbeat for
    /// that was sent at most this long ago and renewed the lease. So a lease costs the cluster at most one heartbeat
    /// in this time, and a client that counts the TTL from such an answer believes that its lease lives up to this
    /// much longer than it does. `None`: never.
    pub share_within: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            requests_max: 512,
            connection_requests_max: 2048,
            all_requests_max: 128 << 10,
            outbox_bytes_max: 64 << 10,
            in_flight_max: 256,
            streams_max: 8,
            alone_max: 16,
            leases_max: 1 << 20,
            queue_time_max: Duration::from_millis(50),
            slow_max: Duration::from_millis(500),
            patience_min: Duration::from_millis(100),
            patience_max: Duration::from_secs(2),
            stall: Duration::from_millis(200),
            stall_max: Duration::from_secs(4),
            careful: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(7),
            wait_max: Duration::from_secs(600),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            linger: Duration::from_secs(5),
            leader_grace: Duration::from_secs(3),
            share_within: None,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client sent a heartbeat.
    ClientSent(ClientId, Heartbeat),
    /// A client won't send any more. Its stream ends when its requests are answered.
    ClientHalfClosed(ClientId),
    /// Bytes delivered to the client have left its outbox.
    ClientTook(ClientId, usize),
    /// The client's stream is gone.
    ClientGone(ClientId),
    /// A call asked for with [`Action::OpenUpstream`] is on a connection: what is sent on it leaves at once. That
    /// doesn't wait for the server, which says nothing before its first answer.
    UpstreamOpened(UpstreamId),
    /// An upstream stream sent a message (`LeaseKeepAliveResponse`, without its gRPC prefix).
    UpstreamSent(UpstreamId, Bytes),
    /// An upstream stream ended or broke, or couldn't be opened. What isn't the server's own status is `UNAVAILABLE`.
    UpstreamEnded(UpstreamId, Status),
    /// The connection of an upstream stream takes no new calls any more, and calls go to another one.
    UpstreamSuperseded(UpstreamId),
    /// The store has another history, with this number ([`History`](crate::history::History)): the revisions that were seen
    /// are none of it. Changes nothing if the number isn't higher than the last one.
    History(u64),
    /// [`Router::next_timeout`](super::Router::next_timeout) has come.
    Timeout,
}

/// What must happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put a message, which has its gRPC prefix, into a client's outbox.
    Deliver(ClientId, Bytes),
    /// End a client's stream with this status, after what its outbox holds. The id is gone.
    EndClient(ClientId, Status),
    /// Read no more requests of the client for now.
    PauseClient(ClientId),
    /// Read requests of the client again.
    ResumeClient(ClientId),
    /// Open a LeaseKeepAlive call. Nothing is sent before [`Event::UpstreamOpened`].
    OpenUpstream {
        /// Its id from now on.
        upstream: UpstreamId,
        /// The token to send.
        credentials: Option<Bytes>,
        /// Whether to send `hasleader: true`.
        require_leader: bool,
    },
    /// Send a message (`LeaseKeepAliveRequest`, without its gRPC prefix).
    SendUpstream(UpstreamId, Bytes),
    /// Reset a LeaseKeepAlive call, so that the server forgets what it hasn't answered. The id is gone.
    CloseUpstream(UpstreamId),
}

/// The list that actions are pushed to, in the order in which they must be carried out.
pub type Actions = Vec<Action>;

/// Upper bounds of [`Stats::latency`], in milliseconds; the last bucket has none.
pub const LATENCY_BOUNDS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// Counters and gauges, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Client streams.
    pub clients: usize,
    /// Upstream streams.
    pub upstreams: usize,
    /// Leases that are known, or that somebody waits for.
    pub leases: usize,
    /// Bytes that wait for clients.
    pub outbox_bytes: usize,
    /// Heartbeats that clients sent, total.
    pub heartbeats_in: u64,
    /// Heartbeats sent to servers, total, with those that were sent again.
    pub heartbeats_out: u64,
    /// Heartbeats sent again because their stream was lost, total.
    pub resent: u64,
    /// Heartbeats of clients that were served by a heartbeat sent for another one, or by its answer, total.
    pub shared: u64,
    /// Answers delivered, total.
    pub answers: u64,
    /// Nanoseconds from heartbeats to their answers, total.
    pub answer_nanos: u64,
    /// Answers by the time they took, each in the first bucket whose bound it doesn't exceed; not added up.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// Answers to nothing that was asked, total.
    pub strays: u64,
    /// Streams given up because their first heartbeat stayed without answer, total.
    pub stalls: u64,
    /// Client streams that were ended because the server refused, total.
    pub refused: u64,
    /// Client streams that were ended because no answer came in time, total.
    pub timed_out: u64,
    /// Client streams that were ended because the cluster has no leader, total.
    pub leaderless: u64,
}
