//! Heartbeats: what clients asked and were told, what their router did with it, and what became of their leases.

mod lives;
mod router;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::LeaseKeepAliveResponse;
use prost::Message as _;

use self::lives::Lives;
pub use self::router::Heartbeats;
use self::router::Routing;
use super::Delivers;
use crate::delivery::LeaseTag;
use crate::io::{Io, LeaseNote};
use crate::settings::Settings;
use crate::situations::Situation;

/// What a client was told on a LeaseKeepAlive call.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseTold {
    /// How long it waited for it.
    pub took: Duration,
    /// What it is.
    pub response: LeaseKeepAliveResponse,
}

/// A LeaseKeepAlive call of a client.
#[derive(Debug)]
pub(crate) struct Beating {
    proxy: usize,
    token: Option<Bytes>,
    require_leader: bool,
    opened: Instant,
    /// What the client asked and wasn't told, by lease.
    open: BTreeMap<i64, VecDeque<Instant>>,
    half_closed: bool,
    nonsense: bool,
    /// Since when it reads; none if it doesn't.
    reads_since: Option<Instant>,
    /// Heartbeats for a lease that follow one another soon enough to keep it alive: since when, and the last one.
    beats: BTreeMap<i64, (Instant, Instant)>,
    /// All that it was told.
    pub(crate) told: Vec<LeaseTold>,
    /// How it ended: with a status, or by the client.
    pub(crate) ended: Option<Option<Status>>,
    /// What its router heard and hasn't answered, by lease.
    waiting: BTreeMap<i64, VecDeque<Waiting>>,
    /// Whether its router knows it.
    is_known: bool,
    /// What its router has answered and the client hasn't read, and how it ended the call.
    put: VecDeque<Bytes>,
    end_put: Option<Status>,
}

/// A heartbeat that a router has heard.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    /// What happened before it, in numbers.
    after: u64,
}

impl Beating {
    fn is_over(&self) -> bool {
        self.ended.is_some() && !self.is_known
    }

    /// Since when the heartbeat has waited at its router that has done so for longest.
    fn waits_since(&self) -> Option<Instant> {
        let first = self.waiting.values().filter_map(VecDeque::front);
        first.map(|waiting| waiting.since).min()
    }
}

/// All LeaseKeepAlive calls, and all leases.
#[derive(Debug)]
pub(crate) struct Leasing {
    pub(crate) calls: BTreeMap<LeaseTag, Beating>,
    /// Those that aren't over.
    live: BTreeSet<LeaseTag>,
    routing: Routing,
    lives: Lives,
    /// From when on heartbeats are answered within a time.
    serves: Option<Delivers>,
    /// Times when nothing that went wrong kept a heartbeat from being answered.
    good: Vec<(Instant, Instant)>,
}

