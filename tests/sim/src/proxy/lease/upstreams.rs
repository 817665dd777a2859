//! The router's LeaseKeepAlive calls to members.

use std::rc::Rc;

use bytes::Bytes;
use etcd_proxy_core::endpoints;
use etcd_proxy_core::grpc::{Code, Status};
use etcd_proxy_core::lease::{Event, UpstreamId};
use etcd_proxy_core::rpc::Rpc;

use crate::delivery::{Delivery, Frame, LeaseAlarm, Opening, Report, StreamNo};
use crate::io::{Io, LeaseUpstreamNote};
use crate::net::Side;
use crate::proxy::Proxy;
use crate::proxy::connections::{ConnId, User};
use crate::situations::Situation;

/// Messages that a member may send before the proxy gives room for more.
const WINDOW: u32 = 64;

/// A LeaseKeepAlive call to a member.
#[derive(Debug)]
pub(super) struct Upstream {
    opening: Rc<Opening>,
    worker: u32,
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// It waits for a connection; the number of its wait. Nothing is sent before.
    Waiting(u32),
    Open(ConnId, StreamNo),
}

impl Proxy {
    pub(super) fn open_lease_upstream(
        &mut self,
        io: &mut Io,
        id: UpstreamId,
        credentials: Option<Bytes>,
        require_leader: bool,
    ) {
        let opening = Opening {
            rpc: Rpc::LeaseKeepAlive,
            tag: None,
            token: credentials,
            require_leader,
            window: WINDOW,
        };
        self.lease.waits += 1;
        let wait = self.lease.waits;
        let upstream = Upstream {
            opening: Rc::new(opening),
            worker: io.rng.u32(..self.config.endpoints.lanes),
            at: At::Waiting(wait),
        };
        assert!(
            self.lease.upstreams.insert(id, upstream).is_none(),
            "{id:?} is opened twice"
        );
        let alarm = LeaseAlarm::NoConnection(wait);
        io.after(self.config.dial_timeout, Delivery::LeaseAlarm(self.index, alarm));
        self.try_lease_upstream(io, id);
    }

    /// Opens a call that waits, if there is a connection.
    fn try_lease_upstream(&mut self, io: &mut Io, id: UpstreamId) {
        let Some(upstream) = self.lease.upstreams.get(&id) else {
            return;
        };
        let (worker, opening) = (upstream.worker, upstream.opening.clone());
        let Some(connection) = self.usable(worker, None) else {
            return;
        };
        let Some((link, stream)) = self.open_stream(connection, User::LeaseUpstream(id)) else {
            return;
        };
        if let Some(upstream) = self.lease.upstreams.get_mut(&id) {
            upstream.at = At::Open(connection, stream);
        }
        io.send(link, Side::Dialler, Frame::Open(stream, opening));
        self.tell_router(io, Event::UpstreamOpened(id));
    }

    /// Calls that wait for a connection of this worker look again.
    pub(in crate::proxy) fn leases_look_again(&mut self, io: &mut Io, worker: u32) {
        let upstreams = self.lease.upstreams.iter();
        let waiting = upstreams
            .filter(|(_, upstream)| upstream.worker == worker && matches!(upstream.at, At::Waiting(_)));
        let waiting: Vec<UpstreamId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.try_lease_upstream(io, id);
        }
        self.superseded_leases_move(io, worker);
    }

    /// Calls of this worker that are on another connection than the one in use now.
    fn superseded_leases_move(&mut self, io: &mut Io, worker: u32) {
        let Some(in_use) = self.usable(worker, None) else {
            return;
        };
        let is_superseded = |upstream: &Upstream| {
            upstream.worker == worker
                && matches!(upstream.at, At::Open(connection, _) if connection != in_use)
        };
        let upstreams = self.lease.upstreams.iter();
        let superseded = upstreams.filter(|(_, upstream)| is_superseded(upstream));
        let superseded: Vec<UpstreamId> = superseded.map(|(id, _)| *id).collect();
        for id in superseded {
            self.tell_router(io, Event::UpstreamSuperseded(id));
        }
    }

    pub(super) fn no_lease_connection(&mut self, io: &mut Io, wait: u32) {
        let waits = |upstream: &Upstream| matches!(upstream.at, At::Waiting(number) if number == wait);
        let found = self.lease.upstreams.iter().find(|(_, upstream)| waits(upstream));
        if let Some((&id, _)) = found {
            io.count(Situation::LeaseNoConnection);
            self.lease_upstream_ended(io, id, Status::of(Code::Unavailable, "no endpoint is reachable"));
        }
    }

    pub(super) fn send_lease_upstream(&mut self, io: &mut Io, id: UpstreamId, message: Bytes) {
        // It may have ended, and the router not know it yet.
        let Some(upstream) = self.lease.upstreams.get(&id) else {
            return;
        };
        let At::Open(connection, stream) = upstream.at else {
            panic!("{id:?} isn't on a connection yet, and is sent to");
        };
        if let Some(connection) = self.connections.get(&connection) {
            io.send(connection.link, Side::Dialler, Frame::Message(stream, message));
        }
    }

    pub(super) fn close_lease_upstream(&mut self, io: &mut Io, id: UpstreamId) {
        if let Some(upstream) = self.lease.upstreams.remove(&id)
            && let At::Open(connection, stream) = upstream.at
        {
            self.give_up_stream(io, connection, stream);
        }
    }

    /// A member sends something on a LeaseKeepAlive call.
    pub(in crate::proxy) fn lease_upstream_sent(
        &mut self,
        io: &mut Io,
        connection: ConnId,
        stream: StreamNo,
        id: UpstreamId,
        message: Bytes,
    ) {
        if let Some(connection) = self.connections.get(&connection) {
            io.send(connection.link, Side::Dialler, Frame::Window(stream, 1));
        }
        self.note_lease_upstream(io, id, LeaseUpstreamNote::Said(message.clone()));
        self.tell_router(io, Event::UpstreamSent(id, message));
    }

    /// A LeaseKeepAlive call has ended, somehow.
    pub(in crate::proxy) fn lease_upstream_ended(&mut self, io: &mut Io, id: UpstreamId, status: Status) {
        let Some(upstream) = self.lease.upstreams.remove(&id) else {
            return;
        };
        if status.is(Code::Unavailable)
            && let At::Open(connection, _) = upstream.at
        {
            // Worth a look at it.
            let doubt = endpoints::Event::Doubt(connection.reported_as());
            self.report(io, Report::Event(doubt));
        }
        self.note_lease_upstream(io, id, LeaseUpstreamNote::Ended(status.clone()));
        self.tell_router(io, Event::UpstreamEnded(id, status));
    }
}
