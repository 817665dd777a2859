//! Whether what a client was told is true.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::{
    DeleteRangeResponse, LeaseGrantResponse, PutResponse, RangeResponse, ResponseHeader, StatusResponse,
    TxnResponse,
};
use etcd_proxy_proto::mvccpb::KeyValue;
use prost::Message;

use super::histories::Number;
use super::ledger::Ledger;
use super::{Oracle, Outcome, Record, Sticky};
use crate::delivery::{Answer, CallTag};
use crate::io::Io;
use crate::members::Members;
use crate::net::LinkId;
use crate::op::{Key, Op, long_value, value};
use crate::situations::Situation;

// The proxy's own statuses, as clients and their logs know them.
const CONNECTION_LOST: (u8, &str) = (
    14,
    "etcd-proxy: the connection to the member was lost during the call",
);
const DEADLINE_EXCEEDED: (u8, &str) = (4, "context deadline exceeded");
const MAY_BE_APPLIED: (u8, &str) = (
    14,
    "etcd-proxy: the connection to the member was lost during the call; it may have been carried out",
);
const BEHIND: (u8, &str) = (14, "etcd-proxy: no member has come to what was shown before");
const NO_ENDPOINT: (u8, &str) = (14, "etcd-proxy: no endpoint is reachable");

/// How often a call is sent again that certainly wasn't processed.
const RESENDS: u32 = 16;

/// How much longer than until its deadline a call may wait for its member to say that it has passed.
const GRACE: Duration = Duration::from_millis(100);

/// What the way between a client and its proxy, and timers, may add to a time that is promised.
const ON_THE_WAY_MAX: Duration = Duration::from_millis(300);

impl Oracle {
    /// A client has its answer.
    pub(super) fn answered(&mut self, io: &mut Io, members: &Members, call: CallTag, answer: Answer) {
        self.end(io.now, call, Outcome::Answered(answer.clone()));
        let record = self.record(call).clone();
        self.keeps_promise(io, call, &record, &answer);
        let Some(by) = self.answered_by(call, &record, &answer) else {
            return;
        };
        let replies = &self.record(by).replies;
        let reply = replies.iter().rev().find(|(reply, ..)| *reply == answer);
        let from = reply.map(|(_, link, history)| (*link, *history));
        match (answer, from) {
            (Ok(message), None) => {
                panic!("{call:?} was answered with {message:?}, which no member said: {record:?}");
            }
            (Ok(message), Some((from, history))) => {
                self.stays_on_member(io, members, call, &record, from);
                self.true_answer(io, call, &record, history, message);
            }
            (Err(status), Some(_)) => self.member_refused(io, call, &record, &status),
            (Err(status), None) => self.proxy_refused(io, call, &record, &status),
        }
    }

    /// Calls about one member go where the first of their client's connection went, for as long as that can be.
    fn stays_on_member(
        &mut self,
        io: &mut Io,
        members: &Members,
        call: CallTag,
        record: &Record,
        to: LinkId,
    ) {
        let client = record.client;
        let Some(over) = self.client_links.get(&client).copied() else {
            return;
        };
        if record.direct || !record.op.is_about_member() {
            return;
        }
        let sticky = Sticky {
            over,
            to,
            since: io.now,
        };
        let former = self
            .sticky
            .get(&client)
            .copied()
            .filter(|former| former.over == over);
        let overtaken = former.is_some_and(|former| record.began < former.since);
        if overtaken {
            return;
        }
        self.sticky.insert(client, sticky);
        let Some(former) = former else {
            return;
        };
        io.count(Situation::CheckedSticky);
        let works =
            io.net.link(former.to).is_some_and(|link| link.works()) && !members.is_draining(former.to);
        assert!(
            former.to == to || !works,
            "{call:?} went to another member than the one before, whose connection is alive: {record:?}"
        );
    }

    fn keeps_promise(&self, io: &mut Io, call: CallTag, record: &Record, answer: &Answer) {
        let Some(promise) = self.promise else { return };
        let promised = if record.op.is_read() {
            record.began >= promise.reads_since
        } else {
            promise.writes && record.began >= promise.since
        };
        let patient = record
            .deadline
            .is_none_or(|deadline| deadline >= record.began + promise.within);
        let excused = self.is_excused(record, answer);
        if !promised || !patient || record.direct || !record.op.can_succeed() || excused {
            return;
        }
        let took = io.now - record.began.max(promise.since);
        io.count(if record.op.is_read() {
            Situation::PromisedRead
        } else {
            Situation::PromisedWrite
        });
        assert!(
            answer.is_ok() && took <= promise.within,
            "{call:?} was promised an answer within {:?} from {:?}, and got {answer:?} after {took:?}: {record:?}",
            promise.within,
            promise.since
        );
    }

