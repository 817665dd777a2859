//! Questions that the proxy itself has for the cluster: of each answer only the header counts, or the status.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::grpc::{Code, Status};
use etcd_proxy_core::history::{Shows, Verdict};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::watch::Header;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse};

use super::ask::{NoAnswer, Options, ask};
use super::{Connection, OnBehalf, Uplink, Wish};
use crate::rt::Runtime;

/// How long an answer may take. Whoever asks asks again, so that a question that got lost doesn't keep its clients waiting
/// for all the time they have.
pub(crate) const CHECK_PATIENCE: Duration = Duration::from_millis(2500);

/// A revision that no store reaches: a server looks at the permission first, then at the revision, then at keys.
const NO_REVISION: i64 = i64::MAX - 1;

/// A key that is read for the sake of reading.
const NOBODYS_KEY: &[u8] = b"\0";

/// What an answer of a former history counts as.
const FORMER_HISTORY: Status = Status::of(
    Code::Unavailable,
    "the answer is of a former history of the store",
);

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    asked: Asked,
    on_behalf: OnBehalf,
}

#[derive(Clone, Debug)]
enum Asked {
    Range(RangeRequest),
    Txn(TxnRequest),
}

impl Question {
    /// The revision of the store, read with the right to read `key`. Linearizable: of the cluster's; otherwise of the
    /// member's. Either way a member without a leader refuses: what it has may be old, and nothing tells how old.
    pub(crate) fn revision(credentials: Option<Bytes>, key: Bytes, linearizable: bool) -> Self {
        let request = RangeRequest {
            key,
            keys_only: true,
            serializable: !linearizable,
            ..RangeRequest::default()
        };
        Self {
            asked: Asked::Range(request),
            on_behalf: OnBehalf {
                credentials,
                require_leader: true,
            },
        }
    }

    /// The revision that the member has, whether it has a leader or not, read with the right to read `key`.
    pub(crate) fn revision_of_member(credentials: Option<Bytes>, key: Bytes) -> Self {
        let mut question = Self::revision(credentials, key, false);
        question.on_behalf.require_leader = false;
        question
    }

    /// A header, for nobody in particular.
    pub(crate) fn header() -> Self {
        Self {
            asked: Asked::Txn(TxnRequest::default()),
            on_behalf: OnBehalf::default(),
        }
    }

    /// Whether a range may be read.
    pub(crate) fn permission(credentials: Option<Bytes>, key: Bytes, range_end: Bytes) -> Self {
        let request = RangeRequest {
            key,
            range_end,
            revision: NO_REVISION,
            serializable: true,
            ..RangeRequest::default()
        };
        Self {
            asked: Asked::Range(request),
            on_behalf: OnBehalf {
                credentials,
                require_leader: false,
            },
        }
    }

    /// Asks the member in use. If its answer may be of another history, a question follows that shows what is newest.
    ///
    /// # Errors
    /// The member's status, or UNAVAILABLE when there is no answer in time, or when the store has got another history meanwhile
    /// and the answer may be of the former one.
    pub(crate) async fn ask<R: Runtime>(self, uplink: &Arc<Uplink>) -> Result<Header, Status> {
        let (again, needs_leader) = (self.newest(), self.on_behalf.require_leader);
        let (header, verdict) = self.ask_once::<R>(uplink).await?;
        match (verdict, again) {
            (verdict, Some(newest)) if verdict.is_in_question() => {
                let newest = newest.ask_once::<R>(uplink).await.map(|(_, verdict)| verdict);
                if verdict.is_settled_by(newest.as_ref().ok().copied(), needs_leader) {
                    return Ok(header);
                }
                Err(newest.err().unwrap_or(FORMER_HISTORY))
            }
            (Verdict::Stale, _) => Err(FORMER_HISTORY),
            _ => Ok(header),
        }
    }

    /// The same question for what is newest, if this one asks for a revision that needn't be.
    fn newest(&self) -> Option<Self> {
        match &self.asked {
            Asked::Range(range) if range.serializable && range.revision == 0 => {
                let credentials = self.on_behalf.credentials.clone();
                Some(Self::revision(credentials, range.key.clone(), true))
            }
            Asked::Range(_) | Asked::Txn(_) => None,
        }
    }

    async fn ask_once<R: Runtime>(self, uplink: &Arc<Uplink>) -> Result<(Header, Verdict), Status> {
        let asked = uplink.judge.known();
        let is_newest = matches!(&self.asked, Asked::Range(range) if !range.serializable);
        let header = self.answer::<R>(uplink).await?;
        let shows = Shows {
            cluster_id: header.cluster_id,
            revision: header.revision,
            is_newest,
        };
        Ok((header, uplink.judge.judge(asked, shows)))
    }

    async fn answer<R: Runtime>(self, uplink: &Arc<Uplink>) -> Result<Header, Status> {
        let until = Instant::now() + CHECK_PATIENCE;
        let taken = uplink.lane.connection::<R>(Wish::of_proxy(), until).await;
        let taken = taken.map_err(|_| Status::of(Code::Unavailable, "no endpoint can be reached"))?;
        let member = taken.connection;
        let options = Options::until(until).for_keys(uplink.request_bytes_max);
        let answer = self.ask_on::<R>(&member, options).await;
        answer.map_err(|no_answer| {
            let is_late = no_answer == NoAnswer::Late;
            let status = no_answer.into_status();
            if is_late {
                uplink.is_silent::<R>(&member);
            } else if status.is(Code::Unavailable) {
                uplink.doubt::<R>(&member);
            }
            status
        })
    }

    async fn ask_on<R: Runtime>(
        self,
        connection: &Arc<Connection>,
        options: Options,
    ) -> Result<Header, NoAnswer> {
        let options = &options.on_behalf(self.on_behalf);
        let header = match self.asked {
            Asked::Range(range) => {
                let answer: RangeResponse = ask::<R, _, _>(connection, Rpc::Range, &range, options).await?;
                answer.header
            }
            Asked::Txn(txn) => {
                let answer: TxnResponse = ask::<R, _, _>(connection, Rpc::Txn, &txn, options).await?;
                answer.header
            }
        };
        Ok(of_response(header))
    }
}

/// Whether a member answers UNAVAILABLE, or nothing in time, to a read that is nobody's and that any member of a cluster with a
/// quorum answers. Where it would have to ask who reads, it has heard from the others before.
pub(super) async fn is_unavailable<R: Runtime>(connection: &Arc<Connection>) -> bool {
    let question = Question::revision(None, Bytes::from_static(NOBODYS_KEY), true);
    let options = Options::until(Instant::now() + CHECK_PATIENCE);
    let answer = question.ask_on::<R>(connection, options).await;
    answer.is_err_and(|no_answer| no_answer.into_status().is(Code::Unavailable))
}

fn of_response(header: Option<ResponseHeader>) -> Header {
    let header = header.unwrap_or_default();
    Header {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    }
}

#[cfg(test)]
mod tests;
