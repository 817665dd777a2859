//! Programs, and the numbers in them that are known only when they run.

use std::ops::RangeInclusive;

use etcd_proxy_proto::etcdserverpb::{self as pb, compare::TargetUnion, request_op::Request};

use crate::calls::Call;

/// What a program does, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// What it was generated from.
    pub(crate) seed: u64,
    /// What its operations are about.
    pub(crate) kind: Kind,
    /// How watch responses are compared.
    pub(crate) pace: Pace,
    /// The operations.
    pub(crate) ops: Vec<Op>,
}

/// What a program is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Users, roles and tokens, and everything else under permissions.
    Access,
    /// Everything but access, with alarms now and then.
    Alarms,
    /// Everything but access and alarms.
    Data,
    /// Many small writes without compaction, so that catching up takes more than one batch.
    History,
}

/// How watch responses are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// After every operation both sides become quiet: responses must be equal, one by one.
    Lockstep,
    /// Many operations before both become quiet: watchers catch up while writes go on, and how events are cut
    /// into responses is left to the server, within what it promises.
    Loose,
}

/// An operation.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A unary call.
    Call(By, Call),
    /// Asks for a watcher on a stream.
    Create(usize, pb::WatchCreateRequest),
    /// Cancels a watcher of a stream.
    Cancel(usize, i64),
    /// The client drops a watch stream.
    Close(usize),
    /// The client of a watch stream sends no more.
    HalfClose(usize),
    /// A keepalive stream from its opening to its end, with these leases.
    KeepAlive(By, Vec<i64>),
    /// Opens a watch stream, with or without `hasleader`; nothing if it is open.
    Open(usize, By, bool),
    /// Sends a request on a stream that asks for nothing.
    Nothing(usize),
    /// Asks for the progress of a stream.
    Progress(usize),
    /// Grants a lease with a TTL that is raised to the least possible, attaches a key, asks for it and revokes it
    /// at once, before it can expire.
    ShortLease {
        /// TTL asked for, in seconds.
        ttl: i64,
        /// The lease.
        id: i64,
    },
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    /// A token that nobody ever got.
    Garbage(&'static str),
    /// No token.
    Nobody,
    /// A user, with a token that he was given before; nobody if there is none.
    User {
        /// Which one of [`USERS`].
        user: usize,
        /// 0 for the newest token, 1 for the one before.
        age: usize,
        /// The metadata key.
        header: &'static str,
        /// Comes before the token.
        scheme: &'static str,
    },
}

/// The users who log in.
pub(crate) const USERS: [&str; 4] = ["root", "u1", "u2", "u3"];

/// Watch streams that a program may have open at a time.
pub(crate) const STREAMS: usize = 3;

/// Stands for the current revision; this plus two for the revision after the next.
pub(crate) const CURRENT: i64 = -4_000_000_000_000_000_000;
/// Stands for the revision that was compacted last.
pub(crate) const COMPACTED: i64 = -3_900_000_000_000_000_000;
/// This plus n stands for the nth lease whose id the server chose.
pub(crate) const GRANTED: i64 = -3_800_000_000_000_000_000;
/// Stands for the member that answers.
pub(crate) const MEMBER: u64 = 0xeeee_eeee_0000_0001;

/// How far from one of the constants above a number is still one of them.
const REACH: RangeInclusive<i64> = -10_000..=10_000;

/// A lease that nobody grants, for a place in the list of granted ones that isn't taken yet.
const NO_LEASE: i64 = 7_777_777;

/// What the numbers that stand for others stand for, on one side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    /// The store's revision.
    pub(crate) current: i64,
    /// The revision compacted last, 0 for none.
    pub(crate) compacted: i64,
    /// Leases whose ids the server chose.
    pub(crate) granted: Vec<i64>,
    /// The member.
    pub(crate) member: u64,
}

impl Numbers {
    /// The number itself, or what it stands for.
    pub(crate) fn number(&self, number: i64) -> i64 {
        let from = |base: i64| number.checked_sub(base).filter(|delta| REACH.contains(delta));
        if let Some(delta) = from(CURRENT) {
            return self.current + delta;
        }
        if let Some(delta) = from(COMPACTED) {
            return self.compacted + delta;
        }
        if let Some(index) = from(GRANTED) {
            let index = usize::try_from(index).ok();
            return index
                .and_then(|index| self.granted.get(index))
                .copied()
                .unwrap_or(NO_LEASE);
        }
        number
    }

    fn member(&self, id: u64) -> u64 {
        if id == MEMBER { self.member } else { id }
    }

    /// The call with its real numbers.
    pub(crate) fn call(&self, call: &Call) -> Call {
        let mut call = call.clone();
        match &mut call {
            Call::Range(request) => self.range(request),
            Call::Put(request) => request.lease = self.number(request.lease),
            Call::Txn(request) => self.txn(request),
            Call::Compact(request) => request.revision = self.number(request.revision),
            Call::LeaseGrant(request) => request.id = self.number(request.id),
            Call::LeaseRevoke(request) => request.id = self.number(request.id),
            Call::LeaseTimeToLive(request) => request.id = self.number(request.id),
            Call::HashKV(request) => request.revision = self.number(request.revision),
            Call::Alarm(request) => request.member_id = self.member(request.member_id),
            Call::MoveLeader(request) => request.target_id = self.member(request.target_id),
            _ => {}
        }
        call
    }

    fn range(&self, request: &mut pb::RangeRequest) {
        for number in [
            &mut request.revision,
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            *number = self.number(*number);
        }
    }

    fn txn(&self, request: &mut pb::TxnRequest) {
        for compare in &mut request.compare {
            match &mut compare.target_union {
                Some(TargetUnion::CreateRevision(number) | TargetUnion::ModRevision(number)) => {
                    *number = self.number(*number);
                }
                Some(TargetUnion::Lease(id)) => *id = self.number(*id),
                Some(TargetUnion::Value(_) | TargetUnion::Version(_)) | None => {}
            }
        }
        for op in request.success.iter_mut().chain(&mut request.failure) {
            match &mut op.request {
                Some(Request::RequestRange(request)) => self.range(request),
                Some(Request::RequestPut(request)) => request.lease = self.number(request.lease),
                Some(Request::RequestTxn(request)) => self.txn(request),
                Some(Request::RequestDeleteRange(_)) | None => {}
            }
        }
    }
}
