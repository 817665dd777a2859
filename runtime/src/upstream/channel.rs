//! The proxy's own calls to a member: a [`Connection`] as the transport of tonic's generated clients.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use etcd_proxy_core::endpoints::{ConnectionId, Health};
use etcd_proxy_core::watch;
use etcd_proxy_proto::etcdserverpb::kv_client::KvClient;
use etcd_proxy_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use etcd_proxy_proto::etcdserverpb::{StatusRequest, TxnRequest};
use etcd_proxy_proto::health::HealthCheckRequest;
use etcd_proxy_proto::health::health_client::HealthClient;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tonic::Code;
use tonic::metadata::MetadataValue;
use tower_service::Service;

use super::Settings;
use super::connection::{Connection, OpenCall};
use crate::rt::{self, Runtime};

/// Most bytes of a request the proxy makes itself, unless keys of clients are in it: they are small, and the request
/// isn't flow controlled here.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// A tonic channel over one connection. It neither reconnects nor retries.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    connection: Arc<Connection>,
    request_bytes_max: usize,
}

/// Why an own call got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The connection takes no new calls.
    #[error("the connection takes no new calls")]
    Refused,
    /// The request can't be sent.
    #[error("the request can't be sent")]
    Request,
    /// The connection or the stream ended.
    #[error("the connection ended")]
    Ended,
    /// What came is no answer of a gRPC server, but one with this HTTP status.
    #[error("no gRPC answer, but HTTP status {0}")]
    NotGrpc(u16),
}

impl Channel {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            request_bytes_max: REQUEST_BYTES_MAX,
        }
    }

    /// One for requests that hold keys of clients, and are as large as a client's may be.
    pub(crate) fn for_keys(connection: Arc<Connection>, request_bytes_max: u64) -> Self {
        let request_bytes_max = usize::try_from(request_bytes_max).unwrap_or(usize::MAX);
        Self {
            request_bytes_max: request_bytes_max.max(REQUEST_BYTES_MAX),
            ..Self::new(connection)
        }
    }

    /// The base of the URI that tonic's generated clients need.
    pub(crate) fn origin(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.connection.authority().clone());
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        Uri::from_parts(parts).unwrap_or_default()
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<ResponseBody>;
    type Error = ChannelError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        if self.connection.is_refusing() {
            Poll::Ready(Err(ChannelError::Refused))
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let connection = self.connection.clone();
        let bytes_max = self.request_bytes_max;
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let limited = http_body_util::Limited::new(body, bytes_max);
            let body = limited
                .collect()
                .await
                .map_err(|_| ChannelError::Request)?
                .to_bytes();
            let (response, mut stream, open) = connection
                .open_call(Request::from_parts(head, ()), false)
                .map_err(|_refused| {
                    connection.refuses();
                    ChannelError::Refused
                })?;
            stream.send_data(body, true).map_err(|_| ChannelError::Ended)?;
            let response = response.await.map_err(|_| ChannelError::Ended)?;
            let content_type = response.headers().get(CONTENT_TYPE);
            let is_grpc = content_type.is_none_or(|value| value.as_bytes().starts_with(b"application/grpc"));
            if response.status() != StatusCode::OK || !is_grpc {
                return Err(ChannelError::NotGrpc(response.status().as_u16()));
            }
            Ok(response.map(|body| ResponseBody {
                body,
                _request: stream,
                _open: open,
            }))
        })
    }
}

