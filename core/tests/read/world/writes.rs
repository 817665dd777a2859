//! Writes through the proxy.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::history::{Known, Verdict};
use etcd_proxy_core::read::{Write, written};
use etcd_proxy_proto::etcdserverpb::request_op::Request;
use etcd_proxy_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use prost::Message as _;

use super::{What, World};
use crate::cluster::Change;

/// A write of a client of the proxy.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) changes: Vec<Change>,
    write: Write,
    request: Bytes,
    /// Which branch a transaction takes.
    succeeds: bool,
    /// Whether the proxy still waits for its answer.
    pub(crate) is_open: bool,
    /// The revision that the proxy was told.
    pub(crate) revision: Option<i64>,
    known: Known,
}

fn operation(change: &Change) -> RequestOp {
    let request = match change {
        Change::Put(key, value) => Request::RequestPut(PutRequest {
            key: key.clone().into(),
            value: value.clone().into(),
            ..PutRequest::default()
        }),
        Change::Delete(key, end) => Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.clone().into(),
            range_end: end.clone().into(),
            ..DeleteRangeRequest::default()
        }),
    };
    RequestOp {
        request: Some(request),
    }
}

impl World {
    /// The request for some changes: simple, or a transaction, also in a transaction; and the branch that it takes. The other
    /// branch would change anything.
    fn encode(&mut self, changes: &[Change]) -> (Write, Bytes, bool) {
        if let [change] = changes
            && self.rng.bool()
        {
            return match operation(change).request {
                Some(Request::RequestPut(put)) => (Write::Put, put.encode_to_vec().into(), true),
                Some(Request::RequestDeleteRange(delete)) => {
                    (Write::DeleteRange, delete.encode_to_vec().into(), true)
                }
                _ => unreachable!("there are no others"),
            };
        }
        let all = Change::Delete(b"\0".to_vec(), b"\0".to_vec());
        let other = vec![
            operation(&Change::Put(b"a".to_vec(), b"not".to_vec())),
            operation(&all),
        ];
        let mut taken: Vec<RequestOp> = changes.iter().map(operation).collect();
        loop {
            let succeeds = self.rng.bool();
            let (success, failure) = if succeeds {
                (taken, other.clone())
            } else {
                (other.clone(), taken)
            };
            let txn = TxnRequest {
                success,
                failure,
                ..TxnRequest::default()
            };
            if self.rng.bool() {
                return (Write::Txn, txn.encode_to_vec().into(), succeeds);
            }
            taken = vec![RequestOp {
                request: Some(Request::RequestTxn(txn)),
            }];
        }
    }

    pub(crate) fn write(&mut self, changes: Vec<Change>) -> usize {
        let (write, request, succeeds) = self.encode(&changes);
        let own = self.own.len();
        self.own.push(Own {
            changes,
            write,
            request,
            succeeds,
            is_open: true,
            revision: None,
            known: self.history.known(),
        });
        let after = self.latency();
        if self.rng.u64(..1000) < self.faults.writes_lost {
            let give_up = Duration::from_micros(self.rng.u64(..50_000));
            self.later(give_up, What::WriteTimeout(own));
            if self.rng.bool() {
                // It is carried out, but later.
                let late = after * self.rng.u32(1..100);
                self.later(late, What::WriteArrive(own));
            }
        } else {
            self.later(after, What::WriteArrive(own));
        }
        own
    }

    /// A write by somebody else.
    pub(crate) fn write_elsewhere(&mut self, changes: &[Change]) -> i64 {
        let revision = self.cluster.write(changes);
        self.change_cluster();
        revision
    }

    pub(super) fn write_arrives(&mut self, own: usize) {
        let is_refused =
            self.is_unnoticed() || self.faults.is_down || self.cluster.last().auth || self.rng.u8(..20) == 0;
        let before = self.cluster.last().revision;
        let revision = if is_refused {
            None
        } else {
            let changes = self.own[own].changes.clone();
            Some(self.write_elsewhere(&changes))
        };
        let deleted = i64::from(revision > Some(before));
        let after = self.latency();
        self.later(after, What::WriteReply(own, revision, deleted));
    }

    pub(super) fn write_replied(&mut self, own: usize, revision: Option<i64>, deleted: i64) {
        if !std::mem::take(&mut self.own[own].is_open) {
            // The proxy has given up; the client gets nothing either.
            return;
        }
        self.own[own].revision = revision;
        let Some(revision) = revision else {
            return;
        };
        if self.judge(self.own[own].known, revision, true) == Verdict::Stale {
            self.pass_unread();
        }
        let header = Some(ResponseHeader {
            revision,
            ..ResponseHeader::default()
        });
        let own = &self.own[own];
        let response = match own.write {
            Write::Put | Write::Txn => TxnResponse {
                header,
                succeeded: own.write == Write::Txn && own.succeeds,
                responses: Vec::new(),
            }
            .encode_to_vec(),
            Write::DeleteRange => DeleteRangeResponse {
                header,
                deleted,
                prev_kvs: Vec::new(),
            }
            .encode_to_vec(),
        };
        let keys = written(own.write, &own.request, &response);
        self.cache.written(&keys, revision);
    }

    pub(super) fn write_timeout(&mut self, own: usize) {
        self.own[own].is_open = false;
    }
}
