//! The watch hub: any number of client watchers, few of the server's.
//!
//! ```text
//!  client streams          hub                                      upstream streams
//!  ──────────────   ┌──────────────────────────────────────────┐   ─────────────────
//!  create ────────► │ start: a revision R is read, and whether  │ ──► ReadRevision, AskPermission
//!                   │        the client may read the range      │
//!  created (R) ◄─── │ attach: to the source of its range, or    │ ──► live stream: create from R + 1
//!                   │        of a range that covers it          │
//!  events ◄──────── │ broadcast: to all that are in step        │ ◄── events
//!                   │ history: to those that are behind         │
//!                   │ catch-up: what history hasn't any more    │ ──► catch-up stream: create from there
//!                   └──────────────────────────────────────────┘
//! ```
//!
//! A *source* is a watcher of the server's. Its position is the revision that follows the last event it gave, or the
//! last progress it told: never the revision in the header of events, which a server sets to the store's even when
//! more history is to come. All watchers of a range share one live source, whoever they are, since each of them has
//! been checked for its right to the range; the source lives on a stream with the credentials of one of them, and on
//! another's when those are refused. A watcher is
//!
//! - *starting*: its create request isn't answered yet;
//! - *in step* with its live source: it gets events as they come;
//! - *lagging*: its client didn't take what was sent. It has left the broadcast, and goes on from the history of its
//!   live source when there is room. What has come meanwhile goes out in one message, as from a server. It needs no more
//!   than a few messages that haven't left for that: who keeps up gets each event at once, who doesn't gets fewer messages;
//! - *waiting* for a catch-up, or *in step with a catch-up source*: it needs revisions that the history hasn't got. One
//!   catch-up at a time runs for a range, shared by all who need it; when the next revision of a watcher is in the
//!   live source's history, the watcher goes over to it.
//!
//! Streams that the server ends, for whatever reason, are opened again, and each source goes on at its position. So does
//! a stream whose connection isn't the one in use any more, before that can fall silent. As a server would ask each
//! client that comes back, whether every caller may still read every range is asked anew then, once for all with the
//! same; until that is known its watchers get nothing. Where the member knows less than was known a source isn't watched
//! before it is known whether the store still has the same [history](crate::history).
//! Only compaction and refused credentials end watchers, and only those whom it concerns; and the streams end of those
//! about whom no answer comes for too long.
//!
//! What clients share is fair between them: questions take turns, a client has a stream for its catch-ups as long as there
//! are enough of them, and only so many at a time.
//!
//! The loss of a leader is noticed by one more stream, without watchers, that asks the server for it (`hasleader`).

mod batch;
mod history;
mod hub;
mod index;
mod types;
mod version;
pub(crate) mod wire;

pub use hub::Hub;
pub use types::{
    Action, Actions, Caller, CheckId, ClientId, Config, Event, Frame, Header, Stats, Status, UpstreamId,
    UpstreamKind,
};
pub use version::trusts_progress;
