//! Where calls and the cache of reads meet.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use etcd_proxy_core::grpc::{Code, MESSAGE_PREFIX_LEN, decode_message, framed};
use etcd_proxy_core::read::ReadTicket;
use etcd_proxy_core::watch::Status;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};

use super::Call;
use super::answer::{GRPC_MESSAGE, GRPC_STATUS, status_fields};
use super::exchange::{self, Answer, AnswerEnd, Client, Payload, Unanswered, attempt, trailers};
use super::head::Head;
use crate::read::{Admitted, Part, ReadCache, Reply};
use crate::rt::{self, Runtime};
use crate::upstream::Connection;

/// An answer from the cache is sent in one piece up to this many bytes. A larger one isn't copied.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// The gRPC code of an answer without one.
const UNKNOWN: u8 = Code::Unknown.number();

/// More than a gRPC prefix and the header of a response.
const HEAD_BYTES: usize = 128;

/// The end of a `RangeRequest` that makes it linearizable whatever is before it: the last value of a field counts.
const LINEARIZABLE: [u8; 2] = [7 << 3, 0];

/// How long a member that is behind may take to catch up.
const REFRESH_PATIENCE: Duration = Duration::from_secs(1);

/// What becomes of a read.
pub(super) enum Looked {
    /// A message with its prefix.
    Answer(VecDeque<Bytes>),
    Refused(Status),
    Forward(Option<ReadTicket>),
}

/// Asks the cache, and waits if it says so.
///
/// # Errors
/// When the client doesn't want the answer any more.
pub(super) async fn look_up<R: Runtime>(
    reads: &Arc<ReadCache>,
    request: &Bytes,
    client: &mut Client<'_, R>,
) -> Result<Looked, Unanswered> {
    let mut admitted = reads.read(request);
    loop {
        return Ok(match admitted {
            Admitted::Answer(answer) if answer.body.len() <= COPIED_BYTES_MAX => {
                let mut whole = BytesMut::with_capacity(answer.head.len() + answer.body.len());
                whole.extend_from_slice(&answer.head);
                whole.extend_from_slice(&answer.body);
                Looked::Answer(VecDeque::from([whole.freeze()]))
            }
            Admitted::Answer(answer) => Looked::Answer(VecDeque::from([answer.head, answer.body])),
            Admitted::Shared(Ok(message)) => Looked::Answer(VecDeque::from([framed(&message)])),
            Admitted::Shared(Err(status)) => Looked::Refused(status),
            Admitted::Forward(ticket) => Looked::Forward(ticket),
            Admitted::Wait(mut waiting) => {
                admitted = client.patient(|cx| waiting.poll(cx)).await?;
                continue;
            }
        });
    }
}

/// The head of an answer: its content type is the request's.
fn head(request: &HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    let content_type = request.get(CONTENT_TYPE).cloned();
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Answers with a message.
pub(super) async fn deliver(data: VecDeque<Bytes>, request: &HeaderMap, respond: SendResponse<Bytes>) {
    let answer = Answer {
        head: head(request),
        chunks: data,
        end: AnswerEnd::Complete(Some(status_fields(0, ""))),
    };
    exchange::deliver(answer, respond).await;
}

/// Answers with a status.
pub(super) fn refuse(status: &Status, request: &HeaderMap, mut respond: SendResponse<Bytes>) {
    let mut response = head(request);
    response
        .headers_mut()
        .extend(status_fields(status.code, &status.message));
    // An error means that the client has gone.
    let _ = respond.send_response(response, true);
}

/// Tells the cache what a call is about to be answered.
pub(super) fn tell(part: Part, answer: &Answer) {
    if !part.is_none() {
        let reply = reply(answer, part.wants_all());
        part.answered(&reply);
    }
}

/// What the cache is told of an answer: all of it, if that is wanted and it was taken in as a whole, or its beginning.
fn reply(answer: &Answer, all: bool) -> Reply<'_> {
    let fields = trailers(answer);
    let field = |name| fields.and_then(|fields| fields.get(name)?.to_str().ok());
    let code = match fields {
        Some(_) => field(GRPC_STATUS)
            .and_then(|code| code.parse().ok())
            .unwrap_or(UNKNOWN),
        // As the answer goes on.
        None => 0,
    };
    let is_whole = matches!(answer.end, AnswerEnd::Complete(_));
    let enough = if all && is_whole { usize::MAX } else { HEAD_BYTES };
    Reply {
        code,
        message: decode_message(field(GRPC_MESSAGE).unwrap_or_default()),
        data: joined(&answer.chunks, enough),
        is_whole,
    }
}

/// The first chunks, as many as have so many bytes. Often that is one, and it isn't copied.
fn joined(chunks: &VecDeque<Bytes>, enough: usize) -> Bytes {
    let first = chunks.front().cloned().unwrap_or_default();
    if first.len() >= enough || chunks.len() < 2 {
        return first;
    }
    let mut joined = BytesMut::new();
    for chunk in chunks {
        if joined.len() >= enough {
            break;
        }
        joined.extend_from_slice(chunk);
    }
    joined.freeze()
}

/// Takes care that a client's store doesn't go back when the proxy goes to another member: a serializable read whose answer
/// is older than what was shown is asked once more, as a linearizable one. If that isn't answered, there is no newer state
/// to be had.
pub(super) async fn refreshed<R: Runtime>(
    call: &Call,
    connection: &Arc<Connection>,
    head: &Head,
    payload: &Payload,
    client: &mut Client<'_, R>,
    part: &Part,
    answer: Answer,
) -> Answer {
    // Of most calls the answer isn't looked at for this.
    if !part.has_floor() || !part.is_old(&reply(&answer, false)) {
        return answer;
    }
    let mut message = payload.data[MESSAGE_PREFIX_LEN..].to_vec();
    message.extend_from_slice(&LINEARIZABLE);
    let payload = Payload {
        data: framed(&message),
        trailers: None,
        only_head: false,
    };
    let request = head.again(connection, call.deadline);
    let asked = part.known();
    let fresh = attempt(call, connection, request, &payload, client);
    match rt::timeout_at::<R, _>(Instant::now() + REFRESH_PATIENCE, fresh).await {
        Ok(Ok(fresh)) if reply(&fresh, false).code == 0 => {
            part.refreshed(asked, &reply(&fresh, false));
            fresh
        }
        _ => answer,
    }
}
