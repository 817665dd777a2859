//! Unary calls on their way through.

use std::rc::Rc;
use std::time::Duration;

use etcd_proxy_core::endpoints::Event;
use etcd_proxy_core::grpc::{DEADLINE_GRACE, Status, has_shrunk};
use etcd_proxy_core::read::{CacheTicket, Floor, RefreshEnd, WaiterId};
use etcd_proxy_core::retry::{Attempts, Failure, Ruling, is_repeatable, no_endpoint};
use etcd_proxy_core::time::Instant;
use fastrand::Rng;

use super::Proxy;
use super::aside::{Search, said};
use super::connections::ConnId;
use super::read::Refreshing;
use crate::delivery::{Alarm, Answer, CallTag, Delivery, Frame, Reason, Report, Request, StreamNo};
use crate::io::{Io, Note};
use crate::net::{LinkId, Side};
use crate::situations::Situation;

/// What is left at least for a wait for a connection after one for the cache.
const PATIENCE_MIN: Duration = Duration::from_millis(250);

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A read that waits for the cache.
    InCache(WaiterId),
    /// It waits for a connection, until [`Alarm::Patience`].
    Waiting,
    /// A member has it.
    Sent(ConnId, StreamNo),
    /// It waits for its next attempt, until [`Alarm::Pause`].
    Pausing,
    /// It has an answer, and others are asked for a better one, until [`Alarm::Other`].
    Searching,
}

/// A call on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) client: LinkId,
    stream: StreamNo,
    worker: u32,
    pub(super) request: Rc<Request>,
    deadline: Option<Instant>,
    attempts: Attempts,
    rng: Rng,
    pub(super) failed_on: Option<ConnId>,
    pub(super) state: State,
    /// Number of its last wait.
    pub(super) wait: u32,
    /// What it may not be shown anything older than, if it is a read that the cache is asked for.
    pub(super) floor: Option<Floor>,
    /// What the cache is told of it in the end, from when it is forwarded.
    pub(super) ticket: Option<CacheTicket>,
    /// It is asked again because its answer was old.
    pub(super) refreshing: Option<Refreshing>,
    /// When it was forwarded for the cache, if its answer confirms what that has.
    pub(super) confirms: Option<Instant>,
    /// Since when it has waited for the cache, before it is forwarded.
    pub(super) waits_for_cache: Option<Instant>,
    /// When it last began to wait for a connection.
    waits_since: Instant,
    /// It is the one that the calls of its client follow that must stay on one member.
    pinned_now: bool,
    /// The search for a better answer.
    pub(super) search: Option<Search>,
}

impl Call {
    pub(super) fn new(
        now: Instant,
        client: LinkId,
        stream: StreamNo,
        worker: u32,
        request: Rc<Request>,
    ) -> Self {
        let attempts = Attempts::of(request.rpc, Some(&request.message));
        Self {
            client,
            stream,
            worker,
            deadline: request.timeout.map(|timeout| now + timeout),
            request,
            attempts,
            rng: Rng::with_seed(stream.0.into()),
            failed_on: None,
            state: State::Waiting,
            wait: 0,
            floor: None,
            ticket: None,
            refreshing: None,
            confirms: None,
            waits_for_cache: None,
            waits_since: now,
            pinned_now: false,
            search: None,
        }
    }

    pub(super) fn tag(&self) -> CallTag {
        self.request.tag
    }

    /// When the proxy ends the call itself.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.deadline.map(|deadline| deadline + DEADLINE_GRACE)
    }

    /// The time until its deadline.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_since(now))
    }

    /// The request as it is sent now.
    pub(super) fn request(&self, now: Instant) -> Rc<Request> {
        match (self.left(now), self.request.timeout) {
            (Some(left), Some(timeout)) if has_shrunk(timeout, left) => Rc::new(Request {
                timeout: Some(left),
                ..Request::clone(&self.request)
            }),
            _ => self.request.clone(),
        }
    }
}