    /// Answers that are no better without a proxy: calls about one member stay there; members that restart forget
    /// tokens; and while there is no leader, who asks for one is told so.
    fn is_excused(&self, record: &Record, answer: &Answer) -> bool {
        if record.op.is_about_member() {
            return true;
        }
        if self.shares_former_end(record, answer) {
            return true;
        }
        let told = |message| matches!(answer, Err(status) if status.message == message);
        told("etcdserver: invalid auth token")
            || record.require_leader
                && told("etcdserver: no leader")
                && self.usage.last_leaderless.is_some_and(|at| at >= record.began)
    }

    /// A status that a member gave.
    fn member_refused(&mut self, io: &mut Io, call: CallTag, record: &Record, status: &Status) {
        io.count(match (status.code, &*status.message) {
            (14, "etcdserver: no leader") => Situation::ToldNoLeader,
            (14, _) => Situation::Unavailable,
            (3 | 5 | 7 | 9 | 16, _) => Situation::ToldPermission,
            _ => Situation::ToldAsMemberSaid,
        });
        // The others say that the server doesn't know either.
        let definite = matches!(status.code, 3 | 5 | 7 | 9 | 11 | 12 | 16)
            || record.require_leader && record.reached == 1 && status.message == "etcdserver: no leader";
        if definite {
            self.not_carried_out(io, call);
        }
    }

    /// A status of the proxy's own: is it one of those there are, and true?
    fn proxy_refused(&mut self, io: &mut Io, call: CallTag, record: &Record, status: &Status) {
        let is = |(code, message): (u8, &str)| status.code == code && status.message == message;
        let repeatable = record.op.is_repeatable();
        let took = io.now - record.began;
        let hurried = record
            .deadline
            .is_some_and(|deadline| io.now + Duration::from_millis(700) >= deadline);
        assert!(!record.direct, "{call:?} met no proxy: {status:?}");
        if is(BEHIND) {
            io.count(Situation::ToldBehind);
            assert!(record.refreshed, "{call:?} wasn't asked again: {record:?}");
        } else if is(DEADLINE_EXCEEDED) {
            io.count(Situation::ToldDeadline);
            assert!(
                record.deadline.is_some_and(|deadline| io.now >= deadline),
                "{call:?} was told too early that its deadline has passed: {record:?}"
            );
        } else if is(NO_ENDPOINT) {
            io.count(Situation::ToldNoEndpoint);
            assert!(
                took >= self.dial_timeout,
                "{call:?} was told after {took:?} that nobody can be reached: {record:?}"
            );
            if !repeatable {
                assert_eq!(record.reached, 0, "{call:?} did reach a member: {record:?}");
                self.not_carried_out(io, call);
            }
        } else if is(CONNECTION_LOST) {
            io.count(Situation::ToldConnectionLost);
            let refused = record.not_processed + record.not_taken + record.moved;
            let lost_twice = repeatable && record.lost >= 2;
            assert!(
                lost_twice || refused > RESENDS || hurried,
                "{call:?} should have been sent again: {record:?}"
            );
            if !repeatable {
                self.not_carried_out(io, call);
            }
        } else if is(MAY_BE_APPLIED) {
            io.count(Situation::ToldMayBeApplied);
            assert!(
                !repeatable && record.sent > record.not_processed,
                "{call:?} was certainly not carried out, or may be made again: {record:?}"
            );
            if record.op.is_write() {
                io.count(match self.histories.written(call) {
                    Some(_) => Situation::LostAnswer,
                    None => Situation::LostRequest,
                });
            }
        } else {
            panic!(
                "{call:?} was told {status:?}, which no member said, and the proxy has no such status: {record:?}"
            );
        }
    }

    fn not_carried_out(&mut self, io: &mut Io, call: CallTag) {
        if !self.record(call).op.is_write() {
            return;
        }
        io.count(Situation::CheckedRefusal);
        assert_eq!(
            self.histories.written(call),
            None,
            "{call:?} was refused, and is in the log: {:?}",
            self.record(call)
        );
        self.record_mut(call).refused = true;
    }

