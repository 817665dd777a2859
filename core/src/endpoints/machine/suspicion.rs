//! A member in use from which nothing comes: others are asked before it is given up, and when one of them is fit it isn't
//! waited for as long as it would be alone.
//!
//! A slow answer is no silence. So all of this must hold before the member is left early: a probe is on its way to it on each
//! worker's connection, nothing has come on any of its connections for [`PATIENCE_LOOKS`], and another member has answered
//! meanwhile that it is fit; one without a leader is worth a longer wait, [`PATIENCE_UNFIT_LOOKS`], in which a leader may be
//! elected. And it was long ago that a member was left early: if all are slow, they aren't left in turn.

use alloc::vec::Vec;

use super::probes::LOOKS;
use super::{Connection, Endpoints};
use crate::endpoints::types::{Action, Actions, CloseCause, ConnectionId, FailureCause, Health, Lane};
use crate::time::Instant;

/// How long nothing may come from a member that is suspected, in parts of [`Config::probe_timeout`] of which there are
/// [`LOOKS`].
///
/// [`Config::probe_timeout`]: crate::endpoints::Config::probe_timeout
const PATIENCE_LOOKS: u32 = 3;

/// The same while those who answer have no leader.
const PATIENCE_UNFIT_LOOKS: u32 = 5;

/// A probe that has taken so many times as long as those before gives reason for suspicion: others are asked.
const ROUND_TRIPS: u32 = 4;

/// How long it must be suspected, in the same parts.
const SUSPICION_LOOKS: u32 = 2;

/// How long no other member is left on suspicion after one was, in times of the probe timeout.
const EARLY_INTERVAL_TIMEOUTS: u32 = 4;

impl Endpoints {
    /// A probe of this connection is still without answer, and nothing else has come for some time, or something has.
    pub(super) fn look_at_current(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let Some(current) = self.current.filter(|current| current.fit) else {
            return;
        };
        let serves = self.lanes.iter().any(|lane| lane.serving == Some(id));
        if !serves {
            return;
        }
        let connection = &mut self.connections[id];
        if connection.quiet_since == now {
            return self.suspicion_over();
        }
        if current.suspected_since.is_some() {
            return self.leave_suspect(now, actions);
        }
        let usual = match connection.round_trip {
            Some(round_trip) => round_trip * ROUND_TRIPS,
            None => self.config.probe_timeout / LOOKS * PATIENCE_LOOKS,
        };
        // Once for each silence: it may be one connection's, and others of the member answer.
        if now >= connection.quiet_since + usual && !core::mem::replace(&mut connection.is_suspect, true) {
            self.suspect(now, actions);
        }
    }

    /// Gives the member in use every chance to answer, and asks all others at once.
    fn suspect(&mut self, now: Instant, actions: &mut Actions) {
        let Some(current) = self.current.as_mut() else {
            return;
        };
        current.suspected_since = Some(now);
        let serving: Vec<ConnectionId> = self.lanes.iter().filter_map(|lane| lane.serving).collect();
        for id in serving {
            if !self.connections[id].probing {
                self.probe(now, id, actions);
            }
        }
        self.ask_others(now, actions);
        self.hurry(now, actions);
    }

    /// Something has come from the member in use.
    pub(super) fn suspicion_over(&mut self) {
        if let Some(current) = &mut self.current
            && current.suspected_since.take().is_some()
            && current.fit
        {
            self.search_over();
        }
    }

    /// Leaves the member in use if it is suspected and all that has to be true for that is.
    pub(super) fn leave_suspect(&mut self, now: Instant, actions: &mut Actions) {
        let Some(current) = self.current else { return };
        let Some(since) = current.suspected_since else {
            return;
        };
        let timeout = self.config.probe_timeout;
        let is_too_soon = |at: Instant| now < at + timeout * EARLY_INTERVAL_TIMEOUTS;
        if now < since + timeout / LOOKS * SUSPICION_LOOKS || self.left_early_at.is_some_and(is_too_soon) {
            return;
        }
        let serving: Vec<ConnectionId> = self.lanes.iter().filter_map(|lane| lane.serving).collect();
        let sent_at = serving.iter().map(|id| self.connections[*id].sent_at).min();
        let Some(sent_at) = sent_at else { return };
        let answering = |endpoint: &&super::Endpoint| {
            let answered = endpoint.answered_at.is_some_and(|at| at >= since && at > sent_at);
            answered && !endpoint.hidden
        };
        let looks_of = |endpoint: &super::Endpoint| match endpoint.health {
            Some(Health::Fit) => PATIENCE_LOOKS,
            _ => PATIENCE_UNFIT_LOOKS,
        };
        let endpoints = self.endpoints.values();
        let Some(looks) = endpoints.filter(answering).map(looks_of).min() else {
            return;
        };
        let patience = timeout / LOOKS * looks;
        let is_serving = |id| serving.contains(&id);
        let is_silent = |(id, connection): (ConnectionId, &Connection)| {
            let heard = connection.heard_at.is_some_and(|at| at > since);
            let quiet = connection.probing && now >= connection.quiet_since + patience;
            !heard && (quiet || !is_serving(id))
        };
        let of_current = |connection: &Connection| {
            connection.endpoint == current.endpoint && connection.lane != Lane::Candidate
        };
        let mut connections = self.connections.iter();
        if !connections.all(|(id, connection)| !of_current(connection) || is_silent((id, connection))) {
            return;
        }
        self.left_early_at = Some(now);
        let first = serving[0];
        actions.push(Action::Close(first, CloseCause::Silent));
        self.gone(now, first, FailureCause::Silent, actions);
        for id in &serving[1..] {
            self.forget(*id);
            actions.push(Action::Close(*id, CloseCause::Silent));
        }
    }
}
