//! The read cache of a proxy, and what carries its actions out. What it is told of calls is decided by the core.

mod checks;
mod feed;
mod reads;

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_proxy_core::history::{Known, Shows, Verdict};
use etcd_proxy_core::range::KeyRange;
use etcd_proxy_core::read::{
    Action, Actions, AnotherHistory, Answer, Asked, Cache, CacheEffect, CheckId, Event, Floor, Header,
    Resolution, Reveals, Scope, Stats, WaiterId,
};
use etcd_proxy_core::time::Instant;

pub(super) use self::checks::CacheCheck;
use self::feed::OpenFeed;
pub(super) use self::reads::Refreshing;
use super::Proxy;
use crate::delivery::{CallTag, Delivery, ReadAlarm};
use crate::io::{Io, Note};
use crate::situations::Situation;

/// How late the cache's timer fires.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);

/// What a proxy caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// All keys.
    Everything,
    /// Nothing.
    Nothing,
    /// The keys of a few prefixes.
    Some,
}

/// Settings of a proxy's read cache: those that differ from one run to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is cached.
    pub cached: Cached,
    /// How old the state may be that a serializable read is shown.
    pub staleness_max: Duration,
    /// How long a read may wait.
    pub wait_max: Duration,
    /// How long the watch is kept without reads.
    pub idle: Duration,
    /// Reads under way that were forwarded because the cache took too long.
    pub fallbacks_max: usize,
    /// Memory of all entries.
    pub bytes_max: usize,
    /// How many reads a linearizable check waits for.
    pub batch_min: usize,
}

