//! A proxy: the core's machines, and around them what its runtime does, in virtual time.
//!
//! All that is decided is decided by the core's functions. What is here carries the decisions out as the runtime does:
//! a control task that learns of events a little later than calls do, lanes in which calls wait for a connection, and
//! connections that live for as long as somebody holds them.

mod aside;
mod calls;
mod connections;
mod control;
mod lease;
mod outlets;
pub(crate) mod read;
mod watch;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use etcd_proxy_core::endpoints::{self, ConnectionId, EndpointId, Endpoints};
use etcd_proxy_core::lease as router;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch as hub;

use self::aside::Aside;
use self::calls::Call;
use self::connections::{ConnId, Connection};
pub(crate) use self::lease::LeaseHoldings;
use self::lease::Leasing;
pub(crate) use self::read::ReadHoldings;
use self::read::Reading;
pub(crate) use self::watch::WatchHoldings;
use self::watch::Watching;
use crate::delivery::{Alarm, Delivery, Frame, Opening, Request, StreamNo};
use crate::io::Io;
use crate::net::{LinkId, Side};

/// Settings of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Settings of its endpoint machine.
    pub endpoints: endpoints::Config,
    /// Settings of its watch hub.
    pub watch: hub::Config,
    /// Settings of its lease router.
    pub lease: router::Config,
    /// Settings of its read cache.
    pub read: read::Config,
    /// How long a call waits for a connection.
    pub dial_timeout: Duration,
    /// Whether what is reported to the control task is sometimes reported twice.
    pub repeats_reports: bool,
}

/// A connection of a client, as the proxy sees it.
#[derive(Debug)]
struct Client {
    worker: u32,
    calls: BTreeMap<StreamNo, u64>,
    /// Where calls go that must all reach the same member.
    pinned: Option<ConnId>,
}

/// A connection that was asked for.
#[derive(Clone, Copy, Debug)]
struct Connecting {
    link: LinkId,
    endpoint: EndpointId,
    since: Instant,
    /// It is only to be probed.
    candidate: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Proxy {
    index: usize,
    config: Config,
    machine: Endpoints,
    actions: endpoints::Actions,
    /// When the machine's timeout comes, by the last delivery made for it, and when it is due.
    timeout: Option<(Instant, Instant)>,
    /// Reports don't overtake one another.
    reported_by: Instant,
    /// What each worker's calls go to.
    lanes: Vec<Option<ConnId>>,
    /// Connections asked for.
    connecting: BTreeMap<ConnectionId, Connecting>,
    /// Connections that the control task knows, with the reads it has reported.
    known: BTreeMap<ConnectionId, u64>,
    /// Connections that live.
    connections: BTreeMap<ConnId, Connection>,
    by_link: BTreeMap<LinkId, ConnId>,
    aside: Aside,
    clients: BTreeMap<LinkId, Client>,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    /// The connection over which a member last said something.
    heard_from: Option<LinkId>,
    watch: Watching,
    lease: Leasing,
    read: Reading,
}

/// What a proxy holds, to see whether it leaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) calls: usize,
    pub(crate) connections: usize,
    pub(crate) connecting: usize,
    pub(crate) known: usize,
    pub(crate) clients: usize,
    pub(crate) machine_connections: usize,
    pub(crate) watch: WatchHoldings,
    pub(crate) lease: LeaseHoldings,
    pub(crate) read: ReadHoldings,
}

impl Proxy {
    pub(crate) fn new(io: &mut Io, index: usize, config: Config, members: usize) -> Self {
        let addresses = (0..members).map(address);
        Self {
            index,
            config,
            machine: Endpoints::new(config.endpoints, io.rng.u64(..), addresses),
            actions: endpoints::Actions::new(),
            timeout: None,
            reported_by: Instant::ZERO,
            lanes: vec![None; config.endpoints.lanes as usize],
            connecting: BTreeMap::new(),
            known: BTreeMap::new(),
            connections: BTreeMap::new(),
            by_link: BTreeMap::new(),
            aside: Aside::new(members),
            clients: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            heard_from: None,
            watch: Watching::new(config.watch, index, io.rng.u64(..)),
            lease: Leasing::new(config.lease, index, io.rng.u64(..)),
            read: Reading::new(config.read, config.watch.trusts_progress, io.rng.u64(..)),
        }
    }

    /// The member in use.
    pub(crate) fn in_use(&self) -> Option<usize> {
        let endpoint = self.machine.current()?;
        self.machine.address(endpoint).map(member_of)
    }

    /// Whether every worker's calls go to a connection of the member in use that works, and nobody is being asked.
    pub(crate) fn rests(&self, io: &Io) -> bool {
        let works = |id: &Option<ConnId>| {
            let connection = id.and_then(|id| self.connections.get(&id));
            connection.is_some_and(|connection| {
                connection.is_open() && io.net.link(connection.link).is_some_and(|link| link.works())
            })
        };
        self.machine.current().is_some() && self.connecting.is_empty() && self.lanes.iter().all(works)
    }

