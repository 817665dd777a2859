//! LeaseKeepAlive calls: clients' heartbeats go to the core's router, which has one stream for those of many.

use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::class::Class;
use etcd_proxy_core::lease::{Action, Actions, ClientId, Event, Heartbeat, Router, UpstreamId};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::time;
use etcd_proxy_core::watch::Caller;

use crate::rt::Runtime;
use crate::streams::{Happened, Multiplexer, Streams, Wanted};
use crate::upstream::{Connection, Uplink};

/// The router, shared by all threads.
pub(crate) type LeaseRouter = Streams<Router>;

/// It asks nothing but heartbeats.
#[derive(Debug)]
pub(crate) enum NoQuestion {}

impl Multiplexer for Router {
    type ClientId = ClientId;
    type UpstreamId = UpstreamId;
    type Action = Action;
    type Question = NoQuestion;
    type Request = Heartbeat;

    const RPC: Rpc = Rpc::LeaseKeepAlive;

    fn read(message: Bytes) -> Heartbeat {
        Heartbeat::read(message)
    }

    fn open(&mut self, now: time::Instant, caller: Caller, actions: &mut Actions) -> ClientId {
        self.open(now, caller, actions)
    }

    fn handle(&mut self, now: time::Instant, happened: Happened<Self>, actions: &mut Actions) {
        let event = match happened {
            Happened::ClientSent(client, heartbeat) => Event::ClientSent(client, heartbeat),
            Happened::ClientHalfClosed(client) => Event::ClientHalfClosed(client),
            Happened::ClientTook(client, bytes) => Event::ClientTook(client, bytes),
            Happened::ClientGone(client) => Event::ClientGone(client),
            Happened::UpstreamOpened(upstream) => Event::UpstreamOpened(upstream),
            Happened::UpstreamSent(upstream, message) => Event::UpstreamSent(upstream, message),
            Happened::UpstreamEnded(upstream, status) => Event::UpstreamEnded(upstream, status),
            Happened::UpstreamSuperseded(upstream) => Event::UpstreamSuperseded(upstream),
            Happened::Timeout => Event::Timeout,
        };
        self.handle(now, event, actions);
    }

    fn shown(&self) -> i64 {
        self.revision()
    }

    fn history(&self) -> u64 {
        self.history()
    }

    fn next_timeout(&self) -> Option<time::Instant> {
        self.next_timeout()
    }

    fn wanted(action: Action) -> Wanted<Self> {
        match action {
            Action::Deliver(client, message) => Wanted::Deliver(client, message, Bytes::new()),
            Action::EndClient(client, status) => Wanted::EndClient(client, status),
            Action::PauseClient(client) => Wanted::Pause(client, true),
            Action::ResumeClient(client) => Wanted::Pause(client, false),
            Action::SendUpstream(upstream, message) => Wanted::Send(upstream, message),
            Action::CloseUpstream(upstream) => Wanted::Close(upstream),
            Action::OpenUpstream {
                upstream,
                credentials,
                require_leader,
            } => Wanted::Open {
                upstream,
                credentials,
                require_leader,
                class: Class::Prompt,
            },
        }
    }

    async fn prepare<R: Runtime>(_: &Streams<Self>, _: UpstreamId, _: &Arc<Connection>) {}

    async fn ask<R: Runtime>(_: &Streams<Self>, _: &Arc<Uplink>, question: NoQuestion) {
        match question {}
    }
}
