//! Leases: who waits for them, for how long, and what is known of them.

use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::Router;
use super::state::{Asker, Group, GroupId, Lease, LeaseKey, State, Timer};
use super::turns::QueueKind;
use crate::grpc::Code;
use crate::lease::types::{Actions, ClientId, Config, Status};
use crate::time::Instant;

impl Router {
    /// A client asks for a renewal.
    pub(super) fn request(
        &mut self,
        now: Instant,
        client: ClientId,
        id: i64,
        message: Bytes,
        actions: &mut Actions,
    ) {
        self.stats.heartbeats_in += 1;
        let group = self.clients[client].group;
        let key = self.lease_of(now, group, id);
        let lease = &mut self.leases[key];
        if let Some(frame) = lease.shareable(now, &self.config) {
            self.stats.shared += 1;
            self.count_latency(Duration::ZERO, 1);
            self.deliver(client, frame, actions);
            return;
        }
        if lease.message != message {
            // A copy, because the message may be part of a much larger buffer.
            lease.message = Bytes::copy_from_slice(&message);
        }
        let state = lease.state;
        let askers = match state {
            State::InFlight { .. } => &mut lease.late_askers,
            State::Queued(_) | State::Idle => &mut lease.askers,
        };
        let is_first = askers.is_empty();
        let asker = Asker {
            client,
            since: now,
            count: 1,
        };
        match askers.last_mut() {
            Some(last) if last.client == client => last.count += 1,
            _ => askers.push(asker),
        }
        let due = lease.deadline(&asker, &self.config);
        self.waits(client, key);
        self.stats.shared += u64::from(!is_first);
        match state {
            State::Idle => self.queue(now, key),
            State::Queued(_) => self.advance(key, self.clients[client].share),
            State::InFlight { .. } => {}
        }
        self.arm_at(key, due);
        self.stir(group);
    }

    fn lease_of(&mut self, now: Instant, group: GroupId, id: i64) -> LeaseKey {
        if let Some(key) = self.groups[group].leases.get(&id) {
            return *key;
        }
        let key = self.leases.insert(Lease {
            group,
            id,
            message: Bytes::new(),
            state: State::Idle,
            number: 0,
            place: None,
            queued_at: now,
            askers: Vec::new(),
            late_askers: Vec::new(),
            renewal: None,
            is_suspect: false,
            timer: None,
        });
        self.groups[group].leases.insert(id, key);
        key
    }

    /// Forgets a lease that nobody waits for, unless its end is known and yet to come.
    pub(super) fn forget_if_idle(&mut self, key: LeaseKey) {
        let lease = &self.leases[key];
        let is_known = lease.renewal.is_some();
        if lease.state != State::Idle || (is_known && self.leases.len() <= self.config.leases_max) {
            return;
        }
        self.timers.cancel(Timer::Lease(key));
        if let Some(lease) = self.leases.remove(key) {
            self.groups[lease.group].leases.remove(&lease.id);
            self.stir(lease.group);
        }
    }

    /// Wants it no more.
    pub(super) fn unqueue(&mut self, key: LeaseKey) {
        if matches!(self.leases[key].state, State::Queued(_)) {
            self.leave_queue(key, false);
            self.leases[key].state = State::Idle;
            self.forget_if_idle(key);
        }
    }

    /// Makes sure that the timer of a lease fires when the first who waits has waited for too long, or when the lease
    /// may be forgotten.
    pub(super) fn arm(&mut self, key: LeaseKey) {
        let due = self.leases[key].due(&self.config);
        self.arm_at(key, due);
    }

    /// A timer that fires earlier is left alone: it would be moved with each heartbeat.
    fn arm_at(&mut self, key: LeaseKey, due: Instant) {
        let lease = &mut self.leases[key];
        if lease.timer.is_none_or(|at| at > due) {
            lease.timer = Some(due);
            self.timers.set(Timer::Lease(key), due);
        }
    }

