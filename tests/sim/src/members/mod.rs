//! The members: hosts and gRPC servers around the model.

mod hosts;
mod streams;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::cluster::{Action, Actions, CallId, Cluster, Config, Event, Fault, Metadata, StreamId};
use etcd_proxy_model::status::Status;
pub(crate) use hosts::Host;

use self::streams::Served;
use crate::delivery::{Answer, CallTag, Delivery, Frame, Reason, Request, StreamNo};
use crate::io::{Io, Note};
use crate::net::{LinkId, Side};
use crate::situations::Situation;

/// The call of the one who runs the cluster.
const OPERATOR: CallId = CallId(u64::MAX - 1);

/// What a grpc-go server answers at a call's deadline.
const DEADLINE_EXCEEDED: Status = Status::deadline_exceeded();

/// A connection as its server sees it.
#[derive(Debug)]
struct Connection {
    member: usize,
    calls: BTreeMap<StreamNo, u64>,
    /// Streaming calls, as the model knows them.
    streams: BTreeMap<StreamNo, StreamId>,
    /// The highest stream that came.
    last: StreamNo,
    /// No new calls are taken: GOAWAY has been sent.
    draining: bool,
    /// Streams above this are ignored.
    left_out_above: Option<StreamNo>,
}

/// A call that the model works on.
#[derive(Debug)]
struct Call {
    member: usize,
    link: LinkId,
    stream: StreamNo,
    tag: CallTag,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) cluster: Cluster,
    pub(crate) hosts: Vec<Host>,
    connections: BTreeMap<LinkId, Connection>,
    calls: BTreeMap<u64, Call>,
    streams: BTreeMap<StreamId, Served>,
    next_call: u64,
    /// What the one who runs the cluster was answered last.
    operator_told: Option<Answer>,
    /// When the cluster's timeout comes, by the last delivery made for it.
    timeout: Option<Instant>,
    actions: Actions,
}

impl Members {
    pub(crate) fn new(io: &mut Io, config: Config) -> Self {
        let hosts = (0..config.members).map(|_| Host::default()).collect();
        let mut members = Self {
            cluster: Cluster::new(io.now, config),
            hosts,
            connections: BTreeMap::new(),
            calls: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_call: 0,
            operator_told: None,
            timeout: None,
            actions: Actions::new(),
        };
        members.set_timeout(io);
        members
    }

    /// Calls that members haven't answered.
    pub(crate) fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// Connections that members have.
    pub(crate) fn open_connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether this connection takes no new calls.
    pub(crate) fn is_draining(&self, link: LinkId) -> bool {
        self.connections
            .get(&link)
            .is_none_or(|connection| connection.draining)
    }

    /// Whether a client that can reach the network reaches this member's process, and it answers.
    pub(crate) fn answers(&self, member: usize) -> bool {
        self.hosts[member].answers()
    }

    /// Whether this member can do all that clients want.
    pub(crate) fn is_fit(&self, member: usize) -> bool {
        self.answers(member) && self.cluster.has_leader(member)
    }

    pub(crate) fn timed_out(&mut self, io: &mut Io) {
        if self.timeout != Some(io.now) {
            return;
        }
        self.timeout = None;
        if self.cluster.next_timeout().is_some_and(|at| at <= io.now) {
            self.step(io, Event::Timeout);
        }
        self.set_timeout(io);
    }

    /// The one who runs the cluster makes a call, on the member's own host.
    pub(crate) fn operate(
        &mut self,
        io: &mut Io,
        member: usize,
        rpc: Rpc,
        token: Option<Bytes>,
        message: Bytes,
    ) {
        let event = Event::Call {
            call: OPERATOR,
            member,
            path: rpc.path().to_owned(),
            metadata: Metadata {
                token,
                require_leader: false,
            },
            message,
        };
        self.operator_gives_up(io);
        self.step(io, event);
    }

    /// The one who runs the cluster doesn't wait for an answer any more.
    pub(crate) fn operator_gives_up(&mut self, io: &mut Io) {
        self.step(io, Event::CancelCall(OPERATOR));
    }

