//! The search for a member to use, and the choice.

use alloc::vec::Vec;

use super::{Connection, Current, Endpoints, Timer};
use crate::endpoints::types::{
    Action, Actions, CloseCause, ConnectionId, EndpointId, FailureCause, Health, Lane,
};
use crate::time::Instant;

impl Endpoints {
    /// Starts over: every endpoint that isn't hidden or in use becomes a candidate, in random order.
    pub(super) fn search(&mut self, now: Instant, actions: &mut Actions) {
        let in_use = self.current();
        let mut order: Vec<EndpointId> = self
            .endpoints
            .iter()
            .filter(|(id, endpoint)| !endpoint.hidden && endpoint.candidate.is_none() && Some(*id) != in_use)
            .map(|(id, _)| id)
            .collect();
        self.rng.shuffle(&mut order);
        self.untried = order.into();
        if self.current.is_some() {
            self.timers
                .set(Timer::Challenge, now + self.config.challenge_interval);
        }
        self.next_candidate(now, actions);
    }

    pub(super) fn search_over(&mut self) {
        self.untried.clear();
        self.timers.cancel(Timer::Stagger);
        self.timers.cancel(Timer::Challenge);
        self.timers.cancel(Timer::Settle);
    }

    pub(super) fn next_candidate(&mut self, now: Instant, actions: &mut Actions) {
        match self.untried.pop_front() {
            Some(endpoint) => {
                self.try_candidate(now, endpoint, actions);
                if self.untried.is_empty() {
                    self.timers.cancel(Timer::Stagger);
                } else {
                    self.timers.set(Timer::Stagger, now + self.config.stagger);
                }
            }
            None => self.settle(now, false, actions),
        }
    }

    /// Tries what is left at once: the one in use has fallen silent, and others may be as silent.
    pub(super) fn hurry(&mut self, now: Instant, actions: &mut Actions) {
        for _ in 1..AT_ONCE_MAX {
            if self.untried.is_empty() {
                return;
            }
            self.next_candidate(now, actions);
        }
    }

    pub(super) fn try_candidate(&mut self, now: Instant, id: EndpointId, actions: &mut Actions) {
        if self
            .endpoints
            .get(id)
            .is_some_and(|endpoint| endpoint.candidate.is_none())
        {
            let connection = self.connect(now, id, Lane::Candidate, actions);
            self.endpoints[id].candidate = Some(connection);
        }
    }

    /// With nothing in use and everyone asked, a member without leader is better than none: it
    /// answers serializable reads, and it gives the errors that a server gives. Hidden ones that are
    /// tried again aren't waited for: with many of them it would never end. Nor is anybody waited for any longer if that
    /// `is_late`.
    pub(super) fn settle(&mut self, now: Instant, is_late: bool, actions: &mut Actions) {
        if self.current.is_some() {
            return;
        }
        let unfit: Vec<EndpointId> = self
            .endpoints
            .iter()
            .filter(|(_, endpoint)| !endpoint.hidden && endpoint.health == Some(Health::Unfit))
            .map(|(id, _)| id)
            .collect();
        let mut endpoints = self.endpoints.values();
        let waits = endpoints.any(|endpoint| endpoint.candidate.is_some() && !endpoint.hidden);
        if !unfit.is_empty() && waits && !is_late {
            // Those who haven't answered may be frozen.
            self.timers.set(Timer::Settle, now + self.config.stagger * 2);
        } else if !unfit.is_empty() {
            let chosen = unfit[self.rng.usize(..unfit.len())];
            self.choose(now, chosen, Health::Unfit, actions);
        }
    }

    fn choose(&mut self, now: Instant, id: EndpointId, health: Health, actions: &mut Actions) {
        let former = self.current.replace(Current {
            endpoint: id,
            fit: health == Health::Fit,
            outdone_until: None,
        });
        self.cluster = self.cluster.or(self.endpoints[id].cluster);
        self.search_over();
        if health == Health::Unfit {
            self.timers
                .set(Timer::Challenge, now + self.config.challenge_interval);
        }
        actions.push(Action::Chosen(id));
        for worker in 0..self.config.lanes {
            self.withdraw(worker, actions);
        }
        if let Some(former) = former {
            // It is alive but has no leader: what waits there would wait for as long as that lasts.
            let left = |connection: &Connection| {
                connection.endpoint == former.endpoint && connection.lane != Lane::Candidate
            };
            self.close_all(left, CloseCause::LeaderLost, actions);
        }
        for worker in 0..self.config.lanes {
            self.connect_worker(now, worker, actions);
        }
    }

    pub(super) fn candidate_answered(
        &mut self,
        now: Instant,
        id: EndpointId,
        health: Health,
        actions: &mut Actions,
    ) {
        self.endpoints[id].silent_since = None;
        if !self.may_be_used(now, id, actions) {
            self.fail(now, id, FailureCause::Foreign, actions);
            return self.next_candidate(now, actions);
        }
        let endpoint = &mut self.endpoints[id];
        endpoint.health = Some(health);
        if core::mem::take(&mut endpoint.hidden) {
            endpoint.restored_at = Some(now);
            self.timers.cancel(Timer::Retry(id));
            actions.push(Action::Restored(id));
        }
        let wanted = self
            .current
            .is_none_or(|current| !current.fit && current.endpoint != id);
        if wanted && health == Health::Fit {
            self.choose(now, id, health, actions);
        } else if self.current.is_none_or(|current| !current.fit) {
            self.next_candidate(now, actions);
        }
    }

    /// The one in use fails where another one doesn't. It keeps its place if no other one is fit.
    pub(super) fn outdone(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let endpoint = self.connections.get(id).map(|connection| connection.endpoint);
        let Some(current) = self.current.as_mut() else {
            return;
        };
        if Some(current.endpoint) != endpoint {
            return;
        }
        current.outdone_until = Some(now + self.config.connect_timeout);
        if core::mem::replace(&mut current.fit, false) {
            let endpoint = current.endpoint;
            actions.push(Action::LeaderLost(endpoint));
            self.search(now, actions);
        }
    }

    pub(super) fn current_answered(
        &mut self,
        now: Instant,
        id: EndpointId,
        health: Health,
        actions: &mut Actions,
    ) {
        let Some(current) = &mut self.current else {
            return;
        };
        let is_outdone = current.outdone_until.is_some_and(|until| now < until);
        let fit = health == Health::Fit && !is_outdone;
        if core::mem::replace(&mut current.fit, fit) == fit {
            return;
        }
        if fit {
            self.search_over();
            actions.push(Action::LeaderRegained(id));
        } else {
            actions.push(Action::LeaderLost(id));
            self.search(now, actions);
        }
    }
}

/// So many candidates are tried at once when there is reason to hurry.
const AT_ONCE_MAX: usize = 8;
