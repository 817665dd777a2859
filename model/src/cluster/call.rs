//! Unary calls, from where they reach a member to where they are answered.

use bytes::Bytes;
use etcd_proxy_core::time::Instant;

use super::request::Request;
use super::types::{Action, CallId, Member, Metadata};
use super::{Cluster, Serial, Timer};
use crate::auth::{self, Identity, User, token_prefix};
use crate::error::Error;
use crate::state::{Command, Entry, Response};
use crate::status::Status;

/// Entries that may be committed but not applied on a member that is given more (etcd: 5,000).
const UNAPPLIED_MAX: u64 = 5_000;

/// What Go's contexts say when their time is over.
const DEADLINE_EXCEEDED: Status = Status::deadline_exceeded();

/// A unary call that isn't answered yet.
#[derive(Debug)]
pub(super) struct Call {
    /// Whom to answer; nobody if the client left before the member read it.
    id: Option<CallId>,
    pub(super) member: Member,
    pub(super) token: Option<Bytes>,
    pub(super) request: Request,
    /// Size of the request, in bytes.
    size: usize,
    pub(super) stage: Stage,
    /// When it came to its stage.
    pub(super) since: Instant,
    /// The index of the entry that it waits for, if it waits for one; in [`Stage::Proposed`] 0 until there is one.
    pub(super) index: u64,
    /// For [`Stage::Lessor`]: a member that was asked and doesn't answer.
    pub(super) stuck: Option<Member>,
    /// Whether a linearizable read was confirmed.
    is_confirmed: bool,
    /// What is to be proposed, until it is.
    entry: Option<Entry>,
    /// For Authenticate: the revision of users and roles that the password was checked at.
    checked: u64,
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing yet.
    Accepted,
    /// That the member has applied the entry with an index. There is no time limit.
    Applied,
    /// The lessor of the leader, which is asked directly.
    Lessor,
    /// That an entry is committed and applied by the member.
    Proposed,
    /// That the leader confirms a read.
    ReadIndex,
    /// That another member leads. There is no time limit.
    Transfer(Member),
    /// That there is a leader to propose something to.
    Unproposed,
}

impl Cluster {
    /// A unary call reaches a member that runs. Answers the number it got, whether or not it is answered already.
    pub(super) fn accept(
        &mut self,
        id: Option<CallId>,
        member: Member,
        path: &str,
        metadata: Metadata,
        message: Bytes,
    ) -> Serial {
        let serial = Serial(self.next_call);
        self.next_call += 1;
        let size = message.len();
        let sized = self.check_size(&message);
        let request = Request::decode(path, message).and_then(|request| {
            sized?;
            if metadata.require_leader && self.nodes[member].lead.is_none() {
                return Err(Error::NoLeader.status());
            }
            request.validate(&self.config)?;
            Ok(request)
        });
        let request = match request {
            Ok(request) => request,
            Err(status) => {
                if let Some(call) = id {
                    assert!(!self.call_ids.contains_key(&call), "{call:?} is open already");
                    self.out.push(Action::Reply {
                        call,
                        result: Err(status),
                    });
                }
                return serial;
            }
        };
        if let Some(call) = id {
            let old = self.call_ids.insert(call, serial);
            assert!(old.is_none(), "{call:?} is open already");
        }
        let call = Call {
            id,
            member,
            token: metadata.token,
            request,
            size,
            stage: Stage::Accepted,
            since: self.now,
            index: 0,
            stuck: None,
            is_confirmed: false,
            entry: None,
            checked: 0,
        };
        self.calls.insert(serial, call);
        self.step(serial);
        serial
    }

