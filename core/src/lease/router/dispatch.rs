//! Which heartbeat goes where, and when there is need of another stream.

use super::Router;
use super::state::{GroupId, Lane, LeaseKey, State};
use super::turns::QueueKind;
use crate::lease::types::{Action, Actions, UpstreamId};
use crate::time::Instant;

impl Router {
    /// Sends what can be sent, and opens the streams that are needed.
    pub(super) fn dispatch(&mut self, now: Instant, id: GroupId, actions: &mut Actions) {
        if !self.groups.contains_key(id) {
            return;
        }
        for lane in Lane::ALL {
            while let Some(key) = self.next_queued(now, id, lane) {
                while self.needs_stream(now, id, lane, key) {
                    let requires_leader = self.groups[id].leaderless_since.is_none();
                    if !self.open_stream(now, id, lane, requires_leader, actions) {
                        break;
                    }
                }
                let Some(upstream) = self.stream_for(now, id, lane) else {
                    break;
                };
                self.learn_slowness(now, upstream);
                self.send(now, key, upstream, actions);
            }
        }
        let group = &self.groups[id];
        let mut streams = group.streams.iter().flatten();
        if group.leader_clients > 0 && !streams.any(|id| self.upstreams[*id].requires_leader) {
            // A server tells clients that wait for nothing as well when there is no leader.
            self.open_stream(now, id, Lane::Shared, true, actions);
        }
    }

    /// Whether to open another stream: there is none, or none that answers in time. Nothing waits for it that can be
    /// sent on another one.
    fn needs_stream(&mut self, now: Instant, id: GroupId, lane: Lane, next: LeaseKey) -> bool {
        let group = &self.groups[id];
        let streams = || self.fit_streams(id, lane);
        let opened = || streams().map(|id| self.upstreams[id].opened_at);
        match lane {
            Lane::Alone => {
                let is_free = |id: &UpstreamId| self.upstreams[*id].in_flight.is_empty();
                streams().count() < self.config.alone_max
                    && streams().filter(is_free).count() < group.queues[QueueKind::Alone.index()].len()
            }
            _ if streams().next().is_none() => true,
            _ if opened().any(|at| at.is_none()) => false,
            // A server that waits for a leader does so on each.
            _ if group.leaderless_since.is_some() => false,
            Lane::Shared | Lane::Doubtful => {
                // It could not be sent before there was a stream.
                let lease = &self.leases[next];
                let since = opened().flatten().min().map_or(now, |at| at.max(lease.queued_at));
                let is_slow = |since: Instant| since + self.config.slow_max <= now;
                let is_needed = lease.is_late(now, since, group, &self.config)
                    || self.streams_in_use(now, id, lane).all(|id| self.is_late(now, id))
                    || (group.slow_since[lane.index()].is_some_and(is_slow)
                        && self.streams_in_use(now, id, lane).all(|id| self.is_slow(now, id)));
                if !is_needed {
                    return false;
                }
                let (is_spread, count) = (group.is_spread(now, lane), streams().count());
                let group = &mut self.groups[id];
                group.spread_until[lane.index()] = Some(now + self.config.linger);
                if !is_spread {
                    group.slow_since[lane.index()] = None;
                }
                // What was opened for an earlier need is used first.
                count < self.config.streams_max && (is_spread || count == 1)
            }
        }
    }

    /// The streams of a lane that heartbeats may be sent on: when there is no leader, those whose server waits for one.
    fn fit_streams(&self, id: GroupId, lane: Lane) -> impl Iterator<Item = UpstreamId> + use<'_> {
        let group = &self.groups[id];
        let is_leaderless = group.leaderless_since.is_some();
        let streams = group.streams[lane.index()].iter().copied();
        streams.filter(move |id| self.upstreams[*id].requires_leader != is_leaderless)
    }

    /// The open streams that heartbeats of a lane are sent on: one, or all of them for a while after it was too slow.
    fn streams_in_use(&self, now: Instant, id: GroupId, lane: Lane) -> impl Iterator<Item = UpstreamId> {
        let group = &self.groups[id];
        let is_open = |id: &UpstreamId| self.upstreams[*id].opened_at.is_some();
        let open = self.fit_streams(id, lane).filter(is_open);
        let is_spread = lane == Lane::Alone || group.is_spread(now, lane);
        open.take(if is_spread { usize::MAX } else { 1 })
    }

    /// Whether a stream's first heartbeat waits for too long.
    fn is_late(&self, now: Instant, id: UpstreamId) -> bool {
        let upstream = &self.upstreams[id];
        let group = &self.groups[upstream.group];
        let first = upstream.in_flight.first_key_value();
        first.is_some_and(|(_, key)| {
            let lease = &self.leases[*key];
            let sent_at = lease.sent_at().unwrap_or(now);
            lease.is_late(now, sent_at, group, &self.config)
        })
    }

    /// Whether a stream's heartbeats wait for each other.
    fn is_slow(&self, now: Instant, id: UpstreamId) -> bool {
        let upstream = &self.upstreams[id];
        let round_trip = self.groups[upstream.group].round_trip;
        let first = upstream.in_flight.first_key_value();
        let sent_at = first.and_then(|(_, key)| self.leases[*key].sent_at());
        let longest = self.config.queue_time_max.max(round_trip * 8);
        sent_at.is_some_and(|at| at + longest < now)
    }

    /// If the stream that was chosen is slow, all that are in use are.
    fn learn_slowness(&mut self, now: Instant, id: UpstreamId) {
        let is_slow = self.is_slow(now, id);
        let upstream = &self.upstreams[id];
        let since = &mut self.groups[upstream.group].slow_since[upstream.lane.index()];
        *since = if is_slow { since.or(Some(now)) } else { None };
    }

    /// The stream that the next heartbeat is sent on: of those in use the first that isn't slow, or the one with the
    /// fewest.
    fn stream_for(&self, now: Instant, id: GroupId, lane: Lane) -> Option<UpstreamId> {
        let max = match lane {
            Lane::Shared | Lane::Doubtful => self.config.in_flight_max,
            Lane::Alone => 1,
        };
        let with_room = || {
            let streams = self.streams_in_use(now, id, lane);
            streams.filter(|id| self.upstreams[*id].in_flight.len() < max)
        };
        let fast = with_room().find(|id| !self.is_slow(now, *id));
        fast.or_else(|| with_room().min_by_key(|id| self.upstreams[*id].in_flight.len()))
    }

    fn send(&mut self, now: Instant, key: LeaseKey, id: UpstreamId, actions: &mut Actions) {
        self.sent += 1;
        let number = self.sent;
        self.leave_queue(key, true);
        let lease = &mut self.leases[key];
        lease.state = State::InFlight {
            upstream: id,
            number,
            sent_at: now,
        };
        let upstream = &mut self.upstreams[id];
        upstream.in_flight.insert(number, key);
        upstream.used_at = now;
        let due = now + self.stall_time(id);
        self.guard(id, due);
        self.stats.heartbeats_out += 1;
        let message = self.leases[key].message.clone();
        actions.push(Action::SendUpstream(id, message));
    }
}
