//! Whose heartbeat is next: client connections take turns, and leases that are known to live go before others.
//!
//! Turns are kept by numbering rounds. A heartbeat's place is in the round that its queue is at, or in the one after
//! the last that its connection has a heartbeat in; so a connection with a thousand heartbeats has places in a thousand
//! rounds, and one that comes with its first is served in the round at hand. It costs no more than a queue in order of
//! arrival.

use alloc::collections::BTreeMap;

use super::Router;
use super::state::{GroupId, Lane, LeaseKey, ShareKey, State};
use crate::time::Instant;

/// While heartbeats of both kinds wait, one in so many is for a lease that was never renewed here.
const NEW_EVERY: u32 = 8;

/// The queues of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueKind {
    /// Leases that were renewed and live, as far as is known. For the shared streams.
    Proven,
    /// Leases that were never renewed here: new ones, and those that there aren't. For the shared streams, too.
    New,
    /// See [`Lane::Doubtful`].
    Doubtful,
    /// See [`Lane::Alone`].
    Alone,
}

impl QueueKind {
    pub(super) const COUNT: usize = 4;

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// The place of a heartbeat: the round, and when it was first wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    round: u64,
    number: u64,
}

/// Heartbeats that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Place, LeaseKey>,
    /// The round that it is at.
    round: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn first(&self) -> Option<LeaseKey> {
        self.waiting.first_key_value().map(|(_, key)| *key)
    }
}

impl Router {
    /// The round in which a heartbeat would have its place that comes from this connection now.
    fn round_for(&self, group: GroupId, kind: QueueKind, share: ShareKey) -> u64 {
        let round = self.groups[group].queues[kind.index()].round;
        round.max(self.shares[share].rounds[kind.index()])
    }

    /// Wants a heartbeat.
    pub(super) fn queue(&mut self, now: Instant, key: LeaseKey) {
        self.wanted += 1;
        let lease = &mut self.leases[key];
        lease.number = self.wanted;
        lease.place = None;
        self.requeue(now, key);
    }

    /// Wants a heartbeat again, at the place that it had, unless it belongs to another queue now.
    pub(super) fn requeue(&mut self, now: Instant, key: LeaseKey) {
        let lease = &self.leases[key];
        let (group, number) = (lease.group, lease.number);
        let kind = lease.queue(now, &self.groups[group], &self.config);
        let place = match lease.place {
            Some((before, place)) if before == kind => place,
            _ => {
                // The earliest place that one of those who wait for it can have.
                let shares = lease.askers.iter().map(|asker| self.clients[asker.client].share);
                let share = shares.min_by_key(|share| self.round_for(group, kind, *share));
                let round = share.map(|share| self.take_round(group, kind, share));
                Place {
                    round: round.unwrap_or_default(),
                    number,
                }
            }
        };
        let lease = &mut self.leases[key];
        lease.state = State::Queued(kind);
        lease.queued_at = now;
        lease.place = Some((kind, place));
        self.groups[group].queues[kind.index()].waiting.insert(place, key);
    }

    fn take_round(&mut self, group: GroupId, kind: QueueKind, share: ShareKey) -> u64 {
        let round = self.round_for(group, kind, share);
        self.shares[share].rounds[kind.index()] = round + 1;
        round
    }

    /// Somebody else wants a heartbeat that waits for its turn, and has an earlier turn perhaps.
    pub(super) fn advance(&mut self, key: LeaseKey, share: ShareKey) {
        let lease = &self.leases[key];
        let (State::Queued(kind), Some((_, place))) = (lease.state, lease.place) else {
            return;
        };
        let group = lease.group;
        if self.round_for(group, kind, share) < place.round {
            let round = self.take_round(group, kind, share);
            let earlier = Place { round, ..place };
            let queue = &mut self.groups[group].queues[kind.index()];
            queue.waiting.remove(&place);
            queue.waiting.insert(earlier, key);
            self.leases[key].place = Some((kind, earlier));
        }
    }

    /// It waits no more. With `is_served` it has had its turn.
    pub(super) fn leave_queue(&mut self, key: LeaseKey, is_served: bool) {
        let lease = &self.leases[key];
        if let (State::Queued(kind), Some((_, place))) = (lease.state, lease.place) {
            let group = &mut self.groups[lease.group];
            let others = |kind: QueueKind| group.queues[kind.index()].len() > 0;
            if is_served && others(QueueKind::Proven) && others(QueueKind::New) {
                group.turns = group.turns.wrapping_add(1);
            }
            let queue = &mut group.queues[kind.index()];
            queue.waiting.remove(&place);
            if is_served {
                queue.round = queue.round.max(place.round);
            }
        }
    }

    /// The heartbeat of a lane whose turn it is. What has waited for so long that it belongs to another lane now, goes there.
    pub(super) fn next_queued(&mut self, now: Instant, id: GroupId, lane: Lane) -> Option<LeaseKey> {
        loop {
            let group = &self.groups[id];
            let first = |kind: QueueKind| Some((kind, group.queues[kind.index()].first()?));
            let found = match lane {
                Lane::Doubtful => first(QueueKind::Doubtful),
                Lane::Alone => first(QueueKind::Alone),
                Lane::Shared if group.turns % NEW_EVERY == NEW_EVERY - 1 => {
                    first(QueueKind::New).or_else(|| first(QueueKind::Proven))
                }
                Lane::Shared => first(QueueKind::Proven).or_else(|| first(QueueKind::New)),
            };
            let (kind, key) = found?;
            if lane != Lane::Shared || self.leases[key].queue(now, group, &self.config) == kind {
                return Some(key);
            }
            self.leave_queue(key, false);
            self.requeue(now, key);
        }
    }
}
