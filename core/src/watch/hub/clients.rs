//! Client streams: their requests, their outboxes, their ends.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::Hub;
use super::state::{Client, Place, Step, Timer, Watcher, WatcherId};
use super::work::Work;
use crate::time::Instant;
use crate::watch::types::{Action, Actions, Caller, ClientId, Frame, Header, Status};
use crate::watch::wire::request::Request;
use crate::watch::wire::write;

impl Hub {
    pub(super) fn open_client(&mut self, caller: Caller, actions: &mut Actions) -> ClientId {
        let require_leader = caller.require_leader;
        let id = self.clients.insert(Client {
            caller,
            watchers: BTreeMap::new(),
            next_id: 0,
            steps: VecDeque::new(),
            creating: 0,
            ids_wanted: BTreeMap::new(),
            queued: 0,
            took: 0,
            lagging: VecDeque::new(),
            is_draining: false,
            is_stepping: false,
            behind: 0,
            doubted: 0,
            shares: BTreeMap::new(),
            starts: BTreeMap::new(),
            paused: false,
            revision: 0,
            progress: None,
            catching_up: 0,
            deferred: BTreeSet::new(),
            is_resuming: false,
        });
        if require_leader {
            self.leader_clients.insert(id);
            self.open_leader_stream(actions);
        }
        id
    }

    pub(super) fn client_sent(&mut self, now: Instant, id: ClientId, message: &Bytes, actions: &mut Actions) {
        if !self.clients.contains_key(id) {
            return;
        }
        match Request::read(message) {
            Ok(Request::Create(create)) => self.create(now, id, create, actions),
            Ok(Request::Cancel(wire_id)) => self.cancel_request(id, wire_id, actions),
            Ok(Request::Progress) => self.progress_request(now, id, actions),
            Ok(Request::Unset) => {}
            Err(malformed) => self.end_client(id, malformed.status(), actions),
        }
        self.pause(id, actions);
    }

    /// A watcher that is there is cancelled at once, unless that would change what becomes of a request before this one:
    /// of one that asks for the same id, or for any that is free. One that is about to be created is cancelled in its turn.
    fn cancel_request(&mut self, id: ClientId, wire_id: i64, actions: &mut Actions) {
        let client = &mut self.clients[id];
        let may_be_given = wire_id >= client.next_id && client.ids_wanted.contains_key(&0);
        let is_wanted = may_be_given || (wire_id != 0 && client.ids_wanted.contains_key(&wire_id));
        match client.watchers.get(&wire_id).copied() {
            Some(watcher) if !is_wanted => self.canceled(watcher, 0, "", actions),
            _ if client.creating > 0 => client.steps.push_back(Step::Cancel(wire_id)),
            _ => {}
        }
    }

    /// Tells a client that its watcher is gone, and forgets it. `compacted` is 0 if that isn't the reason.
    pub(super) fn canceled(&mut self, id: WatcherId, compacted: i64, reason: &str, actions: &mut Actions) {
        self.tell_canceled(id, compacted, reason, actions);
        self.remove_watcher(id, actions);
    }

    /// Tells a client that its watcher is gone. It must be forgotten then.
    pub(super) fn tell_canceled(
        &mut self,
        id: WatcherId,
        compacted: i64,
        reason: &str,
        actions: &mut Actions,
    ) {
        let watcher = &self.watchers[id];
        let (client, wire_id) = (watcher.client, watcher.wire_id);
        let mut header = self.header_for(client, self.header);
        if compacted > 0 {
            // So does etcd.
            header.revision = 0;
        }
        let frame = write::canceled(header, wire_id, compacted, reason);
        self.deliver(client, frame, header.revision, actions);
        self.clients[client].watchers.remove(&wire_id);
    }

    /// A header whose revision isn't below one that the client has seen.
    pub(super) fn header_for(&self, client: ClientId, header: Header) -> Header {
        let seen = self.clients.get(client).map_or(0, |client| client.revision);
        Header {
            revision: header.revision.max(seen),
            ..header
        }
    }

    pub(super) fn deliver(&mut self, id: ClientId, frame: Frame, revision: i64, actions: &mut Actions) {
        let client = &mut self.clients[id];
        client.queued += frame.len();
        client.revision = client.revision.max(revision);
        self.stats.outbox_bytes += frame.len();
        actions.push(Action::Deliver(id, frame));
    }

