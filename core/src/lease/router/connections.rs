//! Client connections: what their streams may have together, and when they are read from.

use alloc::collections::VecDeque;

use super::Router;
use super::state::{Connection, ConnectionKey, GroupId, LeaseKey, Share, ShareKey};
use crate::lease::types::{Action, Actions, ClientId};

/// Requests that each connection may have, however many there are.
const REQUESTS_LEAST: usize = 16;

impl Router {
    /// A client stream is opened on this connection.
    pub(super) fn share_of(&mut self, group: GroupId, number: u64) -> (ConnectionKey, ShareKey) {
        let connections = &mut self.connections;
        let connection = *self.by_number.entry(number).or_insert_with(|| {
            connections.insert(Connection {
                number,
                clients: 0,
                requests: 0,
                held: VecDeque::new(),
            })
        });
        let shares = &mut self.shares;
        let share = *self.groups[group].shares.entry(connection).or_insert_with(|| {
            shares.insert(Share {
                group,
                clients: 0,
                rounds: Default::default(),
            })
        });
        self.connections[connection].clients += 1;
        self.shares[share].clients += 1;
        (connection, share)
    }

    /// A client stream with so many requests is gone.
    pub(super) fn leaves(
        &mut self,
        connection: ConnectionKey,
        share: ShareKey,
        requests: usize,
        actions: &mut Actions,
    ) {
        let of_group = &mut self.shares[share];
        of_group.clients -= 1;
        if of_group.clients == 0 {
            let group = of_group.group;
            self.groups[group].shares.remove(&connection);
            self.shares.remove(share);
        }
        self.has_fewer(connection, requests);
        self.connections[connection].clients -= 1;
        if self.connections[connection].clients == 0 {
            self.by_number.remove(&self.connections[connection].number);
            self.connections.remove(connection);
        } else {
            self.read_on(connection, actions);
        }
    }

    /// A client waits for a lease, with one more request.
    pub(super) fn waits(&mut self, id: ClientId, key: LeaseKey) {
        let client = &mut self.clients[id];
        client.requests += 1;
        match client.leases.iter_mut().find(|(lease, _)| *lease == key) {
            Some((_, count)) => *count += 1,
            None => client.leases.push((key, 1)),
        }
        let connection = &mut self.connections[client.connection];
        self.busy += usize::from(connection.requests == 0);
        connection.requests += 1;
    }

    /// So many requests for a lease are answered.
    pub(super) fn waits_no_more(&mut self, id: ClientId, key: LeaseKey, count: usize) {
        let client = &mut self.clients[id];
        client.requests -= count;
        let connection = client.connection;
        if let Some(at) = client.leases.iter().position(|(lease, _)| *lease == key) {
            client.leases[at].1 -= count;
            if client.leases[at].1 == 0 {
                client.leases.swap_remove(at);
            }
        }
        self.has_fewer(connection, count);
    }

    fn has_fewer(&mut self, connection: ConnectionKey, requests: usize) {
        let connection = &mut self.connections[connection];
        connection.requests -= requests;
        self.busy -= usize::from(requests > 0 && connection.requests == 0);
    }

    /// How many requests a connection may have.
    fn allowance(&self) -> usize {
        let most = self.config.connection_requests_max;
        let part = self.config.all_requests_max / self.busy.max(1);
        part.clamp(REQUESTS_LEAST.min(most), most)
    }

    /// Reads no more requests of a client that doesn't take its answers, or waits for too many, or whose connection
    /// does.
    pub(super) fn pause(&mut self, id: ClientId, actions: &mut Actions) {
        let allowance = self.allowance();
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        let connection = &mut self.connections[client.connection];
        if connection.requests >= allowance && !core::mem::replace(&mut client.is_held, true) {
            connection.held.push_back(id);
        }
        let is_full = client.outbox_bytes >= self.config.outbox_bytes_max;
        let has_many = client.requests >= self.config.requests_max;
        if !client.is_paused && (is_full || has_many || client.is_held) {
            client.is_paused = true;
            actions.push(Action::PauseClient(id));
        }
    }

    /// Reads requests again when there is room for some. Every answer is taken some time after it was given, so this is
    /// called when that happens, and when the connection may have more.
    pub(super) fn resume(&mut self, id: ClientId, actions: &mut Actions) {
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        let has_room = client.outbox_bytes <= self.config.outbox_bytes_max / 2
            && client.requests <= self.config.requests_max / 2;
        if client.is_paused && has_room && !client.is_held {
            client.is_paused = false;
            actions.push(Action::ResumeClient(id));
        }
    }

    /// Reads from the streams of a connection again, once it has half of what it may have, one after the other as far as
    /// there is room: each may send a request before it is paused again.
    pub(super) fn read_on(&mut self, key: ConnectionKey, actions: &mut Actions) {
        let connection = &self.connections[key];
        if connection.held.is_empty() {
            return;
        }
        let allowance = self.allowance();
        if connection.requests > allowance / 2 {
            return;
        }
        for _ in 0..allowance - connection.requests {
            let Some(id) = self.connections[key].held.pop_front() else {
                return;
            };
            self.clients[id].is_held = false;
            self.resume(id, actions);
        }
    }
}