impl Config {
    /// No cache.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            cached: Cached::Nothing,
            staleness_max: Duration::from_secs(1),
            wait_max: Duration::from_millis(100),
            idle: Duration::from_secs(300),
            fallbacks_max: 64,
            bytes_max: 64 << 20,
            batch_min: 16,
        }
    }

    fn of_core(self, trusts_progress: bool) -> etcd_proxy_core::read::Config {
        let scope = match self.cached {
            Cached::Everything => Scope::Everything,
            Cached::Nothing => Scope::Nothing,
            Cached::Some => {
                let prefixes = [&b"key-000"[..], b"key-001", b"key-003"];
                Scope::Ranges(prefixes.map(KeyRange::prefix).into())
            }
        };
        etcd_proxy_core::read::Config {
            scope,
            staleness_max: self.staleness_max,
            wait_max: self.wait_max,
            idle: self.idle,
            fallbacks_max: self.fallbacks_max,
            bytes_max: self.bytes_max,
            batch_min: self.batch_min,
            trusts_progress,
            ..etcd_proxy_core::read::Config::default()
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Reading {
    cache: Cache,
    scope: Scope,
    /// The calls that wait.
    waiting: BTreeMap<WaiterId, u64>,
    /// Doubtful answers to checks, as long as it is asked whether they are right.
    doubtful: BTreeMap<CheckId, Header>,
    feed: Option<OpenFeed>,
    /// Numbers the cache's watches.
    feeds: u32,
    /// When the cache's timeout comes, by the last delivery made for it, and when it is due.
    timeout: Option<(Instant, Instant)>,
}

/// What the cache and its driver hold, to see whether they leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadHoldings {
    waiting: usize,
    waiters: usize,
    flights: usize,
    queued: usize,
    feeds: usize,
    entries: usize,
}

impl Reading {
    pub(super) fn new(config: Config, trusts_progress: bool, seed: u64) -> Self {
        let config = config.of_core(trusts_progress);
        Self {
            scope: config.scope.clone(),
            cache: Cache::new(config, seed),
            waiting: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            feed: None,
            feeds: 0,
            timeout: None,
        }
    }

    fn is_off(&self) -> bool {
        self.scope == Scope::Nothing
    }
}

impl Proxy {
    /// Counters and gauges of the cache.
    pub(crate) fn read_stats(&self) -> Stats {
        self.read.cache.stats()
    }

    pub(crate) fn read_holdings(&self) -> ReadHoldings {
        let stats = self.read_stats();
        ReadHoldings {
            waiting: self.read.waiting.len(),
            waiters: stats.waiters,
            flights: stats.flights,
            queued: stats.queued,
            feeds: usize::from(self.read.feed.is_some()),
            entries: stats.entries,
        }
    }

    /// The floor of a read that comes now.
    pub(super) fn floor(&self) -> Floor {
        self.watch.shown().floor()
    }

    /// Tells the cache what has happened.
    fn tell_cache(&mut self, io: &mut Io, event: Event) {
        io.trace
            .remark(io.now, format_args!("cache {}: {event:?}", self.index));
        let mut actions = Actions::new();
        self.bring_to(io, &mut actions);
        self.read.cache.handle(io.now, event, &mut actions);
        self.carry_out_cache(io, actions, None);
    }

    /// The cache learns of another history before anything that is of it.
    fn bring_to(&mut self, io: &Io, actions: &mut Actions) {
        let number = self.watch.known().history;
        if self.read.cache.history() < number {
            let event = AnotherHistory(number).for_cache();
            self.read.cache.handle(io.now, event, actions);
            let stats = self.read_stats();
            assert_eq!(
                (stats.entries, stats.watched),
                (0, 0),
                "the cache of proxy {} keeps what is of another history",
                self.index
            );
        }
    }

    /// The store has another history.
    pub(super) fn tell_cache_history(&mut self, io: &mut Io, another: AnotherHistory) {
        self.tell_cache(io, another.for_cache());
    }

    /// Tells the cache what follows from a call.
    pub(super) fn carry_out_effect(&mut self, io: &mut Io, effect: CacheEffect, of: CallTag) {
        match effect {
            CacheEffect::AuthMayHaveChanged => self.tell_cache(io, Event::AuthMayHaveChanged),
            CacheEffect::Compacted(asked, revision) => {
                if let Some(compacted) = self.watch.shown().compacted(asked, revision) {
                    self.tell(io, compacted.for_hub());
                    compacted.tell(&mut self.read.cache);
                }
            }
            CacheEffect::Completed(ticket, outcome) => {
                let mut actions = Actions::new();
                self.read
                    .cache
                    .complete_read(io.now, ticket, outcome, &mut actions);
                self.carry_out_cache(io, actions, Some(of));
            }
            CacheEffect::Nothing => {}
            CacheEffect::Written(keys, revision) => self.read.cache.written(&keys, revision),
        }
    }

    /// Carries out what the cache wants. `of` is the call whose end this comes of.
    fn carry_out_cache(&mut self, io: &mut Io, actions: Actions, of: Option<CallTag>) {
        for action in actions {
            io.trace
                .remark(io.now, format_args!("cache {}: {action:?}", self.index));
            match action {
                Action::AskProgress(watch) => self.feed_asks(io, watch),
                Action::Check { check, linearizable } => self.check_cache(io, check, linearizable),
                Action::CloseWatch(watch) => self.close_feed(io, watch),
                Action::OpenWatch(watch) => self.open_feed(io, watch),
                Action::Resolve(waiter, resolution) => {
                    let Some(id) = self.read.waiting.remove(&waiter) else {
                        continue;
                    };
                    match resolution {
                        Resolution::Answer(answer) => self.hit(io, id, &answer),
                        Resolution::Forward(ticket) => self.forward_read(io, id, Some(ticket)),
                        Resolution::Shared(shared) => {
                            let leader = of.expect("what is shared comes of a call's end");
                            self.share(io, id, shared, leader);
                        }
                    }
                }
            }
        }
        self.set_read_timeout(io);
    }

    /// An answer of the cache's is about to go out.
    fn will_show_hit(&mut self, io: &mut Io, answer: &Answer) {
        io.count(Situation::CacheHit);
        // Before anything is looked up the cache is told.
        assert_eq!(
            answer.history,
            self.watch.known().history,
            "the cache of proxy {} answers with what is of another history",
            self.index
        );
        self.will_show(io, answer.history, answer.revision);
    }

    /// Takes in what an answer shows that a client is about to get.
    pub(super) fn judge_reply(&mut self, io: &mut Io, asked: Known, reveals: Reveals) -> Verdict {
        let verdict = self.watch.shown_mut().reveals(asked, reveals);
        self.follow_verdict(io, verdict, reveals);
        verdict
    }

    /// Takes in an answer that has all that was committed when it was asked for.
    pub(super) fn judge_newest(&mut self, io: &mut Io, asked: Asked, shows: Shows) {
        let verdict = self.watch.shown_mut().answered_newest(asked, shows);
        self.follow_verdict(io, verdict, Reveals::Revision(shows));
    }

    pub(crate) fn read_alarm(&mut self, io: &mut Io, alarm: ReadAlarm) {
        match alarm {
            ReadAlarm::Cache => {
                if self.read.timeout.is_none_or(|(_, at)| at != io.now) {
                    return;
                }
                self.read.timeout = None;
                if self.read.cache.next_timeout().is_some_and(|due| due <= io.now) {
                    self.tell_cache(io, Event::Timeout);
                    assert!(
                        self.read.cache.next_timeout().is_none_or(|due| due > io.now),
                        "a timer of the cache is due for ever"
                    );
                }
                self.set_read_timeout(io);
            }
            ReadAlarm::Feed(number) => self.feed_reads(io, number),
            ReadAlarm::Reopen(number) => self.reopen_feed(io, number),
        }
    }

    fn set_read_timeout(&mut self, io: &mut Io) {
        let due = self.read.cache.next_timeout();
        if self.read.timeout.map(|(due, _)| due) == due {
            return;
        }
        self.read.timeout = due.map(|due| {
            let at = due.max(io.now) + io.within(Duration::ZERO..TIMER_LATE_MAX);
            io.at(at, Delivery::ReadAlarm(self.index, ReadAlarm::Cache));
            (due, at)
        });
    }

    /// The oracle is told what a read is answered with that wasn't sent to a member.
    fn note_hit(&self, io: &mut Io, call: CallTag, message: bytes::Bytes) {
        io.notes.push(Note::Hit { call, message });
    }
}
