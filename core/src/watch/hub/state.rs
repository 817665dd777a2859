//! What the hub keeps: clients, watchers, sources, streams.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use slotmap::new_key_type;

use super::told::{Created, ProgressWish, Told};
use crate::range::KeyRange;
use crate::time::Instant;
use crate::watch::batch::Variant;
use crate::watch::history::History;
use crate::watch::types::{Caller, CheckId, ClientId, Header, Status, UpstreamId, UpstreamKind};

new_key_type! {
    /// A watcher of a client.
    pub(super) struct WatcherId;

    /// A watcher of the server's.
    pub(super) struct SourceId;
}

/// The watch id of what concerns no watcher, or all of a stream: refused creations, progress.
pub(super) const NO_WATCHER: i64 = -1;

/// A token, or none.
pub(super) type Credentials = Option<Bytes>;

/// A Watch call of a client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) caller: Caller,
    /// Created watchers by their ids on the wire.
    pub(super) watchers: BTreeMap<i64, WatcherId>,
    /// Where the search for an id begins.
    pub(super) next_id: i64,
    /// Requests that wait for those before them: answers come in the order of the requests.
    pub(super) steps: VecDeque<Step>,
    /// Create requests among them.
    pub(super) creating: usize,
    /// The ids that those ask for, 0 for any, and how many do.
    pub(super) ids_wanted: BTreeMap<i64, usize>,
    /// Bytes in its outbox.
    pub(super) queued: usize,
    /// Bytes that have left it.
    pub(super) took: u64,
    /// Watchers that go on when there is room. May hold some that are elsewhere by now.
    pub(super) lagging: VecDeque<WatcherId>,
    /// They are [about](super::work) to go on.
    pub(super) is_draining: bool,
    /// Its requests are [about](super::work) to be answered.
    pub(super) is_stepping: bool,
    /// How many of its created watchers aren't in step with their live sources.
    pub(super) behind: usize,
    /// How many of them are in [`Doubt`].
    pub(super) doubted: usize,
    /// Its live sources, by the streams that they are on.
    pub(super) shares: BTreeMap<UpstreamId, Share>,
    /// Start revisions that were still to come when their watchers were created, with how many have them.
    pub(super) starts: BTreeMap<i64, usize>,
    /// No requests are read from it.
    pub(super) paused: bool,
    /// The highest revision in a header that it was sent. None that follows is lower but those of events, which tell how far
    /// their own watcher is.
    pub(super) revision: i64,
    /// A progress request of it isn't answered yet.
    pub(super) progress: Option<ProgressWish>,
    /// Catch-ups that were begun for it and haven't ended.
    pub(super) catching_up: usize,
    /// Ranges of catch-ups that wait for one of those to end.
    pub(super) deferred: BTreeSet<KeyRange>,
    /// Whether [`Self::deferred`] catch-ups are [about](super::work) to begin, as far as there is room.
    pub(super) is_resuming: bool,
}

/// A request that waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Create(WatcherId),
    Cancel(i64),
}

/// What a client has of the live sources on one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// How many there are that serve watchers of it.
    pub(super) sources: usize,
    /// How many of them the server has created.
    pub(super) running: usize,
    /// No one of them was created later.
    pub(super) newest: Created,
}

/// A watcher of a client.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) client: ClientId,
    pub(super) credentials: Credentials,
    pub(super) wire_id: i64,
    pub(super) range: KeyRange,
    pub(super) variant: Variant,
    pub(super) fragment: bool,
    /// Whether it is told of progress from time to time.
    pub(super) notify: bool,
    /// Whether it was sent something since it was last told, so that telling it has no use.
    pub(super) active: bool,
    /// The first revision that it asked for; 0 for what follows its creation.
    pub(super) start: i64,
    /// The first revision that it hasn't been sent, if the source that it is in step with isn't farther.
    pub(super) next: i64,
    /// When so many bytes have [left](Client::took) its client's outbox, all events that it was sent have.
    pub(super) sent: u64,
    /// The revisions of those events, and of those before that hadn't left either.
    pub(super) unsent: usize,
    /// Whether it is among those of its client that are [lagging](Client::lagging).
    pub(super) is_in_line: bool,
    /// Whether its start was still to come when it was created.
    pub(super) is_ahead: bool,
    /// Whether it is to be told of progress as soon as it is in step.
    pub(super) is_owed: bool,
    /// The live source that serves it in the end; none before it is created.
    pub(super) live: Option<SourceId>,
    pub(super) doubt: Doubt,
    pub(super) place: Place,
}

