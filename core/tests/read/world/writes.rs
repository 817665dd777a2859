//! Writes through the proxy.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::history::Known;
use etcd_proxy_core::read::{Write, WriteOutcome, WriteTicket, written};
use etcd_proxy_proto::etcdserverpb::request_op::Request;
use etcd_proxy_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};
use prost::Message as _;

use super::{What, World};
use crate::cluster::Change;

/// A write of a client of the proxy.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) changes: Vec<Change>,
    /// Until the proxy knows how it ended, or gave up.
    pub(crate) ticket: Option<WriteTicket>,
    /// The revision that the proxy was told.
    pub(crate) revision: Option<i64>,
    /// When it was over.
    pub(crate) over: u64,
    /// The store has gone back since it began.
    pub(crate) is_lost: bool,
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
    /// The request for some changes: simple, or a transaction, also in a transaction.
    fn encode(&mut self, changes: &[Change]) -> (Write, Bytes) {
        if let [change] = changes
            && self.rng.bool()
        {
            return match operation(change).request {
                Some(Request::RequestPut(put)) => (Write::Put, put.encode_to_vec().into()),
                Some(Request::RequestDeleteRange(delete)) => {
                    (Write::DeleteRange, delete.encode_to_vec().into())
                }
                _ => unreachable!("there are no others"),
            };
        }
        let mut txn = TxnRequest {
            success: changes.iter().map(operation).collect(),
            ..TxnRequest::default()
        };
        for _ in 0..self.rng.u8(..3) {
            let inner = vec![RequestOp {
                request: Some(Request::RequestTxn(txn)),
            }];
            txn = TxnRequest::default();
            if self.rng.bool() {
                txn.success = inner;
            } else {
                txn.failure = inner;
            }
        }
        (Write::Txn, txn.encode_to_vec().into())
    }

    pub(crate) fn write(&mut self, changes: Vec<Change>) -> usize {
        let (write, request) = self.encode(&changes);
        let ticket = self.cache.admit_write(&written(write, &request));
        let own = self.own.len();
        self.own.push(Own {
            changes,
            ticket: Some(ticket),
            revision: None,
            over: 0,
            is_lost: false,
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
        let revision = if is_refused {
            None
        } else {
            let changes = self.own[own].changes.clone();
            Some(self.write_elsewhere(&changes))
        };
        let after = self.latency();
        self.later(after, What::WriteReply(own, revision));
    }

    pub(super) fn write_replied(&mut self, own: usize, revision: Option<i64>) {
        let Some(ticket) = self.own[own].ticket.take() else {
            // The proxy has given up; the client gets nothing either.
            return;
        };
        self.step += 1;
        self.own[own].revision = revision;
        self.own[own].over = self.step;
        let outcome = match revision {
            Some(revision) => {
                let _ = self.judge(self.own[own].known, revision, true);
                WriteOutcome::Committed(revision)
            }
            None => WriteOutcome::Rejected,
        };
        self.cache.complete_write(ticket, outcome);
    }

    pub(super) fn write_timeout(&mut self, own: usize) {
        if let Some(ticket) = self.own[own].ticket.take() {
            self.cache.complete_write(ticket, WriteOutcome::Unknown);
        }
    }
}