    /// Takes a call as far as it gets.
    fn step(&mut self, serial: Serial) {
        let Some(call) = self.calls.get_mut(&serial) else {
            return;
        };
        let member = call.member;
        let linearizable = match &call.request {
            Request::Authenticate(_) => true,
            Request::Local(local) => local.is_linearizable(),
            _ => false,
        };
        if linearizable && !call.is_confirmed {
            return self.read_index(serial);
        }
        match &mut call.request {
            Request::Authenticate(_) => self.authenticate(serial),
            Request::Local(_) => self.answer_local(serial),
            Request::Log(_) => self.propose_call(serial),
            Request::MoveLeader(target) => {
                let target = *target;
                self.move_leader(serial, member, target);
            }
            Request::TimeToLive(_) => self.time_to_live(serial),
        }
    }

    /// Answers a call.
    pub(super) fn reply(&mut self, serial: Serial, result: Result<Bytes, Status>) {
        if let Some(Call { id: Some(call), .. }) = self.remove_call(serial) {
            self.out.push(Action::Reply { call, result });
        }
    }

    /// Forgets a call. What it proposed may still be committed.
    pub(super) fn remove_call(&mut self, serial: Serial) -> Option<Call> {
        let call = self.calls.remove(&serial)?;
        if let Some(id) = call.id {
            self.call_ids.remove(&id);
        }
        self.timers.cancel(Timer::Call(serial));
        self.asking_leases.remove(&serial);
        self.nodes[call.member].forget_call(serial, call.stage, call.index);
        Some(call)
    }

    /// The user that calls. None if the call was answered, or has to wait until the member knows its token.
    pub(super) fn caller(&mut self, serial: Serial, refuse: fn(Error) -> Status) -> Option<Option<User>> {
        let call = self.calls.get(&serial)?;
        let (member, token) = (call.member, call.token.clone());
        match self.identify(member, token.as_ref()) {
            Ok(Identity::Anonymous) => Some(None),
            Ok(Identity::User(user)) => Some(Some(user)),
            Ok(Identity::Later(index)) => {
                self.wait_applied(serial, index);
                None
            }
            Err(error) => {
                self.reply(serial, Err(refuse(error)));
                None
            }
        }
    }

    /// Has a read confirmed by the leader, now or later.
    fn read_index(&mut self, serial: Serial) {
        let Some(call) = self.calls.get(&serial) else {
            return;
        };
        let member = call.member;
        if !self.can_confirm(member) {
            return self.wait_for_leader(serial, Stage::ReadIndex);
        }
        let call = self.enter(serial, Stage::Applied);
        call.is_confirmed = true;
        let last = self.log.last();
        self.wait_applied(serial, last);
    }

    /// Goes on when the member has applied the entry with this index.
    pub(super) fn wait_applied(&mut self, serial: Serial, index: u64) {
        let call = self.enter(serial, Stage::Applied);
        call.index = index;
        let member = call.member;
        if self.nodes[member].applied >= index {
            self.step(serial);
        } else {
            self.nodes[member].after.insert((index, serial));
        }
    }

    /// Goes on with the calls that waited for what a member has applied.
    pub(super) fn resume_after(&mut self, member: Member) {
        let node = &mut self.nodes[member];
        if node.after.first().is_none_or(|(index, _)| *index > node.applied) {
            return;
        }
        let later = node.after.split_off(&(node.applied.saturating_add(1), Serial(0)));
        for (_, serial) in core::mem::replace(&mut node.after, later) {
            self.step(serial);
        }
    }

    fn wait_for_leader(&mut self, serial: Serial, stage: Stage) {
        let (now, timeout) = (self.now, self.request_timeout());
        let call = self.enter(serial, stage);
        let (member, since) = (call.member, call.since);
        self.nodes[member].leaderless.insert(serial);
        self.timers.set(Timer::Call(serial), (since + timeout).max(now));
    }

    /// Puts a call that exists into a stage.
    pub(super) fn enter(&mut self, serial: Serial, stage: Stage) -> &mut Call {
        let now = self.now;
        let call = self
            .calls
            .get_mut(&serial)
            .expect("the caller has just looked it up");
        if call.stage != stage {
            let old = core::mem::replace(&mut call.stage, stage);
            call.since = now;
            self.nodes[call.member].forget_call(serial, old, call.index);
            call.index = 0;
            self.timers.cancel(Timer::Call(serial));
        }
        call
    }

