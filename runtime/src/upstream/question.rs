//! Questions that the proxy itself has for the cluster: of each answer only the header counts, or the status.

use core::time::Duration;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::grpc::{Code, Status};
use etcd_proxy_core::history::{Shows, Verdict};
use etcd_proxy_core::watch::Header;
use etcd_proxy_proto::etcdserverpb::kv_client::KvClient;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, ResponseHeader, TxnRequest};
use tonic::metadata::{AsciiMetadataValue, MetadataValue};

use super::{Channel, Connection, Uplink, Wish};
use crate::rt::{self, Runtime};

/// How long an answer may take. Whoever asks asks again, so that a question that got lost doesn't keep its clients waiting
/// for all the time they have.
pub(crate) const CHECK_PATIENCE: Duration = Duration::from_millis(2500);

/// What no answer in time counts as.
const LATE: Status = Status::of(Code::Unavailable, "no answer in time");

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
    credentials: Option<Bytes>,
    require_leader: bool,
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
            credentials,
            require_leader: true,
        }
    }

    /// The revision that the member has, whether it has a leader or not, read with the right to read `key`.
    pub(crate) fn revision_of_member(credentials: Option<Bytes>, key: Bytes) -> Self {
        Self {
            require_leader: false,
            ..Self::revision(credentials, key, false)
        }
    }

    /// A header, for nobody in particular.
    pub(crate) fn header() -> Self {
        Self {
            asked: Asked::Txn(TxnRequest::default()),
            credentials: None,
            require_leader: false,
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
            credentials,
            require_leader: false,
        }
    }

    /// Asks the member in use. If its answer may be of another history, a question follows that shows what is newest.
    ///
    /// # Errors
    /// The member's status, or UNAVAILABLE when there is no answer in time, or when the store has got another history meanwhile
    /// and the answer may be of the former one.
    pub(crate) async fn ask<R: Runtime>(self, uplink: &Arc<Uplink>) -> Result<Header, Status> {
        let (again, needs_leader) = (self.newest(), self.require_leader);
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
                Some(Self::revision(self.credentials.clone(), range.key.clone(), true))
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
        let mut asked = None;
        let answer = rt::timeout_at::<R, _>(until, async {
            let taken = uplink.lane.connection::<R>(Wish::of_proxy(), until).await;
            let taken = taken.map_err(|_| Status::of(Code::Unavailable, "no endpoint can be reached"))?;
            let member = asked.insert(taken.connection);
            let channel = Channel::for_keys(member.clone(), uplink.request_bytes_max);
            self.ask_on(channel).await
        });
        let answer = answer.await;
        match (&answer, &asked) {
            (Err(rt::Elapsed), Some(member)) => uplink.is_silent::<R>(member),
            (Ok(Err(status)), Some(member)) if status.is(Code::Unavailable) => uplink.doubt::<R>(member),
            _ => {}
        }
        answer.unwrap_or(Err(LATE))
    }

    async fn ask_on(self, channel: Channel) -> Result<Header, Status> {
        let origin = channel.origin();
        let mut client = KvClient::with_origin(channel, origin);
        let token = self.credentials.as_deref();
        let header = match self.asked {
            Asked::Range(range) => {
                let request = with_metadata(range, token, self.require_leader)?;
                let response = client.range(request).await;
                response.map(|response| response.into_inner().header)
            }
            Asked::Txn(txn) => {
                let request = with_metadata(txn, token, self.require_leader)?;
                let response = client.txn(request).await;
                response.map(|response| response.into_inner().header)
            }
        };
        match header {
            Ok(header) => Ok(of_response(header)),
            // From the transport: no answer at all.
            Err(status) if status.source().is_some() => Err(Status::of(Code::Unavailable, "connection lost")),
            Err(status) => Err(Status {
                // A gRPC code is 0 to 16.
                code: status.code() as u8,
                message: status.message().to_owned().into(),
            }),
        }
    }
}

/// Whether a member answers UNAVAILABLE, or nothing in time, to a read that is nobody's and that any member of a cluster with a
/// quorum answers. Where it would have to ask who reads, it has heard from the others before.
pub(super) async fn is_unavailable<R: Runtime>(connection: &Arc<Connection>) -> bool {
    let question = Question::revision(None, Bytes::from_static(NOBODYS_KEY), true);
    let answer = question.ask_on(Channel::new(connection.clone()));
    match rt::timeout_at::<R, _>(Instant::now() + CHECK_PATIENCE, answer).await {
        Ok(Ok(_)) => false,
        Ok(Err(status)) => status.is(Code::Unavailable),
        Err(rt::Elapsed) => true,
    }
}

fn with_metadata<T>(
    message: T,
    token: Option<&[u8]>,
    require_leader: bool,
) -> Result<tonic::Request<T>, Status> {
    let mut request = tonic::Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", metadata_value(token)?);
    }
    if require_leader {
        let metadata = request.metadata_mut();
        metadata.insert("hasleader", MetadataValue::from_static("true"));
    }
    Ok(request)
}

/// A token that came in a header goes out in one.
fn metadata_value(token: &[u8]) -> Result<AsciiMetadataValue, Status> {
    let invalid = Status::of(Code::InvalidArgument, "the token is no valid header");
    AsciiMetadataValue::try_from(token).map_err(|_| invalid)
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