    /// What the one who runs the cluster was answered, once.
    pub(crate) fn operator_told(&mut self) -> Option<Answer> {
        self.operator_told.take()
    }

    pub(crate) fn fault(&mut self, io: &mut Io, fault: Fault) {
        self.step(io, Event::Fault(fault));
    }

    /// A connection is asked for.
    pub(crate) fn dialled(&mut self, io: &mut Io, link: LinkId, member: usize) {
        let host = &self.hosts[member];
        if host.unreachable {
            // SYN is sent again.
            return io.after(Duration::from_secs(1), Delivery::Dial(link));
        }
        let up = host.up;
        io.accept(link, up);
        if !up {
            return;
        }
        io.notes.push(Note::Accepted { link });
        let connection = Connection {
            member,
            calls: BTreeMap::new(),
            streams: BTreeMap::new(),
            last: StreamNo(0),
            draining: false,
            left_out_above: None,
        };
        self.connections.insert(link, connection);
        if self.hosts[member].says_goodbye {
            self.say_goodbye(io, link, true);
        }
    }

    pub(crate) fn frame(&mut self, io: &mut Io, link: LinkId, frame: Frame) {
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        let host = &mut self.hosts[connection.member];
        if host.frozen {
            // The kernel takes it; the process will see it when it runs again.
            return host.inbox.push((link, frame));
        }
        match frame {
            Frame::Request(stream, request) => self.requested(io, link, stream, &request),
            Frame::Reset(stream, _) => {
                if let Some(call) = connection.calls.remove(&stream) {
                    self.give_up(io, call);
                    self.close_if_done(io, link);
                } else if let Some(id) = connection.streams.remove(&stream) {
                    self.forget_stream(io, id);
                    self.close_if_done(io, link);
                }
            }
            Frame::Open(stream, opening) => self.opened(io, link, stream, &opening),
            Frame::Message(stream, message) => self.stream_message(io, link, stream, message),
            Frame::HalfClose(stream) => self.stream_event(io, link, stream, Event::HalfClose),
            Frame::Window(stream, messages) => {
                self.stream_event(io, link, stream, |stream| Event::Credit { stream, messages });
            }
            Frame::Gone => self.gone(io, link),
            Frame::Ping => io.send(link, Side::Acceptor, Frame::Pong),
            // Servers aren't sent these.
            Frame::Answer(..) | Frame::End(..) | Frame::GoAway(_) | Frame::Pong => {}
        }
    }

    /// Whether a server takes a new stream, and the member that it reaches.
    fn takes(&mut self, io: &mut Io, link: LinkId, stream: StreamNo) -> Option<usize> {
        let connection = self.connections.get_mut(&link)?;
        if connection.left_out_above.is_some_and(|last| stream > last) {
            io.count(Situation::LeftOutOfGoAway);
            return None;
        }
        connection.last = connection.last.max(stream);
        let member = connection.member;
        if io.now < self.hosts[member].refuses_until && io.chance(self.hosts[member].refuses_percent) {
            io.count(Situation::StreamRefused);
            io.send(link, Side::Acceptor, Frame::Reset(stream, Reason::Refused));
            return None;
        }
        Some(member)
    }

