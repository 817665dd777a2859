//! Calls that are for the leader, over connections that the endpoint machine doesn't know.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use etcd_proxy_core::endpoints::CloseCause;
use etcd_proxy_core::rpc::{Member, OTHER_ANSWER_TIMEOUT, OTHER_CONNECT_TIMEOUT, Said};
use etcd_proxy_proto::etcdserverpb::StatusResponse;
use prost::Message as _;

use super::Proxy;
use super::connections::{ConnId, Connection};
use crate::delivery::{Alarm, Answer, Delivery, Frame, StreamNo};
use crate::io::{Io, Note};
use crate::net::{LinkId, Peer, Side};
use crate::situations::Situation;

/// How often a connection that no probe knows, or can be sent on, is pinged while a call is open on it.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The search of a call for a better answer than the one it has.
#[derive(Debug)]
pub(super) struct Search {
    kept: Answer,
    /// Members that are still to be asked.
    others: VecDeque<usize>,
    at: At,
}

/// How far asking one of them has come.
#[derive(Clone, Copy, Debug)]
enum At {
    Nobody,
    Dialling(LinkId),
    Asked(ConnId, StreamNo),
}

/// Connections that the endpoint machine doesn't know.
#[derive(Debug)]
pub(super) struct Aside {
    members: usize,
    last: u32,
    dialling: BTreeMap<LinkId, u64>,
    /// Frames that had come when it was last looked after, and whether it was pinged then.
    pings: BTreeMap<LinkId, (u64, bool)>,
}

impl Aside {
    pub(super) fn new(members: usize) -> Self {
        Self {
            members,
            last: 0,
            dialling: BTreeMap::new(),
            pings: BTreeMap::new(),
        }
    }

    /// Connections that are asked for.
    pub(super) fn dialling(&self) -> usize {
        self.dialling.len()
    }
}

impl Proxy {
    /// Asks the other members in turn, and keeps this answer for when none gives a better one.
    pub(super) fn search(&mut self, io: &mut Io, id: u64, asked: ConnId, kept: Answer) {
        io.count(Situation::LooksForLeader);
        let link = self
            .connections
            .get(&asked)
            .and_then(|connection| io.net.link(connection.link));
        let asked = link.map(|link| link.acceptor);
        let others = (0..self.aside.members).filter(|member| Some(Peer::Member(*member)) != asked);
        let search = Search {
            kept,
            others: others.collect(),
            at: At::Nobody,
        };
        if let Some(call) = self.calls.get_mut(&id) {
            call.search = Some(search);
            self.next_other(io, id);
        }
    }

    /// Leaves the one that was asked last, and goes on to the next.
    pub(super) fn next_other(&mut self, io: &mut Io, id: u64) {
        self.leave_other(io, id);
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let over = call.left(io.now) == Some(Duration::ZERO);
        let search = call.search.as_mut().expect("a call that searches has a search");
        let Some(member) = search.others.pop_front().filter(|_| !over) else {
            return self.end_search(io, id);
        };
        io.notes.push(Note::Dialling {
            proxy: self.index,
            member,
        });
        let link = io.dial(Peer::Proxy(self.index), Peer::Member(member));
        search.at = At::Dialling(link);
        self.aside.dialling.insert(link, id);
        self.await_other(io, id, OTHER_CONNECT_TIMEOUT);
    }

