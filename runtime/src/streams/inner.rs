//! A client within the process.

use core::future::poll_fn;
use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::Status;
use etcd_proxy_core::watch::Caller;

use super::client::Stream;
use super::shared::Streams;
use super::{Happened, Multiplexer};
use crate::grpc::Messages;

/// A stream to a machine, as a client has one. It ends when it is dropped.
pub(crate) struct InnerClient<M: Multiplexer> {
    stream: Stream<M>,
    chunks: VecDeque<Bytes>,
    messages: Messages,
    /// How the machine has ended it.
    ended: Option<Status>,
}

impl<M: Multiplexer> InnerClient<M> {
    /// Opens one, without credentials.
    pub(crate) fn open(streams: Arc<Streams<M>>) -> Self {
        Self {
            stream: Stream::open(streams, Caller::default()),
            chunks: VecDeque::new(),
            // From a machine of this process.
            messages: Messages::new(u32::MAX.into()),
            ended: None,
        }
    }

    /// Sends a message.
    pub(crate) fn send(&self, message: Bytes) {
        let request = M::read(message);
        self.stream.tell(Happened::ClientSent(self.stream.id, request));
    }

    /// The next message.
    ///
    /// # Errors
    /// How the machine has ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Status> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        loop {
            match self.messages.next() {
                Ok(Some(message)) => return Poll::Ready(Ok(message)),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Err(status)),
            }
            if let Some(chunk) = self.chunks.pop_front() {
                let took = Happened::ClientTook(self.stream.id, chunk.len());
                self.messages.push(chunk);
                self.stream.tell(took);
                continue;
            }
            if let Some(status) = &self.ended {
                return Poll::Ready(Err(status.clone()));
            }
            let found = self.stream.outbox.look(cx, Some(&mut self.chunks));
            self.ended = found.end;
            if found.chunks.is_none() && self.ended.is_none() {
                return Poll::Pending;
            }
        }
    }
}