    fn requested(&mut self, io: &mut Io, link: LinkId, stream: StreamNo, request: &Rc<Request>) {
        let Some(member) = self.takes(io, link, stream) else {
            return;
        };
        self.next_call += 1;
        let call = self.next_call;
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.calls.insert(stream, call);
        }
        self.calls.insert(
            call,
            Call {
                member,
                link,
                stream,
                tag: request.tag,
            },
        );
        io.notes.push(Note::Reached { call: request.tag });
        if let Some(timeout) = request.timeout {
            io.after(timeout, Delivery::MemberDeadline(call));
        }
        let event = Event::Call {
            call: CallId(call),
            member,
            path: request.rpc.path().into(),
            metadata: Metadata {
                token: request.token.clone(),
                require_leader: request.require_leader,
            },
            message: request.message.clone(),
        };
        self.step(io, event);
    }

    /// The deadline of a call has passed: its server answers.
    pub(crate) fn deadline(&mut self, io: &mut Io, call: u64) {
        let Some(Call { member, .. }) = self.calls.get(&call) else {
            return;
        };
        if self.hosts[*member].frozen {
            // It will look at its clock when it runs again.
            return io.after(Duration::from_millis(100), Delivery::MemberDeadline(call));
        }
        self.reply(io, call, Err(DEADLINE_EXCEEDED));
        self.step(io, Event::CancelCall(CallId(call)));
    }

    fn give_up(&mut self, io: &mut Io, call: u64) {
        if self.calls.remove(&call).is_some() {
            self.step(io, Event::CancelCall(CallId(call)));
        }
    }

    fn gone(&mut self, io: &mut Io, link: LinkId) {
        if let Some(connection) = self.connections.remove(&link) {
            for call in connection.calls.into_values() {
                self.give_up(io, call);
            }
            for stream in connection.streams.into_values() {
                self.forget_stream(io, stream);
            }
        }
    }

    /// The connection broke.
    pub(crate) fn broken(&mut self, io: &mut Io, link: LinkId) {
        self.frame(io, link, Frame::Gone);
    }

    /// A member's server announces the end of a connection: at once with what it has seen so far, or first that there
    /// will be an end and then, when nothing can be on its way any more, which calls it saw.
    pub(crate) fn say_goodbye(&mut self, io: &mut Io, link: LinkId, at_once: bool) {
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        if connection.draining || self.hosts[connection.member].frozen {
            return;
        }
        connection.draining = true;
        if at_once {
            io.count(Situation::GoAwayAtOnce);
            self.last_go_away(io, link);
        } else {
            io.count(Situation::GoAwayInTwoSteps);
            io.send(link, Side::Acceptor, Frame::GoAway(None));
            io.after(Duration::from_millis(500), Delivery::LastGoAway(link));
        }
    }

    pub(crate) fn last_go_away(&mut self, io: &mut Io, link: LinkId) {
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        let last = connection.last;
        connection.left_out_above = Some(last);
        io.send(link, Side::Acceptor, Frame::GoAway(Some(last)));
        self.close_if_done(io, link);
    }

    fn close_if_done(&mut self, io: &mut Io, link: LinkId) {
        let done = self.connections.get(&link).is_some_and(|connection| {
            connection.left_out_above.is_some()
                && connection.calls.is_empty()
                && connection.streams.is_empty()
        });
        if done {
            self.connections.remove(&link);
            io.close(link, Side::Acceptor);
        }
    }

    fn step(&mut self, io: &mut Io, event: Event) {
        let mut actions = std::mem::take(&mut self.actions);
        self.cluster.handle(io.now, event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Reply { call, result } if call == OPERATOR => self.operator_told = Some(result),
                Action::Reply { call, result } => self.reply(io, call.0, result),
                Action::Send { stream, message } => self.stream_sends(io, stream, message),
                Action::End { stream, status } => self.stream_ends(io, stream, Frame::end(status)),
            }
        }
        self.actions = actions;
        self.set_timeout(io);
    }

    fn reply(&mut self, io: &mut Io, id: u64, answer: Answer) {
        let Some(Call {
            member,
            link,
            stream,
            tag,
        }) = self.calls.remove(&id)
        else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.calls.remove(&stream);
        }
        if tag != CallTag::PROBE
            && io.now < self.hosts[member].resets_until
            && io.chance(self.hosts[member].resets_percent)
        {
            io.count(Situation::AnswerReset);
            io.notes.push(Note::MemberReset { call: tag });
            io.send(link, Side::Acceptor, Frame::Reset(stream, Reason::Internal));
        } else {
            io.notes.push(Note::Replied {
                call: tag,
                answer: answer.clone(),
                link,
            });
            io.send(link, Side::Acceptor, Frame::Answer(stream, answer));
        }
        self.close_if_done(io, link);
    }

    fn set_timeout(&mut self, io: &mut Io) {
        if let Some(due) = self.cluster.next_timeout()
            && self.timeout.is_none_or(|at| due < at)
        {
            let at = due.max(io.now);
            self.timeout = Some(at);
            io.at(at, Delivery::ClusterTimeout);
        }
    }
}
