//! Questions of the hub's to the cluster: a revision, or whether somebody may read a range.

use core::time::Duration;
use std::error::Error as _;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::watch::{CheckId, Event, Header, Status};
use etcd_proxy_proto::etcdserverpb::kv_client::KvClient;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, ResponseHeader, TxnRequest};
use tonic::metadata::{AsciiMetadataValue, MetadataValue};

use super::WatchHub;
use crate::rt::{self, Runtime};
use crate::server::Worker;
use crate::streams::UNAVAILABLE;
use crate::upstream::Channel;

/// How long an answer may take. The hub asks again, so that a question that got lost doesn't keep its clients waiting
/// for all the time they have.
pub(crate) const CHECK_PATIENCE: Duration = Duration::from_millis(2500);

/// A revision that no store reaches: a server looks at the permission first, then at the revision, then at keys.
const NO_REVISION: i64 = i64::MAX - 1;

/// A question.
#[derive(Debug)]
pub(crate) struct Check {
    id: CheckId,
    credentials: Option<Bytes>,
    question: Question,
    require_leader: bool,
}

#[derive(Debug)]
enum Question {
    Range(RangeRequest),
    Txn(TxnRequest),
}

impl Check {
    /// The revision of the store, read with the right to read `key`.
    pub(super) fn revision(id: CheckId, credentials: Option<Bytes>, key: Bytes) -> Self {
        let request = RangeRequest {
            key,
            keys_only: true,
            ..RangeRequest::default()
        };
        Self {
            id,
            credentials,
            question: Question::Range(request),
            require_leader: true,
        }
    }

    /// A header, for nobody in particular.
    pub(super) fn header(id: CheckId) -> Self {
        Self {
            id,
            credentials: None,
            question: Question::Txn(TxnRequest::default()),
            require_leader: false,
        }
    }

    /// Whether a range may be read.
    pub(super) fn permission(id: CheckId, credentials: Option<Bytes>, key: Bytes, range_end: Bytes) -> Self {
        let request = RangeRequest {
            key,
            range_end,
            revision: NO_REVISION,
            serializable: true,
            ..RangeRequest::default()
        };
        Self {
            id,
            credentials,
            question: Question::Range(request),
            require_leader: false,
        }
    }

    /// Asks, and tells the hub the answer.
    pub(super) async fn run<R: Runtime>(self, hub: &WatchHub, worker: &Worker) {
        let id = self.id;
        let until = Instant::now() + CHECK_PATIENCE;
        let answer = rt::timeout_at::<R, _>(until, self.ask::<R>(worker, until)).await;
        let answer = answer.unwrap_or(Err(Status::new(UNAVAILABLE, "no answer in time")));
        let event = Event::Answered(id, answer);
        hub.tell(|hub, now, actions| hub.handle(now, event, actions));
    }

    async fn ask<R: Runtime>(self, worker: &Worker, until: Instant) -> Result<Header, Status> {
        let connection = worker.lane.connection::<R>(None, until).await;
        let connection = connection.map_err(|_| Status::new(UNAVAILABLE, "no endpoint can be reached"))?;
        let channel = Channel::new(connection);
        let origin = channel.origin();
        let mut client = KvClient::with_origin(channel, origin);
        let token = self.credentials.as_deref();
        let header = match self.question {
            Question::Range(range) => {
                let request = with_metadata(range, token, self.require_leader)?;
                let response = client.range(request).await;
                response.map(|response| response.into_inner().header)
            }
            Question::Txn(txn) => {
                let request = with_metadata(txn, token, self.require_leader)?;
                let response = client.txn(request).await;
                response.map(|response| response.into_inner().header)
            }
        };
        match header {
            Ok(header) => Ok(of_response(header)),
            // From the transport: no answer at all.
            Err(status) if status.source().is_some() => Err(Status::new(UNAVAILABLE, "connection lost")),
            Err(status) => Err(Status {
                // A gRPC code is 0 to 16.
                code: status.code() as u8,
                message: status.message().to_owned().into(),
            }),
        }
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
    const INVALID_ARGUMENT: u8 = 3;
    let invalid = Status::new(INVALID_ARGUMENT, "the token is no valid header");
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
