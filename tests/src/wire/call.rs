//! One stream of a connection.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, StatusCode};

use super::{
    framing::{Unframer, frame},
    reply::Reply,
};

/// One call, both directions in the caller's hand.
///
/// Nothing is read, and no flow-control window given back, unless one of the reading methods is
/// waiting. Dropping a call that has not ended resets it with CANCEL.
#[derive(Debug)]
pub struct Call {
    send: SendStream<Bytes>,
    receive: Receiver,
}

impl Call {
    pub(super) fn new(response: ResponseFuture, send: SendStream<Bytes>) -> Self {
        Self {
            send,
            receive: Receiver::new(response),
        }
    }

    /// Sends a message: adds the 5-byte prefix, waits for flow-control capacity.
    ///
    /// # Errors
    /// When the stream or the connection has ended.
    pub async fn send(&mut self, message: Bytes) -> Result<(), h2::Error> {
        self.send_raw(frame(&message), false).await
    }

    /// Sends bytes as they are, waiting for flow-control capacity.
    ///
    /// # Errors
    /// When the stream or the connection has ended.
    pub async fn send_raw(&mut self, data: Bytes, end_of_stream: bool) -> Result<(), h2::Error> {
        send_all(&mut self.send, data, end_of_stream).await
    }

    /// Ends the sending direction.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn half_close(&mut self) -> Result<(), h2::Error> {
        self.send.send_data(Bytes::new(), true)
    }

    /// Sends RST_STREAM. The reply of such a call has `error` set, not `reset`.
    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Waits for the response headers. May be asked again.
    ///
    /// # Errors
    /// What came instead.
    pub async fn headers(&mut self) -> Result<&HeaderMap, Reply> {
        self.receive.response().await;
        match &self.receive.head {
            Some((_, headers)) => Ok(headers),
            None => Err(self.receive.reply.clone()),
        }
    }

    /// The next message without its prefix; None at the end of the stream, whose nature
    /// [`Call::finish`] tells.
    pub async fn message(&mut self) -> Option<Bytes> {
        self.receive.message().await
    }

    /// Reads to the end. The reply has the messages that were not taken before.
    pub async fn finish(mut self) -> Reply {
        self.receive.drain().await;
        self.receive.into_reply()
    }

    /// As [`finish`](Self::finish), for a call that is kept.
    pub async fn ended(&mut self) -> Reply {
        self.receive.drain().await;
        self.receive
            .reply
            .clone()
            .with(&self.receive.head, &self.receive.trailers)
    }

    /// Reads to the end and hands out the only message.
    pub(super) async fn finish_unary(mut self) -> Result<Bytes, Reply> {
        let first = self.receive.message().await;
        self.receive.drain().await;
        if let Some(message) = &first
            && self.receive.is_ok()
            && self.receive.reply.messages.is_empty()
        {
            return Ok(message.clone());
        }
        let mut reply = self.receive.into_reply();
        reply.messages.splice(0..0, first);
        if reply.is_ok() {
            reply.error = Some(format!("{} messages in a unary reply", reply.messages.len()));
        }
        Err(reply)
    }

    /// Sends all messages and half-closes while reading to the end.
    pub(super) async fn run(self, messages: &[Bytes]) -> Reply {
        let Self {
            mut send,
            mut receive,
        } = self;
        let sending = async {
            for message in messages {
                send_all(&mut send, frame(message), false).await?;
            }
            send.send_data(Bytes::new(), true)
        };
        {
            let receiving = receive.drain();
            tokio::pin!(receiving);
            tokio::select! {
                biased;
                // A server may answer before it has read everything; then its answer counts.
                () = &mut receiving => {}
                // Why sending failed is told better by what is received.
                _ = sending => receiving.await,
            }
        }
        receive.into_reply()
    }
}

async fn send_all(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    end_of_stream: bool,
) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        while send.capacity() == 0 {
            match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(capacity) => capacity?,
                // The sending direction is over; h2 tells why when one tries.
                None => return send.send_data(data, end_of_stream),
            };
        }
        let part = data.split_to(send.capacity().min(data.len()));
        send.send_data(part, end_of_stream && data.is_empty())?;
        if end_of_stream && data.is_empty() {
            return Ok(());
        }
    }
    if end_of_stream {
        send.send_data(Bytes::new(), true)
    } else {
        Ok(())
    }
}

/// The receiving direction.
#[derive(Debug)]
struct Receiver {
    state: State,
    /// Status and headers, once they came.
    head: Option<(StatusCode, HeaderMap)>,
    trailers: Option<HeaderMap>,
    unframer: Unframer,
    /// What is known beside head and trailers.
    reply: Reply,
}

#[derive(Debug)]
enum State {
    Body(RecvStream),
    Ended,
    Headers(ResponseFuture),
}

impl Receiver {
    fn new(response: ResponseFuture) -> Self {
        Self {
            state: State::Headers(response),
            head: None,
            trailers: None,
            unframer: Unframer::default(),
            reply: Reply::default(),
        }
    }

    /// Waits for the response headers, unless they came or something else did.
    async fn response(&mut self) {
        if let State::Headers(response) = &mut self.state {
            match response.await {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    self.head = Some((parts.status, parts.headers));
                    self.state = State::Body(body);
                }
                Err(error) => self.fail(&error),
            }
        }
    }

    async fn message(&mut self) -> Option<Bytes> {
        self.response().await;
        loop {
            if let Some((flag, message)) = self.unframer.next() {
                self.reply.compressed += usize::from(flag != 0);
                return Some(message);
            }
            let State::Body(body) = &mut self.state else {
                return None;
            };
            match body.data().await {
                Some(Ok(chunk)) => {
                    body.flow_control()
                        .release_capacity(chunk.len())
                        .expect("gives back just what was received");
                    self.unframer.push(chunk);
                }
                Some(Err(error)) => self.fail(&error),
                None => match body.trailers().await {
                    Ok(trailers) => {
                        self.trailers = trailers;
                        self.state = State::Ended;
                        if !self.unframer.is_empty() {
                            self.reply.error = Some("the stream ended inside a message".into());
                        }
                    }
                    Err(error) => self.fail(&error),
                },
            }
        }
    }

    async fn drain(&mut self) {
        while let Some(message) = self.message().await {
            self.reply.messages.push(message);
        }
    }

    fn fail(&mut self, error: &h2::Error) {
        self.reply.note(error);
        self.state = State::Ended;
    }

    /// [`Reply::is_ok`] without building the reply.
    fn is_ok(&self) -> bool {
        let fields = self
            .trailers
            .as_ref()
            .or_else(|| self.head.as_ref().map(|(_, headers)| headers));
        let status = fields.and_then(|fields| fields.get("grpc-status"));
        status.is_some_and(|status| status == "0") && self.reply.reset.is_none() && self.reply.error.is_none()
    }

    fn into_reply(self) -> Reply {
        self.reply.with(&self.head, &self.trailers)
    }
}
