//! Streaming calls: the client's messages go to the model as they come, the model's go to the client as it takes
//! them.

use core::future::{Future as _, poll_fn};
use core::task::{Context, Poll, ready};
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use tokio::sync::watch;

use super::call::{frame, metadata};
use super::hub::{CREDIT, Hub, Stream};
use crate::grpc::{Answer, End, Expiry, Head, Messages, Requests, Responder, SERVER_STOPPED, Uploads};
use crate::rt::Runtime;
use crate::shutdown::Phase;

/// Messages of the client that are handled before other calls have their turn.
const MESSAGES_AT_ONCE: usize = 64;

/// Credit goes back to the model in portions of at least this.
const CREDIT_PORTION: u32 = CREDIT / 2;

/// Serves a stream to its end.
pub(super) async fn serve<R: Runtime>(
    hub: &Arc<Hub>,
    head: Head,
    body: RecvStream,
    messages: Messages,
    responder: Responder,
    expiry: &mut Expiry<R>,
    mut shutdown: watch::Receiver<Phase>,
) {
    let stream = hub.open(head.path.clone(), metadata(&head));
    let mut both = Both {
        request: Requests::new(body, messages, &Uploads::default()),
        answer: Outbound {
            side: Answer::Waiting { responder, head },
            taken: VecDeque::new(),
            chunks: VecDeque::new(),
            unsent: 0,
            owed: 0,
        },
        stream,
    };
    let mut stopped = core::pin::pin!(shutdown.wait_for(|phase| *phase == Phase::Draining));
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = both.poll(cx) {
            return Poll::Ready(end);
        }
        if both.answer.side.poll_reset(cx).is_ready() {
            return Poll::Ready(End::ClientGone);
        }
        if expiry.poll(cx).is_ready() {
            return Poll::Ready(End::Expired);
        }
        stopped.as_mut().poll(cx).map(|_| End::Status(SERVER_STOPPED))
    })
    .await;
    // Nothing more is asked of the model, whatever the client does.
    drop(both.stream);
    both.answer.side.finish(end, both.request.bytes());
}

/// Both directions of a call.
struct Both {
    request: Requests,
    answer: Outbound,
    stream: Stream,
}

impl Both {
    /// Moves on as far as possible. A client that doesn't take what it asked for isn't listened to meanwhile: what it
    /// could still ask for would have to be kept for it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..MESSAGES_AT_ONCE {
            if let Poll::Ready(end) = self.answer.poll(cx, &self.stream) {
                return Poll::Ready(end);
            }
            if !self.answer.chunks.is_empty() {
                return Poll::Pending;
            }
            match ready!(self.request.poll(cx)) {
                Ok(Some(message)) => self.stream.message(message),
                Ok(None) => self.stream.half_close(),
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What the client gets.
struct Outbound {
    side: Answer,
    /// Room for what is taken from the hub.
    taken: VecDeque<Bytes>,
    /// Framed, for `h2` to take as the client's window allows.
    chunks: VecDeque<Bytes>,
    /// Messages in `chunks`.
    unsent: u32,
    /// Messages that were sent, and for which the model hasn't got credit back.
    owed: u32,
}

impl Outbound {
    /// Hands over what there is. Pending when the client has no room, or when there is nothing.
    fn poll(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Poll<End> {
        loop {
            while let Some(chunk) = self.chunks.front_mut() {
                if ready!(self.side.poll_send(cx, chunk)).is_err() {
                    return Poll::Ready(End::ClientGone);
                }
                if chunk.is_empty() {
                    self.chunks.pop_front();
                }
            }
            self.owed += core::mem::take(&mut self.unsent);
            if self.owed >= CREDIT_PORTION {
                stream.sent(core::mem::take(&mut self.owed));
            }
            if let Some(status) = ready!(stream.poll_take(cx, &mut self.taken)) {
                return Poll::Ready(End::Status(status));
            }
            for message in self.taken.drain(..) {
                frame(message, &mut self.chunks);
                self.unsent += 1;
            }
        }
    }
}
