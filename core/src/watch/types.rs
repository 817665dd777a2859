//! The vocabulary of the hub: settings, events, actions.

use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use slotmap::new_key_type;

pub use crate::grpc::Status;

new_key_type! {
    /// A Watch call of a client, from its beginning to its end. Generational.
    pub struct ClientId;

    /// A Watch call to a server, from the wish to have it to its end. Generational.
    pub struct UpstreamId;

    /// A question to the cluster: a revision or a permission. Generational. It is asked again under the same id, but
    /// never before the answer to the last time came.
    pub struct CheckId;
}

/// Settings of the hub. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// A client for whom so much waits gets no events until it has taken half of it. One more frame may be added to
    /// what is just below, and answers to the client's own requests count but always find room.
    pub outbox_bytes_max: usize,
    /// Revisions that may wait for one watcher in its client's outbox. When there are so many it gets no further ones until they
    /// have left, and then all there is in one message.
    pub unsent_revisions_max: usize,
    /// What may wait for all clients together. When half of it does, a client counts as full as soon as it has its share
    /// of the other half, so that any number of them is bounded by this and one frame each.
    pub outbox_bytes_total_max: usize,
    /// Requests of a client that may wait for their answer before no more are read from it.
    pub requests_max: usize,
    /// Watchers that one client may have.
    pub watchers_per_client_max: usize,
    /// Largest message that a server takes. A client whose watcher needs a larger one is told so as by a server.
    pub request_bytes_max: u64,
    /// Events that are kept for each source.
    pub history_bytes_max: usize,
    /// Events that are kept for all sources together.
    pub history_bytes_total_max: usize,
    /// Streams that the live sources of the same credentials are spread over.
    pub live_streams_max: usize,
    /// Streams for catch-ups with the same credentials. Up to this many clients each have one of their own.
    pub catch_up_streams_max: usize,
    /// Catch-ups of one client's that may be under way. Further ones wait, in nobody else's way.
    pub catch_ups_per_client_max: usize,
    /// Unanswered create requests on one upstream stream.
    pub creates_in_flight_max: usize,
    /// Ranges of more than one key that are served by a wider source, before the next one gets a source of its own.
    /// Each event is compared with each of them.
    pub narrow_ranges_max: usize,
    /// Revisions whose events go out in one message to a watcher that is behind, and that a server sends so (etcd: 1000).
    /// With fewer in it a server's message is the last one of history.
    pub batch_revisions_max: usize,
    /// Events that go out in one message to a watcher that is behind, unless a server has sent more in one, or it takes
    /// fragments. Well below the 4 MiB that clients take without being told to.
    pub batch_bytes_max: usize,
    /// From this size on a response is split for clients that asked for it (etcd: `--max-request-bytes` and
    /// 512 KiB, 2 MiB unless it is set).
    pub fragment_bytes: usize,
    /// Runs of events up to this size are copied into each different frame; larger ones are shared.
    pub inline_bytes_max: usize,
    /// How long a create request may wait for its revision and permission. Then the client's stream ends with
    /// `UNAVAILABLE`, so that the client tries again, which it wouldn't if just the watcher was refused. As long may a
    /// watcher wait to be allowed to go on after a stream was lost, from when its source runs again.
    pub create_timeout: Duration,
    /// Shortest wait before an upstream stream is opened again, or a question asked again.
    pub backoff_min: Duration,
    /// Longest such wait. Waits double from one failure to the next, and are spread between half and full.
    pub backoff_max: Duration,
    /// How long an upstream stream without sources is kept.
    pub linger: Duration,
    /// Whether a server's progress is trusted (etcd from 3.4.31 and 3.5.13 on) unless [`Event::ProgressTrusted`] says
    /// otherwise. Where it isn't, idle sources resume from their last event, and progress requests stay without answer.
    pub trusts_progress: bool,
    /// How often the position of all live sources is asked for, so that idle ones don't fall behind compaction.
    pub position_interval: Duration,
    /// Watchers and sources that are looked at in one event, but for those that it has news for. What is left to do is done in
    /// the next ones, between which others have their turn.
    pub steps_max: u64,
    /// When an unanswered question for progress is repeated.
    pub progress_retry: Duration,
    /// How long a client's progress request is kept when it can't be answered.
    pub progress_timeout: Duration,
    /// How often watchers that asked for it are told of progress while nothing happens to their keys (etcd: 10 min).
    /// Notifications of the server are passed on instead where there are some: it is silent about what is busy.
    pub progress_notify_interval: Duration,
    /// Whether a server that notifies more often shows what this interval should be.
    pub learns_notify_interval: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            outbox_bytes_max: 4 << 20,
            unsent_revisions_max: 8,
            outbox_bytes_total_max: 256 << 20,
            requests_max: 1024,
            watchers_per_client_max: 1 << 20,
            request_bytes_max: 2 << 20,
            history_bytes_max: 4 << 20,
            history_bytes_total_max: 64 << 20,
            live_streams_max: 4,
            catch_up_streams_max: 64,
            catch_ups_per_client_max: 1024,
            creates_in_flight_max: 1024,
            narrow_ranges_max: 64,
            batch_revisions_max: 1000,
            batch_bytes_max: 2 << 20,
            fragment_bytes: 2 << 20,
            inline_bytes_max: 2048,
            create_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            linger: Duration::from_secs(5),
            trusts_progress: true,
            position_interval: Duration::from_secs(30),
            steps_max: 64,
            progress_retry: Duration::from_millis(100),
            progress_timeout: Duration::from_secs(5),
            progress_notify_interval: Duration::from_secs(600),
            learns_notify_interval: true,
        }
    }
}

