//! Client streams: their requests, their outboxes, their ends.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::Router;
use super::state::{Client, Group, GroupId, State};
use crate::lease::types::{Action, Actions, Caller, ClientId, Heartbeat, Status};
use crate::time::Instant;

impl Router {
    pub(super) fn open_client(&mut self, now: Instant, caller: Caller) -> ClientId {
        let group = self.group_of(now, caller.credentials);
        let (connection, share) = self.share_of(group, caller.connection);
        let id = self.clients.insert(Client {
            group,
            connection,
            share,
            require_leader: caller.require_leader,
            opened_at: now,
            leases: Vec::new(),
            requests: 0,
            outbox_bytes: 0,
            is_half_closed: false,
            is_paused: false,
            is_held: false,
        });
        let state = &mut self.groups[group];
        state.clients.insert(id);
        state.leader_clients += usize::from(caller.require_leader);
        self.stir(group);
        id
    }

    fn group_of(&mut self, now: Instant, credentials: Option<Bytes>) -> GroupId {
        if let Some(id) = self.by_credentials.get(&credentials) {
            return *id;
        }
        let id = self.groups.insert(Group {
            credentials: credentials.clone(),
            clients: BTreeSet::new(),
            leader_clients: 0,
            shares: BTreeMap::new(),
            leases: BTreeMap::new(),
            streams: [const { Vec::new() }; 3],
            queues: Default::default(),
            turns: 0,
            is_stirred: false,
            slow_since: [None; 3],
            spread_until: [None; 3],
            failures: 0,
            not_before: now,
            stalls: 0,
            careful_until: None,
            round_trip: Duration::ZERO,
            leader_seen: None,
            leaderless_since: None,
        });
        self.by_credentials.insert(credentials, id);
        id
    }

    pub(super) fn client_sent(
        &mut self,
        now: Instant,
        id: ClientId,
        heartbeat: Heartbeat,
        actions: &mut Actions,
    ) {
        if !self.clients.contains_key(id) {
            return;
        }
        match heartbeat.lease {
            Ok(lease) => self.request(now, id, lease, heartbeat.message, actions),
            Err(malformed) => self.end_client(id, malformed.status(), actions),
        }
        self.pause(id, actions);
    }

    /// As on a server: what was asked is answered, then the stream ends.
    pub(super) fn client_half_closed(&mut self, id: ClientId, actions: &mut Actions) {
        if let Some(client) = self.clients.get_mut(id) {
            client.is_half_closed = true;
            self.end_if_done(id, actions);
        }
    }

    pub(super) fn end_if_done(&mut self, id: ClientId, actions: &mut Actions) {
        let is_done = |client: &Client| client.is_half_closed && client.requests == 0;
        if self.clients.get(id).is_some_and(is_done) {
            self.end_client(id, Status::OK, actions);
        }
    }

    pub(super) fn deliver(&mut self, id: ClientId, frame: Bytes, actions: &mut Actions) {
        let client = &mut self.clients[id];
        client.outbox_bytes += frame.len();
        self.stats.outbox_bytes += frame.len();
        self.stats.answers += 1;
        actions.push(Action::Deliver(id, frame));
    }

    pub(super) fn client_took(&mut self, id: ClientId, bytes: usize, actions: &mut Actions) {
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        let bytes = bytes.min(client.outbox_bytes);
        client.outbox_bytes -= bytes;
        self.stats.outbox_bytes -= bytes;
        self.resume(id, actions);
    }

    pub(super) fn end_client(&mut self, id: ClientId, status: Status, actions: &mut Actions) {
        actions.push(Action::EndClient(id, status));
        self.client_gone(id, actions);
    }

    /// Heartbeats that only this client wanted, and that haven't been sent, never will be.
    pub(super) fn client_gone(&mut self, id: ClientId, actions: &mut Actions) {
        let Some(client) = self.clients.remove(id) else {
            return;
        };
        self.stats.outbox_bytes -= client.outbox_bytes;
        let group = &mut self.groups[client.group];
        group.clients.remove(&id);
        group.leader_clients -= usize::from(client.require_leader);
        for (key, _) in client.leases {
            let lease = &mut self.leases[key];
            lease.askers.retain(|asker| asker.client != id);
            lease.late_askers.retain(|asker| asker.client != id);
            match lease.state {
                State::Queued(_) if lease.askers.is_empty() => self.unqueue(key),
                State::InFlight { upstream, .. } => self.close_if_unheard(upstream, key, actions),
                State::Queued(_) | State::Idle => {}
            }
        }
        self.stir(client.group);
        if client.is_held {
            let connection = &mut self.connections[client.connection];
            connection.held.retain(|held| *held != id);
        }
        self.leaves(client.connection, client.share, client.requests, actions);
    }
}
