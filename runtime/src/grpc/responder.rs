//! The one way out of a call: whatever answers it does so through its [`Responder`], which knows when it ends how that was.

use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::grpc::Status;
use etcd_proxy_core::rpc::Rpc;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};

use super::{code_of, refusal};

/// How a call has ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With a gRPC status, by its code.
    Status(u8),
    /// With an answer that has no gRPC status.
    NoStatus,
    /// With a reset of its stream (RFC 9113, section 6.4).
    Reset(Reason),
    /// By the client, which cancelled it or went away before it was answered as a whole.
    ClientGone,
}

impl Outcome {
    /// The outcome of a call whose answer has these fields at its end.
    pub(crate) fn of(fields: &HeaderMap) -> Self {
        code_of(fields).map_or(Self::NoStatus, Self::Status)
    }
}

/// A call that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) rpc: Rpc,
    pub(crate) outcome: Outcome,
    /// Bytes of the request that were taken in, message prefixes included.
    pub(crate) request_bytes: u64,
    /// Bytes of the answer that were handed to the client's connection, message prefixes included.
    pub(crate) response_bytes: u64,
    /// From the request's head to the end.
    pub(crate) took: Duration,
}

/// Whoever wants to know of each call that ends: metrics by RPC, a log of calls, limits.
pub(crate) trait CallEnds: core::fmt::Debug + Send + Sync {
    /// A call has ended. Called on the call's thread, once for each call.
    fn ended(&self, call: &Ended);
}

/// What is known of a call so far. When it is dropped the call has ended.
#[derive(Debug)]
pub(crate) struct Record {
    ended: Ended,
    listener: Option<Listener>,
}

/// Who is told of the call, which began then.
#[derive(Debug)]
struct Listener {
    ends: Arc<dyn CallEnds>,
    began: Instant,
}

impl Record {
    pub(crate) fn new(rpc: Rpc, ends: Option<Arc<dyn CallEnds>>) -> Self {
        Self {
            ended: Ended {
                rpc,
                // If nothing else is said.
                outcome: Outcome::ClientGone,
                request_bytes: 0,
                response_bytes: 0,
                took: Duration::ZERO,
            },
            listener: ends.map(|ends| Listener {
                ends,
                began: Instant::now(),
            }),
        }
    }

    /// More of the request was taken in.
    pub(crate) fn received(&mut self, bytes: u64) {
        self.ended.request_bytes += bytes;
    }

    /// More of the answer was handed over.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.ended.response_bytes += bytes;
    }

    /// The call ends so.
    pub(crate) fn ends(&mut self, outcome: Outcome) {
        self.ended.outcome = outcome;
    }

    /// The call ends with an answer that has these fields at its end.
    pub(crate) fn ends_with(&mut self, fields: &HeaderMap) {
        self.ends(Outcome::of(fields));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            self.ended.took = listener.began.elapsed();
            listener.ends.ended(&self.ended);
        }
    }
}

/// A call's client, until its answer begins.
#[derive(Debug)]
pub(crate) struct Responder {
    respond: SendResponse<Bytes>,
    pub(crate) record: Record,
}

impl Responder {
    pub(crate) const fn new(respond: SendResponse<Bytes>, record: Record) -> Self {
        Self { respond, record }
    }

    /// The number of the stream on its connection.
    pub(crate) fn stream_id(&self) -> u32 {
        self.respond.stream_id().as_u32()
    }

    /// Completes when the client has cancelled the call or is gone, with the reason that it gave.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reason>> {
        self.respond.poll_reset(cx).map(Result::ok)
    }

    /// Answers with a status and nothing else.
    pub(crate) fn refuse(self, status: &Status) {
        self.answer_with(refusal(status));
    }

    /// Answers with a head and nothing else.
    pub(crate) fn answer_with(mut self, head: Response<()>) {
        self.record.ends_with(head.headers());
        if self.respond.send_response(head, true).is_err() {
            self.record.ends(Outcome::ClientGone);
        }
    }

    /// Resets the stream.
    pub(crate) fn reset(mut self, reason: Reason) {
        self.record.ends(Outcome::Reset(reason));
        self.respond.send_reset(reason);
    }

    /// Begins an answer that has a body or trailers. `None` if the client is gone.
    pub(crate) fn begin(mut self, head: Response<()>) -> Option<Body> {
        let stream = self.respond.send_response(head, false).ok()?;
        let Self { record, .. } = self;
        Some(Body { stream, record })
    }
}

/// An answer that has begun.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) stream: SendStream<Bytes>,
    pub(crate) record: Record,
}

impl Body {
    /// Ends the answer with these trailers.
    pub(crate) fn end(&mut self, trailers: HeaderMap) {
        self.record.ends_with(&trailers);
        if self.stream.send_trailers(trailers).is_err() {
            self.record.ends(Outcome::ClientGone);
        }
    }

    /// Resets the stream.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.record.ends(Outcome::Reset(reason));
        self.stream.send_reset(reason);
    }
}