    /// A call that waits for a leader may go on: there may be one.
    pub(super) fn retry_call(&mut self, serial: Serial) {
        let Some(call) = self.calls.get(&serial) else {
            return;
        };
        match call.stage {
            Stage::ReadIndex if self.can_confirm(call.member) => self.read_index(serial),
            Stage::Unproposed if self.nodes[call.member].lead.is_some() => self.try_propose(serial),
            Stage::Transfer(target) if self.nodes[call.member].lead == Some(target) => {
                self.reply(serial, Ok(Bytes::new()));
            }
            _ => {}
        }
    }

    fn propose_call(&mut self, serial: Serial) {
        let Some(user) = self.caller(serial, Error::status) else {
            return;
        };
        let Some(call) = self.calls.get_mut(&serial) else {
            return;
        };
        let Request::Log(command) = &mut call.request else {
            return;
        };
        let mut command = core::mem::replace(command, Command::NoOp);
        if let Command::LeaseGrant(request) = &mut command
            && request.id == 0
        {
            request.id = self.random.i64(1..);
        }
        self.submit(serial, user, command);
    }

    /// Checks the password, then has a token assigned.
    fn authenticate(&mut self, serial: Serial) {
        let Some(call) = self.calls.get_mut(&serial) else {
            return;
        };
        let Request::Authenticate(request) = &call.request else {
            return;
        };
        let auth = self.nodes[call.member].state.auth();
        match auth.check_password(&request.name, &request.password) {
            Err(status) => self.reply(serial, Err(status)),
            Ok(revision) => {
                call.checked = revision;
                let request = auth::Request::Authenticate {
                    name: request.name.clone(),
                    token_prefix: token_prefix(&mut self.random),
                };
                self.submit(serial, None, Command::Auth(request));
            }
        }
    }

    fn submit(&mut self, serial: Serial, user: Option<User>, command: Command) {
        let Some(call) = self.calls.get_mut(&serial) else {
            return;
        };
        let node = &self.nodes[call.member];
        if node.received > node.applied.saturating_add(UNAPPLIED_MAX) {
            return self.reply(serial, Err(Error::TooManyRequests.status()));
        }
        if entry_size(node.id, user.as_ref(), &command, call.size) > self.config.request_bytes_max {
            return self.reply(serial, Err(Error::RequestTooLarge.status()));
        }
        call.entry = Some(Entry { user, command });
        self.try_propose(serial);
    }

    fn try_propose(&mut self, serial: Serial) {
        let Some(call) = self.calls.get_mut(&serial) else {
            return;
        };
        let member = call.member;
        if self.nodes[member].lead.is_none() {
            return self.wait_for_leader(serial, Stage::Unproposed);
        }
        let Some(entry) = call.entry.take() else {
            return;
        };
        // The time spent waiting for a leader counts.
        let since = if call.stage == Stage::Unproposed {
            call.since
        } else {
            self.now
        };
        let timeout = self.request_timeout();
        self.enter(serial, Stage::Proposed).since = since;
        self.timers.set(Timer::Call(serial), since + timeout);
        self.propose(member, entry, Some(serial));
    }

    /// The member has applied what a call proposed.
    pub(super) fn answer_applied(&mut self, serial: Serial, result: Result<Response, Error>) {
        let Some(call) = self.calls.get(&serial) else {
            return;
        };
        let member = call.member;
        if matches!(call.request, Request::Authenticate(_))
            && result.is_ok()
            && call.checked != self.nodes[member].state.auth().revision()
        {
            // Users changed after the password was checked.
            return self.authenticate(serial);
        }
        let header = self.header(member);
        let result = result
            .map(|response| response.encode(header))
            .map_err(Error::status);
        self.reply(serial, result);
    }

