//! What a driver of the machine sees, kept beside it, and the rules that hold after every event.
//!
//! This knows nothing of the simulated world: it judges the actions by the events alone, so that the
//! fuzzer uses it as well.

mod actions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::{
    Action, CloseCause, Config, ConnectionId, EndpointId, Endpoints, Event, FailureCause, Health, Lane,
};
use etcd_proxy_core::time::Instant;

/// How late [`Event::Timeout`] may be delivered.
pub(crate) const SLACK: Duration = Duration::from_millis(5);

/// The shortest wait of the machine.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// A connection as the driver sees it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) endpoint: EndpointId,
    pub(crate) lane: Lane,
    pub(crate) asked_at: Instant,
    pub(crate) opened_at: Option<Instant>,
    pub(crate) draining: bool,
    pub(crate) probe_sent: Option<Instant>,
    /// When it became known that the probe will not be answered.
    pub(crate) probe_lost: Option<Instant>,
    pub(crate) heard_at: Instant,
}

/// An endpoint as the driver sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) address: String,
    pub(crate) candidate: Option<ConnectionId>,
    pub(crate) health: Option<Health>,
    /// When it may be tried again, if it is hidden.
    pub(crate) hidden_until: Option<Instant>,
    /// When it answered after it had been hidden.
    pub(crate) restored_at: Option<Instant>,
    pub(crate) failures: u32,
}

#[derive(Debug)]
pub(crate) struct Oracle {
    config: Config,
    started: bool,
    seen: BTreeSet<ConnectionId>,
    pub(crate) views: BTreeMap<ConnectionId, View>,
    pub(crate) known: BTreeMap<EndpointId, Known>,
    pub(crate) serving: Vec<Option<ConnectionId>>,
    pub(crate) dialing: Vec<Option<ConnectionId>>,
    /// Further connections that take calls.
    pub(crate) joined: BTreeSet<ConnectionId>,
    /// The endpoint in use, and whether it is fit.
    pub(crate) current: Option<(EndpointId, bool)>,
}

/// What the event and the actions so far allow the actions that follow.
#[derive(Default)]
struct Batch {
    /// Endpoints that must be hidden before the batch ends, and why.
    blamed: Vec<(EndpointId, FailureCause)>,
    /// Connections that must be closed before the batch ends.
    condemned: BTreeMap<ConnectionId, CloseCause>,
    /// The endpoint in use changed or failed: every worker may be moved.
    everyone_moves: bool,
    /// This worker's connection ended or drains.
    moves: Option<u32>,
    /// What a worker that has a connection wants another one for.
    wanted: Option<(u32, Class)>,
    /// Further connections that couldn't be made, of which the worker must be told.
    not_joined: Vec<(u32, Class)>,
}

impl Oracle {
    pub(crate) fn new(config: Config, machine: &Endpoints) -> Self {
        let mut oracle = Self {
            config,
            started: false,
            seen: BTreeSet::new(),
            views: BTreeMap::new(),
            known: BTreeMap::new(),
            serving: vec![None; config.lanes as usize],
            dialing: vec![None; config.lanes as usize],
            joined: BTreeSet::new(),
            current: None,
        };
        oracle.learn(machine);
        oracle
    }

    /// Whether this connection takes the calls of its worker, or is about to.
    pub(crate) fn in_lane(&self, id: ConnectionId) -> bool {
        self.serving.contains(&Some(id)) || self.dialing.contains(&Some(id))
    }

    /// Judges one call of `handle`.
    ///
    /// # Panics
    /// When a rule is broken.
    pub(crate) fn judge(&mut self, now: Instant, event: &Event, actions: &[Action], machine: &Endpoints) {
        if let Some(id) = connection_of(event)
            && !self.views.contains_key(&id)
        {
            assert_eq!(actions, [], "an event about what is gone changes nothing");
        }
        if let Event::ProbeAnswered(id, _) = event
            && self.views.get(id).is_some_and(|view| view.draining)
        {
            assert_eq!(actions, [], "what drains says nothing of its endpoint");
        }
        let mut batch = Batch::default();
        self.take_in(now, event, machine, &mut batch);
        for action in actions {
            self.act(now, event, action, &mut batch);
        }
        assert!(batch.blamed.is_empty(), "must be hidden: {:?}", batch.blamed);
        assert!(
            batch.condemned.is_empty(),
            "must be closed: {:?}",
            batch.condemned
        );
        assert_eq!(batch.wanted, None, "a worker gets what it wants");
        assert_eq!(batch.not_joined, [], "a worker must be told");
        self.at_rest(now, event, machine);
    }

