//! Streams to servers: opened when there is something to send, given up when they don't answer.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::Router;
use super::state::{GroupId, Lane, Lease, LeaseKey, State, Timer, Upstream};
use crate::grpc::Code;
use crate::lease::types::{Action, Actions, ClientId, Status, UpstreamId};
use crate::time::Instant;

impl Router {
    /// Opens a stream, if it is time for it; if not, the group is looked after again then.
    pub(super) fn open_stream(
        &mut self,
        now: Instant,
        id: GroupId,
        lane: Lane,
        requires_leader: bool,
        actions: &mut Actions,
    ) -> bool {
        let group = &mut self.groups[id];
        if now < group.not_before {
            self.timers.set(Timer::Reopen(id), group.not_before);
            return false;
        }
        let upstream = self.upstreams.insert(Upstream {
            group: id,
            lane,
            requires_leader,
            opened_at: None,
            in_flight: BTreeMap::new(),
            answered_at: None,
            used_at: now,
            guard: None,
        });
        group.streams[lane.index()].push(upstream);
        self.timers.set(Timer::Linger(upstream), now + self.config.linger);
        actions.push(Action::OpenUpstream {
            upstream,
            credentials: group.credentials.clone(),
            require_leader: requires_leader,
        });
        true
    }

    pub(super) fn upstream_opened(&mut self, now: Instant, id: UpstreamId) {
        if let Some(upstream) = self.upstreams.get_mut(id) {
            upstream.opened_at.get_or_insert(now);
            let group = upstream.group;
            self.stir(group);
        }
    }

    fn remove_stream(&mut self, id: UpstreamId) -> Option<Upstream> {
        let upstream = self.upstreams.remove(id)?;
        self.groups[upstream.group].streams[upstream.lane.index()].retain(|stream| *stream != id);
        self.timers.cancel(Timer::Linger(id));
        self.timers.cancel(Timer::Stall(id));
        self.stir(upstream.group);
        Some(upstream)
    }

    /// A stream that carries nothing for a while is closed, but for the one by which a group is served.
    pub(super) fn linger_timer(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        let upstream = &self.upstreams[id];
        let group = &self.groups[upstream.group];
        let is_first = group.streams[Lane::Shared.index()].first() == Some(&id) && upstream.requires_leader;
        let mut end = upstream.used_at + self.config.linger;
        let is_used = !upstream.in_flight.is_empty() || upstream.opened_at.is_none();
        if is_used || (is_first && !group.clients.is_empty()) {
            end = now + self.config.linger;
        }
        if end > now {
            self.timers.set(Timer::Linger(id), end);
        } else if self.remove_stream(id).is_some() {
            actions.push(Action::CloseUpstream(id));
        }
    }

    /// A heartbeat alone that nobody waits for any more isn't waited for.
    pub(super) fn close_if_unheard(&mut self, id: UpstreamId, key: LeaseKey, actions: &mut Actions) {
        let lease = &self.leases[key];
        let is_unheard = lease.askers.is_empty() && lease.late_askers.is_empty();
        let is_patient = |upstream: &Upstream| !upstream.requires_leader && upstream.in_flight.len() == 1;
        let is_alone = |upstream: &Upstream| upstream.lane == Lane::Alone || is_patient(upstream);
        if is_unheard && self.upstreams.get(id).is_some_and(is_alone) {
            self.remove_stream(id);
            actions.push(Action::CloseUpstream(id));
            self.leases[key].state = State::Idle;
            self.arm_or_forget(key);
        }
    }

    /// How long a stream may stay without answer.
    pub(super) fn stall_time(&self, id: UpstreamId) -> Duration {
        let upstream = &self.upstreams[id];
        let group = &self.groups[upstream.group];
        let base = self.config.stall.max(group.round_trip * 4);
        let max = self.config.stall_max.max(base);
        match upstream.lane {
            // Its server waits for a leader, and tells when it doesn't any more.
            _ if !upstream.requires_leader => self.config.answer_timeout * 2 + max,
            Lane::Shared | Lane::Doubtful => base.saturating_mul(1 << group.stalls.min(16)).min(max),
            Lane::Alone => base * ALONE_FACTOR,
        }
    }

    /// Makes sure that the stall timer of a stream fires then, or earlier.
    pub(super) fn guard(&mut self, id: UpstreamId, due: Instant) {
        let upstream = &mut self.upstreams[id];
        if upstream.guard.is_none_or(|at| at > due) {
            upstream.guard = Some(due);
            self.timers.set(Timer::Stall(id), due);
        }
    }

