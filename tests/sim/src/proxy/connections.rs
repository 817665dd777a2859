//! Connections to members: what lives as long as somebody holds it.

use std::collections::BTreeMap;
use std::rc::Rc;

use etcd_proxy_core::endpoints::{CloseCause, ConnectionId, EndpointId, Event, Health};
use etcd_proxy_core::lease;
use etcd_proxy_core::retry::Failure;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch::UpstreamId;
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::health::{HealthCheckRequest, HealthCheckResponse};
use prost::Message as _;

use super::Proxy;
use super::watch::{Asker, of_reset};
use crate::delivery::{Answer, CallTag, Frame, Reason, Report, Request, StreamNo};
use crate::io::{Io, Note};
use crate::net::{LinkId, Side};

/// A connection that lives, by who knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ConnId {
    /// The endpoint machine does.
    Known(ConnectionId),
    /// Only the call that needed it, and those that follow it.
    Aside(u32),
}

impl ConnId {
    /// What reports about it call it. The machine finds nothing by the id of what it doesn't know.
    pub(super) fn reported_as(self) -> ConnectionId {
        match self {
            Self::Known(id) => id,
            Self::Aside(_) => ConnectionId::default(),
        }
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It takes calls.
    Open,
    /// New calls go elsewhere by the proxy's own choice; probes may still be sent.
    Withdrawn,
    /// The member takes no new calls on it.
    Refusing,
}

/// Who waits on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    Call(u64),
    Check(Asker),
    Probe,
    Upstream(UpstreamId),
    LeaseUpstream(lease::UpstreamId),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) link: LinkId,
    pub(super) state: State,
    /// The member has announced the end.
    go_away: bool,
    next_stream: u32,
    users: BTreeMap<StreamNo, User>,
    /// When it was last asked how its member is, or established.
    pub(super) probed_at: Instant,
    /// Where it leads, if the endpoint machine knows of it.
    pub(super) endpoint: Option<EndpointId>,
    /// It is only to be probed.
    pub(super) candidate: bool,
    /// When something last came.
    pub(super) read_at: Instant,
    /// Frames that came.
    pub(super) reads: u64,
    /// The endpoint machine knows that it drains.
    pub(super) drains: bool,
    /// The control task hasn't seen its report yet: the report holds it.
    pub(super) reported: bool,
}

impl Connection {
    pub(super) fn new(now: Instant, link: LinkId) -> Self {
        Self {
            link,
            state: State::Open,
            go_away: false,
            next_stream: 0,
            users: BTreeMap::new(),
            probed_at: now,
            endpoint: None,
            candidate: false,
            read_at: now,
            reads: 0,
            drains: false,
            reported: false,
        }
    }

    /// Whether clients' calls may be tried on it.
    pub(super) fn is_open(&self) -> bool {
        self.state < State::Withdrawn
    }

    /// Moves on to `state`; false if it had come that far before.
    pub(super) fn advance(&mut self, state: State) -> bool {
        let moves = self.state < state;
        self.state = self.state.max(state);
        moves
    }

    /// Whether anybody waits for an answer on it.
    pub(super) fn is_used(&self) -> bool {
        !self.users.is_empty()
    }

    fn open_stream(&mut self, user: User) -> StreamNo {
        self.next_stream += 1;
        let stream = StreamNo(self.next_stream);
        self.users.insert(stream, user);
        stream
    }
}

impl Proxy {
    /// Hands a call to a connection; `None` if it takes no more.
    pub(super) fn open_call(
        &mut self,
        io: &mut Io,
        id: ConnId,
        call: u64,
        request: Rc<Request>,
    ) -> Option<StreamNo> {
        let connection = self.connections.get_mut(&id)?;
        if connection.state >= State::Refusing {
            return None;
        }
        let stream = connection.open_stream(User::Call(call));
        let link = connection.link;
        io.notes.push(Note::Sent { call: request.tag });
        io.send(link, Side::Dialler, Frame::Request(stream, request));
        Some(stream)
    }

    /// Begins a stream of the watch hub's or the lease router's; `None` if the connection takes no more.
    pub(super) fn open_stream(&mut self, id: ConnId, user: User) -> Option<(LinkId, StreamNo)> {
        let connection = self.connections.get_mut(&id)?;
        (connection.state < State::Refusing).then(|| (connection.link, connection.open_stream(user)))
    }

