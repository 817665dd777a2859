//! What the router keeps of clients, leases, groups and streams.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use slotmap::new_key_type;

use super::turns::{Place, Queue, QueueKind};
use crate::lease::types::{ClientId, UpstreamId};
use crate::time::Instant;

new_key_type! {
    /// A lease as one group knows it.
    pub(super) struct LeaseKey;

    /// Clients with the same credentials, their leases and their streams.
    pub(super) struct GroupId;

    /// A client connection.
    pub(super) struct ConnectionKey;

    /// A client connection as one group knows it.
    pub(super) struct ShareKey;
}

/// A client connection, as long as there is a LeaseKeepAlive call on it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: u64,
    /// LeaseKeepAlive calls.
    pub(super) clients: usize,
    /// Requests without answer, of all of them.
    pub(super) requests: usize,
    /// Those that aren't read from until there are fewer requests, in the order in which they are read from again.
    pub(super) held: VecDeque<ClientId>,
}

/// What a connection has of a group's turns.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) group: GroupId,
    pub(super) clients: usize,
    /// For each queue the first round in which it has no place yet.
    pub(super) rounds: [u64; QueueKind::COUNT],
}

/// A LeaseKeepAlive call of a client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) group: GroupId,
    pub(super) connection: ConnectionKey,
    pub(super) share: ShareKey,
    pub(super) require_leader: bool,
    pub(super) opened_at: Instant,
    /// The leases that it waits for, once each, and with how many requests.
    pub(super) leases: Vec<(LeaseKey, usize)>,
    /// Requests without answer.
    pub(super) requests: usize,
    /// Bytes in its outbox.
    pub(super) outbox_bytes: usize,
    pub(super) is_half_closed: bool,
    pub(super) is_paused: bool,
    /// It is among those of its connection that aren't read from.
    pub(super) is_held: bool,
}

/// Requests for one lease that a client waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) client: ClientId,
    /// When the first of them came.
    pub(super) since: Instant,
    pub(super) count: usize,
}

/// A lease that somebody waits for, or whose end is known.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) group: GroupId,
    pub(super) id: i64,
    /// The last request, as it is passed on: there may be more in it than the router knows.
    pub(super) message: Bytes,
    pub(super) state: State,
    /// When the heartbeat that is queued or on its way was first wanted, among others.
    pub(super) number: u64,
    /// Its place in a queue, or the one that it had before it was sent.
    pub(super) place: Option<(QueueKind, Place)>,
    /// When it was queued last.
    pub(super) queued_at: Instant,
    /// Those who wait for that.
    pub(super) askers: Vec<Asker>,
    /// Those who came when it was on its way, and wait for the next one.
    pub(super) late_askers: Vec<Asker>,
    pub(super) renewal: Option<Renewal>,
    /// Whether its heartbeat may be what went wrong on a stream, so that it is sent alone.
    pub(super) is_suspect: bool,
    /// When its timer fires, if it is set. That may be earlier than it has to.
    pub(super) timer: Option<Instant>,
}

/// Where the heartbeat of a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nowhere.
    Idle,
    /// It waits for its turn in this queue.
    Queued(QueueKind),
    /// It was sent, as the one with this number.
    InFlight {
        upstream: UpstreamId,
        number: u64,
        sent_at: Instant,
    },
}

/// The last answer that told of a renewal.
#[derive(Clone, Debug)]
pub(super) struct Renewal {
    /// When its heartbeat was sent: the lease lives for at least the TTL from then on.
    pub(super) sent_at: Instant,
    pub(super) ttl: Duration,
    /// The answer, if it may be shared.
    pub(super) frame: Option<Bytes>,
}

impl Renewal {
    /// The lease lives until then, whatever happens but a revocation.
    pub(super) fn end(&self) -> Instant {
        self.sent_at + self.ttl
    }
}

/// What kinds of heartbeats are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Those that nothing speaks against.
    Shared,
    /// Those that a server may hold back: their lease may have ended.
    Doubtful,
    /// Those that are suspected, one at a time on each stream.
    Alone,
}

impl Lane {
    pub(super) const ALL: [Self; 3] = [Self::Shared, Self::Doubtful, Self::Alone];

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Clients with the same credentials.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) credentials: Option<Bytes>,
    pub(super) clients: BTreeSet<ClientId>,
    /// How many of them asked for a leader.
    pub(super) leader_clients: usize,
    /// The connections that they are on.
    pub(super) shares: BTreeMap<ConnectionKey, ShareKey>,
    pub(super) leases: BTreeMap<i64, LeaseKey>,
    /// Its streams of each lane, in the order in which they were opened.
    pub(super) streams: [Vec<UpstreamId>; 3],
    /// Heartbeats that wait for their turn.
    pub(super) queues: [Queue; QueueKind::COUNT],
    /// Heartbeats that had their turn while both proven and new leases waited.
    pub(super) turns: u32,
    /// The end of this event looks after it.
    pub(super) is_stirred: bool,
    /// Since when all streams of a lane that are in use have been slow.
    pub(super) slow_since: [Option<Instant>; 3],
    /// Until then heartbeats of a lane are spread over all its streams, because one was too slow.
    pub(super) spread_until: [Option<Instant>; 3],
    /// Streams that ended without any answer, in a row.
    pub(super) failures: u32,
    /// No stream is opened before that.
    pub(super) not_before: Instant,
    /// Streams that stayed without answer, in a row.
    pub(super) stalls: u32,
    /// Until then leases that never were renewed are doubtful.
    pub(super) careful_until: Option<Instant>,
    /// How long an answer takes when nothing else is asked.
    pub(super) round_trip: Duration,
    /// The last answer, which takes a leader.
    pub(super) leader_seen: Option<Instant>,
    /// Since when all streams ended for want of a leader.
    pub(super) leaderless_since: Option<Instant>,
}

impl Group {
    pub(super) fn stream_count(&self) -> usize {
        self.streams.iter().map(Vec::len).sum()
    }

    /// Whether heartbeats of a lane go to all its streams. Otherwise those that aren't needed stay idle, and are closed.
    pub(super) fn is_spread(&self, now: Instant, lane: Lane) -> bool {
        self.spread_until[lane.index()].is_some_and(|until| now < until)
    }
}

/// A LeaseKeepAlive call to a server.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) group: GroupId,
    pub(super) lane: Lane,
    /// Whether a server that has no leader ends it at once. On one that it doesn't, heartbeats wait for a leader as long as a
    /// server lets them.
    pub(super) requires_leader: bool,
    /// Since when what is sent leaves at once.
    pub(super) opened_at: Option<Instant>,
    /// What isn't answered, by the numbers of heartbeats.
    pub(super) in_flight: BTreeMap<u64, LeaseKey>,
    /// The last answer.
    pub(super) answered_at: Option<Instant>,
    /// When it was last in use.
    pub(super) used_at: Instant,
    /// When its stall timer fires, if it is set. That may be earlier than it has to.
    pub(super) guard: Option<Instant>,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Requests for a lease may have waited for too long, or the lease may be forgotten.
    Lease(LeaseKey),
    /// A stream may not be needed any more.
    Linger(UpstreamId),
    /// A stream may be opened again.
    Reopen(GroupId),
    /// A stream may stay without answer.
    Stall(UpstreamId),
}
