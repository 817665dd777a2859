//! The hub itself: its doors, and which part of it an event or a timer is for.

mod broadcast;
mod cancels;
mod catch_up;
mod checks;
mod clients;
mod doubts;
mod former;
mod histories;
mod ingest;
mod late;
mod losses;
mod progress;
mod shares;
mod sources;
mod starts;
mod state;
mod told;
mod turns;
mod upstreams;
mod work;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use fastrand::Rng;
use slotmap::SlotMap;

use self::former::FormerCounts;
use self::late::Merges;
use self::state::{
    CatchUp, Check, Client, Credentials, Question, Source, SourceId, Timer, Upstream, Watcher, WatcherId,
};
use self::turns::Turns;
use self::work::Work;
use super::index::RangeIndex;
use super::types::{
    Actions, Caller, CheckId, ClientId, Config, Event, Header, Stats, UpstreamId, UpstreamKind,
};
use crate::backoff::{WAIT_MIN, backoff};
use crate::range::KeyRange;
use crate::time::Instant;
use crate::timer::TimerQueue;

/// See the [module documentation](super).
#[derive(Debug)]
pub struct Hub {
    config: Config,
    rng: Rng,
    timers: TimerQueue<Timer>,
    clients: SlotMap<ClientId, Client>,
    watchers: SlotMap<WatcherId, Watcher>,
    checks: SlotMap<CheckId, Check>,
    by_question: BTreeMap<Question, CheckId>,
    turns: Turns,
    /// Questions are [about](work) to be sent.
    is_asking: bool,
    /// How many streams were lost so far.
    losses: u64,
    sources: SlotMap<SourceId, Source>,
    /// Live sources by range.
    index: RangeIndex<SourceId>,
    catch_ups: BTreeMap<KeyRange, CatchUp>,
    upstreams: SlotMap<UpstreamId, Upstream>,
    by_credentials: BTreeMap<(UpstreamKind, Credentials), Vec<UpstreamId>>,
    /// Clients that asked for a leader.
    leader_clients: BTreeSet<ClientId>,
    /// Watchers that are told of progress from time to time.
    notified: BTreeSet<WatcherId>,
    /// Clients whose progress request isn't answered yet.
    wishing: BTreeSet<ClientId>,
    /// Those are [about](work) to be told.
    is_notifying: bool,
    /// Watchers that are in step, and are to be told of progress when their position is far enough.
    due: BTreeSet<WatcherId>,
    /// Those who wait for progress are [about](work) to be looked at; and once more then.
    telling: Option<bool>,
    /// Questions for progress, numbered.
    asked: u64,
    /// Sources that were queued to be created, numbered.
    queued: u64,
    /// Sources that are on their way out.
    ending: usize,
    /// Sources that became [suspect](histories) since it was last asked whether the store is the same.
    suspects: BTreeSet<SourceId>,
    /// What is too much for one event.
    backlog: VecDeque<Work>,
    /// At this number of steps enough was done for one event.
    tired_at: u64,
    /// Whether the timers that run as long as there are watchers are set.
    is_armed: bool,
    /// The batches of all histories, oldest first; some may be gone from theirs.
    batches: VecDeque<(SourceId, u64)>,
    /// What was put together for watchers that are behind.
    merges: Merges,
    /// Work of this event that is done at its end, so that what belongs together goes together.
    stirred: Stirred,
    /// The last header seen, with the highest revision.
    header: Header,
    /// What is older is compacted, as far as was heard.
    compact_revision: i64,
    /// The number of the history that all of this is of.
    history: u64,
    /// What is kept of [former] ones and is about to be forgotten.
    former: FormerCounts,
    stats: Stats,
}

/// What an event has changed and its end looks after.
#[derive(Debug, Default)]
struct Stirred {
    /// Streams with create requests to send.
    upstreams: BTreeSet<UpstreamId>,
    /// Watchers that need their catch-up.
    ranges: BTreeSet<KeyRange>,
    /// Watchers that are in step and are to be told of progress.
    owed: BTreeSet<WatcherId>,
    /// Clients whose progress request may have become answerable.
    wishing: BTreeSet<ClientId>,
}

impl Hub {
    /// A hub without clients. The seed is for jitter.
    #[must_use]
    pub fn new(mut config: Config, seed: u64) -> Self {
        config.outbox_bytes_max = config.outbox_bytes_max.max(1);
        config.steps_max = config.steps_max.max(1);
        config.progress_retry = config.progress_retry.max(WAIT_MIN);
        config.position_interval = config.position_interval.max(WAIT_MIN);
        config.progress_notify_interval = config.progress_notify_interval.max(WAIT_MIN);
        Self {
            config,
            rng: Rng::with_seed(seed),
            timers: TimerQueue::default(),
            clients: SlotMap::with_key(),
            watchers: SlotMap::with_key(),
            checks: SlotMap::with_key(),
            by_question: BTreeMap::new(),
            turns: Turns::default(),
            is_asking: false,
            losses: 0,
            sources: SlotMap::with_key(),
            index: RangeIndex::new(seed),
            catch_ups: BTreeMap::new(),
            upstreams: SlotMap::with_key(),
            by_credentials: BTreeMap::new(),
            leader_clients: BTreeSet::new(),
            notified: BTreeSet::new(),
            wishing: BTreeSet::new(),
            is_notifying: false,
            due: BTreeSet::new(),
            telling: None,
            asked: 0,
            queued: 0,
            ending: 0,
            suspects: BTreeSet::new(),
            backlog: VecDeque::new(),
            tired_at: 0,
            is_armed: false,
            batches: VecDeque::new(),
            merges: Merges::default(),
            stirred: Stirred::default(),
            header: Header::default(),
            compact_revision: 0,
            history: 0,
            former: FormerCounts::default(),
            stats: Stats::default(),
        }
    }