    /// [`Timer::Call`]: a call has waited for too long.
    pub(super) fn call_timeout(&mut self, serial: Serial) {
        let Some(call) = self.calls.get(&serial) else {
            return;
        };
        let (member, since) = (call.member, call.since);
        let status = match call.stage {
            Stage::Unproposed => DEADLINE_EXCEEDED,
            Stage::ReadIndex => Error::Timeout.status(),
            Stage::Proposed => self.proposal_timeout(member, since),
            Stage::Lessor => match self.lessor_timeout(member, since) {
                Ok(status) => status,
                Err(later) => return self.timers.set(Timer::Call(serial), later),
            },
            Stage::Accepted | Stage::Applied | Stage::Transfer(_) => return,
        };
        self.reply(serial, Err(status));
    }

    /// Why nothing came of a proposal, as far as the member can tell.
    fn proposal_timeout(&self, member: Member, since: Instant) -> Status {
        let node = &self.nodes[member];
        let lost = self.config.election_timeout.saturating_mul(2);
        let elected_meanwhile = |elected| since < elected && since + lost > elected;
        if node.elected.is_some_and(elected_meanwhile) {
            return Error::TimeoutLeaderFailed.status();
        }
        let linked = |member: Member| self.nodes[member].linked.is_some_and(|linked| linked <= since);
        let connected = match node.lead {
            None => true,
            Some(lead) if lead == member => {
                let linked = (0..self.nodes.len()).filter(|other| *other == member || linked(*other));
                linked.count() * 2 > self.nodes.len()
            }
            Some(lead) => linked(member) && linked(lead),
        };
        let error = if connected {
            Error::Timeout
        } else {
            Error::TimeoutConnectionLost
        };
        error.status()
    }

    fn move_leader(&mut self, serial: Serial, member: Member, target: u64) {
        let Some(user) = self.caller(serial, Error::status) else {
            return;
        };
        let node = &self.nodes[member];
        let target = self.nodes.iter().position(|node| node.id == target);
        let refused = node.state.auth().check_admin(user.as_ref()).and_then(|()| {
            if node.lead != Some(member) {
                return Err(Error::NotLeader);
            }
            target.ok_or(Error::LeaderTransfereeBad)
        });
        match refused {
            Err(error) => self.reply(serial, Err(error.status())),
            Ok(target) => {
                self.enter(serial, Stage::Transfer(target));
                self.nodes[member].leaderless.insert(serial);
                self.transfer_leadership(target);
                self.retry_call(serial);
            }
        }
    }
}

/// How many bytes etcd would write to its log for a request of `size` bytes.
fn entry_size(member_id: u64, user: Option<&User>, command: &Command, size: usize) -> usize {
    let varint = |value: u64| (70 - (value | 1).leading_zeros() as usize) / 7;
    let field = |size: usize| varint(size as u64) + size;
    // Ids of requests begin with the last bytes of the member's.
    let mut header = 1 + varint(member_id << 48 | 1 << 40);
    if let Some(user) = user {
        header += 1 + field(user.name.len()) + 1 + varint(user.revision);
    }
    // Fields from 16 on have tags of two bytes.
    let tag = if matches!(command, Command::Auth(_)) { 2 } else { 1 };
    2 + field(header) + tag + field(size)
}

#[cfg(test)]
mod tests {
    use etcd_proxy_proto::etcdserverpb::PutRequest;

    use super::*;

    /// Found by trying: the largest value for a one-letter key that etcd 3.5.30 takes by default. Its member id ended in
    /// 722b.
    #[test]
    fn the_size_of_an_entry_is_that_of_etcd() {
        let max = 1536 * 1024;
        let put = Command::Put(PutRequest::default());
        let size = |value: usize| entry_size(0x722b, None, &put, value + 7);
        assert_eq!(size(max - 24), max);
        let user = User {
            name: "alice".into(),
            revision: 200,
        };
        // A tag, a length and the name; a tag and two bytes of a number.
        assert_eq!(
            entry_size(0x722b, Some(&user), &put, 7),
            entry_size(0x722b, None, &put, 7) + 10
        );
    }
}
