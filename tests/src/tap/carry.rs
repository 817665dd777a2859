//! One call through a tap.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::{
    sync::{broadcast, mpsc},
    time::{Instant, sleep_until},
};

use super::{Cut, Order, Shared, record::WatchCall};
use crate::{watching::WATCH, wire::Unframer};

/// Part of a call in one direction.
enum Part {
    Head(Response<()>),
    Data(Bytes),
    /// The clean end; trailers only come from the member.
    End(Option<HeaderMap>),
    Reset(Reason),
}

/// Parts with the time at which they may go on.
type Parts = mpsc::UnboundedReceiver<(Instant, Part)>;

#[derive(Clone)]
struct Sender {
    parts: mpsc::UnboundedSender<(Instant, Part)>,
    one_way: Duration,
}

impl Sender {
    fn new(one_way: Duration) -> (Self, Parts) {
        let (parts, receiver) = mpsc::unbounded_channel();
        (Self { parts, one_way }, receiver)
    }

    fn send(&self, part: Part) {
        // Who receives may have ended the call.
        let _ = self.parts.send((Instant::now() + self.one_way, part));
    }
}

/// Counts an open Watch call for as long as it lives.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().record.ended();
    }
}

/// Carries a call to its end.
pub(super) async fn call(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    member: SendRequest<Bytes>,
    shared: Arc<Shared>,
) {
    let orders = shared.orders.subscribe();
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let mut back = Back {
        respond,
        stream: None,
    };
    let is_watch = path == WATCH;
    let _open = {
        let mut state = shared.lock();
        *state.record.calls.entry(path.clone()).or_default() += 1;
        let refusal = if is_watch { state.refusals.pop() } else { None };
        if let Some(cut) = refusal {
            back.cut(&cut);
            return;
        }
        is_watch.then(|| {
            state.record.opened();
            Open(Arc::clone(&shared))
        })
    };
    let seen = Mutex::new(WatchCall::default());
    let (up, up_parts) = Sender::new(shared.one_way);
    let (down, down_parts) = Sender::new(shared.one_way);
    let asking = ask(body, up, &path, &seen, &shared);
    let answering = async {
        tokio::time::sleep(shared.one_way).await;
        forward(
            Request::from_parts(head, ()),
            member,
            up_parts,
            down,
            is_watch,
            &seen,
            &shared,
        )
        .await;
        // The parts that are still on their way decide when the call is over.
        std::future::pending::<()>().await;
    };
    let telling = tell(&mut back, down_parts, orders, is_watch);
    // What is left when the answer ends is dropped, which resets the call to the member.
    tokio::select! {
        () = async { tokio::join!(asking, answering); } => {}
        () = telling => {}
    }
}

fn locked(call: &Mutex<WatchCall>) -> MutexGuard<'_, WatchCall> {
    call.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the client sends.
async fn ask(mut body: RecvStream, up: Sender, path: &str, seen: &Mutex<WatchCall>, shared: &Shared) {
    let mut unframer = Unframer::default();
    while let Some(chunk) = body.data().await {
        match chunk {
            Ok(bytes) => {
                // An error here means that the stream is over, which the next read tells.
                let _ = body.flow_control().release_capacity(bytes.len());
                unframer.push(bytes.clone());
                while let Some((_, message)) = unframer.next() {
                    shared.lock().record.asked(path, &mut locked(seen), message);
                }
                up.send(Part::Data(bytes));
            }
            Err(error) => {
                up.send(Part::Reset(error.reason().unwrap_or(Reason::CANCEL)));
                return;
            }
        }
    }
    up.send(Part::End(None));
}