impl Proxy {
    pub(super) fn next_attempt(&mut self, io: &mut Io, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        let sticky = call.request.rpc.member().is_sticky();
        let (avoid, client, worker) = (call.failed_on, call.client, call.worker);
        if sticky && let Some(client) = self.clients.get_mut(&client) {
            client.pinned.take_if(|pinned| Some(*pinned) == avoid);
            if let Some(pinned) = client.pinned {
                io.count(Situation::PinnedCall);
                return self.attempt(io, id, pinned);
            }
        }
        match self.usable(worker, avoid) {
            Some(connection) => {
                if sticky && let Some(client) = self.clients.get_mut(&client) {
                    client.pinned = Some(connection);
                    if let Some(call) = self.calls.get_mut(&id) {
                        call.pinned_now = true;
                    }
                }
                self.attempt(io, id, connection);
            }
            None => {
                let call = self.calls.get_mut(&id).expect("it has just been looked up");
                let most = self.config.dial_timeout;
                let waited = call.waits_for_cache.take().map(|since| io.now - since);
                let left = most.saturating_sub(waited.unwrap_or_default());
                let patience = io.now + left.max(most.min(PATIENCE_MIN));
                let until = call.deadline.map_or(patience, |deadline| deadline.min(patience));
                call.state = State::Waiting;
                call.waits_since = io.now;
                call.wait += 1;
                io.count(Situation::WaitsForConnection);
                io.at(until, Delivery::Alarm(self.index, id, Alarm::Patience(call.wait)));
            }
        }
    }

