//! The lease router of a proxy, and what carries its actions out.

mod outlets;
mod upstreams;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use etcd_proxy_core::lease::{Action, Actions, ClientId, Config, Event, Router, Stats, UpstreamId};
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::status::Status;

use self::upstreams::Upstream;
use super::Proxy;
use super::outlets::Outlets;
use crate::delivery::{Delivery, LeaseAlarm, LeaseTag};
use crate::io::{Io, LeaseUpstreamNote, Note};

/// How late the router's timer fires.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Leasing {
    router: Router,
    config: Config,
    /// What the router hasn't been told yet: what is told while its actions are carried out comes after them.
    events: VecDeque<Event>,
    is_telling: bool,
    /// When the router's timeout comes, by the last delivery made for it, and when it is due.
    timeout: Option<(Instant, Instant)>,
    /// Clients' LeaseKeepAlive calls.
    outlets: Outlets<ClientId>,
    /// What the oracle calls them.
    tags: BTreeMap<ClientId, LeaseTag>,
    upstreams: BTreeMap<UpstreamId, Upstream>,
    /// Numbers waits.
    waits: u32,
}

/// What the router and its driver hold, to see whether they leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseHoldings {
    outlets: usize,
    upstreams: usize,
    clients: usize,
    streams: usize,
    leases: usize,
    bytes: usize,
    timers: usize,
}

impl Leasing {
    pub(super) fn new(config: Config, proxy: usize, seed: u64) -> Self {
        Self {
            router: Router::new(config, seed),
            config,
            events: VecDeque::new(),
            is_telling: false,
            timeout: None,
            outlets: Outlets::new(proxy),
            tags: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            waits: 0,
        }
    }
}

impl Proxy {
    /// Counters and gauges of the router.
    pub(crate) fn lease_stats(&self) -> Stats {
        self.lease.router.stats()
    }

    pub(crate) fn lease_holdings(&self) -> LeaseHoldings {
        let lease = &self.lease;
        let stats = lease.router.stats();
        let (open, known) = lease.outlets.len();
        LeaseHoldings {
            outlets: open + known + lease.tags.len(),
            upstreams: lease.upstreams.len(),
            clients: stats.clients,
            streams: stats.upstreams,
            leases: stats.leases,
            bytes: stats.outbox_bytes,
            timers: usize::from(lease.router.next_timeout().is_some()),
        }
    }

    /// Bounds that the router promises to keep.
    pub(crate) fn lease_is_bounded(&self) {
        let (lease, stats) = (&self.lease, self.lease.router.stats());
        assert_eq!(
            stats.outbox_bytes,
            lease.outlets.all_bytes(),
            "bytes that wait for clients"
        );
        assert_eq!(
            stats.clients,
            lease.outlets.len().1,
            "LeaseKeepAlive calls of clients"
        );
        assert_eq!(stats.upstreams, lease.upstreams.len(), "calls to members");
    }

    /// Tells the router something, and carries out what it wants done.
    pub(super) fn tell_router(&mut self, io: &mut Io, event: Event) {
        self.lease.events.push_back(event);
        self.run_router(io);
    }

    /// Tells the router all that it hasn't been told.
    fn run_router(&mut self, io: &mut Io) {
        if std::mem::replace(&mut self.lease.is_telling, true) {
            return;
        }
        while let Some(event) = self.lease.events.pop_front().or_else(|| self.next_heartbeat(io)) {
            io.trace
                .remark(io.now, format_args!("router {}: {event:?}", self.index));
            let mut actions = Actions::new();
            self.lease.router.handle(io.now, event, &mut actions);
            let (history, revision) = (self.lease.router.history(), self.lease.router.revision());
            self.will_show(io, history, revision);
            self.carry_out_lease(io, actions);
        }
        self.lease.is_telling = false;
        self.set_lease_timeout(io);
    }

    fn carry_out_lease(&mut self, io: &mut Io, actions: Actions) {
        for action in actions {
            io.trace
                .remark(io.now, format_args!("router {}: {action:?}", self.index));
            match action {
                Action::Deliver(client, message) => self.put_answer(io, client, message),
                Action::EndClient(client, status) => {
                    let status = Status {
                        code: status.code,
                        message: status.message,
                    };
                    self.end_heartbeats(io, client, status);
                }
                Action::PauseClient(client) => self.lease.outlets.set_paused(client, true),
                Action::ResumeClient(client) => self.lease.outlets.set_paused(client, false),
                Action::OpenUpstream {
                    upstream,
                    credentials,
                    require_leader,
                } => {
                    let opened = LeaseUpstreamNote::Opened(credentials.clone());
                    self.note_lease_upstream(io, upstream, opened);
                    self.open_lease_upstream(io, upstream, credentials, require_leader);
                }
                Action::SendUpstream(upstream, message) => {
                    self.note_lease_upstream(io, upstream, LeaseUpstreamNote::Asked(message.clone()));
                    self.send_lease_upstream(io, upstream, message);
                }
                Action::CloseUpstream(upstream) => {
                    self.note_lease_upstream(io, upstream, LeaseUpstreamNote::Gone);
                    self.close_lease_upstream(io, upstream);
                }
            }
        }
    }

    fn note_lease_upstream(&self, io: &mut Io, upstream: UpstreamId, what: LeaseUpstreamNote) {
        io.notes.push(Note::LeaseUpstream {
            proxy: self.index,
            upstream,
            what,
        });
    }

    fn set_lease_timeout(&mut self, io: &mut Io) {
        let due = self.lease.router.next_timeout();
        if self.lease.timeout.map(|(due, _)| due) == due {
            return;
        }
        self.lease.timeout = due.map(|due| {
            let at = due.max(io.now) + io.within(Duration::ZERO..TIMER_LATE_MAX);
            io.at(at, Delivery::LeaseAlarm(self.index, LeaseAlarm::Router));
            (due, at)
        });
    }

    pub(crate) fn lease_alarm(&mut self, io: &mut Io, alarm: LeaseAlarm) {
        match alarm {
            LeaseAlarm::Router => {
                if self.lease.timeout.is_none_or(|(_, at)| at != io.now) {
                    return;
                }
                self.lease.timeout = None;
                if self.lease.router.next_timeout().is_some_and(|due| due <= io.now) {
                    self.tell_router(io, Event::Timeout);
                    assert!(
                        self.lease.router.next_timeout().is_none_or(|due| due > io.now),
                        "a timer of the router is due for ever"
                    );
                }
                self.set_lease_timeout(io);
            }
            LeaseAlarm::NoConnection(wait) => self.no_lease_connection(io, wait),
        }
    }
}
