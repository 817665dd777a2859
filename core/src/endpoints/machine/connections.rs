//! Connections from the wish to have them to their end, and what each worker uses.

use alloc::vec::Vec;

use super::{Connection, Endpoints, LaneState, Timer};
use crate::class::Class;
use crate::endpoints::types::{Action, Actions, CloseCause, ConnectionId, EndpointId, FailureCause, Lane};
use crate::time::Instant;

impl Endpoints {
    pub(super) fn connect(
        &mut self,
        now: Instant,
        endpoint: EndpointId,
        lane: Lane,
        actions: &mut Actions,
    ) -> ConnectionId {
        let connection = self.connections.insert(Connection {
            endpoint,
            lane,
            opened_at: None,
            draining: false,
            probing: false,
            probe_lost: false,
            active: false,
            quiet_since: now,
            probed_at: None,
        });
        self.timers
            .set(Timer::Connect(connection), now + self.config.connect_timeout);
        actions.push(Action::Connect {
            connection,
            endpoint,
            lane,
        });
        connection
    }

    pub(super) fn connect_worker(&mut self, now: Instant, worker: u32, actions: &mut Actions) {
        let Some(endpoint) = self.current() else {
            return;
        };
        let lane = self.lanes[worker as usize];
        if lane.serving.is_none() && lane.connecting.is_none() {
            let connection = self.connect(now, endpoint, Lane::Worker(worker), actions);
            self.lanes[worker as usize].connecting = Some(connection);
        }
    }

    pub(super) fn connected(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if connection.opened_at.is_some() {
            return;
        }
        connection.opened_at = Some(now);
        let lane = connection.lane;
        self.timers.cancel(Timer::Connect(id));
        match lane {
            Lane::Candidate => self.probe(now, id, actions),
            Lane::Worker(worker) => {
                let lane = &mut self.lanes[worker as usize];
                if lane.connecting == Some(id) {
                    *lane = LaneState {
                        serving: Some(id),
                        connecting: None,
                    };
                    actions.push(Action::Serve {
                        worker,
                        connection: id,
                    });
                }
                self.schedule_probe(now, id);
            }
            // What was withdrawn meanwhile is forgotten.
            Lane::Further(worker, class) => {
                actions.push(Action::Join {
                    worker,
                    class,
                    connection: id,
                });
                self.schedule_probe(now, id);
            }
        }
    }

    /// A worker gets a further connection, unless the one that it had is gone: then it gets everything anew.
    pub(super) fn wanted(&mut self, now: Instant, worker: u32, class: Class, actions: &mut Actions) {
        let serving = self.lanes.get(worker as usize).and_then(|lane| lane.serving);
        if let Some(serving) = serving
            && let Some(connection) = self.connections.get(serving)
        {
            let endpoint = connection.endpoint;
            self.connect(now, endpoint, Lane::Further(worker, class), actions);
        }
    }

    /// New calls of the worker wait from now on; a connection that isn't established yet is dropped.
    pub(super) fn withdraw(&mut self, worker: u32, actions: &mut Actions) {
        let lane = core::mem::take(&mut self.lanes[worker as usize]);
        if let Some(id) = lane.connecting {
            self.forget(id);
            actions.push(Action::Close(id, CloseCause::Unneeded));
        }
        if lane.serving.is_some() {
            self.withdraw_serving(worker, actions);
        }
    }

    fn withdraw_serving(&mut self, worker: u32, actions: &mut Actions) {
        actions.push(Action::Withdraw { worker });
        let on_the_way = |connection: &Connection| {
            let further = matches!(connection.lane, Lane::Further(other, _) if other == worker);
            further && connection.opened_at.is_none()
        };
        self.close_all(on_the_way, CloseCause::Unneeded, actions);
    }