/// What every response of an etcd server begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster_id: u64,
    /// The member that answered.
    pub member_id: u64,
    /// A revision that the store has reached.
    pub revision: i64,
    /// The raft term.
    pub raft_term: u64,
}

/// Who opened a Watch call or a LeaseKeepAlive call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The number of the client connection that the call came on. Calls of one connection share what one client may have.
    pub connection: u64,
    /// The token it sent, if any; opaque.
    pub credentials: Option<Bytes>,
    /// Whether it sent `hasleader: true`.
    pub require_leader: bool,
}

/// What an upstream stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamKind {
    /// Watchers that are caught up with the store, but for the moment after they were created.
    Live,
    /// Watchers that replay history. Apart from the live ones: a server tells a stream's progress only when all its
    /// watchers have caught up.
    CatchUp,
    /// No watchers: it is ended by the server, if opened with `hasleader: true`, when that has lost its leader.
    Leader,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client sent a message (`WatchRequest`, without its gRPC prefix).
    ClientSent(ClientId, Bytes),
    /// A client won't send any more. Its stream stays, as it does on a server.
    ClientHalfClosed(ClientId),
    /// Bytes of frames delivered to the client have left its outbox.
    ClientTook(ClientId, usize),
    /// The client's stream is gone.
    ClientGone(ClientId),
    /// An upstream stream sent a message (`WatchResponse`, without its gRPC prefix). It is kept for as long as its
    /// events are, so it should be no part of a much larger buffer.
    UpstreamSent(UpstreamId, Bytes),
    /// Whether the member that an upstream stream leads to can be trusted in what it says of progress.
    ProgressTrusted(UpstreamId, bool),
    /// An upstream stream ended or broke, or couldn't be opened.
    UpstreamEnded(UpstreamId, Status),
    /// The connection of an upstream stream takes no new calls any more, and calls go to another one. The stream still
    /// works, but nobody can tell for how long: a connection that drains can't be probed.
    UpstreamSuperseded(UpstreamId),
    /// The answer to [`Action::ReadRevision`], [`Action::AskPermission`] or [`Action::ReadHeader`]: the header of the
    /// response, or the status.
    Answered(CheckId, Result<Header, Status>),
    /// The cluster has compacted its history up to this revision. Whoever wants to watch from before it is told so, as by a
    /// server, also if the events are still here.
    Compacted(i64),
    /// The store has another history, with this number ([`History`](crate::history::History)). All streams of clients end,
    /// so that clients ask anew, and nothing that was known is known any more. Changes nothing if the number isn't higher
    /// than the last one.
    History(u64),
    /// [`Hub::next_timeout`](super::Hub::next_timeout) has come.
    Timeout,
}

