//! Watch calls: clients' streams go to the core's hub, which makes the few that the cluster sees.

mod checks;

use core::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::class::Class;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::time;
use etcd_proxy_core::watch::{Action, Actions, Caller, ClientId, Event, Hub, UpstreamId, UpstreamKind};

use self::checks::Check;
use crate::rt::Runtime;
use crate::streams::{Happened, Multiplexer, Streams, Wanted};
use crate::upstream::{CHECK_PATIENCE, Connection, Question, Uplink, trusts_progress};

/// The hub, shared by all threads.
pub(crate) type WatchHub = Streams<Hub>;

impl Multiplexer for Hub {
    type ClientId = ClientId;
    type UpstreamId = UpstreamId;
    type Action = Action;
    type Question = Check;
    type Request = Bytes;

    const RPC: Rpc = Rpc::Watch;

    fn read(message: Bytes) -> Bytes {
        message
    }

    fn open(&mut self, now: time::Instant, caller: Caller, actions: &mut Actions) -> ClientId {
        self.open(now, caller, actions)
    }

    fn handle(&mut self, now: time::Instant, happened: Happened<Self>, actions: &mut Actions) {
        let event = match happened {
            Happened::ClientSent(client, message) => Event::ClientSent(client, message),
            Happened::ClientHalfClosed(client) => Event::ClientHalfClosed(client),
            Happened::ClientTook(client, bytes) => Event::ClientTook(client, bytes),
            Happened::ClientGone(client) => Event::ClientGone(client),
            // It takes messages before.
            Happened::UpstreamOpened(_) => return,
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
        let ask = |id, question| Wanted::Ask(Check { id, question });
        match action {
            Action::Deliver(client, frame) => Wanted::Deliver(client, frame.head, frame.tail),
            Action::EndClient(client, status) => Wanted::EndClient(client, status),
            Action::PauseClient(client) => Wanted::Pause(client, true),
            Action::ResumeClient(client) => Wanted::Pause(client, false),
            Action::SendUpstream(upstream, message) => Wanted::Send(upstream, message),
            Action::CloseUpstream(upstream) => Wanted::Close(upstream),
            Action::OpenUpstream {
                upstream,
                kind,
                credentials,
            } => Wanted::Open {
                upstream,
                credentials,
                require_leader: kind == UpstreamKind::Leader,
                class: match kind {
                    UpstreamKind::CatchUp => Class::Bulk,
                    _ => Class::Prompt,
                },
            },
            Action::ReadRevision {
                check,
                credentials,
                key,
                of_member: false,
            } => ask(check, Question::revision(credentials, key, true)),
            Action::ReadRevision {
                check,
                credentials,
                key,
                of_member: true,
            } => ask(check, Question::revision_of_member(credentials, key)),
            Action::AskPermission {
                check,
                credentials,
                key,
                range_end,
            } => ask(check, Question::permission(credentials, key, range_end)),
            Action::ReadHeader(check) => ask(check, Question::header()),
        }
    }

    /// How far the member's progress can be trusted must be known before it tells some.
    async fn prepare<R: Runtime>(
        streams: &Streams<Self>,
        upstream: UpstreamId,
        connection: &Arc<Connection>,
    ) {
        let until = Instant::now() + CHECK_PATIENCE;
        let trusted = trusts_progress::<R>(connection, until).await.unwrap_or_default();
        let event = Event::ProgressTrusted(upstream, trusted);
        streams.tell(|hub, now, actions| hub.handle(now, event, actions));
    }

    fn ask<R: Runtime>(
        streams: &Streams<Self>,
        uplink: &Arc<Uplink>,
        question: Check,
    ) -> impl Future<Output = ()> + Send {
        question.run::<R>(streams, uplink)
    }
}
