//! The hub's Watch calls to members.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use etcd_proxy_core::endpoints;
use etcd_proxy_core::grpc::{Code, Status};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::watch::{Event, UpstreamId, UpstreamKind};

use crate::delivery::{Delivery, Frame, Opening, Reason, Report, StreamNo, WatchAlarm};
use crate::io::{Io, Note};
use crate::net::Side;
use crate::proxy::Proxy;
use crate::proxy::connections::{ConnId, User};
use crate::situations::Situation;

/// Messages that a member may send before the proxy gives room for more.
const WINDOW: u32 = 64;

/// A Watch call to a member.
#[derive(Debug)]
pub(super) struct Upstream {
    opening: Rc<Opening>,
    worker: u32,
    at: At,
}

#[derive(Debug)]
enum At {
    /// It waits for a connection; the number of its wait, and what is to be sent.
    Waiting(u32, VecDeque<Bytes>),
    Open(ConnId, StreamNo),
}

impl Proxy {
    pub(super) fn open_upstream(
        &mut self,
        io: &mut Io,
        id: UpstreamId,
        kind: UpstreamKind,
        credentials: Option<Bytes>,
    ) {
        let opening = Opening {
            rpc: Rpc::Watch,
            tag: None,
            token: credentials,
            require_leader: kind == UpstreamKind::Leader,
            window: WINDOW,
        };
        let wait = self.watch.wait();
        let upstream = Upstream {
            opening: Rc::new(opening),
            worker: io.rng.u32(..self.config.endpoints.lanes),
            at: At::Waiting(wait, VecDeque::new()),
        };
        assert!(
            self.watch.upstreams.insert(id, upstream).is_none(),
            "{id:?} is opened twice"
        );
        io.after(
            self.config.dial_timeout,
            Delivery::WatchAlarm(self.index, WatchAlarm::NoConnection(wait)),
        );
        self.try_upstream(io, id);
    }

    /// Opens a call that waits, if there is a connection.
    fn try_upstream(&mut self, io: &mut Io, id: UpstreamId) {
        let Some(upstream) = self.watch.upstreams.get(&id) else {
            return;
        };
        let (worker, opening) = (upstream.worker, upstream.opening.clone());
        let Some(connection) = self.usable(worker, None) else {
            return;
        };
        let Some(upstream) = self.watch.upstreams.get_mut(&id) else {
            return;
        };
        let At::Waiting(_, queue) = &mut upstream.at else {
            return;
        };
        let queue = std::mem::take(queue);
        let Some((link, stream)) = self.open_stream(connection, User::Upstream(id)) else {
            return;
        };
        if let Some(upstream) = self.watch.upstreams.get_mut(&id) {
            upstream.at = At::Open(connection, stream);
        }
        let is_for_leader = opening.require_leader;
        io.send(link, Side::Dialler, Frame::Open(stream, opening));
        for message in queue {
            io.send(link, Side::Dialler, Frame::Message(stream, message));
        }
        // What the hub sends now follows that.
        if !is_for_leader {
            let trusted = self.watch.config.trusts_progress;
            self.tell(io, Event::ProgressTrusted(id, trusted));
        }
    }

    /// Calls that wait for a connection of this worker look again.
    pub(super) fn upstreams_look_again(&mut self, io: &mut Io, worker: u32) {
        let waiting = self
            .watch
            .upstreams
            .iter()
            .filter(|(_, upstream)| upstream.worker == worker && matches!(upstream.at, At::Waiting(..)));
        let waiting: Vec<UpstreamId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.try_upstream(io, id);
        }
    }

    /// Calls of this worker that are on another connection than the one in use now.
    pub(super) fn superseded_upstreams_move(&mut self, io: &mut Io, worker: u32) {
        let Some(in_use) = self.usable(worker, None) else {
            return;
        };
        let is_superseded = |upstream: &Upstream| {
            upstream.worker == worker
                && matches!(upstream.at, At::Open(connection, _) if connection != in_use)
        };
        let upstreams = self.watch.upstreams.iter();
        let superseded = upstreams.filter(|(_, upstream)| is_superseded(upstream));
        let superseded: Vec<UpstreamId> = superseded.map(|(id, _)| *id).collect();
        for id in superseded {
            self.tell(io, Event::UpstreamSuperseded(id));
        }
    }

    pub(super) fn no_connection(&mut self, io: &mut Io, wait: u32) {
        let waits = |upstream: &Upstream| matches!(upstream.at, At::Waiting(number, _) if number == wait);
        let found = self.watch.upstreams.iter().find(|(_, upstream)| waits(upstream));
        if let Some((&id, _)) = found {
            io.count(Situation::WatchNoConnection);
            self.upstream_ended(io, id, Status::of(Code::Unavailable, "no endpoint is reachable"));
        }
    }

    pub(super) fn send_upstream(&mut self, io: &mut Io, id: UpstreamId, message: Bytes) {
        // It may have ended, and the hub not know it yet.
        let Some(upstream) = self.watch.upstreams.get_mut(&id) else {
            return;
        };
        match &mut upstream.at {
            At::Waiting(_, queue) => queue.push_back(message),
            At::Open(connection, stream) => {
                if let Some(connection) = self.connections.get(connection) {
                    io.send(connection.link, Side::Dialler, Frame::Message(*stream, message));
                }
            }
        }
    }

    pub(super) fn close_upstream(&mut self, io: &mut Io, id: UpstreamId) {
        if let Some(upstream) = self.watch.upstreams.remove(&id)
            && let At::Open(connection, stream) = upstream.at
        {
            self.give_up_stream(io, connection, stream);
        }
    }

    /// A member sends something on a Watch call.
    pub(in crate::proxy) fn upstream_sent(
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
        io.notes.push(Note::UpstreamSaid {
            proxy: self.index,
            upstream: id,
            message: message.clone(),
        });
        self.tell(io, Event::UpstreamSent(id, message));
    }

    /// A Watch call has ended, somehow.
    pub(in crate::proxy) fn upstream_ended(&mut self, io: &mut Io, id: UpstreamId, status: Status) {
        if let Some(upstream) = self.watch.upstreams.remove(&id) {
            if status.is(Code::Unavailable)
                && let At::Open(connection, _) = upstream.at
            {
                // Worth a look at it.
                let doubt = endpoints::Event::Doubt(connection.reported_as());
                self.report(io, Report::Event(doubt));
            }
            let proxy = self.index;
            io.notes.push(Note::UpstreamGone { proxy, upstream: id });
            self.tell(io, Event::UpstreamEnded(id, status));
        }
    }
}

/// What a reset says to the hub, or to the router.
pub(in crate::proxy) fn of_reset(reason: Reason) -> Status {
    match reason {
        Reason::Cancel => Status::new(1, "the stream was reset: CANCEL"),
        Reason::Internal => Status::new(13, "the stream was reset: INTERNAL_ERROR"),
        Reason::Refused => Status::of(Code::Unavailable, "the stream was refused"),
    }
}