/// Whether a watcher may still see its range, which its server has to be asked again when a stream was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It may, as far as is known.
    None,
    /// It is being asked; until the answer comes nothing is sent to the watcher. An answer counts if it was asked for
    /// when so many streams had been lost.
    Asked { losses: u64 },
}

impl Watcher {
    /// Events of so many revisions were put into its client's outbox.
    pub(super) fn was_sent(&mut self, client: &Client, revisions: usize) {
        let before = if client.took >= self.sent { 0 } else { self.unsent };
        self.unsent = before.saturating_add(revisions);
        self.sent = client.took + client.queued as u64;
    }
}

/// How far a watcher is.
#[derive(Debug)]
pub(super) enum Place {
    /// Its create request isn't answered yet.
    Starting(Start),
    /// In step with a source, at this position among those of its range there.
    InStep(SourceId, usize),
    /// It goes on when its client has room.
    Lagging,
    /// It needs a catch-up, which will begin.
    Waiting,
}

/// What a create request waits for.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) watch_id: i64,
    /// As it was asked for.
    pub(super) revision: i64,
    /// From a revision that was read after the request came.
    pub(super) header: Option<Header>,
    pub(super) is_permitted: bool,
    /// Why it can't be.
    pub(super) refusal: Option<String>,
}

/// Watchers of the same range that are in step with the same source.
pub(super) type Port = Vec<WatcherId>;

/// A watcher of the server's.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) kind: UpstreamKind,
    pub(super) range: KeyRange,
    /// Catch-ups: for whom it was begun.
    pub(super) client: Option<ClientId>,
    pub(super) upstream: UpstreamId,
    pub(super) state: SourceState,
    /// All events below it have come; if the server has created it, maybe more: see [`Hub::position`](super::Hub).
    pub(super) next: i64,
    /// The start revision of the last create request; 0 for what follows.
    pub(super) asked_from: i64,
    /// The revision of the store that was known when that was sent: what a member that doesn't lag has reached.
    pub(super) known: i64,
    /// From here on history is whole.
    pub(super) floor: i64,
    /// From here on history has previous pairs.
    pub(super) prev_floor: i64,
    /// Whether the server was asked for previous pairs.
    pub(super) prev_asked: bool,
    /// How many of its watchers want them.
    pub(super) prev_wanted: usize,
    pub(super) history: History,
    /// Live sources: bytes that it has got since those who wait had to [go on](super::late).
    pub(super) unpushed: usize,
    /// Whether those who wait are [about](super::work) to go on.
    pub(super) is_pushing: bool,
    /// Events of a revision that hasn't come as a whole, encoded.
    pub(super) held: Vec<u8>,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Whether it rests because its member may have another history; see [there](super::histories).
    pub(super) is_suspect: bool,
    /// How often in a row it was created on a member that knew less than was known.
    pub(super) suspicions: u32,
    /// Live sources: all their watchers, also those that are behind.
    pub(super) members: BTreeSet<WatcherId>,
    /// How many of those are in [`Doubt`].
    pub(super) doubted: usize,
    /// Live sources: the clients of its watchers, and how many they have.
    pub(super) clients: BTreeMap<ClientId, usize>,
    /// When the server last notified it of its progress.
    pub(super) notified_at: Option<Instant>,
    /// Its watchers are [about](super::work) to be told of progress.
    pub(super) is_notifying: bool,
    /// Nobody owns it any more, and its watchers are [on their way](super::work) to other sources.
    pub(super) is_ending: bool,
    /// Catch-up sources: it is [about](super::work) to begin anew, earlier.
    pub(super) is_rewinding: bool,
    /// Catch-up sources: the watchers of its own range before this place are [about](super::work) to go over to their live
    /// source, if that has what they need.
    pub(super) merge_before: Option<usize>,
    /// The credentials of the watchers of exactly its range, and how many have them: of a live source all, of a catch-up source
    /// those that are in step with it. Each of them may read all of it.
    pub(super) owners: BTreeMap<Credentials, usize>,
    /// In step, of exactly its range.
    pub(super) whole: Port,
    /// In step, of single keys in its range.
    pub(super) keys: BTreeMap<Bytes, Port>,
    /// In step, of other ranges in its range.
    pub(super) ranges: BTreeMap<KeyRange, Port>,
}