    /// Nobody waits for the answer to a call any more.
    pub(super) fn give_up_stream(&mut self, io: &mut Io, id: ConnId, stream: StreamNo) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.users.remove(&stream).is_some()
        {
            io.send(
                connection.link,
                Side::Dialler,
                Frame::Reset(stream, Reason::Cancel),
            );
            self.end_if_unheld(io, id);
        }
    }

    /// The member takes no new calls: the control task is told by the first who finds out.
    pub(super) fn refuses(&mut self, io: &mut Io, id: ConnId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.advance(State::Refusing) {
            let link = connection.link;
            if matches!(id, ConnId::Known(_)) {
                self.ping_from_now_on(io, link);
            }
            self.report(io, Report::Event(Event::Draining(id.reported_as())));
        }
    }

    pub(super) fn probe(&mut self, io: &mut Io, id: ConnId) {
        // What was lost a moment ago will be reported.
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        io.notes.push(Note::Probing { proxy: self.index });
        if connection.state >= State::Refusing {
            return self.report(io, Report::Event(Event::Draining(id.reported_as())));
        }
        connection.probed_at = io.now;
        let stream = connection.open_stream(User::Probe);
        let request = Request {
            tag: CallTag::PROBE,
            rpc: Rpc::HealthCheck,
            token: None,
            require_leader: true,
            timeout: None,
            message: HealthCheckRequest::default().encode_to_vec().into(),
        };
        io.send(
            connection.link,
            Side::Dialler,
            Frame::Request(stream, Rc::new(request)),
        );
    }

    pub(super) fn member_frame(&mut self, io: &mut Io, link: LinkId, frame: Frame) {
        let Some(&id) = self.by_link.get(&link) else {
            return;
        };
        let connection = self.connections.get_mut(&id).expect("what has a link lives");
        connection.reads += 1;
        connection.read_at = io.now;
        self.heard_from = Some(link);
        match frame {
            Frame::Answer(stream, answer) => match connection.users.remove(&stream) {
                Some(User::Call(call)) => self.call_answered(io, call, id, answer),
                Some(User::Check(check)) => self.check_answered(io, check, answer),
                Some(User::Upstream(_) | User::LeaseUpstream(_)) => {
                    panic!("a streaming call is answered like a unary one")
                }
                Some(User::Probe) => {
                    let health = judge(&answer);
                    self.report(io, Report::Event(Event::ProbeAnswered(id.reported_as(), health)));
                }
                None => {}
            },
            Frame::Reset(stream, reason) => match (connection.users.remove(&stream), reason) {
                (Some(User::Call(call)), Reason::Refused) => {
                    self.note_not_processed(io, call);
                    self.call_failed(io, call, id, Failure::Refused);
                }
                (Some(User::Call(call)), reason) => self.call_reset(io, call, reason),
                (Some(User::Probe), _) => self.report(io, Report::Event(Event::ProbeLost(id.reported_as()))),
                (Some(User::Check(check)), reason) => self.check_answered(io, check, Err(of_reset(reason))),
                (Some(User::Upstream(upstream)), reason) => {
                    self.upstream_ended(io, upstream, of_reset(reason));
                }
                (Some(User::LeaseUpstream(upstream)), reason) => {
                    self.lease_upstream_ended(io, upstream, of_reset(reason));
                }
                (None, _) => {}
            },
            Frame::Message(stream, message) => match connection.users.get(&stream).copied() {
                Some(User::Upstream(upstream)) => self.upstream_sent(io, id, stream, upstream, message),
                Some(User::LeaseUpstream(upstream)) => {
                    self.lease_upstream_sent(io, id, stream, upstream, message);
                }
                _ => {}
            },
            Frame::End(stream, status) => match connection.users.remove(&stream) {
                Some(User::Upstream(upstream)) => self.upstream_ended(io, upstream, status),
                Some(User::LeaseUpstream(upstream)) => self.lease_upstream_ended(io, upstream, status),
                _ => {}
            },
            Frame::GoAway(last) => self.go_away(io, id, last),
            Frame::Gone => return self.link_gone(io, link),
            // It was read, that is all.
            Frame::Pong => {}
            // Clients aren't sent these.
            Frame::HalfClose(_) | Frame::Open(..) | Frame::Ping | Frame::Request(..) | Frame::Window(..) => {}
        }
        self.end_if_unheld(io, id);
    }

    fn go_away(&mut self, io: &mut Io, id: ConnId, last: Option<StreamNo>) {
        let connection = self
            .connections
            .get_mut(&id)
            .expect("its caller has just found it");
        connection.go_away = true;
        let left_out = match last {
            Some(last) => connection.users.split_off(&StreamNo(last.0 + 1)),
            None => BTreeMap::new(),
        };
        // First the state, then the calls' errors.
        self.refuses(io, id);
        for user in left_out.into_values() {
            match user {
                User::Call(call) => {
                    self.note_not_processed(io, call);
                    self.call_failed(io, call, id, Failure::NotSent);
                }
                User::Probe => self.report(io, Report::Event(Event::Draining(id.reported_as()))),
                user => self.stream_lost(io, user),
            }
        }
    }

    /// The connection has ended under something of the watch hub's or the lease router's.
    fn stream_lost(&mut self, io: &mut Io, user: User) {
        let lost = Status::new(14, "the connection was lost");
        match user {
            User::Check(check) => self.check_lost(io, check),
            User::Upstream(upstream) => self.upstream_ended(io, upstream, lost),
            User::LeaseUpstream(upstream) => self.lease_upstream_ended(io, upstream, lost),
            User::Call(_) | User::Probe => {}
        }
    }

    /// The connection broke, or its member closed it.
    pub(super) fn link_gone(&mut self, io: &mut Io, link: LinkId) {
        if let Some(&id) = self.by_link.get(&link) {
            self.ended(io, id, None);
        } else if self.aside_gone(io, link) {
            // Its call asks somebody else.
        } else if let Some((&id, _)) = self.connecting.iter().find(|(_, asked)| asked.link == link) {
            // It never came to be.
            self.connecting.remove(&id);
            self.report(io, Report::Event(Event::ConnectFailed(id)));
        }
    }

    /// The proxy ends a connection at once.
    pub(super) fn close(&mut self, io: &mut Io, id: ConnId, cause: CloseCause) {
        if let Some(connection) = self.connections.get(&id) {
            io.close(connection.link, Side::Dialler);
            self.ended(io, id, Some(cause));
        }
    }

    /// A connection has ended, by itself or closed by the proxy: its driver reports, its calls meet a failure.
    fn ended(&mut self, io: &mut Io, id: ConnId, closed: Option<CloseCause>) {
        let connection = self.connections.remove(&id).expect("only what lives ends");
        self.by_link.remove(&connection.link);
        for client in self.clients.values_mut() {
            client.pinned.take_if(|pinned| *pinned == id);
        }
        let graceful = connection.state >= State::Withdrawn;
        self.report(
            io,
            Report::Event(Event::Lost {
                connection: id.reported_as(),
                graceful,
            }),
        );
        let meets = closed.map_or(Failure::ConnectionLost, Failure::of_close);
        for user in connection.users.into_values() {
            match user {
                User::Call(call) => {
                    self.note_end(io, call, closed == Some(CloseCause::LeaderLost));
                    self.call_failed(io, call, id, meets);
                }
                User::Probe => self.report(io, Report::Event(Event::ProbeLost(id.reported_as()))),
                user => self.stream_lost(io, user),
            }
        }
    }

    /// A connection ends when nobody holds it, or when its member has said goodbye and its last call is over.
    pub(super) fn end_if_unheld(&mut self, io: &mut Io, id: ConnId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let held = connection.reported
            || self.lanes.contains(&Some(id))
            || self.clients.values().any(|client| client.pinned == Some(id));
        if connection.users.is_empty() && (connection.go_away || !held) {
            io.close(connection.link, Side::Dialler);
            self.ended(io, id, None);
        }
    }
}

fn judge(answer: &Answer) -> Health {
    match answer {
        Ok(message) => match HealthCheckResponse::decode(message.clone()) {
            Ok(response) => Health::of_serving_status(response.status),
            // What tonic makes of it: INTERNAL.
            Err(_) => Health::of_error(13),
        },
        Err(status) => Health::of_error(status.code),
    }
}