    /// A heartbeat stays without answer, and so does all that follows it. What follows is sent again, on a stream
    /// without it; so this one must be closed, or heartbeats would be carried out that nobody waits for any more. One
    /// that is alone is sent again too, much later: it may be the stream that is at fault.
    pub(super) fn stall_timer(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        let upstream = &mut self.upstreams[id];
        upstream.guard = None;
        let (group, lane) = (upstream.group, upstream.lane);
        let first = upstream.in_flight.first_key_value().map(|(_, key)| *key);
        let sent_at = first.and_then(|key| self.leases[key].sent_at());
        let (Some(key), Some(sent_at)) = (first, sent_at) else {
            return;
        };
        let since = upstream.answered_at.map_or(sent_at, |at| at.max(sent_at));
        let due = since + self.stall_time(id);
        if due > now {
            self.guard(id, due);
            return;
        }
        if lane == Lane::Alone {
            actions.push(Action::CloseUpstream(id));
            self.send_again(now, id);
            return;
        }
        self.stats.stalls += 1;
        self.groups[group].stalls += 1;
        self.suspect(now, key);
        let alone = &self.groups[group].streams[Lane::Alone.index()];
        if self.upstreams[id].in_flight.len() == 1 && alone.len() < self.config.alone_max {
            // It is alone as it is.
            let upstream = &mut self.upstreams[id];
            let streams = &mut self.groups[group].streams;
            streams[upstream.lane.index()].retain(|stream| *stream != id);
            streams[Lane::Alone.index()].push(id);
            upstream.lane = Lane::Alone;
            let due = since + self.stall_time(id);
            self.guard(id, due.max(now));
            self.stir(group);
            self.close_if_unheard(id, key, actions);
        } else {
            actions.push(Action::CloseUpstream(id));
            self.send_again(now, id);
        }
    }

    /// From now on its heartbeats are sent alone, and leases that were never renewed aren't trusted for a while.
    fn suspect(&mut self, now: Instant, key: LeaseKey) {
        let lease = &mut self.leases[key];
        lease.is_suspect = true;
        self.groups[lease.group].careful_until = Some(now + self.config.careful);
    }

    /// Gives up a stream whose server doesn't do what a server does.
    pub(super) fn give_up(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        actions.push(Action::CloseUpstream(id));
        self.failed(now, id);
        self.send_again(now, id);
    }

    /// A stream is on a connection that isn't in use any more. What isn't answered is sent again where calls go now: the
    /// member may be left without leader by now, and says of all clients' calls then what is true of this one only.
    pub(super) fn upstream_superseded(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        if self.upstreams.contains_key(id) {
            actions.push(Action::CloseUpstream(id));
            self.send_again(now, id);
        }
    }

    pub(super) fn upstream_ended(
        &mut self,
        now: Instant,
        id: UpstreamId,
        status: &Status,
        actions: &mut Actions,
    ) {
        let Some(upstream) = self.upstreams.get(id) else {
            return;
        };
        let (group, count) = (upstream.group, upstream.in_flight.len());
        let first = upstream.in_flight.first_key_value().map(|(_, key)| *key);
        let grace = self.config.leader_grace;
        let was_long = upstream.opened_at.is_some_and(|at| at + grace <= now);
        let required_leader = upstream.requires_leader;
        match (Blame::of(status), first) {
            (Blame::Leader, _) => {
                self.failed(now, id);
                let in_vain = self.in_vain(now, id);
                self.send_again(now, id);
                self.leader_lost(now, group, was_long, status, actions);
                for client in in_vain {
                    if self.clients.contains_key(client) {
                        self.stats.leaderless += 1;
                        self.end_client(client, status.clone(), actions);
                    }
                }
            }
            (Blame::Credentials, Some(_)) => {
                self.send_again(now, id);
                self.refuse_all(group, status, actions);
            }
            (Blame::Lease, Some(key)) => {
                self.suspect(now, key);
                self.send_again(now, id);
                if count == 1 {
                    self.refuse(key, status, actions);
                }
            }
            (Blame::Stream, _) | (_, None) => {
                self.failed(now, id);
                self.send_again(now, id);
                if was_long && required_leader {
                    // There was a leader, or the server would have said so.
                    self.groups[group].leaderless_since = None;
                }
            }
        }
    }

    /// Waits before the next stream is opened, unless this one has answered something.
    fn failed(&mut self, now: Instant, id: UpstreamId) {
        let upstream = &self.upstreams[id];
        let group = upstream.group;
        // Streams that are lost together count once.
        if upstream.answered_at.is_none() && self.groups[group].not_before <= now {
            let failures = self.groups[group].failures;
            let wait = self.backoff(failures);
            let group = &mut self.groups[group];
            group.failures = failures.saturating_add(1);
            group.not_before = now + wait;
        }
    }

