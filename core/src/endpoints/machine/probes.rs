//! Probes: when they are sent, and what silence means.

use core::time::Duration;

use super::{Connection, Endpoints, Timer, WAIT_MIN};
use crate::endpoints::types::{Action, Actions, CloseCause, ConnectionId, FailureCause, Health, Lane};
use crate::time::Instant;

/// Doubts about a connection whose probe was answered less than this ago are put aside: a cluster without
/// leader gives reason for doubt with every answer.
const DOUBT_INTERVAL: Duration = Duration::from_millis(100);

/// A probe without answer is looked after this often within its timeout, so that bytes which were read
/// early in it don't buy the connection a whole second timeout.
const LOOKS: u32 = 4;

impl Endpoints {
    pub(super) fn schedule_probe(&mut self, now: Instant, id: ConnectionId) {
        if let Some(interval) = self.config.probe_interval {
            self.timers.set(Timer::Probe(id), now + interval);
        }
    }

    pub(super) fn doubt(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let fresh =
            |connection: &Connection| connection.probed_at.is_some_and(|at| now < at + DOUBT_INTERVAL);
        if self
            .connections
            .get(id)
            .is_some_and(|connection| !fresh(connection))
        {
            self.probe(now, id, actions);
        }
    }

    pub(super) fn probe(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let waits = connection.probing && !connection.probe_lost;
        if connection.opened_at.is_none() || connection.draining || waits {
            return;
        }
        connection.probing = true;
        connection.probe_lost = false;
        connection.active = false;
        connection.quiet_since = now;
        self.timers.cancel(Timer::Probe(id));
        self.timers
            .set(Timer::ProbeAnswer(id), now + self.config.probe_timeout / LOOKS);
        actions.push(Action::Probe(id));
    }

    /// Bytes were read. A candidate has nothing to do but to answer its probe, so they don't excuse it.
    pub(super) fn active(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && connection.lane != Lane::Candidate
        {
            connection.active = true;
        }
    }

    pub(super) fn probe_unanswered(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if core::mem::take(&mut connection.active) {
            // Something still comes: busy, not dead.
            connection.quiet_since = now;
            if connection.probe_lost {
                return self.probe(now, id, actions);
            }
        }
        let deadline = connection.quiet_since + self.config.probe_timeout;
        if now < deadline {
            let next_look = now + (self.config.probe_timeout / LOOKS).max(WAIT_MIN);
            self.timers.set(Timer::ProbeAnswer(id), deadline.min(next_look));
            return;
        }
        actions.push(Action::Close(id, CloseCause::Silent));
        self.gone(now, id, FailureCause::Silent, actions);
    }

    /// A candidate had nothing else to say. On others the probe is sent again as soon as something comes; if nothing
    /// does, that silence counts as any other.
    pub(super) fn probe_lost(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let Some(connection) = self
            .connections
            .get_mut(id)
            .filter(|connection| connection.probing)
        else {
            return;
        };
        connection.probe_lost = true;
        if connection.lane == Lane::Candidate {
            actions.push(Action::Close(id, CloseCause::Unneeded));
            self.gone(now, id, FailureCause::Lost, actions);
        }
    }

    /// What a connection leads to is no etcd: neither a candidate nor one in use.
    pub(super) fn stranger(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        let (lane, endpoint) = (connection.lane, connection.endpoint);
        if lane == Lane::Candidate {
            actions.push(Action::Close(id, CloseCause::Unneeded));
            self.gone(now, id, FailureCause::Stranger, actions);
        } else if self.current() == Some(endpoint) {
            let of_endpoint = |connection: &Connection| connection.endpoint == endpoint;
            self.fail(now, endpoint, FailureCause::Stranger, actions);
            self.close_all(of_endpoint, CloseCause::Foreign, actions);
        } else {
            self.forget(id);
            actions.push(Action::Close(id, CloseCause::Foreign));
        }
    }

    pub(super) fn probe_answered(
        &mut self,
        now: Instant,
        id: ConnectionId,
        health: Health,
        actions: &mut Actions,
    ) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if !core::mem::take(&mut connection.probing) {
            return;
        }
        connection.probed_at = Some(now);
        let (lane, endpoint_id) = (connection.lane, connection.endpoint);
        self.timers.cancel(Timer::ProbeAnswer(id));
        if lane == Lane::Candidate {
            self.forget(id);
            actions.push(Action::Close(id, CloseCause::Unneeded));
            self.candidate_answered(now, endpoint_id, health, actions);
        } else {
            self.schedule_probe(now, id);
            if self.current() == Some(endpoint_id) {
                self.current_answered(now, endpoint_id, health, actions);
            }
        }
    }
}