    /// A client opened a Watch call. Not an [`Event`], because whoever tells it needs the id at once. Like every door it
    /// is told the time, which nothing in it depends on so far.
    #[must_use]
    pub fn open(&mut self, _now: Instant, caller: Caller, actions: &mut Actions) -> ClientId {
        self.open_client(caller, actions)
    }

    /// Takes in what happened and pushes what must happen. Events about what is gone change nothing.
    pub fn handle(&mut self, now: Instant, event: Event, actions: &mut Actions) {
        self.tired_at = self.stats.steps + self.config.steps_max;
        match event {
            Event::ClientSent(id, message) => self.client_sent(now, id, &message, actions),
            // A server keeps such a stream open, and so does the hub. Nothing depends on it.
            Event::ClientHalfClosed(_) => {}
            Event::ClientTook(id, bytes) => self.client_took(id, bytes, actions),
            Event::ClientGone(id) => self.client_gone(id, actions),
            Event::UpstreamSent(id, message) => self.upstream_sent(now, id, &message, actions),
            Event::ProgressTrusted(id, trusted) => self.trust_progress(now, id, trusted, actions),
            Event::UpstreamEnded(id, status) => self.upstream_ended(now, id, &status),
            Event::UpstreamSuperseded(id) => self.upstream_superseded(now, id, actions),
            Event::Answered(id, answer) => self.answered(now, id, answer),
            Event::Compacted(revision) => self.compact_revision = self.compact_revision.max(revision),
            Event::History(number) => self.another_history(number, actions),
            Event::Timeout => {
                while !self.is_tired()
                    && let Some(timer) = self.timers.pop_due(now)
                {
                    self.timeout(now, timer, actions);
                }
            }
        }
        self.settle(now, actions);
    }

    /// When [`Event::Timeout`] must come next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next_timeout()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let catching_up = self.sources.len() - self.former.sources - self.index.len() - self.ending;
        Stats {
            clients: self.clients.len(),
            watchers: self.watchers.len() - self.former.watchers,
            live_sources: self.index.len(),
            catch_up_sources: catching_up,
            upstreams: self.upstreams.len(),
            ..self.stats
        }
    }

    fn timeout(&mut self, now: Instant, timer: Timer, actions: &mut Actions) {
        // The end of the event does some work; it mustn't be too tired for any.
        self.stats.steps += u64::from(timer != Timer::Work);
        match timer {
            Timer::Create(id) => self.create_timed_out(now, id, actions),
            Timer::Check(id) => self.ask(id),
            Timer::Doubt(id) => self.doubts_timed_out(id),
            Timer::Reopen(id) => self.reopen(now, id, actions),
            Timer::Linger(id) => self.close_if_idle(id, actions),
            Timer::Recreate(id) => self.queue_source(id),
            Timer::Ask(id) => self.ask_timer(now, id, actions),
            Timer::Positions => self.ask_positions(now),
            Timer::Notify => self.notify_all(now),
            Timer::Progress(id) => self.forget_progress(id),
            Timer::Work => {}
        }
    }

    /// Does what belongs together, once all of it is known.
    fn settle_stirred(&mut self, now: Instant, actions: &mut Actions) {
        // One at a time, the first kind first: what is done for one may stir others.
        loop {
            if !self.is_tired()
                && let Some(range) = self.stirred.ranges.pop_first()
            {
                self.start_catch_up(&range, actions);
            } else if let Some(id) = self.stirred.owed.pop_first() {
                self.tell_watcher(id, actions);
            } else if let Some(id) = self.stirred.wishing.pop_first() {
                self.tell_client(now, id, actions);
            } else if let Some(id) = self.stirred.upstreams.pop_first() {
                self.send_creates(now, id);
            } else {
                break;
            }
        }
    }

    /// A wait that grows with the number of failures before, with jitter.
    fn backoff(&mut self, failures: u32) -> Duration {
        let min = self.config.backoff_min.max(WAIT_MIN);
        let max = self.config.backoff_max.max(min);
        backoff(&mut self.rng, min, max, failures)
    }

    /// A revision that the store has reached, as far as was seen: no client was sent a higher one.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.header.revision
    }

    fn saw(&mut self, header: Header) {
        let revision = self.header.revision.max(header.revision);
        self.header = Header { revision, ..header };
    }
}
