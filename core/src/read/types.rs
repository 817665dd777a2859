//! The vocabulary of the cache: settings, events, actions.

use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use slotmap::new_key_type;

use crate::range::KeyRange;
use crate::time::Instant;
pub use crate::watch::{Header, Status};

new_key_type! {
    /// A read that waits, from [`Admission::Wait`] to [`Action::Resolve`] or
    /// [`Cache::cancel`](super::Cache::cancel). Generational.
    pub struct WaiterId;
}

/// A question to the cluster, [`Action::Check`]. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(pub(super) u64);

/// A watch of all that is cached, from [`Action::OpenWatch`] to [`Action::CloseWatch`], whatever happens to its streams.
/// Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub(super) u64);

/// What the watch of the cache sees, and so what may be cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every key: each revision of the store is an event, so the events alone tell how far the watch has come.
    Everything,
    /// These ranges, at least one. How far the watch has come is asked for where it matters ([`Action::AskProgress`]).
    /// A read must be inside one of them.
    Ranges(Vec<KeyRange>),
    /// No key: the cache is off, and so is sharing.
    Nothing,
}

/// Settings of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What may be cached.
    pub scope: Scope,
    /// Memory of all entries, in bytes, with what it takes to find them. An entry of more than a 64th of it isn't
    /// cached; requests that are under way may take a quarter of it in addition.
    pub bytes_max: usize,
    /// How old the state may be that a serializable read is shown from the cache.
    pub staleness_max: Duration,
    /// Whether linearizable reads are answered from the cache.
    pub linearizable: bool,
    /// How long a read may wait for the cache before it is forwarded.
    pub wait_max: Duration,
    /// Reads under way that were forwarded because the cache took too long, at least 1. More of them queue.
    pub fallbacks_max: usize,
    /// Reads that may queue for that. One more is forwarded at once: it is better that the cluster is slow for a moment than
    /// that a read fails which the cluster could answer.
    pub queue_max: usize,
    /// Reads that may wait, at least 1, for whatever reason. More of them are not looked at: [`Reason::Busy`].
    pub waiters_max: usize,
    /// How long the watch is kept without reads.
    pub idle: Duration,
    /// When an unanswered question for progress is repeated.
    pub progress_retry: Duration,
    /// When linearizable checks serve so many reads, the next one waits until about as many wait for it, so that many readers
    /// cost the cluster few checks, each for nearly all of them.
    pub batch_min: usize,
    /// Longest such wait.
    pub batch_wait_max: Duration,
    /// An unanswered check is given up after this. Meanwhile no other of its kind is asked.
    pub check_timeout: Duration,
    /// After a check that failed, reads don't wait for another one before this has passed.
    pub check_retry: Duration,
    /// Whether a server's progress is trusted (etcd from 3.4.31 and 3.5.13 on) unless
    /// [`Event::LinearizableTrusted`] says otherwise.
    pub trusts_progress: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scope: Scope::Everything,
            bytes_max: 64 << 20,
            staleness_max: Duration::from_secs(1),
            linearizable: true,
            wait_max: Duration::from_millis(100),
            fallbacks_max: 64,
            queue_max: 1 << 16,
            waiters_max: 1 << 17,
            idle: Duration::from_secs(300),
            progress_retry: Duration::from_millis(100),
            batch_min: 16,
            batch_wait_max: Duration::from_millis(2),
            check_timeout: Duration::from_secs(5),
            check_retry: Duration::from_millis(100),
            trusts_progress: true,
        }
    }
}

/// A read that was forwarded: it must come back through [`Cache::complete_read`](super::Cache::complete_read), also if
/// nobody waits for it any more.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a read that never completes is never forgotten"]
pub struct ReadTicket {
    pub(super) flight: u32,
    pub(super) serial: u64,
}

/// A floor that isn't known: something was shown whose revision couldn't be read.
pub const FLOOR_UNKNOWN: i64 = i64::MAX;

/// An answer from the cache: one gRPC message, in two parts so that the larger one is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The gRPC prefix and the header of the response.
    pub head: Bytes,
    /// The rest of the response. May be empty.
    pub body: Bytes,
    /// The revision in the header: exactly the state that the answer shows, unless the request named a revision itself.
    pub revision: i64,
    /// The number of the history that this revision is of.
    pub history: u64,
}

/// Why a read was not looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Reason {
    /// The cluster asks for credentials, or may do so as far as is known.
    Auth,
    /// Too many reads are under way.
    Busy,
    /// The request isn't a `RangeRequest`.
    Malformed,
    /// The cache is off.
    Off,
    /// The keys are not watched.
    OutOfScope,
    /// The request is too large.
    TooLarge,
    /// There are fields in the request that aren't known, so its meaning isn't.
    UnknownFields,
    /// The watch isn't open, or isn't open yet.
    WatchDown,
}

impl Reason {
    /// All reasons, in the order of [`Stats::bypasses`].
    pub const ALL: [Self; 8] = [
        Self::Auth,
        Self::Busy,
        Self::Malformed,
        Self::Off,
        Self::OutOfScope,
        Self::TooLarge,
        Self::UnknownFields,
        Self::WatchDown,
    ];

    /// As a label of a metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Busy => "busy",
            Self::Malformed => "malformed",
            Self::Off => "off",
            Self::OutOfScope => "out_of_scope",
            Self::TooLarge => "too_large",
            Self::UnknownFields => "unknown_fields",
            Self::WatchDown => "watch_down",
        }
    }
}

/// What becomes of a read.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Forward it; its answer doesn't concern the cache.
    Bypass(Reason),
    /// Forward it, and complete the ticket.
    Forward(ReadTicket),
    /// Here is the answer.
    Hit(Answer),
    /// There will be an [`Action::Resolve`].
    Wait(WaiterId),
}

