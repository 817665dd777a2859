//! One attempt at a unary call: the request sent to a member, and its answer taken in.

use core::future::{Future as _, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::{MessageLimit, MessageTooLarge};
use etcd_proxy_core::retry::Failure;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use super::deadline::Expiry;
use super::{Call, StreamFailure};
use crate::grpc::Responder;
use crate::rt::Runtime;
use crate::upstream::{Connection, OpenCall};

/// An answer up to this many bytes is held back until it is complete; a longer one is passed on as it comes, and
/// can't be asked for again once it has begun.
const HELD_BYTES_MAX: usize = 1 << 20;

/// A request, read to its end.
pub(super) struct Payload {
    pub(super) data: Bytes,
    /// The head was the end: not even an empty frame follows it.
    pub(super) only_head: bool,
}

/// An answer, as far as it was read.
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) chunks: VecDeque<Bytes>,
    pub(super) end: AnswerEnd,
}

pub(super) enum AnswerEnd {
    /// It is complete.
    Complete(Option<HeaderMap>),
    /// It is longer than what is held back.
    More {
        body: RecvStream,
        limit: MessageLimit,
        request: SendStream<Bytes>,
        open: OpenCall,
    },
}

/// Why an attempt brought no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    Failed(Failure),
    Reset(Reason),
    TooLarge(MessageTooLarge),
    Expired,
    ClientGone,
}

/// The client's side of a call that waits for a member.
pub(super) struct Client<'a, R: Runtime> {
    pub(super) responder: &'a mut Responder,
    pub(super) expiry: &'a mut Expiry<R>,
}

impl<R: Runtime> Client<'_, R> {
    /// Polls until it is ready, unless the client cancels the call, goes away, or has stopped waiting before.
    pub(super) async fn patient<T>(
        &mut self,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Unanswered> {
        poll_fn(|cx| {
            if let Poll::Ready(value) = poll(cx) {
                Poll::Ready(Ok(value))
            } else if self.responder.poll_reset(cx).is_ready() {
                Poll::Ready(Err(Unanswered::ClientGone))
            } else {
                self.expiry.poll(cx).map(|()| Err(Unanswered::Expired))
            }
        })
        .await
    }
}

/// Sends the request on a connection and takes the answer in.
pub(super) async fn attempt<R: Runtime>(
    call: &Call,
    connection: &Arc<Connection>,
    request: Request<()>,
    payload: &Payload,
    client: &mut Client<'_, R>,
) -> Result<Answer, Unanswered> {
    let Ok((mut response, mut stream, open)) = call.open(connection, request, payload.only_head) else {
        call.refused(connection).await;
        return Err(Unanswered::Failed(Failure::NotSent));
    };
    let sent = if payload.only_head {
        Ok(())
    } else {
        stream.send_data(payload.data.clone(), true)
    };
    let response = match sent {
        Ok(()) => client.patient(|cx| Pin::new(&mut response).poll(cx)).await?,
        Err(error) => Err(error),
    };
    match response {
        Ok(response) => {
            let limit = MessageLimit::new(call.client.worker.limits.response_bytes_max);
            receive(connection, response, stream, open, limit, client).await
        }
        Err(error) => Err(match StreamFailure::of(&error) {
            StreamFailure::LeftOut => {
                call.refused(connection).await;
                Unanswered::Failed(Failure::NotSent)
            }
            StreamFailure::Refused => Unanswered::Failed(Failure::Refused),
            StreamFailure::Reset(reason) => Unanswered::Reset(reason),
            StreamFailure::ConnectionLost => Unanswered::Failed(lost(connection)),
        }),
    }
}

/// Takes an answer in until it is complete or longer than what is held back.
async fn receive<R: Runtime>(
    connection: &Connection,
    response: Response<RecvStream>,
    request: SendStream<Bytes>,
    open: OpenCall,
    mut limit: MessageLimit,
    client: &mut Client<'_, R>,
) -> Result<Answer, Unanswered> {
    // The member has begun to answer: whatever it says now, it has processed the call.
    let broken = |error: h2::Error| match StreamFailure::of(&error) {
        StreamFailure::Reset(reason) => Unanswered::Reset(reason),
        StreamFailure::LeftOut | StreamFailure::Refused | StreamFailure::ConnectionLost => {
            Unanswered::Failed(lost(connection))
        }
    };
    let (parts, mut body) = response.into_parts();
    let head = Response::from_parts(parts, ());
    let mut chunks = VecDeque::new();
    let mut held = 0;
    while !body.is_end_stream() {
        let Some(data) = client.patient(|cx| body.poll_data(cx)).await? else {
            let trailers = client
                .patient(|cx| body.poll_trailers(cx))
                .await?
                .map_err(broken)?;
            return Ok(Answer {
                head,
                chunks,
                end: AnswerEnd::Complete(trailers),
            });
        };
        let data = data.map_err(broken)?;
        limit.check(&data).map_err(Unanswered::TooLarge)?;
        held += data.len();
        body.flow_control().release_capacity(data.len()).map_err(broken)?;
        chunks.push_back(data);
        if held > HELD_BYTES_MAX {
            let end = AnswerEnd::More {
                body,
                limit,
                request,
                open,
            };
            return Ok(Answer { head, chunks, end });
        }
    }
    Ok(Answer {
        head,
        chunks,
        end: AnswerEnd::Complete(None),
    })
}

fn lost(connection: &Connection) -> Failure {
    if connection.has_moved_away() {
        Failure::MovedAway
    } else {
        Failure::ConnectionLost
    }
}

/// The trailers of a complete answer; an answer without a body has them in its head.
pub(super) fn trailers(answer: &Answer) -> Option<&HeaderMap> {
    match &answer.end {
        AnswerEnd::Complete(Some(trailers)) => Some(trailers),
        AnswerEnd::Complete(None) => Some(answer.head.headers()),
        AnswerEnd::More { .. } => None,
    }
}