    fn await_other(&mut self, io: &mut Io, id: u64, patience: Duration) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let patience = call.left(io.now).map_or(patience, |left| left.min(patience));
        call.wait += 1;
        io.after(patience, Delivery::Alarm(self.index, id, Alarm::Other(call.wait)));
    }

    /// Whoever is being asked isn't any more.
    pub(super) fn leave_other(&mut self, io: &mut Io, id: u64) {
        let search = self.calls.get_mut(&id).and_then(|call| call.search.as_mut());
        let Some(search) = search else { return };
        match std::mem::replace(&mut search.at, At::Nobody) {
            At::Nobody => {}
            At::Dialling(link) => {
                self.aside.dialling.remove(&link);
                io.close(link, Side::Dialler);
            }
            At::Asked(connection, stream) => {
                self.give_up_stream(io, connection, stream);
                self.close(io, connection, CloseCause::Unneeded);
            }
        }
    }

    /// Nobody has given a better answer.
    pub(super) fn end_search(&mut self, io: &mut Io, id: u64) {
        self.leave_other(io, id);
        let search = self.calls.get_mut(&id).and_then(|call| call.search.take());
        if let Some(search) = search {
            self.conclude(io, id, search.kept);
        }
    }

    /// One of the others accepts, or doesn't. Tells whether the connection is one of these.
    pub(super) fn aside_dialled(&mut self, io: &mut Io, link: LinkId, accepted: bool) -> bool {
        let Some(id) = self.aside.dialling.remove(&link) else {
            return false;
        };
        let Some(call) = self.calls.get_mut(&id) else {
            io.close(link, Side::Dialler);
            return true;
        };
        let search = call.search.as_mut().expect("only a search dials");
        search.at = At::Nobody;
        if !accepted {
            io.close(link, Side::Dialler);
            self.next_other(io, id);
            return true;
        }
        self.aside.last += 1;
        let number = self.aside.last;
        let connection = ConnId::Aside(number);
        self.connections.insert(connection, Connection::new(io.now, link));
        self.by_link.insert(link, connection);
        let request = call.request(io.now);
        self.ping_from_now_on(io, link);
        let stream = self.open_call(io, connection, id, request);
        let stream = stream.expect("it has just been established");
        if let Some(search) = self.calls.get_mut(&id).and_then(|call| call.search.as_mut()) {
            search.at = At::Asked(connection, stream);
        }
        self.await_other(io, id, OTHER_ANSWER_TIMEOUT);
        true
    }

    /// A connection that was asked for broke. Tells whether it is one of these.
    pub(super) fn aside_gone(&mut self, io: &mut Io, link: LinkId) -> bool {
        self.aside_dialled(io, link, false)
    }

    /// One of the others has answered.
    pub(super) fn other_answered(&mut self, io: &mut Io, id: u64, connection: ConnId, answer: Answer) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let member = call.request.rpc.member();
        if !member.is_found(said(member, &answer)) {
            return self.next_other(io, id);
        }
        io.count(Situation::FoundLeader);
        let client = call.client;
        call.search = None;
        if member.is_sticky()
            && let Some(found) = self.connections.get(&connection)
        {
            io.notes.push(Note::TakenAlong {
                call: call.tag(),
                to: found.link,
            });
        }
        if member.is_sticky()
            && let Some(client) = self.clients.get_mut(&client)
            && let Some(former) = client.pinned.replace(connection)
        {
            self.end_if_unheld(io, former);
        }
        self.conclude(io, id, answer);
        // If it isn't kept, its end comes when its frame has been dealt with.
    }

    /// From now on no probe tells whether a connection lives.
    pub(super) fn ping_from_now_on(&mut self, io: &mut Io, link: LinkId) {
        self.aside.pings.insert(link, (0, false));
        io.after(PING_INTERVAL, Delivery::AsidePing(self.index, link));
    }

    /// Looks after a connection that no probe knows, or none any more.
    pub(crate) fn aside_ping(&mut self, io: &mut Io, link: LinkId) {
        let id = self.by_link.get(&link).copied();
        let Some((id, connection)) = id.and_then(|id| Some((id, self.connections.get(&id)?))) else {
            self.aside.pings.remove(&link);
            return;
        };
        let (reads, used) = (connection.reads, connection.is_used());
        let state = self.aside.pings.entry(link).or_default();
        let alive = std::mem::replace(&mut state.0, reads) != reads;
        if alive || (!state.1 && !used) {
            state.1 = false;
        } else if state.1 {
            self.aside.pings.remove(&link);
            return self.close(io, id, CloseCause::Silent);
        } else {
            state.1 = true;
            io.send(link, Side::Dialler, Frame::Ping);
        }
        io.after(PING_INTERVAL, Delivery::AsidePing(self.index, link));
    }
}

/// What an answer says of the member that gave it.
pub(super) fn said(member: Member, answer: &Answer) -> Said {
    match (member, answer) {
        (Member::Leader | Member::SamePreferLeader, Err(status)) => {
            Said::by_error(status.code, status.message.as_bytes())
        }
        (Member::SamePreferLeader, Ok(message)) => match StatusResponse::decode(message.clone()) {
            Ok(StatusResponse {
                header: Some(header),
                leader,
                ..
            }) => Said::by_status(header.member_id, leader),
            _ => Said::Nothing,
        },
        _ => Said::Nothing,
    }
}