    pub(super) fn lease_timer(&mut self, now: Instant, key: LeaseKey, actions: &mut Actions) {
        let lease = &mut self.leases[key];
        lease.timer = None;
        let askers = lease.askers.iter().chain(&lease.late_askers);
        let overdue = askers.filter(|asker| lease.deadline(asker, &self.config) <= now);
        let overdue: Vec<ClientId> = overdue.map(|asker| asker.client).collect();
        let group = lease.group;
        if overdue.is_empty() && lease.state == State::Idle && lease.due(&self.config) <= now {
            lease.renewal = None;
            self.forget_if_idle(key);
            return;
        }
        let is_leaderless = self.groups[group].leaderless_since.is_some();
        for client in overdue {
            if self.clients.contains_key(client) {
                self.stats.timed_out += 1;
                let status = if is_leaderless {
                    Status::NO_LEADER
                } else {
                    Status::of(Code::Unavailable, "etcdserver: request timed out")
                };
                self.end_client(client, status, actions);
            }
        }
        // Those were perhaps the last who knew it.
        let is_wanted = |lease: &Lease| !lease.askers.is_empty() || !lease.late_askers.is_empty();
        let lease = self.leases.get(key);
        if lease.is_some_and(|lease| lease.state == State::Idle || is_wanted(lease)) {
            self.arm(key);
        }
    }
}

impl Lease {
    /// When the heartbeat that is on its way was sent.
    pub(super) const fn sent_at(&self) -> Option<Instant> {
        match self.state {
            State::InFlight { sent_at, .. } => Some(sent_at),
            State::Queued(_) | State::Idle => None,
        }
    }

    /// Where its heartbeat belongs.
    pub(super) fn queue(&self, now: Instant, group: &Group, config: &Config) -> QueueKind {
        // On its way some time passes.
        let then = now + config.patience_min + group.round_trip;
        match &self.renewal {
            _ if self.is_suspect => QueueKind::Alone,
            Some(renewal) if renewal.end() <= then => QueueKind::Doubtful,
            None if group.careful_until.is_some_and(|until| now < until) => QueueKind::Doubtful,
            Some(_) => QueueKind::Proven,
            None => QueueKind::New,
        }
    }

    /// Whether its heartbeat, which waits since then, has waited for so long that another stream should be opened.
    pub(super) fn is_late(&self, now: Instant, since: Instant, group: &Group, config: &Config) -> bool {
        let patience = match &self.renewal {
            Some(renewal) => (renewal.ttl / 8).clamp(config.patience_min, config.patience_max),
            None => config.patience_max / 2,
        };
        since + patience.max(group.round_trip * 2) < now
    }

    /// Until when somebody waits: as long as the lease may live, as far as is known, and at least for as long as a
    /// server would try, or for one TTL.
    fn deadline(&self, asker: &Asker, config: &Config) -> Instant {
        let (end, least) = match &self.renewal {
            Some(renewal) => (renewal.end(), config.answer_timeout.min(renewal.ttl)),
            None => (Instant::ZERO, config.answer_timeout),
        };
        end.max(asker.since + least).min(asker.since + config.wait_max)
    }

    /// When there is something to do about it: the first deadline, or if nobody waits its end, and a while.
    fn due(&self, config: &Config) -> Instant {
        let askers = self.askers.iter().chain(&self.late_askers);
        let first = askers.map(|asker| self.deadline(asker, config)).min();
        first.unwrap_or_else(|| match &self.renewal {
            Some(renewal) => renewal.end() + config.linger,
            None => self.queued_at,
        })
    }

    /// Those who wait for it.
    pub(super) fn clients(&self) -> Vec<ClientId> {
        let askers = self.askers.iter().chain(&self.late_askers);
        askers.map(|asker| asker.client).collect()
    }

    /// The last answer, if it may be given once more. Whoever comes when a heartbeat is wanted anyway waits for that.
    fn shareable(&self, now: Instant, config: &Config) -> Option<Bytes> {
        if self.state != State::Idle {
            return None;
        }
        let renewal = self.renewal.as_ref()?;
        let is_fresh = now.saturating_since(renewal.sent_at) <= config.share_within?;
        renewal.frame.clone().filter(|_| is_fresh)
    }
}
