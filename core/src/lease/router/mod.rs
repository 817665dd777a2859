//! The router itself: its doors, and which part of it an event or a timer is for.

mod answers;
mod clients;
mod connections;
mod dispatch;
mod leases;
mod state;
mod streams;
mod turns;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use slotmap::SlotMap;

use self::state::{
    Client, Connection, ConnectionKey, Group, GroupId, Lease, LeaseKey, Share, ShareKey, Timer, Upstream,
};
use super::types::{Actions, Caller, ClientId, Config, Event, Stats, UpstreamId};
use crate::backoff::{WAIT_MIN, backoff};
use crate::time::Instant;
use crate::timer::TimerQueue;

/// See the [module documentation](super).
#[derive(Debug)]
pub struct Router {
    config: Config,
    rng: Rng,
    timers: TimerQueue<Timer>,
    connections: SlotMap<ConnectionKey, Connection>,
    by_number: BTreeMap<u64, ConnectionKey>,
    /// Connections that wait for something.
    busy: usize,
    shares: SlotMap<ShareKey, Share>,
    clients: SlotMap<ClientId, Client>,
    groups: SlotMap<GroupId, Group>,
    by_credentials: BTreeMap<Option<Bytes>, GroupId>,
    leases: SlotMap<LeaseKey, Lease>,
    upstreams: SlotMap<UpstreamId, Upstream>,
    /// Heartbeats that were wanted, and those that were sent, numbered.
    wanted: u64,
    sent: u64,
    /// Groups that the end of this event looks after.
    stirred: Vec<GroupId>,
    /// The highest revision in a header of an answer, in the history with this number.
    revision: i64,
    history: u64,
    stats: Stats,
}

impl Router {
    /// A router without clients. The seed is for jitter.
    #[must_use]
    pub fn new(mut config: Config, seed: u64) -> Self {
        config.requests_max = config.requests_max.max(1);
        config.connection_requests_max = config.connection_requests_max.max(1);
        config.outbox_bytes_max = config.outbox_bytes_max.max(1);
        config.in_flight_max = config.in_flight_max.max(1);
        config.streams_max = config.streams_max.max(1);
        config.alone_max = config.alone_max.max(1);
        config.stall = config.stall.max(WAIT_MIN);
        config.stall_max = config.stall_max.max(config.stall);
        config.linger = config.linger.max(WAIT_MIN);
        config.backoff_min = config.backoff_min.max(WAIT_MIN);
        config.backoff_max = config.backoff_max.max(config.backoff_min);
        config.patience_max = config.patience_max.max(config.patience_min);
        Self {
            config,
            rng: Rng::with_seed(seed),
            timers: TimerQueue::default(),
            connections: SlotMap::with_key(),
            by_number: BTreeMap::new(),
            busy: 0,
            shares: SlotMap::with_key(),
            clients: SlotMap::with_key(),
            groups: SlotMap::with_key(),
            by_credentials: BTreeMap::new(),
            leases: SlotMap::with_key(),
            upstreams: SlotMap::with_key(),
            wanted: 0,
            sent: 0,
            stirred: Vec::new(),
            revision: 0,
            history: 0,
            stats: Stats::default(),
        }
    }

    /// A client opened a LeaseKeepAlive call. Not an [`Event`], because whoever tells it needs the id at once.
    #[must_use]
    pub fn open(&mut self, now: Instant, caller: Caller, actions: &mut Actions) -> ClientId {
        let id = self.open_client(now, caller);
        self.settle(now, actions);
        id
    }

    /// Takes in what happened and pushes what must happen. Events about what is gone change nothing.
    pub fn handle(&mut self, now: Instant, event: Event, actions: &mut Actions) {
        match event {
            Event::ClientSent(id, message) => self.client_sent(now, id, message, actions),
            Event::ClientHalfClosed(id) => self.client_half_closed(id, actions),
            Event::ClientTook(id, bytes) => self.client_took(id, bytes, actions),
            Event::ClientGone(id) => self.client_gone(id, actions),
            Event::UpstreamOpened(id) => self.upstream_opened(now, id),
            Event::UpstreamSent(id, message) => self.upstream_sent(now, id, &message, actions),
            Event::UpstreamEnded(id, status) => self.upstream_ended(now, id, &status, actions),
            Event::UpstreamSuperseded(id) => self.upstream_superseded(now, id, actions),
            Event::History(number) => {
                if number > self.history {
                    self.history = number;
                    self.revision = 0;
                }
            }
            Event::Timeout => {
                while let Some(timer) = self.timers.pop_due(now) {
                    match timer {
                        Timer::Lease(key) => self.lease_timer(now, key, actions),
                        Timer::Linger(id) => self.linger_timer(now, id, actions),
                        Timer::Reopen(group) => self.stir(group),
                        Timer::Stall(id) => self.stall_timer(now, id, actions),
                    }
                }
            }
        }
        self.settle(now, actions);
    }

    /// When [`Event::Timeout`] must come next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next_timeout()
    }

    /// The highest revision that a client was sent, in the header of an answer.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        self.revision
    }

    /// The number of the history that this revision is of.
    #[must_use]
    pub const fn history(&self) -> u64 {
        self.history
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            clients: self.clients.len(),
            upstreams: self.upstreams.len(),
            leases: self.leases.len(),
            ..self.stats
        }
    }

    /// Has the end of this event look after a group.
    fn stir(&mut self, group: GroupId) {
        if let Some(state) = self.groups.get_mut(group)
            && !core::mem::replace(&mut state.is_stirred, true)
        {
            self.stirred.push(group);
        }
    }

    /// Does what the event has left for its end.
    fn settle(&mut self, now: Instant, actions: &mut Actions) {
        while let Some(group) = self.stirred.pop() {
            if let Some(state) = self.groups.get_mut(group) {
                state.is_stirred = false;
            }
            self.dispatch(now, group, actions);
            self.forget_if_empty(group);
        }
    }

    fn forget_if_empty(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(id) else {
            return;
        };
        if group.clients.is_empty() && group.leases.is_empty() && group.stream_count() == 0 {
            self.by_credentials.remove(&group.credentials);
            self.timers.cancel(Timer::Reopen(id));
            self.groups.remove(id);
        }
    }

    /// A wait that grows with the number of failures before, with jitter.
    fn backoff(&mut self, failures: u32) -> Duration {
        let (min, max) = (self.config.backoff_min, self.config.backoff_max);
        backoff(&mut self.rng, min, max, failures)
    }
}