/// What the server knows of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceState {
    /// Nothing: its turn on the stream, with this number, is yet to come.
    Queued(u64),
    /// The server ended it; it will be queued again after a while.
    Resting,
    /// A create request was sent with this id.
    Creating(i64),
    /// It is created.
    Running { wire_id: i64, created: Created },
}

impl Source {
    /// The first revision from which its history serves a watcher.
    pub(super) fn floor_for(&self, variant: Variant) -> i64 {
        if variant.prev_kv {
            self.floor.max(self.prev_floor)
        } else {
            self.floor
        }
    }

    /// The id on the wire of what the server may hold for it.
    pub(super) const fn wire_id(&self) -> Option<i64> {
        match self.state {
            SourceState::Creating(wire_id) | SourceState::Running { wire_id, .. } => Some(wire_id),
            SourceState::Queued(_) | SourceState::Resting => None,
        }
    }

    /// The watchers of a range that are in step with it.
    pub(super) fn port(&mut self, range: &KeyRange) -> &mut Port {
        if *range == self.range {
            &mut self.whole
        } else if range.is_single() {
            self.keys.entry(range.key().clone()).or_default()
        } else {
            self.ranges.entry(range.clone()).or_default()
        }
    }

    /// Forgets the watchers of a range if there are none.
    pub(super) fn close_port(&mut self, range: &KeyRange) {
        if range.is_single() {
            if self.keys.get(range.key()).is_some_and(Vec::is_empty) {
                self.keys.remove(range.key());
            }
        } else if self.ranges.get(range).is_some_and(Vec::is_empty) {
            self.ranges.remove(range);
        }
    }

    /// One watcher less has these credentials.
    pub(super) fn take_owner(&mut self, credentials: &Credentials) {
        if let Some(owners) = self.owners.get_mut(credentials) {
            *owners -= 1;
            if *owners == 0 {
                self.owners.remove(credentials);
            }
        }
    }

    /// Whether nobody is in step with it.
    pub(super) fn is_unheard(&self) -> bool {
        self.whole.is_empty() && self.keys.is_empty() && self.ranges.is_empty()
    }
}

/// A Watch call to a server.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) kind: UpstreamKind,
    pub(super) credentials: Credentials,
    /// Catch-ups: whose they are, as long as there are enough streams for each to have its own. A server is silent
    /// about the progress of a stream as long as one of its watchers is behind.
    pub(super) client: Option<ClientId>,
    /// Whether it was opened; if not it will be, after a while.
    pub(super) is_open: bool,
    /// Whether what it says of progress is true.
    pub(super) trusts_progress: bool,
    /// Failures in a row: no answer came between them.
    pub(super) failures: u32,
    pub(super) sources: BTreeSet<SourceId>,
    /// Sources whose create request is yet to be sent, in their turn.
    pub(super) to_create: BTreeMap<u64, SourceId>,
    /// Create requests without answer, in their order.
    pub(super) creating: VecDeque<i64>,
    /// The sources of ids that the server may use.
    pub(super) by_wire_id: BTreeMap<i64, SourceId>,
    pub(super) next_wire_id: i64,
    /// Questions for progress that may still be answered, by their numbers. A server is silent when it isn't ready,
    /// so which of them an answer is for can't be told: it may be the first.
    pub(super) asked: VecDeque<u64>,
    /// Whether no answer came since the last one was sent.
    pub(super) is_asking: bool,
    /// Questions in a row that weren't answered.
    pub(super) unanswered: u32,
    /// Answers that are still to come of questions that were sent at once.
    pub(super) flood: usize,
    /// Ask again when the answer comes, for somebody asked since.
    pub(super) ask_again: bool,
    /// The last question that was sent when an answer came. It may have been for an earlier one, and be a little older
    /// than it seems: good enough for clients, who ask again until they are told what they wait for.
    pub(super) heard: u64,
    /// When the server last notified sources on it, all of which it does at the same time, and how long after the time before.
    pub(super) notified_at: Option<Instant>,
    pub(super) notified_after: Duration,
    /// The last answer. It isn't written to each source, of which there may be very many.
    pub(super) told: Told,
    /// No source on it was created later.
    pub(super) newest: Created,
    /// Create requests are [about](super::work) to be sent.
    pub(super) is_creating: bool,
    /// Its catch-up sources are [about](super::work) to be looked at.
    pub(super) is_merging: bool,
    /// Where its sources are [on their way](super::work) to, if it is gone.
    pub(super) lost: Option<Lost>,
    /// Sources of one that is gone are on their way to it.
    pub(super) is_heir: bool,
}