impl Leasing {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            calls: BTreeMap::new(),
            live: BTreeSet::new(),
            routing: Routing::new(settings),
            lives: Lives::new(settings),
            serves: None,
            good: Vec::new(),
        }
    }

    /// From now on heartbeats are answered within a time, or perhaps not any more.
    pub(crate) fn serve(&mut self, now: Instant, serves: Option<Delivers>) {
        let good = self.good_now(now);
        self.good.extend(good);
        self.serves = serves;
    }

    /// Since when all is well, or what was wrong doesn't matter any more, and now.
    fn good_now(&self, now: Instant) -> Option<(Instant, Instant)> {
        let serves = self.serves?;
        let wait = if serves.calm {
            Duration::ZERO
        } else {
            serves.within
        };
        Some((serves.since + wait, now)).filter(|(since, now)| since < now)
    }

    /// How much of the time since then something was wrong.
    fn bad_time(&self, since: Instant, now: Instant) -> Duration {
        let good = self.good.iter().copied().chain(self.good_now(now));
        let good: Duration = good.map(|(from, to)| to.saturating_since(from.max(since))).sum();
        (now - since).saturating_sub(good)
    }

    fn call_mut(&mut self, tag: LeaseTag) -> &mut Beating {
        self.calls.get_mut(&tag).expect("it was opened")
    }

    fn live(&self) -> impl Iterator<Item = (&LeaseTag, &Beating)> {
        self.live.iter().map(|tag| (tag, &self.calls[tag]))
    }

    /// Takes in what happens to a client's call. `leaderless` is when a member was last without a leader.
    pub(super) fn hear(&mut self, io: &mut Io, leaderless: Option<Instant>, tag: LeaseTag, what: LeaseNote) {
        let now = io.now;
        match what {
            LeaseNote::Opened {
                proxy,
                token,
                require_leader,
            } => {
                let call = Beating {
                    proxy,
                    token,
                    require_leader,
                    opened: now,
                    open: BTreeMap::new(),
                    half_closed: false,
                    nonsense: false,
                    reads_since: Some(now),
                    beats: BTreeMap::new(),
                    told: Vec::new(),
                    ended: None,
                    waiting: BTreeMap::new(),
                    is_known: false,
                    put: VecDeque::new(),
                    end_put: None,
                };
                self.calls.insert(tag, call);
                self.live.insert(tag);
            }
            LeaseNote::Asked(lease) => self.asked(now, tag, lease),
            LeaseNote::AskedNonsense => self.call_mut(tag).nonsense = true,
            LeaseNote::HalfClosed => self.call_mut(tag).half_closed = true,
            LeaseNote::Told(message) => self.told(io, tag, message),
            LeaseNote::Reads(reads) => {
                io.count(if reads {
                    Situation::LeaseClientReadsOn
                } else {
                    Situation::LeaseClientStops
                });
                self.call_mut(tag).reads_since = reads.then_some(now);
            }
            LeaseNote::Ended(status) => {
                let call = self.call_mut(tag);
                assert!(
                    call.put.is_empty() && call.end_put.as_ref() == Some(&status),
                    "{tag:?} ends with {status:?}, and not as its router said: {call:?}"
                );
                self.ends(now, tag, Some(status));
            }
            LeaseNote::Gone => self.ends(now, tag, None),
            LeaseNote::Known => {
                self.call_mut(tag).is_known = true;
                self.live.insert(tag);
            }
            LeaseNote::Heard(message) => self.heard(now, tag, message),
            LeaseNote::Put(message) => self.put(io, tag, message),
            LeaseNote::EndPut(status) => {
                self.is_right_end(io, leaderless, tag, &status);
                self.call_mut(tag).end_put = Some(status);
                self.left(now, tag);
            }
            LeaseNote::Left => self.left(now, tag),
        }
    }

    /// Whether all has been well since then.
    fn is_calm(&self, since: Instant) -> bool {
        let serves = self.serves.filter(|serves| serves.calm);
        serves.is_some_and(|serves| serves.since <= since)
    }

    fn asked(&mut self, now: Instant, tag: LeaseTag, lease: i64) {
        self.lives.asked(now, lease);
        let pause_max = self.lives.pause_max(lease);
        let call = self.call_mut(tag);
        call.open.entry(lease).or_default().push_back(now);
        let (since, last) = call.beats.entry(lease).or_insert((now, now));
        if now - *last > pause_max {
            *since = now;
        }
        *last = now;
    }

    /// The client has its answer: the one that the router gave, to the first of its requests for this lease.
    fn told(&mut self, io: &mut Io, tag: LeaseTag, message: Bytes) {
        let response = LeaseKeepAliveResponse::decode(message.clone()).expect("a member wrote it");
        let shared = self.routing.share_within();
        let call = self.call_mut(tag);
        assert_eq!(call.ended, None, "something comes after the end of {tag:?}");
        assert_eq!(
            call.put.pop_front().as_ref(),
            Some(&message),
            "{tag:?} isn't told what its router said"
        );
        let asked = call.open.get_mut(&response.id).and_then(VecDeque::pop_front);
        let asked = asked.unwrap_or_else(|| panic!("{tag:?} didn't ask, and is told {response:?}: {call:?}"));
        let told = LeaseTold {
            took: io.now - asked,
            response,
        };
        call.told.push(told);
        let is_calm = self.is_calm(asked);
        self.lives.told(io, tag, &message, asked, shared, is_calm);
    }

    fn ends(&mut self, now: Instant, tag: LeaseTag, status: Option<Status>) {
        let call = self.call_mut(tag);
        assert_eq!(call.ended, None, "{tag:?} ends a second time");
        call.ended = Some(status);
        let asked = std::mem::take(&mut call.open);
        for lease in asked.into_iter().filter(|(_, asked)| !asked.is_empty()) {
            self.lives.asked(now, lease.0);
        }
        self.forget_if_over(tag);
    }

    /// The router has forgotten a call.
    fn left(&mut self, now: Instant, tag: LeaseTag) {
        let call = self.call_mut(tag);
        call.is_known = false;
        let waiting = std::mem::take(&mut call.waiting);
        for lease in waiting.into_iter().filter(|(_, waiting)| !waiting.is_empty()) {
            self.lives.asked(now, lease.0);
        }
        self.forget_if_over(tag);
    }

    fn forget_if_over(&mut self, tag: LeaseTag) {
        if self.calls[&tag].is_over() {
            self.live.remove(&tag);
        }
    }

    /// Leases that there are.
    pub(crate) fn alive(&self) -> impl ExactSizeIterator<Item = i64> {
        self.lives.alive()
    }

    /// Whether every heartbeat is answered that clients with an open call wait for.
    pub(crate) fn is_complete(&self) -> bool {
        let mut open = self.live().filter(|(_, call)| call.ended.is_none());
        open.all(|(_, call)| call.open.values().all(VecDeque::is_empty))
    }

    /// Looks at everything that no event tells.
    pub(super) fn look(&mut self, io: &mut Io) {
        for tag in &self.live {
            let call = &self.calls[tag];
            let open = call.open.iter().filter(|(_, asked)| !asked.is_empty());
            for (lease, _) in open {
                self.lives.asked(io.now, *lease);
            }
            let waiting = call.waiting.iter().filter(|(_, waiting)| !waiting.is_empty());
            for (lease, _) in waiting {
                self.lives.asked(io.now, *lease);
            }
            if let (Some(serves), Some(since)) = (self.serves, call.waits_since()) {
                io.count(Situation::CheckedLeaseServed);
                let since = since.max(serves.since);
                let waits = io.now - since;
                let within = serves.within + self.routing.queueing(call.proxy, &call.token, since);
                assert!(
                    waits <= within,
                    "{tag:?} waits for {waits:?} for an answer that was promised within {within:?}: {call:?}"
                );
            }
        }
        if let Some(serves) = self.serves.filter(|serves| serves.calm) {
            self.lives.none_outlives(io, serves.since);
        }
    }
}