    /// What a client is told is true in the history in which a member said it.
    fn true_answer(&mut self, io: &mut Io, call: CallTag, record: &Record, history: Number, message: Bytes) {
        match &record.op {
            Op::Get {
                key,
                serializable,
                revision,
            } => {
                let key = key.bytes();
                let response: RangeResponse = decoded(message);
                let now = self.revision_told(io, record, history, &response.header, *serializable, true);
                let at = if *revision > 0 { *revision } else { now };
                let expected: Vec<&KeyValue> = self.ledger_of(history).at(&key, at).into_iter().collect();
                same(call, record, &response, &expected);
                self.count_read(io, history, *serializable, *revision, now);
                self.is_told(record, history, now);
            }
            Op::List {
                from,
                to,
                serializable,
            } => {
                let response: RangeResponse = decoded(message);
                let now = self.revision_told(io, record, history, &response.header, *serializable, true);
                let expected = self.ledger_of(history).range(&from.bytes(), &to.bytes(), now);
                same(call, record, &response, &expected);
                self.count_read(io, history, *serializable, 0, now);
                self.is_told(record, history, now);
            }
            Op::Put { key } => {
                let response: PutResponse = decoded(message);
                let now = self.revision_told(io, record, history, &response.header, false, false);
                self.wrote(call, record, history, &key.bytes(), now, &value(call));
                io.count(Situation::CheckedPut);
            }
            Op::PutLong { key, length } => {
                let response: PutResponse = decoded(message);
                let now = self.revision_told(io, record, history, &response.header, false, false);
                self.wrote(
                    call,
                    record,
                    history,
                    &key.bytes(),
                    now,
                    &long_value(call, *length),
                );
            }
            Op::PutLeased { key, lease } => {
                let response: PutResponse = decoded(message);
                let now = self.revision_told(io, record, history, &response.header, false, false);
                self.wrote(call, record, history, &key.bytes(), now, &value(call));
                let written = self.ledger_of(history).at(&key.bytes(), now);
                assert_eq!(written.map(|found| found.lease), Some(*lease), "{call:?}");
            }
            Op::LeaseGrant { lease, ttl } => {
                let response: LeaseGrantResponse = decoded(message);
                assert_eq!(response.id, *lease, "{call:?} was granted another lease");
                assert!(
                    response.ttl >= *ttl,
                    "{call:?} was granted too little: {response:?}"
                );
                self.leasing.is_granted(call, *lease, response.ttl);
            }
            Op::LeaseRevoke { lease } => self.leasing.is_revoked(call, *lease),
            Op::Delete { key } => {
                let response: DeleteRangeResponse = decoded(message);
                let read = response.deleted == 0;
                let now = self.revision_told(io, record, history, &response.header, false, read);
                if read {
                    assert!(
                        self.ledger_of(history).at(&key.bytes(), now).is_none(),
                        "{call:?} deleted nothing at {now}, but the key is there: {record:?}"
                    );
                } else {
                    assert!(
                        self.histories.claim_delete(history, &key.bytes(), now),
                        "{call:?} was acknowledged at {now}, but isn't in the log or is another's: {record:?}"
                    );
                }
                self.is_told(record, history, now);
                io.count(Situation::CheckedDelete);
            }
            Op::PutIf { key, modified } => {
                let response: TxnResponse = decoded(message);
                let succeeded = response.succeeded;
                let now = self.revision_told(io, record, history, &response.header, false, !succeeded);
                let before = if succeeded { now - 1 } else { now };
                let was = self
                    .ledger_of(history)
                    .at(&key.bytes(), before)
                    .map_or(0, |value| value.mod_revision);
                assert_eq!(
                    succeeded,
                    was == *modified,
                    "{call:?} compared with {modified}, but the key was last written at {was}: {record:?}"
                );
                if succeeded {
                    io.count(Situation::CheckedTxnSucceeded);
                    self.wrote(call, record, history, &key.bytes(), now, &value(call));
                } else {
                    io.count(Situation::CheckedTxnFailed);
                    self.is_told(record, history, now);
                    self.not_carried_out(io, call);
                }
            }
            Op::PutMany { from, count } => {
                let response: TxnResponse = decoded(message);
                let now = self.revision_told(io, record, history, &response.header, false, false);
                for next in 0..*count {
                    self.wrote(
                        call,
                        record,
                        history,
                        &Key(from.0 + next).bytes(),
                        now,
                        &value(call),
                    );
                }
                io.count(Situation::CheckedPutMany);
            }
            Op::Status => self.leader_tells(io, call, record, message),
            Op::Compact { revision } => {
                self.histories.is_compacted(history, record.client, *revision);
            }
            Op::AuthEnable
            | Op::Authenticate { .. }
            | Op::HashKv
            | Op::MemberList
            | Op::MoveLeader { .. }
            | Op::Permit { .. } => {}
            Op::Odd(odd) => panic!("{call:?}, {odd:?}, was answered with {message:?}"),
        }
    }

