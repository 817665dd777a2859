//! Unary calls where they meet the cache.

use std::rc::Rc;

use bytes::Bytes;
use etcd_proxy_core::grpc::{Status, format_timeout, header};
use etcd_proxy_core::read::{
    Actions, Admission, Answer as CacheAnswer, Asked, CacheRole, CacheTicket, Payload, ReadTicket, Refresh,
    RefreshEnd, RefreshRuling, Reply, is_plain,
};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::RangeRequest;
use prost::Message as _;

use crate::delivery::{Alarm, Answer, CallTag, Delivery, Request};
use crate::io::{Io, Note};
use crate::proxy::Proxy;
use crate::proxy::calls::State;
use crate::proxy::connections::ConnId;
use crate::proxy::outlets::PREFIX;
use crate::proxy::watch::header_of;
use crate::situations::Situation;

/// A read that is asked again because its answer was old.
#[derive(Debug)]
pub(in crate::proxy) struct Refreshing {
    refresh: Refresh,
    began: Instant,
    asked: Asked,
    /// Numbers its attempts.
    attempt: u32,
}

/// The role of a call.
fn role(request: &Request) -> CacheRole {
    CacheRole::of(request.rpc, || {
        let timeout = request.timeout.map(format_timeout);
        let mut headers: Vec<(&str, &[u8])> = vec![("content-type", header::APPLICATION_GRPC.as_bytes())];
        headers.extend(request.token.as_deref().map(|token| (header::TOKEN, token)));
        headers.extend(
            request
                .require_leader
                .then_some((header::HAS_LEADER, header::TRUE.as_bytes())),
        );
        headers.extend(
            timeout
                .as_ref()
                .map(|value| (header::GRPC_TIMEOUT, value.as_bytes())),
        );
        is_plain(true, headers.into_iter())
    })
}

fn reply(answer: &Answer) -> Reply<'_> {
    match answer {
        Ok(message) => Reply {
            code: 0,
            message: "".into(),
            payload: Payload::Message(message.clone()),
            is_whole: true,
        },
        Err(status) => Reply {
            code: status.code,
            message: (&*status.message).into(),
            payload: Payload::None,
            is_whole: true,
        },
    }
}

impl Proxy {
    /// A call has come: it is answered by the cache, waits for it, or is forwarded.
    pub(in crate::proxy) fn admit_call(&mut self, io: &mut Io, id: u64, request: &Rc<Request>) {
        let message = &request.message;
        match role(request) {
            CacheRole::Read if !self.read.is_off() => {
                let now = self.floor();
                let floor = CacheTicket::floor_of(message, now);
                let mut actions = Actions::new();
                self.bring_to(io, &mut actions);
                let admission = self
                    .read
                    .cache
                    .admit_read(io.now, message, now.revision, &mut actions);
                io.trace
                    .remark(io.now, format_args!("cache {}: {admission:?}", self.index));
                if let Some(call) = self.calls.get_mut(&id) {
                    call.floor = Some(floor);
                }
                match admission {
                    Admission::Bypass(_) => self.forward_read(io, id, None),
                    Admission::Forward(ticket) => self.forward_read(io, id, Some(ticket)),
                    Admission::Hit(answer) => self.hit(io, id, &answer),
                    Admission::Wait(waiter) => {
                        io.count(Situation::CacheWait);
                        self.read.waiting.insert(waiter, id);
                        if let Some(call) = self.calls.get_mut(&id) {
                            call.state = State::InCache(waiter);
                            call.waits_for_cache = Some(io.now);
                        }
                    }
                }
                self.carry_out_cache(io, actions, None);
            }
            role => {
                let is_off = self.read.is_off();
                let ticket = CacheTicket::of(role, request.rpc, Some(message), self.floor(), is_off);
                let begins = ticket.begins();
                if let Some(call) = self.calls.get_mut(&id) {
                    call.ticket = Some(ticket);
                }
                self.carry_out_effect(io, begins, request.tag);
                self.next_attempt(io, id);
            }
        }
    }