    /// A stream is gone. What wasn't answered and is still waited for is queued again where it was.
    fn send_again(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.remove_stream(id) else {
            return;
        };
        for key in upstream.in_flight.into_values() {
            let lease = &mut self.leases[key];
            lease.state = State::Idle;
            // The next heartbeat is for all of them.
            let late = core::mem::take(&mut lease.late_askers);
            lease.askers.extend(late);
            if lease.askers.is_empty() {
                self.arm_or_forget(key);
            } else {
                self.stats.resent += 1;
                self.requeue(now, key);
            }
        }
    }

    /// A lease that nobody waits for is remembered until its end.
    pub(super) fn arm_or_forget(&mut self, key: LeaseKey) {
        self.forget_if_idle(key);
        if self.leases.contains_key(key) {
            self.arm(key);
        }
    }

    /// Ends the streams of all who wait for a lease.
    fn refuse(&mut self, key: LeaseKey, status: &Status, actions: &mut Actions) {
        let askers = self.leases.get(key).map(Lease::clients);
        for client in askers.into_iter().flatten() {
            self.refuse_client(client, status, actions);
        }
    }

    /// Ends the streams of all who wait for something.
    fn refuse_all(&mut self, group: GroupId, status: &Status, actions: &mut Actions) {
        let clients: Vec<ClientId> = self.groups[group].clients.iter().copied().collect();
        for client in clients {
            if self.clients[client].requests > 0 {
                self.refuse_client(client, status, actions);
            }
        }
    }

    fn refuse_client(&mut self, client: ClientId, status: &Status, actions: &mut Actions) {
        if self.clients.contains_key(client) {
            self.stats.refused += 1;
            self.end_client(client, status.clone(), actions);
        }
    }

    /// A server has waited for a leader as long as it does for one heartbeat, and answers none of those on the stream. Those
    /// who have waited for about as long are to be told, as each of them would be by itself.
    fn in_vain(&self, now: Instant, id: UpstreamId) -> Vec<ClientId> {
        let upstream = &self.upstreams[id];
        let least = self.config.answer_timeout / 2;
        let mut clients = Vec::new();
        for key in upstream.in_flight.values().filter(|_| !upstream.requires_leader) {
            let lease = &self.leases[*key];
            let askers = lease.askers.iter().chain(&lease.late_askers);
            let waited = askers.filter(|asker| asker.since + least <= now);
            clients.extend(waited.map(|asker| asker.client));
        }
        clients
    }

    /// A server has no leader. It refuses new streams at once, and ends others when that has lasted for a while; so
    /// those who never saw a leader are told at once, and the others too if the server has waited, or when the router
    /// has. It may have been asked because another one was lost: then there will be a leader soon.
    fn leader_lost(
        &mut self,
        now: Instant,
        id: GroupId,
        was_long: bool,
        status: &Status,
        actions: &mut Actions,
    ) {
        let grace = self.config.leader_grace;
        let group = &mut self.groups[id];
        let since = *group.leaderless_since.get_or_insert(now);
        let is_over = was_long || since + grace <= now;
        let leader_seen = group.leader_seen;
        let clients: Vec<ClientId> = group.clients.iter().copied().collect();
        for client in clients {
            let state = &self.clients[client];
            let saw_one = leader_seen.is_some_and(|at| at >= state.opened_at);
            if state.require_leader && (is_over || !saw_one) {
                self.stats.leaderless += 1;
                self.end_client(client, status.clone(), actions);
            }
        }
    }
}

/// A heartbeat alone has so many times as long for its answer as one that others wait behind. What holds up a server is
/// over in a second.
const ALONE_FACTOR: u32 = 8;

/// What a stream's end is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// The stream, its connection or its server.
    Stream,
    /// The cluster has no leader.
    Leader,
    /// Who sent it.
    Credentials,
    /// What was sent.
    Lease,
}

impl Blame {
    fn of(status: &Status) -> Self {
        match Code::of_number(status.code) {
            _ if status.is_no_leader() => Self::Leader,
            // Of a server or by itself.
            Some(Code::Unavailable) => Self::Stream,
            // What no server says unless it was told to; and what came was no gRPC.
            Some(Code::Ok | Code::Cancelled | Code::Internal) => Self::Stream,
            // No user where one is needed, or a token that is too old.
            Some(Code::InvalidArgument | Code::Unauthenticated) => Self::Credentials,
            _ => Self::Lease,
        }
    }
}