/// How far the sources of a stream that is gone are.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// Where they go.
    pub(super) heir: UpstreamId,
    /// The next one to go, whose watchers are asked about first.
    pub(super) source: Option<SourceId>,
    /// Those that have been.
    pub(super) seen: Seen,
    /// Why the server ended it, if a message was too large for it: whoever needs such a message is told so.
    pub(super) too_large: Option<Status>,
}

/// Which watchers of a source have been looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Live sources: up to this one.
    pub(super) member: Option<WatcherId>,
    /// Catch-up sources: from this place on.
    pub(super) place: Option<usize>,
}

/// Watchers of a range that need revisions which the live source doesn't have any more.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// The one that runs.
    pub(super) source: Option<SourceId>,
    /// Those that it is too late for, or that are [about](super::work) to join it, by the revisions that they need.
    pub(super) waiting: BTreeSet<Needs>,
    /// Their clients, and how many each has of them.
    pub(super) clients: BTreeMap<ClientId, usize>,
    /// How many of them want previous pairs.
    pub(super) prev_wanted: usize,
}

/// The next revision of a watcher.
pub(super) type Needs = (i64, WatcherId);

/// What can be asked of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    /// The revision, as somebody who may read this key.
    Revision(Credentials, Bytes),
    /// Whether somebody may read a range.
    Permission(Credentials, KeyRange),
    /// A header for those who may read nothing.
    Header,
}

/// A question that is being asked, and who waits for the answer.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) question: Question,
    /// The number of the history that it asks about.
    pub(super) history: u64,
    pub(super) state: CheckState,
    pub(super) failures: u32,
    /// How many streams had been lost when it was sent.
    pub(super) losses: u64,
    /// Whether it is asked, or is to be asked next, of the member alone: the last time nobody could answer for the cluster.
    pub(super) of_member: bool,
    /// Those whom the answer that is to come is for, in one list or several.
    pub(super) waiting: Waiting,
    /// Those who came later: that answer may be older than they are.
    pub(super) next: Waiting,
    /// Whether it is asked, and is to be asked again, because the store may not be the same any more. That waits for the
    /// answer as a watcher does.
    pub(super) store: bool,
    pub(super) store_next: bool,
}

/// Watchers that wait for the same, in lists that are never put together, for they may be long.
pub(super) type Waiting = Vec<Vec<WatcherId>>;

/// How far a question is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckState {
    /// Its turn is yet to come.
    Queued,
    /// It is on its way.
    Sent,
    /// It failed; a timer queues it again.
    Resting,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A create request has waited for too long.
    Create(WatcherId),
    /// A question failed and is asked again.
    Check(CheckId),
    /// Watchers of a source that runs wait for too long to be allowed to go on.
    Doubt(SourceId),
    /// A stream that ended is opened again.
    Reopen(UpstreamId),
    /// A stream without sources has lingered for long enough.
    Linger(UpstreamId),
    /// A source that the server ended is created again.
    Recreate(SourceId),
    /// A question for progress wasn't answered, or a catch-up stream's is due.
    Ask(UpstreamId),
    /// The positions of all live streams are asked for.
    Positions,
    /// Watchers that wish it are told of progress.
    Notify,
    /// A client's progress request can't be answered in time.
    Progress(ClientId),
    /// There is [work](super::work) left.
    Work,
}