    /// A read that the cache was asked for goes to a member.
    pub(super) fn forward_read(&mut self, io: &mut Io, id: u64, ticket: Option<ReadTicket>) {
        let now = self.floor();
        let Some(call) = self.calls.get_mut(&id) else {
            unreachable!("who gives up is no waiter any more");
        };
        let floor = call.floor.map_or(now, |floor| floor.after_wait(now));
        let request = &call.request;
        let is_linearizable =
            || RangeRequest::decode(&request.message[..]).is_ok_and(|read| !read.serializable);
        call.confirms = (ticket.is_some() && is_linearizable()).then_some(io.now);
        let ticket = CacheTicket::of_read(ticket, floor, request.rpc, &request.message);
        call.ticket = Some(ticket);
        call.state = State::Waiting;
        self.next_attempt(io, id);
    }

    /// A read is answered from the cache.
    pub(super) fn hit(&mut self, io: &mut Io, id: u64, answer: &CacheAnswer) {
        self.will_show_hit(io, answer);
        let whole = Bytes::from([&answer.head[..], &answer.body[..]].concat());
        let message = whole.slice(PREFIX..);
        if let Some(tag) = self.calls.get(&id).map(|call| call.tag()) {
            self.note_hit(io, tag, message.clone());
        }
        self.send_answer(io, id, Ok(message));
    }

    /// A read is answered with another one's answer.
    pub(super) fn share(&mut self, io: &mut Io, id: u64, answer: Answer, leader: CallTag) {
        io.count(Situation::CacheShared);
        if let Some(call) = self.calls.get(&id).map(|call| call.tag()) {
            io.notes.push(Note::Shared {
                call,
                leader,
                answer: answer.clone(),
            });
        }
        self.send_answer(io, id, answer);
    }