    /// Since when a call has been waiting for a connection.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        // A read that is asked again waits for another member for as long as that may take to answer.
        let waits = |call: &&Call| call.state == State::Waiting && call.refreshing.is_none();
        let waiting = self.calls.values().filter(waits);
        waiting.map(|call| call.waits_since).min()
    }

    /// The connection of a worker, if calls may be tried on it.
    pub(super) fn usable(&self, worker: u32, avoid: Option<ConnId>) -> Option<ConnId> {
        let id = self.lanes[worker as usize]?;
        let usable = self.connections.get(&id).is_some_and(|found| found.is_open()) && Some(id) != avoid;
        usable.then_some(id)
    }

    /// Calls that wait look again.
    pub(super) fn lane_changed(&mut self, io: &mut Io, worker: u32) {
        let waiting: Vec<(u64, Option<ConnId>)> = self
            .calls
            .iter()
            .filter(|(_, call)| call.worker == worker && call.state == State::Waiting)
            .map(|(id, call)| (*id, call.failed_on))
            .collect();
        for (id, avoid) in waiting {
            if self.usable(worker, avoid).is_some() {
                self.next_attempt(io, id);
            }
        }
        self.watch_looks_again(io, worker);
        self.leases_look_again(io, worker);
    }

    fn attempt(&mut self, io: &mut Io, id: u64, connection: ConnId) {
        let call = self.calls.get(&id).expect("its caller has just looked it up");
        let request = call.request(io.now);
        let tag = request.tag;
        match self.open_call(io, connection, id, request) {
            Some(stream) => {
                let call = self
                    .calls
                    .get_mut(&id)
                    .expect("it waits for the stream that was opened");
                call.state = State::Sent(connection, stream);
            }
            None => {
                io.count(Situation::ConnectionTakesNoMore);
                io.notes.push(Note::NotTaken { call: tag });
                self.refuses(io, connection);
                self.call_failed(io, id, connection, Failure::NotSent);
            }
        }
    }

    pub(super) fn call_answered(&mut self, io: &mut Io, id: u64, connection: ConnId, answer: Answer) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        if call.state == State::Searching {
            return self.other_answered(io, id, connection, answer);
        }
        if call.refreshing.is_some() {
            return self.refresh_answered(io, id, connection, answer);
        }
        let code = answer.as_ref().err().map_or(0, |status| status.code);
        if !call.attempts.is_failure(code) {
            let member = call.request.rpc.member();
            if member.asks_others(call.pinned_now, said(member, &answer)) {
                call.state = State::Searching;
                return self.search(io, id, connection, answer);
            }
            return self.conclude(io, id, answer);
        }
        let left = call.left(io.now);
        let ruling = call.attempts.rule(Failure::Unavailable, left, &mut call.rng);
        self.report(io, Report::Event(Event::Doubt(connection.reported_as())));
        match ruling {
            Ruling::Forward => self.give(io, id, answer),
            ruling => self.follow(io, id, connection, ruling),
        }
    }

    /// A member has said that it did nothing for this call.
    pub(super) fn note_not_processed(&self, io: &mut Io, id: u64) {
        if let Some(call) = self.calls.get(&id) {
            io.notes.push(Note::NotProcessed {
                call: call.request.tag,
            });
        }
    }

    /// The connection has ended under this call.
    pub(super) fn note_end(&self, io: &mut Io, id: u64, moved: bool) {
        let Some(call) = self.calls.get(&id).filter(|call| call.state != State::Searching) else {
            return;
        };
        let call = call.request.tag;
        io.notes.push(if moved {
            Note::Moved { call }
        } else {
            Note::Lost { call }
        });
    }

    /// An attempt has ended without an answer.
    pub(super) fn call_failed(&mut self, io: &mut Io, id: u64, connection: ConnId, failure: Failure) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        if call.state == State::Searching {
            return self.next_other(io, id);
        }
        if call.refreshing.is_some() {
            return self.refresh_ended(io, id, Some(connection), RefreshEnd::Failed, None);
        }
        let repeatable = is_repeatable(call.request.rpc, Some(&call.request.message));
        io.counts.note_failure(failure, repeatable);
        let left = call.left(io.now);
        let ruling = call.attempts.rule(failure, left, &mut call.rng);
        self.follow(io, id, connection, ruling);
    }

    fn follow(&mut self, io: &mut Io, id: u64, connection: ConnId, ruling: Ruling) {
        match ruling {
            Ruling::Again { pause, elsewhere } => {
                let call = self.calls.get_mut(&id).expect("its caller has just looked it up");
                call.failed_on = elsewhere.then_some(connection);
                if pause.is_zero() {
                    return self.next_attempt(io, id);
                }
                call.state = State::Pausing;
                call.wait += 1;
                io.after(pause, Delivery::Alarm(self.index, id, Alarm::Pause(call.wait)));
            }
            Ruling::Refuse(status) => self.refuse(io, id, &status),
            Ruling::Forward => panic!("only an answer is ever ruled to be forwarded"),
        }
    }

    pub(super) fn call_reset(&mut self, io: &mut Io, id: u64, reason: Reason) {
        if self
            .calls
            .get(&id)
            .is_some_and(|call| call.state == State::Searching)
        {
            return self.next_other(io, id);
        }
        if self.calls.get(&id).is_some_and(|call| call.refreshing.is_some()) {
            return self.refresh_ended(io, id, None, RefreshEnd::Failed, None);
        }
        self.abandon(io, id);
        if let Some(call) = self.take_call(id) {
            io.send(call.client, Side::Acceptor, Frame::Reset(call.stream, reason));
        }
    }

    pub(crate) fn alarm(&mut self, io: &mut Io, id: u64, alarm: Alarm) {
        let Some(call) = self.calls.get(&id) else { return };
        match (alarm, call.state) {
            (Alarm::Patience(wait), State::Waiting) if wait == call.wait && call.refreshing.is_some() => {
                self.refresh_ended(io, id, None, RefreshEnd::Nobody, None);
            }
            (Alarm::Patience(wait), State::Waiting) if wait == call.wait => {
                let status = no_endpoint(call.left(io.now));
                self.refuse(io, id, &status);
            }
            (Alarm::Pause(wait), State::Pausing) if wait == call.wait && call.refreshing.is_some() => {
                self.refresh(io, id);
            }
            (Alarm::Pause(wait), State::Pausing) if wait == call.wait => self.next_attempt(io, id),
            (Alarm::Refresh(attempt), _) => self.refresh_late(io, id, attempt),
            (Alarm::Expiry, State::Sent(connection, stream)) => {
                io.count(Situation::MemberMissedDeadline);
                self.refuse_alone(io, id, &Status::deadline_exceeded());
                self.give_up_stream(io, connection, stream);
            }
            (Alarm::Expiry, State::InCache(_)) => {
                self.refuse_alone(io, id, &Status::deadline_exceeded());
            }
            (Alarm::Expiry, _) if call.refreshing.is_some() => {
                self.refuse_alone(io, id, &Status::deadline_exceeded());
            }
            (Alarm::Other(wait), State::Searching) if wait == call.wait => self.next_other(io, id),
            (Alarm::Expiry, State::Searching) => self.end_search(io, id),
            _ => {}
        }
    }

    pub(super) fn client_gave_up(&mut self, io: &mut Io, id: u64) {
        self.leave_other(io, id);
        self.abandon(io, id);
        if let Some(call) = self.calls.remove(&id)
            && let State::Sent(connection, stream) = call.state
        {
            self.give_up_stream(io, connection, stream);
        }
    }

    /// The client gets its answer.
    pub(super) fn send_answer(&mut self, io: &mut Io, id: u64, answer: Answer) {
        if let Some(call) = self.take_call(id) {
            io.send(call.client, Side::Acceptor, Frame::Answer(call.stream, answer));
        }
    }

    fn take_call(&mut self, id: u64) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        if let Some(client) = self.clients.get_mut(&call.client) {
            client.calls.remove(&call.stream);
        }
        Some(call)
    }
}