    fn take_in(&mut self, now: Instant, event: &Event, machine: &Endpoints, batch: &mut Batch) {
        match event {
            Event::Start => self.started = true,
            // Nobody tells of clusters or strangers here; see the regressions.
            Event::Identified(..) | Event::Outdone(_) | Event::Stranger(_) => {}
            Event::Connected(id) => {
                if let Some(view) = self.views.get_mut(id) {
                    view.opened_at = Some(now);
                    view.heard_at = now;
                }
            }
            Event::ConnectFailed(id) => self.ended(*id, FailureCause::Connect, batch),
            Event::Lost { connection, graceful } => {
                let Some(view) = self.views.get(connection) else {
                    return;
                };
                let candidate = view.lane == Lane::Candidate;
                let cause = match self.young(now, view) {
                    _ if !graceful || candidate => FailureCause::Lost,
                    true => FailureCause::Refusing,
                    false => return self.ended_in_good_order(*connection, batch),
                };
                self.ended(*connection, cause, batch);
            }
            Event::Draining(id) => {
                let Some(view) = self.views.get(id) else {
                    return;
                };
                let blame = view.lane == Lane::Candidate || self.in_lane(*id) && self.young(now, view);
                if blame {
                    batch.blamed.push((view.endpoint, FailureCause::Refusing));
                }
                if view.lane == Lane::Candidate {
                    batch.condemned.insert(*id, CloseCause::Unneeded);
                }
                batch.moves = self.worker_of(*id);
                let view = self.views.get_mut(id).expect("it was there just now");
                view.draining = true;
                view.probe_sent = None;
                view.probe_lost = None;
            }
            Event::Active(id) => {
                // A candidate has nothing to do but to answer.
                let busy = |view: &&mut View| view.lane != Lane::Candidate;
                if let Some(view) = self.views.get_mut(id).filter(busy) {
                    view.heard_at = now;
                }
            }
            Event::Doubt(_) => {}
            Event::Wanted(worker, class) => {
                let serving = self.serving.get(*worker as usize).copied().flatten();
                batch.wanted = serving.map(|_| (*worker, *class));
            }
            Event::ProbeAnswered(id, health) => {
                if let Some(view) = self.views.get_mut(id) {
                    view.probe_sent = None;
                    view.probe_lost = None;
                    view.heard_at = now;
                    let known = self.known.get_mut(&view.endpoint);
                    if let (Lane::Candidate, Some(known)) = (view.lane, known) {
                        known.health = Some(*health);
                        batch.condemned.insert(*id, CloseCause::Unneeded);
                    }
                }
            }
            Event::ProbeLost(id) => {
                if let Some(view) = self.views.get_mut(id).filter(|view| view.probe_sent.is_some()) {
                    view.probe_lost = Some(now);
                    if view.lane == Lane::Candidate {
                        batch.blamed.push((view.endpoint, FailureCause::Lost));
                        batch.condemned.insert(*id, CloseCause::Unneeded);
                    }
                }
            }
            Event::Replace(addresses) => self.replaced(addresses, machine, batch),
            Event::Timeout => {}
        }
    }

    fn young(&self, now: Instant, view: &View) -> bool {
        view.opened_at
            .is_none_or(|at| now < at + self.config.graceful_age_min)
    }

    fn worker_of(&self, id: ConnectionId) -> Option<u32> {
        match self.views.get(&id)?.lane {
            Lane::Worker(worker) if self.serving[worker as usize] == Some(id) => Some(worker),
            _ => None,
        }
    }

    /// A connection has ended, and its endpoint is to blame unless nobody's new calls would have gone there.
    fn ended(&mut self, id: ConnectionId, cause: FailureCause, batch: &mut Batch) {
        let in_lane = self.in_lane(id);
        batch.moves = self.worker_of(id);
        let Some(view) = self.remove(id) else {
            return;
        };
        if view.lane == Lane::Candidate || in_lane {
            batch.blamed.push((view.endpoint, cause));
        }
        Self::failed_to_join(&view, batch);
    }

    fn failed_to_join(view: &View, batch: &mut Batch) {
        if let Lane::Further(worker, class) = view.lane
            && view.opened_at.is_none()
        {
            batch.not_joined.push((worker, class));
        }
    }

    fn ended_in_good_order(&mut self, id: ConnectionId, batch: &mut Batch) {
        batch.moves = self.worker_of(id);
        self.remove(id);
    }

    /// Takes a connection out; what serves stays until it is withdrawn.
    fn remove(&mut self, id: ConnectionId) -> Option<View> {
        let view = self.views.remove(&id)?;
        self.joined.remove(&id);
        match view.lane {
            Lane::Further(..) => {}
            Lane::Candidate => {
                if let Some(known) = self.known.get_mut(&view.endpoint) {
                    known.candidate = None;
                }
            }
            Lane::Worker(worker) => {
                let dialing = &mut self.dialing[worker as usize];
                if *dialing == Some(id) {
                    *dialing = None;
                }
            }
        }
        Some(view)
    }

