//! Clients that read, and the members that answer them.

use bytes::Bytes;
use etcd_proxy_core::history::{Known, Verdict};
use etcd_proxy_core::read::{
    Actions, Admission, Answer, FLOOR_UNKNOWN, ReadOutcome, ReadTicket, Status, WaiterId,
};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse};
use prost::Message as _;

use super::{What, World};

/// Where a read is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    Waits(WaiterId),
    Forwarded(Option<ReadTicket>),
    Answered,
    /// Its client has gone.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) request: RangeRequest,
    pub(crate) came_at: Instant,
    pub(crate) step: u64,
    /// When its request was sent to a member.
    pub(crate) sent: u64,
    /// How often the store had gone back when it came, and what was known.
    pub(crate) era: u64,
    pub(crate) known: Known,
    pub(crate) sent_at: Instant,
    /// What had been shown when it came, and what the cluster had come to.
    pub(crate) floor: i64,
    pub(crate) committed: i64,
    /// The state that the cluster was in then.
    pub(crate) came_in: usize,
    /// The last step before it came at which the proxy had to doubt that everybody may read.
    pub(crate) doubt: u64,
    pub(crate) state: State,
    pub(crate) took: std::time::Duration,
    pub(crate) response: Option<Result<RangeResponse, Status>>,
    /// Whether it was answered without a request of its own.
    pub(crate) is_cached: bool,
}

impl World {
    pub(crate) fn read(&mut self, request: RangeRequest) -> usize {
        self.read_encoded(request.clone(), request.encode_to_vec().into())
    }

    pub(crate) fn read_encoded(&mut self, request: RangeRequest, encoded: Bytes) -> usize {
        self.step += 1;
        let reader = self.readers.len();
        self.readers.push(Reader {
            request,
            came_at: self.now,
            step: self.step,
            sent: 0,
            era: self.era,
            known: self.history.known(),
            sent_at: self.now,
            floor: self.floor,
            committed: self.cluster.last().revision,
            came_in: self.cluster.states.len() - 1,
            doubt: self.told.doubt,
            state: State::Gone,
            took: std::time::Duration::ZERO,
            response: None,
            is_cached: false,
        });
        let floor = match self.unread {
            _ if !self.is_floor_told => 0,
            0 => self.history.known().revision,
            _ => FLOOR_UNKNOWN,
        };
        let mut actions = Actions::new();
        let admission = self.cache.admit_read(self.now, &encoded, floor, &mut actions);
        self.note(&admission);
        match admission {
            Admission::Bypass(_) => self.forward(reader, None),
            Admission::Forward(ticket) => self.forward(reader, Some(ticket)),
            Admission::Hit(answer) => self.serve(reader, &answer),
            Admission::Wait(id) => {
                self.readers[reader].state = State::Waits(id);
                assert_eq!(self.waiting.insert(id, reader), None, "ids are used once");
            }
        }
        self.carry_out(actions);
        reader
    }

    pub(super) fn forward(&mut self, reader: usize, ticket: Option<ReadTicket>) {
        self.sent += 1;
        self.step += 1;
        self.readers[reader].sent = self.step;
        self.readers[reader].sent_at = self.now;
        self.readers[reader].state = State::Forwarded(ticket);
        assert!(self.flying.insert(reader), "it is sent once");
        let after = self.latency();
        self.later(after, What::ReadArrive(reader));
    }

    /// The client of a read goes away, wherever the read is.
    pub(crate) fn cancel(&mut self, reader: usize) {
        let before = match self.readers[reader].state {
            State::Answered | State::Gone => return,
            State::Waits(_) | State::Forwarded(_) => {
                std::mem::replace(&mut self.readers[reader].state, State::Gone)
            }
        };
        self.told.gone += 1;
        let mut actions = Actions::new();
        match before {
            State::Waits(id) => {
                assert_eq!(self.waiting.remove(&id), Some(reader));
                self.cache.cancel(self.now, id, &mut actions);
            }
            State::Forwarded(ticket) => {
                self.flying.remove(&reader);
                if let Some(ticket) = ticket {
                    self.cache
                        .complete_read(self.now, ticket, ReadOutcome::Abandoned, &mut actions);
                }
            }
            State::Answered | State::Gone => {}
        }
        self.carry_out(actions);
    }

