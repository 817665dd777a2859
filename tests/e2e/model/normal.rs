//! Makes answers of the two sides comparable. Everything that is changed here is not compared.

use std::time::Duration;

use etcd_proxy_proto::{
    etcdserverpb::{self as pb, response_op::Response},
    mvccpb,
};

use crate::{
    calls::Answer,
    program::{GRANTED, MEMBER},
};

/// What is not compared, for the report.
pub(crate) const NOT_COMPARED: &[(&str, &str)] = &[
    (
        "cluster_id, member_id, raft_term",
        "whether they are the side's own, or 0",
    ),
    (
        "leases whose id the server chose",
        "by the order in which they were granted",
    ),
    ("tokens", "that there is one"),
    (
        "TTL that is left of a lease",
        "with a tolerance of the time that passed",
    ),
    (
        "order of LeaseLeases, LeaseTimeToLive.keys, Alarm",
        "none is promised: sorted",
    ),
    (
        "Status: raftIndex, raftAppliedIndex, dbSize, dbSizeInUse",
        "depend on the machine",
    ),
    (
        "HashKV: hash",
        "in programs in which the server chose ids of leases: it covers them",
    ),
    ("MemberList: name, peerURLs", "not part of the model's settings"),
    (
        "permission on a range whose end is before its key",
        "depends on the shape of a tree in the server: not asked for",
    ),
    (
        "MoveLeader: message",
        "only the code: members are named by random ids",
    ),
];

/// Who answers on one side, and what it made up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    pub(crate) term: u64,
    /// Leases whose ids the server chose.
    pub(crate) granted: Vec<i64>,
}

impl Ids {
    /// Learns who answers from the first answer.
    pub(crate) fn of(header: &pb::ResponseHeader) -> Self {
        assert!(
            header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0,
            "{header:?}"
        );
        Self {
            cluster: header.cluster_id,
            member: header.member_id,
            term: header.raft_term,
            granted: Vec::new(),
        }
    }

    pub(crate) fn header(&self, header: &mut Option<pb::ResponseHeader>) {
        if let Some(header) = header {
            replace(&mut header.cluster_id, self.cluster, 1);
            replace(&mut header.member_id, self.member, MEMBER);
            replace(&mut header.raft_term, self.term, 1);
        }
    }

    fn lease(&self, id: &mut i64) {
        if let Some(index) = self.granted.iter().position(|granted| granted == id) {
            *id = GRANTED + i64::try_from(index).expect("few leases");
        }
    }

    fn kv(&self, kv: &mut mvccpb::KeyValue) {
        self.lease(&mut kv.lease);
    }

    /// A watch response.
    pub(crate) fn watch(&self, response: &mut pb::WatchResponse) {
        self.header(&mut response.header);
        for event in &mut response.events {
            event.kv.iter_mut().for_each(|kv| self.kv(kv));
            event.prev_kv.iter_mut().for_each(|kv| self.kv(kv));
        }
    }

    /// An answer to a lease's keepalive.
    pub(crate) fn keep_alive(&self, response: &mut pb::LeaseKeepAliveResponse) {
        self.header(&mut response.header);
        self.lease(&mut response.id);
    }

    /// Any answer to a unary call.
    pub(crate) fn answer(&self, answer: &mut Answer) {
        self.header(answer.header());
        match answer {
            Answer::Range(answer) => self.range(answer),
            Answer::Put(answer) => self.put(answer),
            Answer::DeleteRange(answer) => self.delete(answer),
            Answer::Txn(answer) => self.txn(answer),
            Answer::LeaseGrant(answer) => self.lease(&mut answer.id),
            Answer::LeaseTimeToLive(answer) => {
                self.lease(&mut answer.id);
                answer.keys.sort_unstable();
            }
            Answer::LeaseLeases(answer) => {
                answer
                    .leases
                    .iter_mut()
                    .for_each(|lease| self.lease(&mut lease.id));
                answer.leases.sort_unstable_by_key(|lease| lease.id);
            }
            Answer::MemberList(answer) => {
                for member in &mut answer.members {
                    replace(&mut member.id, self.member, MEMBER);
                    assert!(
                        !member.name.is_empty() && !member.peer_ur_ls.is_empty(),
                        "{member:?}"
                    );
                    member.name.clear();
                    member.peer_ur_ls.clear();
                }
            }
            Answer::Alarm(answer) => {
                for alarm in &mut answer.alarms {
                    replace(&mut alarm.member_id, self.member, MEMBER);
                }
                answer
                    .alarms
                    .sort_unstable_by_key(|alarm| (alarm.member_id, alarm.alarm));
            }
            Answer::Status(answer) => {
                replace(&mut answer.leader, self.member, MEMBER);
                replace(&mut answer.raft_term, self.term, 1);
                assert!(
                    answer.raft_index > 0 && answer.raft_applied_index > 0,
                    "{answer:?}"
                );
                let own = self.member.to_string();
                for error in &mut answer.errors {
                    *error = error.replace(&own, "MEMBER");
                }
                answer.errors.sort_unstable();
                answer.raft_index = 0;
                answer.raft_applied_index = 0;
                answer.db_size = 0;
                answer.db_size_in_use = 0;
            }
            Answer::HashKV(answer) if !self.granted.is_empty() => answer.hash = 0,
            Answer::Authenticate(answer) => {
                assert!(!answer.token.is_empty(), "a token");
                answer.token = "T".to_owned();
            }
            _ => {}
        }
    }

    fn range(&self, answer: &mut pb::RangeResponse) {
        answer.kvs.iter_mut().for_each(|kv| self.kv(kv));
    }

    fn put(&self, answer: &mut pb::PutResponse) {
        answer.prev_kv.iter_mut().for_each(|kv| self.kv(kv));
    }

    fn delete(&self, answer: &mut pb::DeleteRangeResponse) {
        answer.prev_kvs.iter_mut().for_each(|kv| self.kv(kv));
    }

    /// The answers inside a transaction have headers of their own.
    fn txn(&self, answer: &mut pb::TxnResponse) {
        for response in &mut answer.responses {
            match &mut response.response {
                Some(Response::ResponseRange(answer)) => {
                    self.header(&mut answer.header);
                    self.range(answer);
                }
                Some(Response::ResponsePut(answer)) => {
                    self.header(&mut answer.header);
                    self.put(answer);
                }
                Some(Response::ResponseDeleteRange(answer)) => {
                    self.header(&mut answer.header);
                    self.delete(answer);
                }
                Some(Response::ResponseTxn(answer)) => {
                    self.header(&mut answer.header);
                    self.txn(answer);
                }
                None => {}
            }
        }
    }
}

/// Makes the seconds that are left of a lease equal if they may be: time passes differently on the two sides, by
/// `tolerance` at the most.
pub(crate) fn align_ttl(real: &mut Answer, model: &mut Answer, tolerance: Duration) {
    if let (Answer::LeaseTimeToLive(real), Answer::LeaseTimeToLive(model)) = (real, model)
        && real.ttl >= 0
        && model.ttl >= 0
        && real.ttl.abs_diff(model.ttl) <= tolerance.as_secs() + 1
    {
        model.ttl = real.ttl;
    }
}

fn replace(id: &mut u64, own: u64, by: u64) {
    if *id == own {
        *id = by;
    }
}
