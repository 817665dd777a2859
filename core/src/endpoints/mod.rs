//! Which etcd member is in use, and which one takes over.
//!
//! One endpoint is chosen at random and kept, so that consecutive reads see one member's history.
//! Every *lane* (a worker thread with connections of its own) connects to it. Each connection is
//! probed: a probe is a `grpc.health.v1.Health/Check` with `hasleader: true`, which an etcd server
//! answers without credentials, and refuses with `etcdserver: no leader` when its member has lost the
//! leader. HTTP/2 PINGs can't do this: they say nothing of the leader, and servers end connections
//! that ping more often than every five seconds, which is too slow.
//!
//! ```text
//!            Start, or the endpoint in use failed
//!                          │
//!                          ▼
//!     ┌──────────────► searching ──────────────┐
//!     │     candidates in random order, one     │ all answered, none has a leader
//!     │     more every `stagger`                ▼
//!     │ first that answers        ┌───── in use, unfit ◄────┐
//!     │ with a leader             │  candidates again every  │ its probe: no leader
//!     ▼                           │  `challenge_interval`    │
//!  in use, fit ◄──────────────────┘  its probe, or a         │
//!     │                              candidate, has a leader │
//!     └──────────────────────────────────────────────────────┘
//! ```
//!
//! A failed endpoint is hidden and tried again with growing, jittered waits; when it answers it is a
//! candidate again, but the endpoint in use is kept. The waits go on growing until it has been well for a
//! while: some answer, and fail as soon as they are used.
//!
//! A worker may want further connections to the member in use ([`pool`](crate::pool) has what for). They are probed as its
//! first one is and closed when they fall silent, but only that one speaks for the member. When it is withdrawn so are they.
//!
//! Endpoints of two clusters are never used together: the first one that is used decides, and whoever says that he is of another
//! cluster is hidden. When all who answer say so, that cluster is followed: it has taken the place of the former one.
//!
//! Only connections that take new calls, or are about to, speak for their endpoint. Former ones stay for
//! their open calls and are closed when they fall silent, but moving everyone for them would be wrong:
//! they may be left from an earlier life of the member. Those that drain can't even be probed, as no call
//! can be opened on them; they end with their last call, or when their member is found silent. That may never be
//! if it isn't in use: so what the proxy itself has on former connections moves to the one in use
//! ([`Event::UpstreamSuperseded`](crate::watch::Event::UpstreamSuperseded)), and for calls of clients whoever carries
//! this out pings them.

mod journal;
mod machine;
mod types;

pub use journal::{Journal, News, Note};

pub use machine::Endpoints;
pub use types::{
    Action, Actions, CloseCause, Config, ConnectionId, EndpointId, Event, FailureCause, Health, Lane,
};
