//! The one way for unary calls of the proxy's own: one question to one member, on one connection, with a deadline. What it
//! means if there is no answer is the business of whoever asks.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::grpc::header::{APPLICATION_GRPC, GRPC_STATUS, GRPC_TIMEOUT};
use etcd_proxy_core::grpc::{Code, DEADLINE_GRACE, Status, format_timeout, framed};
use etcd_proxy_core::rpc::Rpc;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message;

use super::{Connection, OnBehalf};
use crate::grpc::{Messages, code_of, status_of};
use crate::rt::{self, Runtime};

/// Most bytes of a request the proxy makes itself, unless keys of clients are in it: they are small, and the request
/// isn't flow controlled here.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// Most bytes of an answer, as gRPC clients have it that aren't told otherwise.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// How a question is asked.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) on_behalf: OnBehalf,
    /// When nobody waits for the answer any more; `None` if the connection is closed when it takes too long.
    pub(super) until: Option<Instant>,
    request_bytes_max: u64,
}

impl Options {
    /// The options of a question that is nobody's in particular.
    pub(super) fn until(until: Instant) -> Self {
        Self {
            until: Some(until),
            ..Self::unbounded()
        }
    }

    /// The options of a question whose time is taken elsewhere.
    pub(super) fn unbounded() -> Self {
        Self {
            on_behalf: OnBehalf::default(),
            until: None,
            request_bytes_max: REQUEST_BYTES_MAX,
        }
    }

    /// Asks on somebody's behalf, or a member of a certain kind.
    pub(super) fn on_behalf(self, on_behalf: OnBehalf) -> Self {
        Self { on_behalf, ..self }
    }

    /// The question holds keys of clients, and may be as large as a client's.
    pub(super) fn for_keys(self, request_bytes_max: u64) -> Self {
        Self {
            request_bytes_max: request_bytes_max.max(REQUEST_BYTES_MAX),
            ..self
        }
    }
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The connection or the stream has ended.
    #[error("the connection ended")]
    Ended,
    /// Nothing came in time.
    #[error("no answer in time")]
    Late,
    /// What came is no answer of a gRPC server, but one with this HTTP status.
    #[error("no gRPC answer, but HTTP status {0}")]
    NotGrpc(u16),
    /// The connection takes no new calls.
    #[error("the connection takes no new calls")]
    Refused,
    /// The request is too large to be sent.
    #[error("the request can't be sent")]
    Request,
    /// The member has answered with an error, or with what can't be read.
    #[error("{}", .0.message)]
    Status(Status),
}

impl NoAnswer {
    /// The status that this counts as.
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Status(status) => status,
            Self::Late => Status::of(Code::Unavailable, "no answer in time"),
            Self::Ended | Self::NotGrpc(_) | Self::Refused | Self::Request => {
                Status::of(Code::Unavailable, "connection lost")
            }
        }
    }
}

/// Asks the member of a connection.
///
/// # Errors
/// When there is no answer. Nobody is told of that.
pub(super) async fn ask<R: Runtime, Request: Message, Response: Message + Default>(
    connection: &Arc<Connection>,
    rpc: Rpc,
    message: &Request,
    options: &Options,
) -> Result<Response, NoAnswer> {
    let answer = exchange(connection, rpc, message, options);
    let answer = match options.until {
        None => answer.await,
        Some(until) => rt::timeout_at::<R, _>(until, answer)
            .await
            .unwrap_or(Err(NoAnswer::Late)),
    };
    Response::decode(answer?).map_err(|_| broken("the answer can't be read"))
}

/// Sends a message and takes in the one that answers it.
async fn exchange(
    connection: &Arc<Connection>,
    rpc: Rpc,
    message: &impl Message,
    options: &Options,
) -> Result<Bytes, NoAnswer> {
    let data = framed(&message.encode_to_vec());
    if data.len() as u64 > options.request_bytes_max {
        return Err(NoAnswer::Request);
    }
    let mut request = connection
        .request(rpc, &options.on_behalf)
        .map_err(NoAnswer::Status)?;
    if let Some(until) = options.until {
        // The member ends the call a little later than the proxy, which knows what silence means.
        let left = until.saturating_duration_since(Instant::now()) + DEADLINE_GRACE;
        if let Ok(left) = HeaderValue::from_str(&format_timeout(left)) {
            request.headers_mut().insert(GRPC_TIMEOUT, left);
        }
    }
    let (response, mut stream, _open) = connection.open_call(request, false).map_err(|_refused| {
        connection.refuses();
        NoAnswer::Refused
    })?;
    stream.send_data(data, true).map_err(|_| NoAnswer::Ended)?;
    let (head, mut body) = response.await.map_err(|_| NoAnswer::Ended)?.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE);
    let is_grpc = content_type.is_none_or(|value| value.as_bytes().starts_with(APPLICATION_GRPC.as_bytes()));
    if head.status != StatusCode::OK || !is_grpc {
        return Err(NoAnswer::NotGrpc(head.status.as_u16()));
    }
    fails(&head.headers)?;
    let mut messages = Messages::new(ANSWER_BYTES_MAX);
    let mut answer = None;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|_| NoAnswer::Ended)?;
        // It fails only when the stream has ended and its window means nothing any more.
        let _ = body.flow_control().release_capacity(chunk.len());
        messages.push(chunk);
        while let Some(message) = messages.next().map_err(NoAnswer::Status)? {
            answer.get_or_insert(message);
        }
    }
    if let Some(trailers) = body.trailers().await.map_err(|_| NoAnswer::Ended)? {
        fails(&trailers)?;
    }
    answer.ok_or_else(|| broken("the answer has no message"))
}

/// # Errors
/// The status in these fields, if there is one and it isn't OK. Whether there must be one is told by the message.
fn fails(fields: &HeaderMap) -> Result<(), NoAnswer> {
    if !fields.contains_key(GRPC_STATUS) || code_of(fields) == Some(Code::Ok.number()) {
        return Ok(());
    }
    let status = status_of(fields);
    let code = Code::of_number(status.code).unwrap_or(Code::Unknown).number();
    Err(NoAnswer::Status(Status { code, ..status }))
}

/// What came is of gRPC, but no answer.
const fn broken(what: &'static str) -> NoAnswer {
    NoAnswer::Status(Status::of(Code::Internal, what))
}

#[cfg(test)]
mod tests;
