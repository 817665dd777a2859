//! What fuzzed input says that clients and servers do.

use arbitrary::Arbitrary;

#[derive(Arbitrary, Debug)]
pub(crate) struct Input {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    pub(crate) steps: Vec<Step>,
}

/// Numbers choose among sizes that make things happen.
#[derive(Arbitrary, Debug)]
pub(crate) struct Settings {
    pub(crate) requests: u8,
    pub(crate) outbox: u8,
    pub(crate) in_flight: u8,
    pub(crate) streams: u8,
    pub(crate) alone: u8,
    pub(crate) leases: u8,
    pub(crate) careful: u8,
    pub(crate) answer_timeout: u8,
    pub(crate) share: u8,
    pub(crate) connection_requests: u8,
}

/// Numbers choose among what there is at the time.
#[derive(Arbitrary, Debug)]
pub(crate) enum Step {
    /// A server answers a heartbeat of a stream, mostly the first.
    Answer {
        upstream: u8,
        out_of_order: Option<u8>,
        ttl: u8,
    },
    Beat {
        client: u8,
        lease: u8,
        /// A field that there isn't.
        padding: bool,
    },
    ClientGone(u8),
    ClientHalfClosed(u8),
    /// Anything, as a message.
    ClientRaw {
        client: u8,
        message: Vec<u8>,
    },
    ClientTook {
        client: u8,
        bytes: u8,
    },
    ClientTookAll(u8),
    Open {
        connection: u8,
        token: u8,
        require_leader: bool,
    },
    /// Something about what is gone.
    Stale {
        which: u8,
        kind: u8,
    },
    /// A server answers what it wasn't asked on this stream.
    Stray {
        upstream: u8,
        lease: u8,
        ttl: u8,
    },
    /// The next timeout comes, this many microseconds late.
    Timeout {
        late_us: u8,
    },
    UpstreamEnded {
        upstream: u8,
        ending: u8,
    },
    UpstreamOpened(u8),
    UpstreamSuperseded(u8),
    UpstreamRaw {
        upstream: u8,
        message: Vec<u8>,
    },
    /// Time passes, at most until the next timeout.
    Wait {
        ms: u16,
    },
}

pub(crate) const LEASES: [i64; 8] = [1, 2, 3, 4, 5, 0, -1, i64::MAX];

/// In seconds. Negative ones are what no server says.
pub(crate) const TTLS: [i64; 8] = [1, 1, 2, 5, 0, 9_000_000_000, -1, i64::MAX];

pub(crate) const TOKENS: [Option<&str>; 4] = [None, None, Some("one"), Some("two")];

pub(crate) const NO_LEADER: (u8, &str) = (14, "etcdserver: no leader");

/// How streams end.
pub(crate) const STATUSES: [(u8, &str); 11] = [
    (0, ""),
    (1, "context canceled"),
    (2, "somehow"),
    (3, "etcdserver: user name is empty"),
    (7, "etcdserver: permission denied"),
    (8, "too much"),
    (13, "not gRPC"),
    (14, "connection lost"),
    NO_LEADER,
    (16, "etcdserver: invalid auth token"),
    (99, "no such code"),
];

pub(crate) fn one_of<T: Copy>(choices: &[T], which: u8) -> T {
    choices[usize::from(which) % choices.len()]
}
