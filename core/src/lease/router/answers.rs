//! Answers, on their way to those who wait for them.

use core::time::Duration;

use bytes::Bytes;

use super::Router;
use super::state::{Asker, LeaseKey, Renewal, State};
use crate::grpc::framed;
use crate::lease::types::{Actions, LATENCY_BOUNDS, UpstreamId};
use crate::lease::wire::Answer;
use crate::time::Instant;

impl Router {
    pub(super) fn upstream_sent(
        &mut self,
        now: Instant,
        id: UpstreamId,
        message: &Bytes,
        actions: &mut Actions,
    ) {
        let Some(upstream) = self.upstreams.get_mut(id) else {
            return;
        };
        let group = upstream.group;
        let Ok(answer) = Answer::read(message) else {
            // It doesn't do what a server does.
            self.give_up(now, id, actions);
            return;
        };
        // A server answers in order, but another proxy in its place needn't: what counts is the lease.
        let key = self.groups[group].leases.get(&answer.id).copied();
        let asked = key.and_then(|key| match self.leases[key].state {
            State::InFlight {
                upstream,
                number,
                sent_at,
            } if upstream == id => Some((key, number, sent_at)),
            State::InFlight { .. } | State::Queued(_) | State::Idle => None,
        });
        let Some((key, number, sent_at)) = asked else {
            self.stats.strays += 1;
            return;
        };
        self.revision = self.revision.max(answer.revision);
        self.learn_round_trip(now, id, sent_at, answer.ttl > 0);
        let upstream = &mut self.upstreams[id];
        upstream.in_flight.remove(&number);
        upstream.answered_at = Some(now);
        upstream.used_at = now;
        let group = &mut self.groups[group];
        group.failures = 0;
        group.stalls = 0;
        group.leader_seen = Some(now);
        group.leaderless_since = None;
        self.answered(now, key, sent_at, answer, message, actions);
    }

    /// What tells of an end may have been held up until then.
    fn learn_round_trip(&mut self, now: Instant, id: UpstreamId, sent_at: Instant, is_renewed: bool) {
        let upstream = &self.upstreams[id];
        let group = &mut self.groups[upstream.group];
        let took = now - sent_at;
        // With others before it, it may have waited for them.
        let was_alone = upstream.answered_at.is_none_or(|at| at <= sent_at);
        if took < group.round_trip || (is_renewed && was_alone && upstream.in_flight.len() == 1) {
            group.round_trip = took;
        }
    }

    /// All who asked before the heartbeat was sent have their answer, and those who came later their turn.
    fn answered(
        &mut self,
        now: Instant,
        key: LeaseKey,
        sent_at: Instant,
        answer: Answer,
        message: &Bytes,
        actions: &mut Actions,
    ) {
        let frame = framed(message);
        let lease = &mut self.leases[key];
        let group = lease.group;
        let seconds = u64::try_from(answer.ttl).unwrap_or(0);
        lease.renewal = (seconds > 0).then(|| Renewal {
            sent_at,
            ttl: Duration::from_secs(seconds),
            frame: self.config.share_within.map(|_| frame.clone()),
        });
        lease.is_suspect = false;
        lease.state = State::Idle;
        let mut askers = core::mem::take(&mut lease.askers);
        let is_fresh = |within: Duration| now - sent_at <= within;
        if seconds > 0 && self.config.share_within.is_some_and(is_fresh) {
            self.stats.shared += u64::from(!lease.late_askers.is_empty());
            askers.append(&mut lease.late_askers);
        }
        for asker in &askers {
            self.answer(now, key, asker, &frame, actions);
        }
        askers.clear();
        let lease = &mut self.leases[key];
        // Its memory is used again.
        lease.askers = core::mem::replace(&mut lease.late_askers, askers);
        if lease.askers.is_empty() {
            self.arm_or_forget(key);
        } else {
            self.arm(key);
            self.queue(now, key);
        }
        self.stir(group);
    }

    fn answer(&mut self, now: Instant, key: LeaseKey, asker: &Asker, frame: &Bytes, actions: &mut Actions) {
        let id = asker.client;
        self.count_latency(now - asker.since, asker.count);
        for _ in 0..asker.count {
            self.deliver(id, frame.clone(), actions);
        }
        self.waits_no_more(id, key, asker.count);
        self.read_on(self.clients[id].connection, actions);
        self.end_if_done(id, actions);
    }

    pub(super) fn count_latency(&mut self, took: Duration, count: usize) {
        let bounds = LATENCY_BOUNDS.iter();
        let bucket = bounds
            .take_while(|bound| took > Duration::from_millis(**bound))
            .count();
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.stats.latency[bucket] += count as u64;
        self.stats.answer_nanos = self
            .stats
            .answer_nanos
            .saturating_add(nanos.saturating_mul(count as u64));
    }
}
