//! Streaming calls: the client's messages go to the model as they come, the model's go to the client as it takes
//! them.

use core::future::{Future, poll_fn};
use core::task::{Context, Poll, ready};
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::{Code, Status};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use tokio::sync::watch;

use super::call::{Expiry, frame};
use super::head::Head;
use super::hub::{CREDIT, Hub, Stream};
use super::messages::{Cut, Messages};
use crate::forward::SERVER_STOPPED;
use crate::forward::answer::status_fields;
use crate::rt::Runtime;
use crate::server::Phase;

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
    respond: SendResponse<Bytes>,
    expiry: &mut Expiry<R>,
    mut shutdown: watch::Receiver<Phase>,
) {
    let stream = hub.open(head.path.clone(), head.metadata.clone());
    let mut both = Both {
        request: Request {
            body,
            messages,
            over: false,
        },
        answer: Answer {
            side: Side::Waiting { respond, head },
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
        stopped.as_mut().poll(cx).map(|_| End::of(&SERVER_STOPPED))
    })
    .await;
    // Nothing more is asked of the model, whatever the client does.
    drop(both.stream);
    match end {
        End::ClientGone => {}
        End::Expired => both.answer.side.reset(),
        End::Status { code, message } => both.answer.side.end(code, &message),
    }
}

/// How a stream ended.
enum End {
    ClientGone,
    Expired,
    Status { code: u8, message: String },
}

impl End {
    fn of(status: &Status) -> Self {
        Self::Status {
            code: status.code().number(),
            message: status.message().to_owned(),
        }
    }
}

/// Both directions of a call.
struct Both {
    request: Request,
    answer: Answer,
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

/// What the client sends.
struct Request {
    body: RecvStream,
    messages: Messages,
    /// Its end was told.
    over: bool,
}

impl Request {
    /// The next message; `None` for the half-close, once.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, End>> {
        if self.over {
            return Poll::Pending;
        }
        loop {
            match self.messages.next() {
                Ok(Some(message)) => return Poll::Ready(Ok(Some(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Err(End::of(&status))),
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // It fails only when the stream has ended and its window means nothing any more.
                    let _ = self.body.flow_control().release_capacity(chunk.len());
                    self.messages.push(chunk);
                }
                Some(Err(_)) => return Poll::Ready(Err(End::ClientGone)),
                None => {
                    self.over = true;
                    return Poll::Ready(match self.messages.cut() {
                        Cut::Between => Ok(None),
                        Cut::Within => Err(End::of(&Status::new(Code::Internal, "unexpected EOF"))),
                    });
                }
            }
        }
    }
}

/// What the client gets.
struct Answer {
    side: Side,
    /// Room for what is taken from the hub.
    taken: VecDeque<Bytes>,
    /// Framed, for `h2` to take as the client's window allows.
    chunks: VecDeque<Bytes>,
    /// Messages in `chunks`.
    unsent: u32,
    /// Messages that were sent, and for which the model hasn't got credit back.
    owed: u32,
}

impl Answer {
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
                return Poll::Ready(End::Status {
                    code: status.code,
                    message: status.message.into_owned(),
                });
            }
            for message in self.taken.drain(..) {
                frame(message, &mut self.chunks);
                self.unsent += 1;
            }
        }
    }
}

/// The sending half of the HTTP/2 stream. The head goes out with the first message, as grpc-go sends it.
enum Side {
    Waiting {
        respond: SendResponse<Bytes>,
        head: Head,
    },
    Open(SendStream<Bytes>),
    Gone,
}

/// The client takes no more.
struct ClientGone;

impl Side {
    /// Hands over as much of a chunk, which is not empty, as the client has room for.
    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<Result<(), ClientGone>> {
        if let Self::Waiting { respond, head } = self {
            *self = match respond.send_response(head.response(), false) {
                Ok(stream) => Self::Open(stream),
                Err(_) => Self::Gone,
            };
        }
        let Self::Open(stream) = self else {
            return Poll::Ready(Err(ClientGone));
        };
        stream.reserve_capacity(chunk.len());
        let mut room = stream.capacity();
        if room == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(capacity)) => room = capacity,
                Some(Err(_)) | None => return Poll::Ready(Err(ClientGone)),
            }
        }
        let part = chunk.split_to(room.min(chunk.len()));
        Poll::Ready(stream.send_data(part, false).map_err(|_| ClientGone))
    }

    /// Completes when the client has cancelled the call or is gone.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Waiting { respond, .. } => respond.poll_reset(cx).map(drop),
            Self::Open(stream) => stream.poll_reset(cx).map(drop),
            Self::Gone => Poll::Ready(()),
        }
    }

    fn reset(self) {
        match self {
            Self::Waiting { mut respond, .. } => respond.send_reset(Reason::CANCEL),
            Self::Open(mut stream) => stream.send_reset(Reason::CANCEL),
            Self::Gone => {}
        }
    }

    fn end(self, code: u8, message: &str) {
        match self {
            Self::Waiting { respond, head } => head.refuse(respond, code, message),
            // An error means that the client has gone.
            Self::Open(mut stream) => drop(stream.send_trailers(status_fields(code, message))),
            Self::Gone => {}
        }
    }
}