    pub(super) fn close_all(
        &mut self,
        condemned: impl Fn(&Connection) -> bool,
        cause: CloseCause,
        actions: &mut Actions,
    ) {
        let condemned: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| condemned(connection))
            .map(|(id, _)| id)
            .collect();
        for id in condemned {
            self.forget(id);
            actions.push(Action::Close(id, cause));
        }
    }

    /// Removes a connection that no worker uses.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(id) else {
            return;
        };
        for timer in [Timer::Connect(id), Timer::Probe(id), Timer::ProbeAnswer(id)] {
            self.timers.cancel(timer);
        }
        if connection.lane == Lane::Candidate
            && let Some(endpoint) = self.endpoints.get_mut(connection.endpoint)
        {
            endpoint.candidate = None;
        }
    }

    /// A connection has ended badly or never came to be. Its endpoint is to blame, unless no new calls
    /// would have gone there: a former connection says nothing of how its endpoint is now. Nor does a further one while
    /// the worker's own is well; its calls get another.
    pub(super) fn gone(
        &mut self,
        now: Instant,
        id: ConnectionId,
        cause: FailureCause,
        actions: &mut Actions,
    ) {
        let Some(&Connection {
            endpoint,
            lane,
            opened_at,
            ..
        }) = self.connections.get(id)
        else {
            return;
        };
        let in_use = self.leave_lane(id, lane, actions);
        self.forget(id);
        if lane == Lane::Candidate {
            self.fail(now, endpoint, cause, actions);
            self.next_candidate(now, actions);
        } else if in_use {
            self.fail(now, endpoint, cause, actions);
        } else if let Lane::Further(worker, class) = lane
            && opened_at.is_none()
        {
            actions.push(Action::NotJoined { worker, class });
        }
    }

    /// Takes a connection from its worker; returns whether the worker used it or was about to.
    fn leave_lane(&mut self, id: ConnectionId, lane: Lane, actions: &mut Actions) -> bool {
        let Lane::Worker(worker) = lane else {
            return false;
        };
        let state = &mut self.lanes[worker as usize];
        if state.connecting == Some(id) {
            state.connecting = None;
        } else if state.serving == Some(id) {
            state.serving = None;
            self.withdraw_serving(worker, actions);
        } else {
            return false;
        }
        true
    }

    pub(super) fn lost(&mut self, now: Instant, id: ConnectionId, graceful: bool, actions: &mut Actions) {
        let Some(&Connection { lane, .. }) = self.connections.get(id) else {
            return;
        };
        match lane {
            Lane::Worker(worker) if graceful && !self.too_young(now, id) => {
                self.leave_lane(id, lane, actions);
                self.forget(id);
                self.connect_worker(now, worker, actions);
            }
            Lane::Worker(_) if graceful => self.gone(now, id, FailureCause::Refusing, actions),
            Lane::Worker(_) | Lane::Further(..) | Lane::Candidate => {
                self.gone(now, id, FailureCause::Lost, actions);
            }
        }
    }

    /// The worker gets a new connection to the endpoint in use; `id` lives on for its open calls.
    pub(super) fn draining(&mut self, now: Instant, id: ConnectionId, actions: &mut Actions) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let (endpoint, lane) = (connection.endpoint, connection.lane);
        if lane == Lane::Candidate {
            actions.push(Action::Close(id, CloseCause::Unneeded));
            return self.gone(now, id, FailureCause::Refusing, actions);
        }
        connection.draining = true;
        connection.probing = false;
        self.timers.cancel(Timer::Probe(id));
        self.timers.cancel(Timer::ProbeAnswer(id));
        if let Lane::Worker(worker) = lane
            && self.leave_lane(id, lane, actions)
        {
            if self.too_young(now, id) {
                self.fail(now, endpoint, FailureCause::Refusing, actions);
            } else {
                self.connect_worker(now, worker, actions);
            }
        }
    }

    fn too_young(&self, now: Instant, id: ConnectionId) -> bool {
        self.connections[id]
            .opened_at
            .is_none_or(|opened| now < opened + self.config.graceful_age_min)
    }
}