/// A message for a client with its gRPC prefix, in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What differs between watchers.
    pub head: Bytes,
    /// What doesn't, if it is large: the same buffer for all of them. May be empty.
    pub tail: Bytes,
}

impl Frame {
    /// Bytes of both parts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether there is nothing in it; never true of what the hub delivers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty()
    }
}

/// What must happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put a frame into a client's outbox.
    Deliver(ClientId, Frame),
    /// End a client's stream with this status, after what its outbox holds. The id is gone.
    EndClient(ClientId, Status),
    /// Read no more requests of the client for now.
    PauseClient(ClientId),
    /// Read requests of the client again.
    ResumeClient(ClientId),
    /// Open a Watch call. Messages are sent without waiting for an answer.
    OpenUpstream {
        /// Its id from now on.
        upstream: UpstreamId,
        /// What for. [`UpstreamKind::Leader`] is opened with `hasleader: true`.
        kind: UpstreamKind,
        /// The token to send.
        credentials: Option<Bytes>,
    },
    /// Send a message (`WatchRequest`, without its gRPC prefix).
    SendUpstream(UpstreamId, Bytes),
    /// End a Watch call. The id is gone.
    CloseUpstream(UpstreamId),
    /// Read this single key with `keys_only` and these credentials: linearizably and with `hasleader: true`, or serializably
    /// and without. Only the header of the response matters, or the status. [`Event::History`] must come before an answer that tells of another
    /// history, and an answer that was asked for in a former history counts as none.
    ReadRevision {
        /// For the answer.
        check: CheckId,
        /// The token to send.
        credentials: Option<Bytes>,
        /// The key.
        key: Bytes,
        /// Serializably: what the member has, for want of a quorum. That may be less than what is known, and tells nothing
        /// of the history.
        of_member: bool,
    },
    /// Read exactly this range, serializably, at revision 2^63 - 2, with these credentials. A server checks permission
    /// first and the revision before it looks at keys: `OUT_OF_RANGE` means that it is allowed.
    AskPermission {
        /// For the answer.
        check: CheckId,
        /// The token to send.
        credentials: Option<Bytes>,
        /// First key.
        key: Bytes,
        /// As in `RangeRequest`.
        range_end: Bytes,
    },
    /// Make an empty transaction, without credentials: whoever may read nothing is told of it with a header, and a
    /// server asks nobody who he is for this one (seen on etcd 3.5.30).
    ReadHeader(CheckId),
}

/// The list that actions are pushed to, in the order in which they must be carried out.
pub type Actions = Vec<Action>;

/// Counters and gauges, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Client streams.
    pub clients: usize,
    /// Watchers of clients, also those that aren't created yet.
    pub watchers: usize,
    /// Watchers that are created but not in step with their live source.
    pub behind: usize,
    /// Live watchers of the server's.
    pub live_sources: usize,
    /// Watchers of the server's that catch up.
    pub catch_up_sources: usize,
    /// Upstream streams, also those that wait to be opened again.
    pub upstreams: usize,
    /// Bytes that wait for clients.
    pub outbox_bytes: usize,
    /// Bytes that history holds.
    pub history_bytes: usize,
    /// Events received, total.
    pub events_in: u64,
    /// Events delivered, total.
    pub events_out: u64,
    /// Times that a watcher left the broadcast because its client was full, total.
    pub lagged: u64,
    /// Catch-up watches created, total.
    pub catch_ups: u64,
    /// Times that a source had to go on after its stream or it alone was ended, total.
    pub resumes: u64,
    /// Watchers cancelled because their history was compacted, total.
    pub compacted: u64,
    /// Create requests refused and watchers cancelled for their credentials, total.
    pub denied: u64,
    /// Times that the store turned out to have another history, total.
    pub histories: u64,
    /// Questions because a member knew less than what was known, or named another cluster, total.
    pub doubts: u64,
    /// Watchers and sources that were looked at, total, without those that were just given an event. What one event costs is bounded
    /// by it.
    pub steps: u64,
    /// Nanoseconds that events delivered from history have waited in it, total.
    pub late_nanos: u64,
    /// Frames delivered from history, total: `late_nanos / late_frames` is their mean lag.
    pub late_frames: u64,
}