    pub(super) fn read_arrives(&mut self, reader: usize) {
        let request = &self.readers[reader].request;
        let linearizable = !request.serializable;
        let member = self.cluster.member();
        let result = if self.faults.is_down || (linearizable && self.faults.is_leaderless) {
            Err(Status::new(14, "etcdserver: no leader"))
        } else {
            self.catch_up(member, linearizable);
            let state = self.cluster.state_of(member);
            let request = &self.readers[reader].request;
            let answer = state.answer(request, member, |revision| self.cluster.at(revision));
            answer.map(|response| response.encode_to_vec().into())
        };
        let after = self.latency();
        self.later(after, What::ReadReply(reader, result));
    }

    pub(super) fn read_replied(&mut self, reader: usize, result: Result<Bytes, Status>) {
        if !self.flying.remove(&reader) {
            return;
        }
        let State::Forwarded(ticket) = std::mem::replace(&mut self.readers[reader].state, State::Answered)
        else {
            panic!("it was forwarded");
        };
        let decoded = match &result {
            Ok(response) => Ok(RangeResponse::decode(&response[..]).expect("the cluster writes well")),
            Err(status) => Err(status.clone()),
        };
        match &decoded {
            Ok(response) if !self.readers[reader].request.serializable => {
                let revision = response.header.as_ref().expect("there is one").revision;
                self.prove(self.readers[reader].sent);
                self.told.confirmed.push((self.readers[reader].sent_at, revision));
            }
            // Without a ticket the proxy hasn't seen it.
            Err(status) if status.code == 3 && ticket.is_some() => self.doubt(),
            _ => {}
        }
        if let Ok(response) = &decoded {
            let is_newest = !self.readers[reader].request.serializable;
            let revision = response.header.as_ref().expect("there is one").revision;
            if self.judge(self.readers[reader].known, revision, is_newest) == Verdict::Stale {
                self.pass_unread();
            }
        }
        self.told.replied(&result, self.readers[reader].sent);
        self.readers[reader].response = Some(decoded);
        self.readers[reader].took = self.now - self.readers[reader].came_at;
        self.check_forwarded(reader);
        if let Some(ticket) = ticket {
            let outcome = match result {
                Ok(response) => ReadOutcome::Answered(response),
                Err(status) => ReadOutcome::Failed(status),
            };
            let mut actions = Actions::new();
            self.cache.complete_read(self.now, ticket, outcome, &mut actions);
            self.carry_out(actions);
        }
    }

    /// The proxy shows this revision to somebody.
    pub(crate) fn show(&mut self, revision: i64) {
        let history = self.history.known().history;
        self.history.raise(history, revision);
        self.floor = self.floor.max(revision);
    }

    /// The proxy passes an answer on that shows this revision, and can't read it.
    pub(crate) fn show_unread(&mut self, revision: i64) {
        self.pass_unread();
        self.floor = self.floor.max(revision);
    }

    /// Something is shown of which nothing is known.
    pub(super) fn pass_unread(&mut self) {
        self.step += 1;
        self.unread = self.step;
    }

    pub(super) fn serve(&mut self, reader: usize, answer: &Answer) {
        let message = [&answer.head[..], &answer.body[..]].concat();
        let length = u32::try_from(message.len() - 5).expect("short");
        assert_eq!(message[..5], [&[0], &length.to_be_bytes()[..]].concat());
        let response = RangeResponse::decode(&message[5..]).expect("the cache writes well");
        let header = response.header.as_ref().expect("there is one");
        assert_eq!(header.revision, answer.revision);
        self.check_served(reader, &response);
        self.told.hits += 1;
        self.history.raise(answer.history, answer.revision);
        if answer.history == self.history.known().history {
            self.floor = self.floor.max(answer.revision);
        }
        self.answered(reader, Ok(response));
    }

    pub(super) fn share(&mut self, reader: usize, result: Result<Bytes, Status>) {
        let sent = self.told.sent_of(&result);
        let decoded = result.map(|response| RangeResponse::decode(&response[..]).expect("as it was sent"));
        self.check_shared(reader, &decoded, sent);
        self.told.shared += 1;
        self.answered(reader, decoded);
    }

    fn answered(&mut self, reader: usize, response: Result<RangeResponse, Status>) {
        let reader = &mut self.readers[reader];
        reader.state = State::Answered;
        reader.took = self.now - reader.came_at;
        reader.is_cached = true;
        reader.response = Some(response);
    }
}