/// The body of an answer to an own call.
pub(crate) struct ResponseBody {
    body: RecvStream,
    _request: SendStream<Bytes>,
    _open: OpenCall,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(data) = ready!(self.body.poll_data(cx)) {
            let data = data?;
            self.body.flow_control().release_capacity(data.remaining())?;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = ready!(self.body.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The member has answered.
    Answer(Health),
    /// Somebody has answered who is no etcd; what.
    Stranger(String),
    /// The connection takes no new calls, so it can't be probed.
    Refusing,
    /// The connection has ended, the probe's stream was reset, or it found no way in time.
    Nothing,
}

/// Asks a member whether it serves and knows a leader.
///
/// An etcd server checks `hasleader` before anything else and answers health checks without credentials. On a
/// connection that has as many calls open as the member allows the probe would wait in line, so it takes a
/// connection of its own.
pub(crate) async fn probe<R: Runtime>(
    connection: Arc<Connection>,
    settings: Arc<Settings>,
    patience: Duration,
) -> Found {
    if !connection.is_full() {
        return ask(connection).await;
    }
    let aside = async {
        let target = connection.target().clone();
        let Ok((aside, driver)) = Connection::open::<R>(ConnectionId::default(), target, &settings).await
        else {
            return Found::Nothing;
        };
        rt::spawn::<R>(async move {
            driver.run(|| ()).await;
        });
        ask(aside).await
    };
    rt::timeout_at::<R, _>(Instant::now() + patience, aside)
        .await
        .unwrap_or(Found::Nothing)
}

/// How long a member may take to say of which cluster it is.
const IDENTITY_PATIENCE: Duration = Duration::from_millis(500);

/// The id of the cluster that the member of a connection is of. It is asked once; `None` if it doesn't say, or not now.
///
/// # Errors
/// If it answers as no etcd does; what.
pub(crate) async fn cluster_of<R: Runtime>(connection: &Arc<Connection>) -> Result<Option<u64>, String> {
    let learn = || async {
        if connection.is_full() {
            return Err(None);
        }
        let channel = Channel::new(connection.clone());
        let origin = channel.origin();
        let mut client = KvClient::with_origin(channel, origin);
        // Of all answers with a header this is the one that etcd asks nobody's name for.
        match client.txn(TxnRequest::default()).await {
            Ok(response) => match response.into_inner().header {
                Some(header) => Ok(Some(header.cluster_id).filter(|cluster| *cluster != 0)),
                None => Err(Some(
                    "no etcd: the answer to a transaction has no header".to_owned(),
                )),
            },
            Err(status) if status.source().is_some() => Err(no_grpc(&status)),
            Err(_) => Ok(None),
        }
    };
    let learned = connection.cluster.get_or_try_init(learn);
    match rt::timeout_at::<R, _>(Instant::now() + IDENTITY_PATIENCE, learned).await {
        Ok(Ok(cluster)) => Ok(*cluster),
        Ok(Err(Some(what))) => Err(what),
        Ok(Err(None)) | Err(_) => Ok(None),
    }
}

/// What came instead of a gRPC answer, if that is why there is none.
fn no_grpc(status: &tonic::Status) -> Option<String> {
    let error = status.source()?.downcast_ref::<ChannelError>()?;
    matches!(error, ChannelError::NotGrpc(_)).then(|| format!("no etcd: {error}"))
}

/// Whether the member of a connection tells the truth about the progress of watches, by its version. It is asked once;
/// `None` if it doesn't answer, which may be different the next time.
pub(crate) async fn trusts_progress(connection: &Arc<Connection>) -> Option<bool> {
    let learn = || async {
        let channel = Channel::new(connection.clone());
        let origin = channel.origin();
        let mut client = MaintenanceClient::with_origin(channel, origin);
        match client.status(StatusRequest::default()).await {
            Ok(status) => Ok(watch::trusts_progress(&status.get_ref().version)),
            // Only servers that can be trusted ask who wants to know: from 3.5.28 and 3.6.9 on.
            Err(status) => match status.code() {
                Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => Ok(true),
                Code::Unimplemented => Ok(false),
                _ => Err(()),
            },
        }
    };
    connection
        .trusts_progress
        .get_or_try_init(learn)
        .await
        .ok()
        .copied()
}

async fn ask(connection: Arc<Connection>) -> Found {
    let channel = Channel::new(connection.clone());
    let origin = channel.origin();
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request
        .metadata_mut()
        .insert("hasleader", MetadataValue::from_static("true"));
    match HealthClient::with_origin(channel, origin).check(request).await {
        Ok(answer) => Found::Answer(Health::of_serving_status(answer.get_ref().status)),
        // An error with a source is no answer: it comes from the transport, perhaps before the driver knows of the end.
        Err(status) if status.source().is_some() => {
            if let Some(what) = no_grpc(&status) {
                Found::Stranger(what)
            } else if connection.is_refusing() && !connection.is_closed() {
                Found::Refusing
            } else {
                Found::Nothing
            }
        }
        Err(status) => Found::Answer(Health::of_error(status.code() as u8)),
    }
}
