//! The lease router: heartbeats of any number of clients, on one stream to a server.
//!
//! ```text
//!  client streams        router                                       upstream streams
//!  ──────────────   ┌──────────────────────────────────────────┐   ──────────────────────
//!  heartbeat ─────► │ lease: one heartbeat on its way, one      │ ──► shared: all there is to say
//!                   │        waiting for its answer             │ ──► doubtful: what may block a server
//!  answer ◄──────── │ to all whose requests came before it left │ ──► alone: one heartbeat at a time
//!                   └──────────────────────────────────────────┘ ◄── answers, one for each heartbeat
//! ```
//!
//! Heartbeats are passed on, never invented: each one that is sent stands for at least one request whose client still
//! waits for the answer. A request that comes while a heartbeat of its lease is on its way waits for the next one,
//! together with all others that do, so that an answer always tells of a renewal later than its request. Answers go
//! to clients as the server wrote them.
//!
//! Clients with the same credentials form a group, and a group has one stream. A server works through a stream one
//! heartbeat after the other, answers in this order, and ends the stream with an error instead of an answer. So what
//! clients do on one stream could touch others on it, in three ways:
//!
//! - *A heartbeat that is refused* ends the stream (permission denied: the lease has keys that these credentials may
//!   not write). The first one without answer is *suspected* and sent again alone. Only what happens to a heartbeat
//!   alone is told to its clients; the others are sent again on another shared stream.
//! - *A heartbeat that is held back* (its lease has expired and is about to be revoked: a server waits for that) stops
//!   all that follow. When nothing was answered for [`Config::stall`] the stream is given up and the first heartbeat
//!   suspected. Heartbeats that come after the end of their lease, as far as that is known, have a stream of their
//!   own, the doubtful one, from the start; after something went wrong, so do leases that never were renewed here.
//! - *Too many heartbeats* are answered too late. A follower asks the leader for each, about 5,000 a second where the
//!   leader does 200,000. When they wait for each other all the time, or for more than an eighth of their lease's TTL,
//!   another shared stream is opened; when there are fewer again it is closed. Not more than
//!   [`Config::in_flight_max`] are on their way on a stream; the others wait here, where client connections take turns,
//!   and leases that are known to live go before those that were never renewed here: seven of eight times, so that a new
//!   lease has its turn too whatever others do. A lease that several connections want has the earliest of their turns.
//!
//! What waits here is bounded for each client stream, for each client connection and for all of them; a stream that has
//! used its part isn't read from. Of a request nothing is kept that grows with its length, see [`Heartbeat`].
//!
//! A refusal that isn't about a lease but about the credentials ends all streams of the group that wait for something;
//! each of them would be refused the same way.
//!
//! When a stream is lost, for whatever reason, what wasn't answered on it is sent again on the next one, as long as the
//! answer can still be in time: until the lease has ended, as far as is known, and at least for as long as a server
//! would try. Then the client's stream ends with `UNAVAILABLE`.
//!
//! Streams are opened with `hasleader: true`, so a server without leader ends them; that ends the streams of those
//! clients who asked for it. The heartbeats of the others go on a stream without it then, where the server waits for a
//! leader, and ends the stream if it has waited for too long (7 s): so do those of the clients who have waited as long.
//! The first answer tells that there is a leader again.

mod router;
mod types;
mod wire;

pub use router::Router;
pub use types::{
    Action, Actions, Caller, ClientId, Config, Event, Heartbeat, LATENCY_BOUNDS, Stats, Status, UpstreamId,
};