    /// Whether what a watcher was sent is still in its client's outbox, and not just a little.
    pub(super) fn has_unsent(&self, watcher: &Watcher) -> bool {
        let client = self.clients.get(watcher.client);
        client.is_some_and(|client| {
            client.took < watcher.sent && watcher.unsent >= self.config.unsent_revisions_max
        })
    }

    /// Whether events for the client have to wait, or it is gone and its watchers are yet to be forgotten.
    pub(super) fn is_full(&self, id: ClientId) -> bool {
        let client = self.clients.get(id);
        client.is_none_or(|client| client.queued >= self.outbox_limit())
    }

    /// How many bytes may wait for a client before it is full.
    fn outbox_limit(&self) -> usize {
        let max = self.config.outbox_bytes_max;
        let half = self.config.outbox_bytes_total_max / 2;
        if self.stats.outbox_bytes < half {
            max
        } else {
            max.min(half / self.clients.len().max(1)).max(1)
        }
    }

    pub(super) fn client_took(&mut self, id: ClientId, bytes: usize, actions: &mut Actions) {
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        let bytes = bytes.min(client.queued);
        client.queued -= bytes;
        client.took += bytes as u64;
        self.stats.outbox_bytes -= bytes;
        if self.clients[id].queued > self.outbox_limit() / 2 {
            return;
        }
        // There may always be something waiting for it.
        self.resume(id, actions);
        let client = &mut self.clients[id];
        if !client.lagging.is_empty() && !core::mem::replace(&mut client.is_draining, true) {
            self.begin(Work::Drain(id));
        }
    }

    /// Has the next watcher in line go on, as long as its client has room and what it was sent has left. Whether there may be
    /// another one.
    pub(super) fn drain_one(&mut self, now: Instant, id: ClientId, actions: &mut Actions) -> bool {
        let Some(client) = self.clients.get(id) else {
            return false;
        };
        let next = client.lagging.front().and_then(|next| self.watchers.get(*next));
        let has_to_wait = next.is_some_and(|next| self.has_unsent(next));
        let client = &mut self.clients[id];
        let next = client.lagging.pop_front_if(|_| !has_to_wait);
        let Some(watcher) = next else {
            client.is_draining = false;
            return false;
        };
        if let Some(state) = self.watchers.get_mut(watcher) {
            state.is_in_line = false;
            if matches!(state.place, Place::Lagging) {
                self.advance(now, watcher, actions);
            }
        }
        if self.is_full(id) {
            self.clients[id].is_draining = false;
            return false;
        }
        true
    }

    /// Reads no more requests of a client that doesn't take its answers, or waits for too many.
    pub(super) fn pause(&mut self, id: ClientId, actions: &mut Actions) {
        let limit = self.outbox_limit();
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        let too_many = client.steps.len() >= self.config.requests_max.max(1);
        if !client.paused && (too_many || client.queued >= limit) {
            client.paused = true;
            actions.push(Action::PauseClient(id));
        }
    }

    /// Reads requests again when there is room for some.
    pub(super) fn resume(&mut self, id: ClientId, actions: &mut Actions) {
        let limit = self.outbox_limit();
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        let few = client.steps.len() <= self.config.requests_max / 2;
        if client.paused && few && client.queued <= limit / 2 {
            client.paused = false;
            actions.push(Action::ResumeClient(id));
        }
    }

    pub(super) fn end_client(&mut self, id: ClientId, status: Status, actions: &mut Actions) {
        if self.clients.contains_key(id) {
            actions.push(Action::EndClient(id, status));
            self.client_gone(id, actions);
        }
    }

    /// Forgets a client. Its watchers get nothing any more, and are forgotten one by one.
    pub(super) fn client_gone(&mut self, id: ClientId, actions: &mut Actions) {
        let Some(client) = self.clients.remove(id) else {
            return;
        };
        self.stats.outbox_bytes -= client.queued;
        if !client.deferred.is_empty() {
            // Others may wait for them.
            self.begin(Work::CatchUp(client.deferred.into_iter()));
        }
        let created = client.watchers.into_values();
        let starting = client.steps.into_iter();
        if created.len() + starting.len() > 0 {
            self.begin(Work::Forget { created, starting });
        }
        self.wishing.remove(&id);
        self.timers.cancel(Timer::Progress(id));
        if self.leader_clients.remove(&id) && self.leader_clients.is_empty() {
            self.close_leader_stream(actions);
        }
    }
}