/// Opens the call at the member; both directions between it and the queues.
async fn forward(
    request: Request<()>,
    member: SendRequest<Bytes>,
    mut up: Parts,
    down: Sender,
    is_watch: bool,
    seen: &Mutex<WatchCall>,
    shared: &Shared,
) {
    let opened = async {
        let mut member = member.ready().await?;
        member.send_request(request, false)
    };
    let (response, mut send) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            down.send(Part::Reset(error.reason().unwrap_or(Reason::REFUSED_STREAM)));
            return;
        }
    };
    let sending = async {
        while let Some((due, part)) = up.recv().await {
            sleep_until(due).await;
            let sent = match part {
                Part::Data(bytes) => send.send_data(bytes, false),
                Part::End(_) => send.send_data(Bytes::new(), true),
                Part::Reset(reason) => {
                    send.send_reset(reason);
                    Ok(())
                }
                Part::Head(_) => unreachable!("a client sends its head first"),
            };
            if sent.is_err() {
                // The call is over; the answer tells how.
                return;
            }
        }
    };
    let receiving = async {
        let mut unframer = Unframer::default();
        let ended = async {
            let (head, mut body) = response.await?.into_parts();
            down.send(Part::Head(Response::from_parts(head, ())));
            while let Some(chunk) = body.data().await {
                let bytes = chunk?;
                let _ = body.flow_control().release_capacity(bytes.len());
                if is_watch {
                    unframer.push(bytes.clone());
                    while let Some((_, message)) = unframer.next() {
                        shared.lock().record.told(&mut locked(seen), message);
                    }
                }
                down.send(Part::Data(bytes));
            }
            body.trailers().await
        };
        down.send(match ended.await {
            Ok(trailers) => Part::End(trailers),
            Err(error) => Part::Reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR)),
        });
    };
    tokio::join!(sending, receiving);
}

/// The answer's way back to the client.
struct Back {
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
}

impl Back {
    fn part(&mut self, part: Part) -> Result<(), h2::Error> {
        match (part, &mut self.stream) {
            (Part::Head(head), _) => {
                self.stream = Some(self.respond.send_response(head, false)?);
                Ok(())
            }
            (Part::Reset(reason), Some(stream)) => {
                stream.send_reset(reason);
                Ok(())
            }
            (Part::Reset(reason), None) => {
                self.respond.send_reset(reason);
                Ok(())
            }
            (Part::Data(bytes), Some(stream)) => stream.send_data(bytes, false),
            (Part::End(Some(trailers)), Some(stream)) => stream.send_trailers(trailers),
            (Part::End(None), Some(stream)) => stream.send_data(Bytes::new(), true),
            (Part::Data(_) | Part::End(_), None) => unreachable!("the head comes first"),
        }
    }

    fn cut(&mut self, cut: &Cut) {
        let trailers = |code: u8, message: &'static str| {
            let mut trailers = HeaderMap::new();
            trailers.insert(HeaderName::from_static("grpc-status"), u16::from(code).into());
            trailers.insert(
                HeaderName::from_static("grpc-message"),
                HeaderValue::from_static(message),
            );
            trailers
        };
        let done = match (cut, &mut self.stream) {
            (Cut::Status(code, message), Some(stream)) => stream.send_trailers(trailers(*code, message)),
            (Cut::Status(code, message), None) => {
                let mut response = grpc_head();
                response.headers_mut().extend(trailers(*code, message));
                self.respond.send_response(response, true).map(|_| ())
            }
            (Cut::Bare, Some(stream)) => stream.send_data(Bytes::new(), true),
            (Cut::Bare, None) => self.respond.send_response(grpc_head(), true).map(|_| ()),
            (Cut::Reset(code), _) => self.part(Part::Reset(Reason::from(*code))),
        };
        // A call that has ended by itself can't be cut.
        let _ = done;
    }

    /// Resolves when the client has reset the call.
    async fn reset(&mut self) {
        // However it ended, it ended.
        let _ = match &mut self.stream {
            Some(stream) => poll_fn(|cx| stream.poll_reset(cx)).await,
            None => poll_fn(|cx| self.respond.poll_reset(cx)).await,
        };
    }
}

fn grpc_head() -> Response<()> {
    let mut response = Response::new(());
    let content_type = HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, content_type);
    response
}

/// Plays the answer to the client until it ends, is cut, or the client has enough.
async fn tell(back: &mut Back, mut down: Parts, mut orders: broadcast::Receiver<Order>, is_watch: bool) {
    let mut waiting: Option<(Instant, Part)> = None;
    loop {
        let due = waiting.as_ref().map(|(due, _)| *due);
        tokio::select! {
            biased;
            order = orders.recv(), if is_watch => match order {
                Ok(Order::Cut(cut)) => {
                    back.cut(&cut);
                    return;
                }
                Ok(Order::GoAway) => {}
                Ok(Order::Reset) | Err(_) => return,
            },
            () = back.reset() => return,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let (_, part) = waiting.take().expect("it is due");
                let last = matches!(part, Part::End(_) | Part::Reset(_));
                if back.part(part).is_err() || last {
                    return;
                }
            }
            part = down.recv(), if due.is_none() => match part {
                Some(part) => waiting = Some(part),
                None => return,
            },
        }
    }
}