    /// The first call about a member that a client's connection makes is answered by the leader, if it asks for the
    /// member's state. Only while all is well: otherwise the leader may be out of reach.
    fn leader_tells(&self, io: &mut Io, call: CallTag, record: &Record, message: Bytes) {
        let calm = self
            .promise
            .is_some_and(|promise| promise.writes && record.began >= promise.since);
        let met_trouble = record.not_processed > 0 || record.replies.iter().any(|(reply, ..)| reply.is_err());
        if record.direct || !calm || !record.first_about_member || record.deadline.is_some() || met_trouble {
            return;
        }
        io.count(Situation::CheckedLeaderAnswers);
        let response: StatusResponse = decoded(message);
        let member = response.header.map(|header| header.member_id);
        assert_eq!(
            member,
            Some(response.leader),
            "{call:?} was answered by another member than the leader: {record:?}"
        );
    }

    /// The revision of an answer, and whether it can be the one of that moment: all that take place in the order of
    /// their revisions, and none before what somebody had been told of when it began.
    fn revision_told(
        &self,
        io: &Io,
        record: &Record,
        history: Number,
        header: &Option<ResponseHeader>,
        serializable: bool,
        read: bool,
    ) -> i64 {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        let last = self.ledger_of(history).revision();
        assert!(
            (1..=last).contains(&revision),
            "revision {revision} at {:?}, when the last one is {last}: {record:?}",
            io.now,
        );
        // What a former history was asked for another call may be shared with a serializable read.
        assert!(
            serializable || history >= record.history,
            "an answer of a former history: {record:?}"
        );
        let from = record.history.min(history);
        let floor = record.floor.min(self.histories.common(from, history));
        let least = if read { floor } else { floor + 1 };
        assert!(
            serializable || revision >= least,
            "an answer of revision {revision} to what began after {floor} had been seen: {record:?}",
        );
        if record.op.is_read() {
            self.is_read_well(record, history, revision, serializable);
        }
        let known = self.histories.known_to(record.client);
        if !serializable
            && known.is_some_and(|known| Some(known.history) == record.known.map(|known| known.history))
        {
            let before = record.known.map_or(0, |known| known.revision);
            assert!(
                revision >= before,
                "an answer that is of another history, which shows {revision} after {before} was known, is taken for one of \
                 the same: {record:?}"
            );
        }
        revision
    }

    fn count_read(&self, io: &mut Io, history: Number, serializable: bool, revision: i64, now: i64) {
        if revision > 0 {
            io.count(Situation::CheckedOldRevision);
        } else if !serializable {
            io.count(Situation::CheckedLinearizable);
        } else if now < self.histories.of(history).told {
            io.count(Situation::CheckedStaleSerializable);
        } else {
            io.count(Situation::CheckedSerializable);
        }
    }

    /// An acknowledged write is in the log, where its answer says.
    fn wrote(
        &mut self,
        call: CallTag,
        record: &Record,
        history: Number,
        key: &[u8],
        revision: i64,
        value: &Bytes,
    ) {
        let ledger = self.ledger_of(history);
        if ledger.written(call).is_none() && !ledger.is_seen(revision) {
            return self.is_told(record, history, revision);
        }
        assert_eq!(
            ledger.written(call),
            Some(revision),
            "{call:?} was acknowledged at {revision}: {record:?}"
        );
        let written = self
            .ledger_of(history)
            .at(key, revision)
            .map(|found| &found.value);
        assert_eq!(written, Some(value), "{call:?} wrote something else");
        self.is_told(record, history, revision);
    }
}

impl Oracle {
    fn ledger_of(&self, history: Number) -> &Ledger {
        &self.histories.of(history).ledger
    }

    /// Somebody was told of a revision.
    pub(super) fn is_told(&mut self, record: &Record, history: Number, revision: i64) {
        let story = self.histories.of_mut(history);
        story.told = story.told.max(revision);
        self.histories.is_shown(history, record.client, revision);
    }
}

fn decoded<M: Message + Default>(message: Bytes) -> M {
    M::decode(message).expect("it is byte for byte what the model said")
}

fn same(call: CallTag, record: &Record, response: &RangeResponse, expected: &[&KeyValue]) {
    assert!(
        response.kvs.iter().eq(expected.iter().copied()) && response.count == expected.len() as i64,
        "{call:?} read {response:?}, but the log has {expected:?}: {record:?}"
    );
}

/// When a call must have ended.
pub(super) fn ends_by(record: &Record) -> etcd_proxy_core::time::Instant {
    let limit = record.began + super::CALL_MAX;
    match record.deadline {
        Some(deadline) => limit.min(deadline + GRACE + ON_THE_WAY_MAX),
        None => limit,
    }
}