    pub(crate) fn holds(&self) -> Holdings {
        Holdings {
            calls: self.calls.len(),
            connections: self.connections.len(),
            connecting: self.connecting.len() + self.aside.dialling(),
            known: self.known.len(),
            clients: self.clients.len(),
            machine_connections: self.machine.connections(),
            watch: self.watch_holdings(),
            lease: self.lease_holdings(),
            read: self.read_holdings(),
        }
    }

    /// How long the connection has been asked for that has been for longest.
    pub(crate) fn connects_for(&self, now: Instant) -> Duration {
        self.connecting
            .values()
            .map(|asked| now - asked.since)
            .max()
            .unwrap_or_default()
    }

    /// How long ago the connection was probed that takes new calls and was not for longest.
    pub(crate) fn unprobed_for(&self, now: Instant) -> Duration {
        let serving = self.lanes.iter().filter_map(|id| self.connections.get(&(*id)?));
        serving
            .map(|connection| now - connection.probed_at)
            .max()
            .unwrap_or_default()
    }

    /// Links that take new calls.
    pub(crate) fn serving_links(&self) -> Vec<LinkId> {
        let connection = |id: &Option<ConnId>| self.connections.get(&(*id)?).map(|found| found.link);
        self.lanes.iter().filter_map(connection).collect()
    }

    /// A client's connection is asked for.
    pub(crate) fn client_dialled(&mut self, io: &mut Io, link: LinkId) {
        let client = Client {
            worker: io.rng.u32(..self.config.endpoints.lanes),
            calls: BTreeMap::new(),
            pinned: None,
        };
        self.clients.insert(link, client);
        io.accept(link, true);
    }

    /// Something came from a client, or from a member.
    pub(crate) fn frame(&mut self, io: &mut Io, link: LinkId, to: Side, frame: Frame) {
        match to {
            Side::Acceptor => self.client_frame(io, link, frame),
            Side::Dialler => self.member_frame(io, link, frame),
        }
    }

    /// A connection broke.
    pub(crate) fn broken(&mut self, io: &mut Io, link: LinkId, side: Side) {
        match side {
            Side::Acceptor => self.client_gone(io, link),
            Side::Dialler => self.link_gone(io, link),
        }
    }

    fn client_frame(&mut self, io: &mut Io, link: LinkId, frame: Frame) {
        match frame {
            Frame::Request(stream, request) => self.client_calls(io, link, stream, request),
            Frame::Reset(stream, _) => {
                let call = self
                    .clients
                    .get_mut(&link)
                    .and_then(|client| client.calls.remove(&stream));
                match call {
                    Some(call) => self.client_gave_up(io, call),
                    None => {
                        self.watch_gone(io, link, stream);
                        self.lease_gone(io, link, stream);
                    }
                }
            }
            Frame::Open(stream, opening) => self.stream_opened(io, link, stream, &opening),
            Frame::HalfClose(stream) | Frame::Message(stream, _) | Frame::Window(stream, _) => {
                if self.watch.outlets.has(link, stream) {
                    self.watch_frame(io, link, frame);
                } else {
                    self.lease_frame(io, link, frame);
                }
            }
            Frame::Gone => self.client_gone(io, link),
            // Servers aren't sent these.
            Frame::Answer(..) | Frame::End(..) | Frame::GoAway(_) | Frame::Ping | Frame::Pong => {}
        }
    }

    fn stream_opened(&mut self, io: &mut Io, link: LinkId, stream: StreamNo, opening: &Rc<Opening>) {
        if !self.clients.contains_key(&link) {
            return;
        }
        if opening.rpc == Rpc::LeaseKeepAlive {
            self.lease_opened(io, link, stream, opening);
        } else {
            self.watch_opened(io, link, stream, opening);
        }
    }

    /// What waits for a client on a streaming call is written.
    pub(crate) fn flush(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) {
        if self.watch.outlets.has(link, stream) {
            self.watch_flush(io, link, stream);
        } else {
            self.lease_flush(io, link, stream);
        }
    }

    fn client_calls(&mut self, io: &mut Io, link: LinkId, stream: StreamNo, request: Rc<Request>) {
        let Some(client) = self.clients.get_mut(&link) else {
            return;
        };
        self.next_call += 1;
        let id = self.next_call;
        client.calls.insert(stream, id);
        let call = Call::new(io.now, link, stream, client.worker, request.clone());
        if let Some(at) = call.expires_at() {
            io.at(at, Delivery::Alarm(self.index, id, Alarm::Expiry));
        }
        self.calls.insert(id, call);
        self.admit_call(io, id, &request);
    }

    fn client_gone(&mut self, io: &mut Io, link: LinkId) {
        let Some(client) = self.clients.remove(&link) else {
            return;
        };
        for call in client.calls.into_values() {
            self.client_gave_up(io, call);
        }
        self.watches_gone(io, link);
        self.leases_gone(io, link);
        if let Some(pinned) = client.pinned {
            self.end_if_unheld(io, pinned);
        }
    }
}

/// What a member is called.
pub(crate) fn address(member: usize) -> Box<str> {
    format!("member-{member}").into()
}

fn member_of(address: &str) -> usize {
    let number = address
        .strip_prefix("member-")
        .and_then(|number| number.parse().ok());
    number.expect("every address was made by `address`")
}
