//! The cache itself: its doors.

mod auth;
mod checks;
mod flights;
mod histories;
mod reads;
mod state;
mod watching;

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use bytes::Bytes;
use fastrand::Rng;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use slotmap::SlotMap;

use self::state::{Auth, Check, Flight, Pending, Place, Timer, Waiter, Watch};
use super::store::Store;
use super::types::{Action, Actions, Config, Event, Header, Reason, Resolution, Scope, Stats, WaiterId};
use crate::backoff::WAIT_MIN;
use crate::interval::{Intervals, Span};
use crate::slab::Slab;
use crate::time::Instant;
use crate::timer::TimerQueue;

/// Confirmations that wait for the watch. Of more than that, one stands for several.
const PENDING_MAX: usize = 8;

/// See the [module documentation](super).
#[derive(Debug)]
pub struct Cache {
    config: Config,
    key: SipHasher13,
    store: Store,
    /// Scratch: what identifies the read at hand.
    ident: Vec<u8>,
    /// Numbers of reads, of checks, of watches.
    serial: u64,
    checks_sent: u64,
    watches_opened: u64,

    watch: Watch,
    /// How far the watch has come, and where it started.
    watched: i64,
    /// The revision of the last event of the watch, which may be above that.
    newest_event: i64,
    started: i64,
    /// When the watch was in step, as far as is known.
    confirmed: Option<Instant>,
    pending: Vec<Pending>,
    progress_asked: bool,
    /// Reads have waited in vain for this revision: until the watch is there, no others do.
    stuck: i64,
    last_read: Instant,
    trusts_progress: bool,
    /// The newest header, but for its revision.
    header: Header,
    /// The highest revision known to be compacted.
    compacted: i64,
    /// The number of the history that all of this is of.
    history: u64,

    auth: Auth,
    /// Changes whenever auth may have been switched on: what began before proves nothing.
    auth_epoch: u64,
    wants_proof: bool,

    flights: Slab<Flight>,
    flight_table: HashTable<u32>,
    flight_tree: Intervals,
    flight_bytes: usize,
    fallbacks: usize,
    /// Reads that wait to fall back.
    queue: VecDeque<WaiterId>,

    waiters: SlotMap<WaiterId, Waiter>,
    /// Those who wait for the cache, in the order in which they lose patience. Also some who don't any more.
    deadlines: VecDeque<(Instant, WaiterId)>,
    by_revision: BTreeSet<(i64, WaiterId)>,
    fresh: Vec<WaiterId>,
    /// The serializable check under way, and the linearizable one.
    check: Option<Check>,
    linearizable_check: Option<Check>,
    /// Those who came when that was under way already.
    check_next: Vec<WaiterId>,
    checks_not_before: Instant,
    /// Until then a linearizable check is held back that doesn't serve as many as the last ones.
    batch_until: Instant,
    /// About how many reads a linearizable check can serve.
    batch: usize,

    found: Vec<u32>,
    timers: TimerQueue<Timer>,
    stats: Stats,
}

impl Cache {
    /// An empty cache. The seed must be unguessable: it keeps clients from choosing keys that collide.
    #[must_use]
    pub fn new(mut config: Config, seed: u64) -> Self {
        config.fallbacks_max = config.fallbacks_max.max(1);
        config.waiters_max = config.waiters_max.max(1);
        config.wait_max = config.wait_max.max(WAIT_MIN);
        config.idle = config.idle.max(WAIT_MIN);
        config.progress_retry = config.progress_retry.max(WAIT_MIN);
        config.check_timeout = config.check_timeout.max(WAIT_MIN);
        if let Scope::Ranges(ranges) = &mut config.scope {
            ranges.retain(|range| !range.is_empty());
        }
        let mut rng = Rng::with_seed(seed);
        Self {
            key: SipHasher13::new_with_keys(rng.u64(..), rng.u64(..)),
            store: Store::new(config.bytes_max, rng.u64(..)),
            ident: Vec::new(),
            serial: 0,
            checks_sent: 0,
            watches_opened: 0,
            watch: Watch::Closed,
            watched: 0,
            newest_event: 0,
            started: 0,
            confirmed: None,
            pending: Vec::new(),
            progress_asked: false,
            stuck: 0,
            last_read: Instant::ZERO,
            trusts_progress: config.trusts_progress,
            header: Header::default(),
            compacted: 0,
            history: 0,
            auth: Auth::Off,
            auth_epoch: 0,
            wants_proof: false,
            flights: Slab::default(),
            flight_table: HashTable::new(),
            flight_tree: Intervals::new(rng.u64(..)),
            flight_bytes: 0,
            fallbacks: 0,
            queue: VecDeque::new(),
            waiters: SlotMap::with_key(),
            deadlines: VecDeque::new(),
            by_revision: BTreeSet::new(),
            fresh: Vec::new(),
            check: None,
            linearizable_check: None,
            check_next: Vec::new(),
            checks_not_before: Instant::ZERO,
            batch_until: Instant::ZERO,
            batch: 0,
            found: Vec::new(),
            timers: TimerQueue::default(),
            stats: Stats::default(),
            config,
        }
    }