    fn replaced(&mut self, addresses: &[Box<str>], machine: &Endpoints, batch: &mut Batch) {
        if !addresses.is_empty() {
            for (id, known) in &self.known {
                if addresses.iter().all(|address| **address != *known.address) {
                    assert!(machine.address(*id).is_none(), "{} was removed", known.address);
                    if let Some(candidate) = known.candidate {
                        batch.condemned.insert(candidate, CloseCause::Unneeded);
                    }
                    if self.current.is_some_and(|(current, _)| current == *id) {
                        self.current = None;
                        batch.everyone_moves = true;
                    }
                } else {
                    assert!(machine.address(*id).is_some(), "{} stays", known.address);
                }
            }
            for address in addresses {
                let full = machine.known().count() >= self.config.endpoints_max;
                assert!(
                    full || machine.known().any(|(_, other)| other == &**address),
                    "{address} is known now"
                );
            }
        }
        self.learn(machine);
    }

    fn learn(&mut self, machine: &Endpoints) {
        self.known.retain(|id, _| machine.address(*id).is_some());
        let mut addresses = BTreeSet::new();
        for (id, address) in machine.known() {
            assert!(addresses.insert(address), "{address} is known twice");
            self.known.entry(id).or_insert_with(|| Known {
                address: address.into(),
                ..Known::default()
            });
        }
        assert!(
            self.known.len() <= self.config.endpoints_max,
            "too many endpoints"
        );
    }

    fn at_rest(&self, now: Instant, event: &Event, machine: &Endpoints) {
        assert_eq!(machine.current(), self.current.map(|(id, _)| id));
        assert_eq!(machine.connections(), self.views.len(), "connections leak");
        for worker in 0..self.serving.len() {
            let (serving, dialing) = (self.serving[worker], self.dialing[worker]);
            assert_eq!(
                serving.is_some() || dialing.is_some(),
                self.current.is_some(),
                "worker {worker} is forgotten, or kept on nothing"
            );
            if let Some(id) = serving {
                let view = self.views.get(&id).expect("what serves is open");
                assert!(view.opened_at.is_some() && !view.draining, "{view:?} can't serve");
                assert_eq!(Some(view.endpoint), machine.current());
            }
        }
        for id in &self.joined {
            let view = &self.views[id];
            let Lane::Further(worker, _) = view.lane else {
                panic!("{view:?} can't join");
            };
            assert!(view.opened_at.is_some(), "{view:?} has joined and isn't there");
            let serving = self.serving[worker as usize].expect("what has joined is withdrawn with the first");
            assert_eq!(view.endpoint, self.views[&serving].endpoint, "one member for all");
        }
        let used = |id: &&ConnectionId| self.in_lane(**id) || self.views[id].lane == Lane::Candidate;
        assert!(
            self.views.keys().filter(used).count() <= self.serving.len() + self.known.len(),
            "too many connections"
        );
        for (id, view) in &self.views {
            let sent = view.probe_sent.filter(|_| view.lane == Lane::Candidate);
            assert!(
                sent.is_none_or(|at| now <= at + self.config.probe_timeout + SLACK),
                "candidate {id:?} should have been given up"
            );
        }
        for (id, view) in &self.views {
            let heard = view.probe_lost.is_some_and(|at| view.heard_at > at);
            let look = self.config.probe_timeout / 4 + WAIT_MIN;
            assert!(
                !heard || now <= view.heard_at + look + SLACK,
                "{id:?} lives and isn't probed any more"
            );
        }
        for known in self.known.values() {
            assert!(
                known.candidate.is_some() || known.hidden_until.is_none_or(|at| now <= at + SLACK),
                "{} is forgotten",
                known.address
            );
        }
        let visible = self.known.values().any(|known| known.hidden_until.is_none());
        let asked = |known: &Known| known.candidate.is_some() && known.hidden_until.is_none();
        let asking = self.known.values().any(asked);
        assert!(
            !self.started || self.current.is_some() || asking || !visible,
            "nothing is in use and nobody is asked"
        );
        let next = machine.next_timeout();
        if *event == Event::Timeout {
            assert!(next.is_none_or(|at| at > now), "a timer is due for ever");
        }
        let waiting = self.current.is_some_and(|(_, fit)| !fit)
            || self
                .views
                .values()
                .any(|view| view.opened_at.is_none() || view.probe_sent.is_some())
            || self
                .known
                .values()
                .any(|known| known.candidate.is_none() && known.hidden_until.is_some());
        let probed = self.config.probe_interval.is_some() && self.views.values().any(|view| !view.draining);
        assert!(
            next.is_some() || !waiting && !probed,
            "something is waited for without a timer"
        );
        assert!(next.is_none() || waiting || probed, "a timer without need");
    }
}

/// The connection that an event is about.
fn connection_of(event: &Event) -> Option<ConnectionId> {
    match event {
        Event::Active(id)
        | Event::Connected(id)
        | Event::ConnectFailed(id)
        | Event::Doubt(id)
        | Event::Draining(id)
        | Event::Lost { connection: id, .. }
        | Event::Identified(id, _)
        | Event::Outdone(id)
        | Event::Stranger(id)
        | Event::ProbeAnswered(id, _)
        | Event::ProbeLost(id) => Some(*id),
        Event::Replace(_) | Event::Start | Event::Timeout | Event::Wanted(..) => None,
    }
}