/// What becomes of a read that waited.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Here is the answer.
    Answer(Answer),
    /// Forward it, and complete the ticket.
    Forward(ReadTicket),
    /// The answer to another read, the same as this one: a `RangeResponse` as the server sent it, without its gRPC
    /// prefix, or its refusal.
    Shared(Result<Bytes, Status>),
}

/// How a forwarded read ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// It didn't, as far as the cluster is concerned: its client went away, or has no time left. If others wait for the
    /// same answer, one of them is forwarded.
    Abandoned,
    /// A `RangeResponse` as the server sent it, without its gRPC prefix.
    Answered(Bytes),
    /// A `RangeResponse` that is too large to be held. Whoever waits for the same answer is forwarded.
    TooLarge,
    /// A status that isn't OK. CANCELLED and DEADLINE_EXCEEDED count as [`Self::Abandoned`].
    Failed(Status),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Auth may have been switched on or off: a call that does so passes through this proxy (told when it starts, and again
    /// when it ends, however it does). Nothing is served before a check that begins later.
    AuthMayHaveChanged,
    /// The answer to [`Action::Check`]: the header of the response, or the status.
    Checked(CheckId, Result<Header, Status>),
    /// The store has another history, with this number ([`History`](crate::history::History)): nothing that is cached or
    /// under way is of it. Must come before what is told of the new one, [`Cache::admit_read`](super::Cache::admit_read)
    /// included. Changes nothing if the number isn't higher than the last one.
    History(u64),
    /// Whether the members in use can be trusted in what they say of progress
    /// ([`trusts_progress`](crate::watch::trusts_progress)). If not, progress is ignored and linearizable reads are
    /// forwarded.
    LinearizableTrusted(bool),
    /// [`Cache::next_timeout`](super::Cache::next_timeout) has come.
    Timeout,
    /// Keys changed, in one or more whole revisions of which `revision` is the last: the `mod_revision` of the last
    /// event, not the revision of the header. All that the watch saw up to it has been told, of one of the ranges if
    /// [`Scope::Ranges`] are several.
    WatchChanged {
        /// The watch.
        watch: WatchId,
        /// The revision of the last of these changes.
        revision: i64,
        /// The keys, in any order. They aren't kept.
        keys: Vec<Bytes>,
    },
    /// The watch broke. It is opened again without being asked to.
    WatchLost(WatchId),
    /// All events up to this revision have been told. A promise: only from progress of a member that is trusted.
    WatchProgressed {
        /// The watch.
        watch: WatchId,
        /// The revision.
        revision: i64,
    },
    /// From the event after this revision on, none will be missed, until the watch is lost. It may start again, at any
    /// revision, without having been lost.
    WatchStarted {
        /// The watch.
        watch: WatchId,
        /// The revision.
        revision: i64,
    },
}

/// What must happen.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask how far the watch has come. An answer that isn't [`Event::WatchProgressed`] needn't be told: the question is
    /// repeated.
    AskProgress(WatchId),
    /// Read one key, with `keys_only` and without credentials. Only the header of the answer matters, or the status;
    /// [`Event::Checked`] must tell one of them.
    Check {
        /// For the answer.
        check: CheckId,
        /// Whether the read is to be linearizable.
        linearizable: bool,
    },
    /// Close the watch. Its id is gone.
    CloseWatch(WatchId),
    /// Watch what is cached ([`Config::scope`]), without credentials and for good: it is for the shell to open it again when
    /// it breaks.
    OpenWatch(WatchId),
    /// A read has waited long enough. The id is gone. If its client is gone as well and a ticket comes with it, that must be
    /// completed all the same ([`ReadOutcome::Abandoned`]).
    Resolve(WaiterId, Resolution),
}

/// The list that actions are pushed to, in the order in which they must be carried out.
pub type Actions = Vec<Action>;

/// Counters and gauges, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers that are cached.
    pub entries: usize,
    /// Memory they take, in bytes; 0 without any.
    pub bytes: usize,
    /// Memory of what finds them, in bytes, which is there without any as well. Together with `bytes` within
    /// [`Config::bytes_max`].
    pub index_bytes: usize,
    /// Reads that wait.
    pub waiters: usize,
    /// Reads that are forwarded with a ticket.
    pub flights: usize,
    /// Reads that queue because too many have fallen back.
    pub queued: usize,
    /// The revision up to which the watch is complete; 0 if it isn't open.
    pub watched: i64,
    /// When the watch was in step with the cluster, as far as is known.
    pub confirmed_at: Option<Instant>,
    /// Serializable reads answered from the cache, total.
    pub hits_serializable: u64,
    /// Linearizable reads answered from the cache, total.
    pub hits_linearizable: u64,
    /// Reads that were forwarded with a ticket, total, also those that weren't to be cached.
    pub forwarded: u64,
    /// Reads that were answered with another one's answer, total.
    pub shared: u64,
    /// Reads that the cache wasn't asked for, by [`Reason`], total. With some reasons they are shared all the same.
    pub bypasses: [u64; Reason::ALL.len()],
    /// Reads that waited for the cache in vain, total.
    pub fallbacks: u64,
    /// Checks sent, total.
    pub checks: u64,
    /// Questions for progress sent, total.
    pub progress_asked: u64,
    /// Answers that were cached, total.
    pub admitted: u64,
    /// Entries dropped because a key changed, total.
    pub invalidated: u64,
    /// Entries dropped to make room, total.
    pub evicted: u64,
    /// Times that all was dropped, total: the watch was lost or started, or auth may have changed.
    pub flushes: u64,
    /// Times that the store turned out to have another history, total.
    pub histories: u64,
    /// Times that the cluster asked for credentials, total.
    pub denied: u64,
}
