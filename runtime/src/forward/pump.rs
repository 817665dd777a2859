//! One direction of a call: from where its bytes come to where they go, no faster than they are taken.

use core::task::{Context, Poll, ready};
use std::collections::VecDeque;

use bytes::Bytes;
use etcd_proxy_core::grpc::{MessageLimit, MessageTooLarge};
use h2::{RecvStream, SendStream};

use super::observer::Observer;
use crate::grpc::Outcome;

/// Moves data and trailers. Bytes count as received for the sender only once the receiver has room for them, so
/// a receiver that doesn't read stops the sender, and what is kept here is at most the sender's window.
pub(super) struct Pump {
    source: RecvStream,
    sink: SendStream<Bytes>,
    limit: MessageLimit,
    /// Taken from the source, not yet given to the sink.
    pending: VecDeque<Bytes>,
    /// How many bytes at the head of `pending` the source's flow control has back already.
    released: usize,
    phase: Phase,
    /// Whether trailers may follow: in an answer, never in a request.
    has_trailers: bool,
    observer: Option<Box<Observer>>,
    /// Bytes that the sink has got.
    moved: u64,
    /// What the trailers say.
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Data,
    Trailers,
}

/// How a direction ended.
#[derive(Debug)]
pub(super) enum PumpEnd {
    /// Everything was handed over, the end included.
    Done,
    /// The source failed.
    Source(h2::Error),
    /// The sink takes no more.
    Sink,
    /// The source has sent trailers where there are none.
    Trailers,
    /// A message is larger than allowed.
    TooLarge(MessageTooLarge),
}

impl Pump {
    pub(super) fn new(source: RecvStream, sink: SendStream<Bytes>, limit: MessageLimit) -> Self {
        Self {
            source,
            sink,
            limit,
            pending: VecDeque::new(),
            released: 0,
            phase: Phase::Data,
            has_trailers: true,
            observer: None,
            moved: 0,
            outcome: Outcome::NoStatus,
        }
    }

    /// The direction of a request: an etcd server closes the connection on which one has trailers.
    pub(super) fn without_trailers(mut self) -> Self {
        self.has_trailers = false;
        self
    }

    /// Begins with data that was taken from the source before, passed the limit, and was released to its flow
    /// control.
    pub(super) fn with_pending(mut self, pending: VecDeque<Bytes>) -> Self {
        self.released = pending.iter().map(Bytes::len).sum();
        self.pending = pending;
        self
    }

    /// Has what passes by looked at.
    pub(super) fn observed(mut self, observer: Option<Box<Observer>>) -> Self {
        self.observer = observer;
        self
    }

    /// Bytes that the sink has got, message prefixes included.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// How the call has ended, of the direction of an answer that is done.
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The sink, when nothing is to be moved any more.
    pub(super) fn into_sink(self) -> SendStream<Bytes> {
        self.sink
    }

    pub(super) fn sink(&mut self) -> &mut SendStream<Bytes> {
        &mut self.sink
    }

    /// Moves on as far as possible. Not to be called again after it has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PumpEnd> {
        loop {
            while !self.pending.is_empty() {
                if let Some(end) = ready!(self.poll_send(cx)) {
                    return Poll::Ready(end);
                }
            }
            if self.phase == Phase::Data {
                match ready!(self.source.poll_data(cx)) {
                    Some(Ok(chunk)) => {
                        if let Err(too_large) = self.limit.check(&chunk) {
                            return Poll::Ready(PumpEnd::TooLarge(too_large));
                        }
                        if let Some(observer) = &mut self.observer {
                            observer.look(&chunk);
                        }
                        if !chunk.is_empty() || self.source.is_end_stream() {
                            self.pending.push_back(chunk);
                        }
                        continue;
                    }
                    Some(Err(error)) => return Poll::Ready(PumpEnd::Source(error)),
                    None => self.phase = Phase::Trailers,
                }
            }
            let sent = match ready!(self.source.poll_trailers(cx)) {
                Ok(Some(_)) if !self.has_trailers => return Poll::Ready(PumpEnd::Trailers),
                Ok(Some(trailers)) => {
                    self.outcome = Outcome::of(&trailers);
                    self.sink.send_trailers(trailers)
                }
                Ok(None) => self.sink.send_data(Bytes::new(), true),
                Err(error) => return Poll::Ready(PumpEnd::Source(error)),
            };
            return Poll::Ready(if sent.is_ok() {
                PumpEnd::Done
            } else {
                PumpEnd::Sink
            });
        }
    }

    /// Hands over as much of the first pending chunk as the sink has room for. Tells the end, if this was it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Option<PumpEnd>> {
        let Some(chunk) = self.pending.front_mut() else {
            return Poll::Ready(None);
        };
        let mut room = 0;
        if !chunk.is_empty() {
            self.sink.reserve_capacity(chunk.len());
            room = self.sink.capacity().min(chunk.len());
            if room == 0 {
                match ready!(self.sink.poll_capacity(cx)) {
                    Some(Ok(capacity)) => room = capacity.min(chunk.len()),
                    Some(Err(_)) | None => return Poll::Ready(Some(PumpEnd::Sink)),
                }
            }
        }
        let part = chunk.split_to(room);
        if chunk.is_empty() {
            self.pending.pop_front();
        }
        let end_of_stream =
            self.pending.is_empty() && self.phase == Phase::Data && self.source.is_end_stream();
        if self.sink.send_data(part, end_of_stream).is_err() {
            return Poll::Ready(Some(PumpEnd::Sink));
        }
        self.moved += room as u64;
        let ahead = room.min(self.released);
        self.released -= ahead;
        // It fails only when the stream has ended and its window means nothing any more.
        let _ = self.source.flow_control().release_capacity(room - ahead);
        Poll::Ready(end_of_stream.then_some(PumpEnd::Done))
    }
}
