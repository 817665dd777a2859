//! The endpoint machine itself: its state, its doors, and which part of it an event or a timer is for.

mod clusters;
mod connections;
mod members;
mod probes;
mod search;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use fastrand::Rng;
use slotmap::SlotMap;

use super::types::{
    Action, Actions, CloseCause, Config, ConnectionId, EndpointId, Event, FailureCause, Health, Lane,
};
use crate::time::Instant;
use crate::timer::TimerQueue;

#[derive(Debug)]
struct Endpoint {
    address: Box<str>,
    /// Failures in a row: none of them came after it had been well for [`Config::backoff_max`].
    failures: u32,
    /// When it answered after it had been hidden; `None` until then and if it never was.
    restored_at: Option<Instant>,
    /// Whether it failed, and [`Timer::Retry`] will try it again.
    hidden: bool,
    /// What it last answered.
    health: Option<Health>,
    /// The cluster that it last said it is of, if it has said so.
    cluster: Option<u64>,
    /// Whether it was told that this isn't the one in use.
    is_foreign: bool,
    /// Since when it hasn't answered.
    silent_since: Option<Instant>,
    candidate: Option<ConnectionId>,
}

#[derive(Debug)]
struct Connection {
    endpoint: EndpointId,
    lane: Lane,
    opened_at: Option<Instant>,
    /// Whether it takes no new calls, so that it can't be probed either.
    draining: bool,
    /// A probe is on its way.
    probing: bool,
    /// Whether that will not be answered.
    probe_lost: bool,
    /// Bytes came in since the probe was sent or last looked after.
    active: bool,
    /// No bytes are known to have come since then; counts only while a probe is on its way.
    quiet_since: Instant,
    /// When the last probe was answered.
    probed_at: Option<Instant>,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A connection takes too long to establish.
    Connect(ConnectionId),
    /// The next probe of a connection is due.
    Probe(ConnectionId),
    /// A probe takes long: is anything else read from its connection?
    ProbeAnswer(ConnectionId),
    /// A hidden endpoint may be tried again.
    Retry(EndpointId),
    /// The search takes the next candidate.
    Stagger,
    /// The member in use has no leader: ask the others again.
    Challenge,
    /// One that has no leader is as good as any that may still answer.
    Settle,
}

#[derive(Clone, Copy, Debug, Default)]
struct LaneState {
    serving: Option<ConnectionId>,
    connecting: Option<ConnectionId>,
}

/// The endpoint in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Current {
    endpoint: EndpointId,
    fit: bool,
    /// Until then it isn't fit, whatever its probes say.
    outdone_until: Option<Instant>,
}

/// The shortest wait that is repeated for as long as its cause lasts.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// See the [module documentation](super).
#[derive(Debug)]
pub struct Endpoints {
    config: Config,
    rng: Rng,
    timers: TimerQueue<Timer>,
    endpoints: SlotMap<EndpointId, Endpoint>,
    connections: SlotMap<ConnectionId, Connection>,
    lanes: Vec<LaneState>,
    current: Option<Current>,
    /// The cluster in use, as soon as one was.
    cluster: Option<u64>,
    /// Endpoints that the search hasn't tried yet.
    untried: VecDeque<EndpointId>,
}

impl Endpoints {
    /// A machine that knows these addresses. Duplicates count once; no more than
    /// [`Config::endpoints_max`] are taken. Nothing happens before [`Event::Start`].
    #[must_use]
    pub fn new(mut config: Config, seed: u64, addresses: impl IntoIterator<Item = Box<str>>) -> Self {
        config.challenge_interval = config.challenge_interval.max(WAIT_MIN);
        config.backoff_min = config.backoff_min.max(WAIT_MIN);
        config.backoff_max = config.backoff_max.max(config.backoff_min);
        let mut machine = Self {
            config,
            rng: Rng::with_seed(seed),
            timers: TimerQueue::default(),
            endpoints: SlotMap::with_key(),
            connections: SlotMap::with_key(),
            lanes: alloc::vec![LaneState::default(); config.lanes as usize],
            current: None,
            cluster: None,
            untried: VecDeque::new(),
        };
        machine.learn(addresses);
        machine
    }

    /// Takes in what happened and pushes what must happen. Events about connections and endpoints
    /// that are gone change nothing.
    pub fn handle(&mut self, now: Instant, event: Event, actions: &mut Actions) {
        match event {
            Event::Start => self.search(now, actions),
            Event::Connected(id) => self.connected(now, id, actions),
            Event::ConnectFailed(id) => self.gone(now, id, FailureCause::Connect, actions),
            Event::Draining(id) => self.draining(now, id, actions),
            Event::Lost { connection, graceful } => self.lost(now, connection, graceful, actions),
            Event::Active(id) => self.active(id),
            Event::Identified(id, cluster) => self.identified(now, id, cluster, actions),
            Event::ProbeAnswered(id, health) => self.probe_answered(now, id, health, actions),
            Event::ProbeLost(id) => self.probe_lost(now, id, actions),
            Event::Doubt(id) => self.doubt(now, id, actions),
            Event::Outdone(id) => self.outdone(now, id, actions),
            Event::Stranger(id) => self.stranger(now, id, actions),
            Event::Wanted(worker, class) => self.wanted(now, worker, class, actions),
            Event::Replace(addresses) => self.replace(now, addresses, actions),
            Event::Timeout => {
                while let Some(timer) = self.timers.pop_due(now) {
                    self.timeout(now, timer, actions);
                }
            }
        }
    }

    /// When [`Event::Timeout`] must come next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next_timeout()
    }

    /// The address of an endpoint, `None` if it is no longer known.
    #[must_use]
    pub fn address(&self, endpoint: EndpointId) -> Option<&str> {
        self.endpoints.get(endpoint).map(|endpoint| &*endpoint.address)
    }

    /// The endpoints that are known now.
    pub fn known(&self) -> impl Iterator<Item = (EndpointId, &str)> {
        self.endpoints
            .iter()
            .map(|(id, endpoint)| (id, &*endpoint.address))
    }

    /// The endpoint in use.
    #[must_use]
    pub fn current(&self) -> Option<EndpointId> {
        self.current.map(|current| current.endpoint)
    }

    /// Number of connections that are open or being opened.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn timeout(&mut self, now: Instant, timer: Timer, actions: &mut Actions) {
        match timer {
            Timer::Connect(id) => {
                actions.push(Action::Close(id, CloseCause::ConnectTimeout));
                self.gone(now, id, FailureCause::Connect, actions);
            }
            Timer::Probe(id) => self.probe(now, id, actions),
            Timer::ProbeAnswer(id) => self.probe_unanswered(now, id, actions),
            Timer::Retry(endpoint) => self.try_candidate(now, endpoint, actions),
            Timer::Stagger => self.next_candidate(now, actions),
            Timer::Settle => self.settle(now, true, actions),
            Timer::Challenge => {
                if self.current.is_some_and(|current| !current.fit) {
                    self.search(now, actions);
                }
            }
        }
    }
}
