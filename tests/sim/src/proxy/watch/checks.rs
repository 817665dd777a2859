//! The hub's questions: unary calls, each answered exactly once and never made again.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::grpc::{Code, Status};
use etcd_proxy_core::history::{Verdict, shows_newest};
use etcd_proxy_core::read::Asked;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::watch::{CheckId, Event};
use etcd_proxy_proto::etcdserverpb::{RangeRequest, TxnRequest};
use prost::Message as _;

use super::header_of;
use crate::delivery::{Answer, CallTag, Delivery, Frame, Request, StreamNo, WatchAlarm};
use crate::io::{Io, Note};
use crate::net::Side;
use crate::proxy::Proxy;
use crate::proxy::connections::{ConnId, User};
use crate::proxy::read::CacheCheck;
use crate::situations::Situation;

/// How long a question may take: several fit into what a create request may take.
const CHECK_TIMEOUT: Duration = Duration::from_millis(2_500);

/// A revision that no store will reach.
const FUTURE: i64 = i64::MAX - 1;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::proxy) enum Asker {
    Cache(CacheCheck),
    Hub(CheckId),
}

/// A question on its way.
#[derive(Debug)]
pub(super) struct Check {
    request: Rc<Request>,
    worker: u32,
    /// Number of its deadline.
    wait: u32,
    /// What was known of the store when it was asked.
    asked: Asked,
    at: Option<(ConnId, StreamNo)>,
}

pub(in crate::proxy) fn question(credentials: Option<Bytes>) -> Request {
    Request {
        tag: CallTag::CHECK,
        rpc: Rpc::Range,
        token: credentials,
        require_leader: false,
        timeout: Some(CHECK_TIMEOUT),
        message: Bytes::new(),
    }
}

impl Proxy {
    pub(super) fn read_revision(
        &mut self,
        io: &mut Io,
        id: CheckId,
        credentials: Option<Bytes>,
        key: Bytes,
        of_member: bool,
    ) {
        let range = RangeRequest {
            key,
            keys_only: true,
            serializable: of_member,
            ..RangeRequest::default()
        };
        io.count(Situation::WatchRevisionRead);
        if of_member {
            io.count(Situation::WatchRevisionOfMember);
            io.notes.push(Note::MemberAsked);
        }
        let request = Request {
            require_leader: !of_member,
            message: range.encode_to_vec().into(),
            ..question(credentials)
        };
        self.ask(io, Asker::Hub(id), request);
    }

    pub(super) fn read_header(&mut self, io: &mut Io, id: CheckId) {
        io.count(Situation::WatchHeaderRead);
        let request = Request {
            rpc: Rpc::Txn,
            message: TxnRequest::default().encode_to_vec().into(),
            ..question(None)
        };
        self.ask(io, Asker::Hub(id), request);
    }

    pub(super) fn ask_permission(
        &mut self,
        io: &mut Io,
        id: CheckId,
        credentials: Option<Bytes>,
        key: Bytes,
        range_end: Bytes,
    ) {
        let range = RangeRequest {
            key,
            range_end,
            revision: FUTURE,
            serializable: true,
            ..RangeRequest::default()
        };
        io.count(Situation::WatchPermissionAsked);
        let request = Request {
            message: range.encode_to_vec().into(),
            ..question(credentials)
        };
        self.ask(io, Asker::Hub(id), request);
    }

    pub(in crate::proxy) fn ask(&mut self, io: &mut Io, id: Asker, request: Request) {
        let check = Check {
            request: Rc::new(request),
            worker: io.rng.u32(..self.config.endpoints.lanes),
            wait: self.watch.wait(),
            asked: self.asks(),
            at: None,
        };
        let alarm = WatchAlarm::CheckDeadline(check.wait);
        io.after(CHECK_TIMEOUT, Delivery::WatchAlarm(self.index, alarm));
        assert!(
            self.watch.checks.insert(id, check).is_none(),
            "{id:?} is asked again before it is answered"
        );
        self.try_check(io, id);
    }

    fn try_check(&mut self, io: &mut Io, id: Asker) {
        let Some(check) = self.watch.checks.get(&id).filter(|check| check.at.is_none()) else {
            return;
        };
        let request = check.request.clone();
        if let Some(connection) = self.usable(check.worker, None)
            && let Some((link, stream)) = self.open_stream(connection, User::Check(id))
        {
            if let Some(check) = self.watch.checks.get_mut(&id) {
                check.at = Some((connection, stream));
            }
            io.send(link, Side::Dialler, Frame::Request(stream, request));
        }
    }

    /// Questions that wait for a connection of this worker look again.
    pub(super) fn checks_look_again(&mut self, io: &mut Io, worker: u32) {
        let checks = self.watch.checks.iter();
        let waiting = checks.filter(|(_, check)| check.worker == worker && check.at.is_none());
        let waiting: Vec<Asker> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.try_check(io, id);
        }
    }

    pub(super) fn check_expired(&mut self, io: &mut Io, wait: u32) {
        let found = self.watch.checks.iter().find(|(_, check)| check.wait == wait);
        let Some((&id, check)) = found else { return };
        io.count(Situation::WatchCheckExpired);
        if let Some((connection, stream)) = check.at {
            self.give_up_stream(io, connection, stream);
        }
        self.check_answered(io, id, Err(Status::new(4, "context deadline exceeded")));
    }

    /// A question is answered, or will never be.
    pub(in crate::proxy) fn check_answered(&mut self, io: &mut Io, id: Asker, answer: Answer) {
        let Some(check) = self.watch.checks.remove(&id) else {
            return;
        };
        let answer = answer.and_then(|message| {
            let undecodable = Status::new(13, "undecodable");
            header_of(&message).ok_or(undecodable)
        });
        let is_newest = shows_newest(check.request.rpc, &check.request.message);
        let verdict = self.judge(io, check.asked.known, answer.as_ref().ok().copied(), is_newest);
        match id {
            Asker::Cache(of_cache) => {
                let answer = answer.map(|header| (header, verdict));
                self.cache_checked(io, of_cache, check.asked, answer);
            }
            Asker::Hub(id) => {
                let answer = match verdict {
                    Verdict::Stale => Err(Status::of(Code::Unavailable, "it is of a former history")),
                    Verdict::Foreign => Err(Status::of(Code::Unavailable, "it is another cluster's")),
                    Verdict::Another | Verdict::Same | Verdict::Suspicious => answer,
                };
                self.tell(io, Event::Answered(id, answer));
            }
        }
    }

    /// The connection of a question broke.
    pub(in crate::proxy) fn check_lost(&mut self, io: &mut Io, id: Asker) {
        let lost = Status::of(Code::Unavailable, "the connection was lost");
        self.check_answered(io, id, Err(lost));
    }

    /// What the hub waits to send looks again.
    pub(in crate::proxy) fn watch_looks_again(&mut self, io: &mut Io, worker: u32) {
        self.upstreams_look_again(io, worker);
        self.superseded_upstreams_move(io, worker);
        self.checks_look_again(io, worker);
    }
}
