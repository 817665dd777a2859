//! Streaming calls that the core makes few of: clients' streams go to one of its machines, which has streams to the cluster.
//!
//! ```text
//!  client ──h2──► client.rs ──► shared.rs ─────────► upstream.rs ──h2──► member
//!                     ▲           │ (a machine of       │  a call on the worker's connection
//!                     │           │  the core, behind   │  in use
//!                     │           │  a lock)            │
//!                  outbox ◄───────┤◄────────────────────┘
//!                                 └─────────────────► questions of the machine's
//! ```
//!
//! Whichever thread has something to tell the machine does its work there, under its lock: a call of the machine, then the
//! moves into outboxes. Wake-ups and orders to other threads follow when the lock is free. So whatever reaches a
//! client is in the machine's order, and nobody waits under the lock.

mod client;
mod inner;
mod lock;
mod outbox;
mod shared;
#[cfg(test)]
mod tests;
mod upstream;

use core::fmt::Debug;
use core::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::class::Class;
use etcd_proxy_core::grpc::Status;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch::Caller;
use slotmap::Key;

pub(crate) use client::{CallerConnection, serve};
pub(crate) use inner::InnerClient;
pub(crate) use shared::{Order, Streams};

use crate::rt::Runtime;
use crate::upstream::{Connection, Uplink};

/// A machine of the core between clients' streams and the cluster's.
pub(crate) trait Multiplexer: Debug + Send + Sized + 'static {
    /// A client's stream.
    type ClientId: Key + Send + Sync;
    /// A stream to the cluster.
    type UpstreamId: Key + Send + Sync;
    /// What it wants done.
    type Action: Debug + Send;
    /// What it asks the cluster beside its streams.
    type Question: Debug + Send;
    /// A client's message, as far as it can be read without the machine.
    type Request: Debug + Send;

    /// The call, in both directions.
    const RPC: Rpc;

    /// Reads a message of a client's. This is done without the machine's lock: it may take time in proportion to what
    /// the client sent.
    fn read(message: Bytes) -> Self::Request;

    /// A client opened a call.
    fn open(&mut self, now: Instant, caller: Caller, actions: &mut Vec<Self::Action>) -> Self::ClientId;

    /// Something has happened.
    fn handle(&mut self, now: Instant, happened: Happened<Self>, actions: &mut Vec<Self::Action>);

    /// The highest revision that a client was shown so far, or a higher one that the store has reached.
    fn shown(&self) -> i64;

    /// The number of the history that this revision is of.
    fn history(&self) -> u64;

    /// When [`Happened::Timeout`] must come next.
    fn next_timeout(&self) -> Option<Instant>;

    /// What an action is here.
    fn wanted(action: Self::Action) -> Wanted<Self>;

    /// What is done on a connection before an upstream stream is opened on it.
    fn prepare<R: Runtime>(
        streams: &Streams<Self>,
        upstream: Self::UpstreamId,
        connection: &Arc<Connection>,
    ) -> impl Future<Output = ()> + Send;

    /// Has a question answered.
    fn ask<R: Runtime>(
        streams: &Streams<Self>,
        uplink: &Arc<Uplink>,
        question: Self::Question,
    ) -> impl Future<Output = ()> + Send;
}

/// What happens to streams.
#[derive(Debug)]
pub(crate) enum Happened<M: Multiplexer> {
    ClientSent(M::ClientId, M::Request),
    ClientHalfClosed(M::ClientId),
    ClientTook(M::ClientId, usize),
    ClientGone(M::ClientId),
    UpstreamOpened(M::UpstreamId),
    UpstreamSent(M::UpstreamId, Bytes),
    UpstreamEnded(M::UpstreamId, Status),
    UpstreamSuperseded(M::UpstreamId),
    Timeout,
}

/// What machines want done with streams.
#[derive(Debug)]
pub(crate) enum Wanted<M: Multiplexer> {
    /// A message in two parts, with its prefix.
    Deliver(M::ClientId, Bytes, Bytes),
    EndClient(M::ClientId, Status),
    Pause(M::ClientId, bool),
    Open {
        upstream: M::UpstreamId,
        credentials: Option<Bytes>,
        require_leader: bool,
        class: Class,
    },
    /// A message without its prefix.
    Send(M::UpstreamId, Bytes),
    Close(M::UpstreamId),
    Ask(M::Question),
}