    /// A member's answer is about to be given, unless it is old.
    pub(in crate::proxy) fn conclude(&mut self, io: &mut Io, id: u64, answer: Answer) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let ticket = call.ticket.as_ref().expect("what is forwarded has a ticket");
        if ticket.has_floor() && ticket.is_old(&reply(&answer), self.watch.shown()) {
            io.count(Situation::CacheRefresh);
            io.notes.push(Note::Refreshes { call: call.tag() });
            call.request = Rc::new(Request {
                message: Refresh::request(&call.request.message).into(),
                ..Request::clone(&call.request)
            });
            call.refreshing = Some(Refreshing {
                refresh: Refresh::new(call.left(io.now)),
                began: io.now,
                asked: self.watch.shown().asks(),
                attempt: 0,
            });
            call.failed_on = None;
            return self.refresh(io, id);
        }
        self.give(io, id, answer);
    }

    /// A member's answer is given.
    pub(in crate::proxy) fn give(&mut self, io: &mut Io, id: u64, answer: Answer) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let tag = call.tag();
        let confirms = call.confirms;
        if let Some(ticket) = call.ticket.take() {
            let told = reply(&answer);
            let verdict = self.judge_reply(io, ticket.asked(), ticket.reveals(&told));
            let effect = ticket.answered(&told, verdict);
            if let (Some(at), Ok(message)) = (confirms, &answer)
                && let Some(header) = header_of(message)
            {
                io.notes.push(Note::Confirmed {
                    proxy: self.index,
                    at,
                    revision: header.revision,
                });
            }
            let kept = self.read_stats().admitted;
            self.carry_out_effect(io, effect, tag);
            if let Ok(message) = &answer
                && self.read_stats().admitted > kept
            {
                io.notes.push(Note::Kept {
                    call: tag,
                    message: message.clone(),
                    watched: self.read_stats().watched,
                });
            }
            self.send_answer(io, id, answer);
        }
    }

    /// No member has answered.
    pub(in crate::proxy) fn refuse(&mut self, io: &mut Io, id: u64, status: &Status) {
        let ticket = self.calls.get_mut(&id).and_then(|call| call.ticket.take());
        let tag = self.calls.get(&id).map(|call| call.tag());
        if let (Some(ticket), Some(tag)) = (ticket, tag) {
            let effect = ticket.refused(status.clone());
            self.carry_out_effect(io, effect, tag);
        }
        self.send_answer(io, id, Err(status.clone()));
    }

    /// The client of a call has no time left, or gets nothing better than what is its own affair.
    pub(in crate::proxy) fn refuse_alone(&mut self, io: &mut Io, id: u64, status: &Status) {
        self.abandon(io, id);
        self.refuse(io, id, status);
    }

    /// How a call ends isn't known, or nobody's affair any more.
    pub(in crate::proxy) fn abandon(&mut self, io: &mut Io, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let (tag, ticket) = (call.tag(), call.ticket.take());
        if let State::InCache(waiter) = call.state {
            call.state = State::Waiting;
            self.read.waiting.remove(&waiter);
            let mut actions = Actions::new();
            self.read.cache.cancel(io.now, waiter, &mut actions);
            self.carry_out_cache(io, actions, None);
        }
        if let Some(ticket) = ticket {
            self.carry_out_effect(io, ticket.abandoned(), tag);
        }
    }

    /// A read is asked again.
    pub(in crate::proxy) fn refresh(&mut self, io: &mut Io, id: u64) {
        let asked = self.watch.shown().asks();
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let Some(refreshing) = &mut call.refreshing else {
            return;
        };
        refreshing.asked = asked;
        refreshing.attempt += 1;
        let most = refreshing.refresh.attempt_max(io.now - refreshing.began);
        let alarm = Alarm::Refresh(refreshing.attempt);
        io.after(most, Delivery::Alarm(self.index, id, alarm));
        self.next_attempt(io, id);
    }

    /// A member has answered a read that was asked again.
    pub(in crate::proxy) fn refresh_answered(
        &mut self,
        io: &mut Io,
        id: u64,
        connection: ConnId,
        answer: Answer,
    ) {
        let asked = self.calls.get(&id).and_then(|call| call.refreshing.as_ref());
        let Some(asked) = asked.map(|refreshing| refreshing.asked) else {
            return;
        };
        let told = reply(&answer);
        let code = told.code;
        if let Some(shows) = told.shows_newest() {
            self.judge_newest(io, asked, shows);
        }
        self.refresh_ended(io, id, Some(connection), RefreshEnd::Answered(code), Some(answer));
    }

    /// An attempt has ended.
    pub(in crate::proxy) fn refresh_ended(
        &mut self,
        io: &mut Io,
        id: u64,
        connection: Option<ConnId>,
        end: RefreshEnd,
        answer: Option<Answer>,
    ) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let Some(refreshing) = &mut call.refreshing else {
            return;
        };
        // Whatever alarm is still to come is of this attempt.
        refreshing.attempt += 1;
        let elapsed = io.now - refreshing.began;
        match (refreshing.refresh.ended(elapsed, end), answer) {
            (RefreshRuling::Give, Some(answer)) => self.give(io, id, answer),
            (RefreshRuling::Give, None) => unreachable!("only an answer is ever given"),
            (RefreshRuling::Again { pause, elsewhere }, _) => {
                call.failed_on = connection.filter(|_| elsewhere);
                call.state = State::Pausing;
                call.wait += 1;
                io.after(pause, Delivery::Alarm(self.index, id, Alarm::Pause(call.wait)));
            }
            (RefreshRuling::Refuse(status), _) => self.refuse_alone(io, id, &status),
        }
    }

    /// An attempt has taken too long.
    pub(in crate::proxy) fn refresh_late(&mut self, io: &mut Io, id: u64, attempt: u32) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let is_it = call
            .refreshing
            .as_ref()
            .is_some_and(|refreshing| refreshing.attempt == attempt);
        if !is_it {
            return;
        }
        if let State::Sent(connection, stream) = call.state {
            call.state = State::Pausing;
            self.give_up_stream(io, connection, stream);
        }
        self.refresh_ended(io, id, None, RefreshEnd::Nobody, None);
    }
}