    /// Takes in what happened and pushes what must happen. Events about what is gone change nothing.
    pub fn handle(&mut self, now: Instant, event: Event, actions: &mut Actions) {
        match event {
            Event::AuthMayHaveChanged => self.unsure(now, actions),
            Event::Checked(id, result) => self.checked(now, id, result, actions),
            Event::History(number) => self.another_history(now, number, actions),
            Event::LinearizableTrusted(is_trusted) => self.trusts_progress = is_trusted,
            Event::Timeout => self.timeout(now, actions),
            Event::WatchChanged {
                watch,
                revision,
                keys,
            } => self.watch_changed(now, watch, revision, &keys, actions),
            Event::WatchLost(watch) => self.watch_lost(now, watch, actions),
            Event::WatchProgressed { watch, revision } => {
                self.watch_progressed(now, watch, revision, actions);
            }
            Event::WatchStarted { watch, revision } => self.watch_started(now, watch, revision, actions),
        }
        self.settle(now, actions);
    }

    /// The client of a read that waits has gone, or has no time left. Changes nothing if it doesn't wait any more.
    pub fn cancel(&mut self, now: Instant, id: WaiterId, actions: &mut Actions) {
        self.take_waiter(id);
        self.settle(now, actions);
    }

    /// A write was answered: at this revision it has changed these keys ([`written`](super::written)), and what else it has
    /// changed the watch tells.
    pub fn written(&mut self, keys: &[Bytes], revision: i64) {
        for key in keys {
            self.touch(Span::of_key(key), revision);
        }
    }

    /// A compaction up to this revision was answered.
    pub fn compacted(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
        self.stats.invalidated += self.store.remove_compacted(revision) as u64;
    }

    /// When [`Event::Timeout`] must come next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.front().map(|(at, _)| *at);
        deadline.into_iter().chain(self.timers.next_timeout()).min()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.store.len(),
            bytes: self.store.entry_bytes(),
            index_bytes: self.store.bytes() - self.store.entry_bytes(),
            waiters: self.waiters.len(),
            flights: self.flights.len(),
            queued: self.queue.len(),
            watched: if self.is_up() { self.watched } else { 0 },
            confirmed_at: self.confirmed,
            ..self.stats
        }
    }

    fn timeout(&mut self, now: Instant, actions: &mut Actions) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                // What it is for follows at the end of the event.
                Timer::Batch => {}
                Timer::Check(linearizable) => self.check_timeout(now, linearizable, actions),
                Timer::Idle => self.idle_timer(now, actions),
                Timer::Progress => self.progress_asked = false,
            }
        }
        while let Some((at, id)) = self.deadlines.front().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.pop_front();
            if self.waits_for_cache(id) {
                debug_assert!(at <= now, "deadlines are in order");
                self.lose_patience(now, id, actions);
            }
        }
    }

    /// Does what the event has left for its end.
    fn settle(&mut self, now: Instant, actions: &mut Actions) {
        self.start_queued(now, actions);
        self.start_checks(now, actions);
        self.ask_progress(now, actions);
        while let Some((_, id)) = self.deadlines.front()
            && !self.waits_for_cache(*id)
        {
            self.deadlines.pop_front();
        }
    }

    fn waits_for_cache(&self, id: WaiterId) -> bool {
        self.waiters.get(id).is_some_and(|waiter| waiter.place.is_cache())
    }

    /// Whether entries are kept and served.
    fn is_serving(&self) -> bool {
        self.is_up() && self.auth == Auth::Off
    }

    fn is_up(&self) -> bool {
        matches!(self.watch, Watch::Up(_))
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A read doesn't wait any more.
    fn take_waiter(&mut self, id: WaiterId) -> Option<Waiter> {
        let waiter = self.waiters.remove(id)?;
        if let Place::Revision(revision) = waiter.place {
            self.by_revision.remove(&(revision, id));
        }
        Some(waiter)
    }

    fn resolve(&mut self, id: WaiterId, resolution: Resolution, actions: &mut Actions) {
        if self.take_waiter(id).is_some() {
            if matches!(resolution, Resolution::Shared(_)) {
                self.stats.shared += 1;
            }
            actions.push(Action::Resolve(id, resolution));
        }
    }

    const fn count(&mut self, reason: Reason) {
        self.stats.bypasses[reason as usize] += 1;
    }

    /// Drops all that is cached. Those who wait for it go to the cluster.
    fn flush(&mut self, now: Instant, actions: &mut Actions) {
        self.stats.flushes += 1;
        self.store.clear();
        let mut waiting = core::mem::take(&mut self.fresh);
        waiting.append(&mut self.check_next);
        if let Some(check) = &mut self.linearizable_check {
            waiting.append(&mut check.waiters);
        }
        waiting.extend(self.by_revision.iter().map(|(_, id)| *id));
        for id in waiting {
            if self.waits_for_cache(id) {
                self.miss(now, id, false, actions);
            }
        }
    }

    /// A header for an answer from the cache.
    const fn header_at(&self, revision: i64) -> Header {
        Header {
            revision,
            ..self.header
        }
    }
}
