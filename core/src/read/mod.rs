//! The cache of reads, and reads that share an answer.
//!
//! ```text
//!  a read                  cache                                          the cluster
//!  ──────────────   ┌───────────────────────────────────────────────┐   ─────────────────
//!  admit_read ────► │ entry: untouched since its revision           │ ◄── watch of all keys
//!                   │   serializable: and confirmed not long ago    │ ──► check, in the background
//!  Hit ◄─────────── │   linearizable: and one check for all who wait│ ──► check
//!                   │ flight: the same read is under way            │
//!  Forward ◄─────── │   serializable: join it                       │ ──► read
//!                   │   linearizable: join the next one             │
//!                   └───────────────────────────────────────────────┘
//! ```
//!
//! Only reads without credentials are for it. What makes an answer right is a revision, in four ways:
//!
//! - **W**, how far the watch has come: all events up to it are known. An entry is the answer to a read whose header said
//!   revision `at`, and no event after `at` has touched its keys, or it would be gone. So it is the answer at every revision
//!   from `at` to W, and is given with the later of the two in its header: the true one.
//! - **began**: an answer becomes an entry only if its `at` isn't before the W that its read began with, and no event
//!   that came meanwhile touched its keys after `at`. So nothing between `at` and W was missed.
//! - **The floor**: what the proxy has shown to anybody when a read comes, in an answer or in a watch. A read is shown
//!   nothing older: it waits until W is there. This includes what its client wrote, as the answer to a write is shown
//!   too. It is the floor of when the read came: what is shown to others while it waits can't have come before it.
//! - **R**, what a check answers: a read of one key, of whose answer only the header matters. Its revision isn't older than
//!   anything that was committed when the check began, if it was linearizable, so an entry which is right at R is
//!   the linearizable answer to all reads that came before the check began, and to no others.
//!
//! Serializable reads may be old, but not older than [`Config::staleness_max`]. A check that began at a time `t` and answered
//! R tells, as soon as W has reached R, that the watch was in step at `t`; so does a linearizable read that was forwarded. While
//! there are reads there is a check for every half of that time, so that none of them has to wait for one. A serializable read
//! that was forwarded tells nothing of the kind: a member that is cut off from the others answers it, and refuses checks as soon
//! as it knows that it has no leader. So in the cluster's time the bound is [`Config::staleness_max`], and how long a member may
//! take to know.
//!
//! A write under way changes nothing here, whatever it might change: what it does change the watch tells, and who is shown
//! its answer raises the floor. So nobody loses entries to writes that change nothing, are refused, or go another way than
//! they could. Of a write that was answered, the keys that it certainly changed are dropped at once, so that nobody has to
//! wait for the watch to tell.
//!
//! An answer may pass that can't be read: compressed, or the store as a whole. It has shown something, and nobody knows how new.
//! A serializable read that comes then has a floor that isn't known ([`FLOOR_UNKNOWN`]): it waits for a linearizable check,
//! which is as new as anything that was shown before it began, until the shell knows a floor again.
//!
//! When auth is switched on, a check is refused: nothing is served then until a linearizable read without credentials
//! succeeds that began later. All entries are from reads that were allowed to everybody, and no entry is served
//! without a check that was allowed to everybody within [`Config::staleness_max`], or after it came, if it is
//! linearizable. If it is this proxy that auth is switched on through, nothing is served from that call on.
//!
//! Reads at a revision of their own: a watch doesn't tell of compaction, so they are served for
//! [`Config::staleness_max`] after they were read, and only to serializable reads. The cache must be confirmed for them too.

mod cache;
mod feed;
mod heads;
mod refresh;
mod refusal;
mod reply;
mod request;
mod role;
mod shown;
mod store;
mod ticket;
mod types;
mod writes;

pub use cache::Cache;
pub use feed::{Feed, FeedEnd, FeedStep};
pub use heads::{Heads, Seen};
pub use refresh::{Refresh, RefreshEnd, RefreshRuling};
pub use reply::header_of;
pub use request::is_serializable;
pub use role::{CacheRole, is_plain};
pub use shown::{AnotherHistory, Asked, Compacted, Floor, HighestShownRevision, Mark, Reveals};
pub use ticket::{CacheEffect, CacheTicket, Payload, Reply};
pub use types::{
    Action, Actions, Admission, Answer, CheckId, Config, Event, FLOOR_UNKNOWN, Header, ReadOutcome,
    ReadTicket, Reason, Resolution, Scope, Stats, Status, WaiterId, WatchId,
};
pub use writes::{Write, written};
