//! One call, from its request's head to the end of its answer.

use core::future::{Future, poll_fn};
use core::task::Poll;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::{Code, Status, framed, message_prefix};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_model::cluster::Metadata;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::sync::watch;

use super::hub::Hub;
use super::stream;
use crate::grpc::{Cut, Expiry, Head, Messages, Record, Responder, path_of, send_all, status_fields};
use crate::rt::Runtime;
use crate::shutdown::Phase;

/// A message up to this many bytes is copied behind its prefix; a longer one goes out as it is, behind a frame of
/// its own for the prefix.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// Answers a call. No message of it may be larger than `request_bytes_max`.
pub(super) async fn serve<R: Runtime>(
    hub: Arc<Hub>,
    request_bytes_max: u64,
    shutdown: watch::Receiver<Phase>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let rpc = Rpc::of_path(path_of(request.uri()));
    let responder = Responder::new(respond, Record::new(rpc, None));
    let head = match Head::of(rpc, &request) {
        Ok(head) => head,
        Err(refusal) => return refusal.send(responder),
    };
    let body = request.into_body();
    let messages = Messages::new(request_bytes_max);
    let mut expiry = Expiry::<R>::new(head.deadline);
    if head.unary {
        unary(&hub, head, body, messages, responder, &mut expiry).await;
    } else {
        stream::serve(&hub, head, body, messages, responder, &mut expiry, shutdown).await;
    }
}

async fn unary<R: Runtime>(
    hub: &Arc<Hub>,
    head: Head,
    mut body: RecvStream,
    mut messages: Messages,
    mut responder: Responder,
    expiry: &mut Expiry<R>,
) {
    let request = match unless_given_up(&mut responder, expiry, first(&mut body, &mut messages)).await {
        Ok(Ok(message)) => message,
        Ok(Err(status)) => return head.refuse(responder, &status),
        Err(GivenUp::ByClient) => return,
        Err(GivenUp::Expired) => return responder.reset(Reason::CANCEL),
    };
    let call = hub.call(head.path.clone(), metadata(&head), request);
    let response = match unless_given_up(&mut responder, expiry, call).await {
        Ok(Ok(message)) => message,
        Ok(Err(status)) => return head.refuse(responder, &status),
        Err(GivenUp::ByClient) => return,
        Err(GivenUp::Expired) => return responder.reset(Reason::CANCEL),
    };
    let Some(body) = responder.begin(head.response()) else {
        return;
    };
    let mut chunks = VecDeque::with_capacity(2);
    frame(response, &mut chunks);
    send_all(body, chunks, Some(status_fields(&Status::OK))).await;
}

/// The first message of a request. What may follow it is ignored, the half-close is not waited for.
///
/// # Errors
/// What grpc-go answers when there is none.
async fn first(body: &mut RecvStream, messages: &mut Messages) -> Result<Bytes, Status> {
    loop {
        if let Some(message) = messages.next()? {
            return Ok(message);
        }
        match body.data().await {
            Some(Ok(chunk)) => {
                // It fails only when the stream has ended and its window means nothing any more.
                let _ = body.flow_control().release_capacity(chunk.len());
                messages.push(chunk);
            }
            // The client is gone: this answer reaches nobody.
            Some(Err(_)) => return Err(Status::of(Code::Cancelled, "context canceled")),
            None => {
                return Err(match messages.cut() {
                    Cut::Between => Status::of(Code::Unknown, "EOF"),
                    Cut::Within => Status::of(Code::Unknown, "unexpected EOF"),
                });
            }
        }
    }
}

/// What the model is told of a caller.
pub(super) fn metadata(head: &Head) -> Metadata {
    Metadata {
        token: head.token.clone(),
        require_leader: head.require_leader,
    }
}

/// Adds a message and its prefix to what is to be sent.
pub(super) fn frame(message: Bytes, chunks: &mut VecDeque<Bytes>) {
    if message.len() <= COPIED_BYTES_MAX {
        chunks.push_back(framed(&message));
    } else {
        chunks.push_back(Bytes::copy_from_slice(&message_prefix(message.len())));
        chunks.push_back(message);
    }
}

/// Nobody waits for the answer any more.
enum GivenUp {
    /// The client has cancelled the call or is gone.
    ByClient,
    /// The deadline has passed.
    Expired,
}

/// Runs `future` for as long as somebody waits for it.
async fn unless_given_up<R: Runtime, F: Future>(
    responder: &mut Responder,
    expiry: &mut Expiry<R>,
    future: F,
) -> Result<F::Output, GivenUp> {
    let mut future = core::pin::pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if responder.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(GivenUp::ByClient));
        }
        expiry.poll(cx).map(|()| Err(GivenUp::Expired))
    })
    .await
}
