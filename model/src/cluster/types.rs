//! The vocabulary of the cluster's door: settings, events, actions.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use crate::status::Status;

/// Settings of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of members, 1 to 9.
    pub members: usize,
    /// Seed of everything that a real cluster leaves to chance: ids, which member leads, how long an election takes.
    pub seed: u64,
    /// etcd's `--election-timeout`: a leader that is gone is replaced after one to two of these; the smallest lease
    /// TTL is derived from it as a server does.
    pub election_timeout: Duration,
    /// etcd's `--watch-progress-notify-interval`; a server adds 0 to 10 % per stream.
    pub progress_interval: Duration,
    /// etcd's `--max-request-bytes`.
    pub request_bytes_max: usize,
    /// etcd's `--max-txn-ops`.
    pub txn_operations_max: usize,
    /// etcd's `--auth-token-ttl`, for simple tokens.
    pub token_ttl: Duration,
    /// Responses that a watch stream holds for a client that doesn't take them, before its watchers fall behind
    /// (etcd: 128).
    pub watch_buffer_max: usize,
    /// What Status answers as the server's version.
    pub version: &'static str,
    /// What each member advertises to clients, in the members' order, for MemberList.
    pub client_urls: Vec<String>,
    /// What each member advertises to other members, in the members' order; who has none gets one that leads nowhere.
    pub peer_urls: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            members: 1,
            seed: 0,
            election_timeout: Duration::from_secs(1),
            progress_interval: Duration::from_secs(600),
            request_bytes_max: 1536 * 1024,
            txn_operations_max: 128,
            token_ttl: Duration::from_secs(300),
            watch_buffer_max: 128,
            version: "3.5.30",
            client_urls: Vec::new(),
            peer_urls: Vec::new(),
        }
    }
}

/// A member, by its position from 0.
pub type Member = usize;

/// A unary call, named by the caller; must not be reused while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A stream, named by the caller; must not be reused while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a server reads of a call's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `token`, or `authorization` in its absence.
    pub token: Option<Bytes>,
    /// `hasleader: true`.
    pub require_leader: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A unary call reaches a member. Answered with one [`Action::Reply`], now or later; not at all if the member
    /// crashes first.
    Call {
        /// Its name.
        call: CallId,
        /// Whom it reached.
        member: Member,
        /// `/package.Service/Method`.
        path: String,
        /// Its metadata.
        metadata: Metadata,
        /// The request message, encoded.
        message: Bytes,
    },
    /// The client of a unary call is gone. What was proposed may still be committed.
    CancelCall(CallId),
    /// A streaming call reaches a member (Watch, LeaseKeepAlive, the watch of Health; anything else ends UNIMPLEMENTED).
    Open {
        /// Its name.
        stream: StreamId,
        /// Whom it reached.
        member: Member,
        /// `/package.Service/Method`.
        path: String,
        /// Its metadata.
        metadata: Metadata,
        /// Messages that the member may send before it must wait for [`Event::Credit`]: what flow control and
        /// buffers between it and its client hold.
        credit: u32,
    },
    /// A message of the client, encoded.
    Message {
        /// On which stream.
        stream: StreamId,
        /// The request message.
        message: Bytes,
    },
    /// The client sends no more on this stream.
    HalfClose(StreamId),
    /// The client or the connection is gone; nothing more is sent on the stream.
    Reset(StreamId),
    /// The member may send this many more messages on the stream.
    Credit {
        /// On which stream.
        stream: StreamId,
        /// How many more.
        messages: u32,
    },
    /// [`Cluster::next_timeout`](super::Cluster::next_timeout) has come.
    Timeout,
    /// Something goes wrong, or right again.
    Fault(Fault),
}

/// What goes wrong with a member, or right again. What makes no sense (starting what runs) changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies: its calls and streams end without an answer, what is only in memory (the tokens it knows) is
    /// gone, what is committed stays. The caller knows which connections that breaks.
    Crash(Member),
    /// The process starts again.
    Start(Member),
    /// The process gets no CPU (SIGSTOP): it answers nothing and takes no part in the cluster until thawed.
    Freeze(Member),
    /// SIGCONT.
    Thaw(Member),
    /// The member and the others don't reach one another; its clients still reach it.
    Isolate(Member),
    /// Undoes [`Fault::Isolate`].
    Heal(Member),
    /// Committed entries are applied by this member only this much later, from now on.
    Lag(Member, Duration),
    /// The leader resigns: a new one is elected after the usual time.
    LoseLeader,
}

/// What must happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The answer to a unary call: the response message, encoded, or how it failed.
    Reply {
        /// Which call.
        call: CallId,
        /// The response message or the status.
        result: Result<Bytes, Status>,
    },
    /// A message of the member, encoded. Uses up one credit.
    Send {
        /// On which stream.
        stream: StreamId,
        /// The response message.
        message: Bytes,
    },
    /// The member ends the stream; nothing more comes on it.
    End {
        /// Which stream.
        stream: StreamId,
        /// With what; [`Status::OK`] if all went well.
        status: Status,
    },
}

/// The list that actions are pushed to, in the order in which they happen.
pub type Actions = Vec<Action>;
