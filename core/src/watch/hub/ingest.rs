//! What servers say.

use bytes::Bytes;

use super::Hub;
use super::state::{NO_WATCHER, SourceId, SourceState};
use super::told::Created;
use crate::grpc::Code;
use crate::history::is_plausible;
use crate::time::Instant;
use crate::watch::batch::Batch;
use crate::watch::types::{Actions, Status, UpstreamId, UpstreamKind};
use crate::watch::wire::response::Response;

impl Hub {
    pub(super) fn upstream_sent(
        &mut self,
        now: Instant,
        id: UpstreamId,
        message: &Bytes,
        actions: &mut Actions,
    ) {
        if self.upstreams.get(id).is_none_or(|upstream| !upstream.is_open) {
            return;
        }
        let response = Response::read(message).ok();
        // Some have no revision in their header: those that tell of compaction.
        let revision = |response: &Response| response.header.revision;
        let is_sane = |response: &Response| revision(response) == 0 || is_plausible(revision(response));
        let Some(response) = response.filter(is_sane) else {
            self.reset(now, id, actions);
            return;
        };
        if self.is_foreign(response.header) {
            // Nothing of another cluster's is for watchers of this one.
            self.suspect_stream(id);
            self.reset(now, id, actions);
            return;
        }
        let upstream = &mut self.upstreams[id];
        upstream.failures = 0;
        if response.created {
            self.source_created(now, id, &response, actions);
            return;
        }
        let source = upstream.by_wire_id.get(&response.watch_id).copied();
        if response.header.revision > 0 {
            self.saw(response.header);
        }
        if response.watch_id == NO_WATCHER && !response.canceled && !response.has_events {
            self.stream_progress(now, id, response.header.revision, actions);
            return;
        }
        // Of a source that isn't there any more, or not under this id.
        let Some(source) = source else { return };
        if response.canceled {
            self.source_canceled(now, source, &response, actions);
        } else if response.has_events {
            self.source_events(now, source, message, &response, actions);
        } else {
            self.source_progress(now, source, response.header.revision);
        }
    }

    fn source_events(
        &mut self,
        now: Instant,
        id: SourceId,
        message: &Bytes,
        response: &Response,
        actions: &mut Actions,
    ) {
        let from = self.note_position(id);
        let source = &mut self.sources[id];
        let header = (response.header, now);
        let upstream = source.upstream;
        let revisions_max = self.config.batch_revisions_max;
        let held = &mut source.held;
        match Batch::read(message, from, response.fragment, held, header, revisions_max) {
            Ok(Some(batch)) => {
                self.broadcast(id, batch, actions);
                self.merge(id);
                self.end_catch_up_if_unheard(id, actions);
            }
            Ok(None) => {}
            Err(_) => self.reset(now, upstream, actions),
        }
    }

    /// Create requests are answered in their order.
    fn source_created(&mut self, now: Instant, id: UpstreamId, response: &Response, actions: &mut Actions) {
        let upstream = &mut self.upstreams[id];
        let is_refused = response.canceled || response.watch_id == NO_WATCHER;
        let wire_id = upstream.creating.pop_front();
        let wire_id = wire_id.filter(|wire_id| is_refused || *wire_id == response.watch_id);
        let Some(wire_id) = wire_id else {
            self.reset(now, id, actions);
            return;
        };
        // There is room for one more.
        self.stirred.upstreams.insert(id);
        let source_id = upstream.by_wire_id.get(&wire_id).copied();
        if response.header.revision > 0 {
            self.saw(response.header);
        }
        let Some(source_id) = source_id else { return };
        if is_refused {
            self.source_canceled(now, source_id, response, actions);
            return;
        }
        let source = &self.sources[source_id];
        if response.header.revision > 0 && response.header.revision < source.known {
            // Its member lags, or the store isn't the one that the source watched.
            self.suspect_source(source_id, actions);
            return;
        }
        let source = &self.sources[source_id];
        if source.asked_from == 0 && response.header.revision >= source.next {
            // There is more than it was thought to follow. Now it is known to be there, and asked for.
            self.withdraw(source_id, actions);
            self.queue_source(source_id);
            return;
        }
        let is_catch_up = source.kind == UpstreamKind::CatchUp;
        let created = Created {
            // What the stream has told before says nothing of this one.
            revision: response.header.revision.max(self.upstreams[id].told.revision),
            asked_before: self.asked,
        };
        self.sources[source_id].suspicions = 0;
        self.set_state(source_id, SourceState::Running { wire_id, created });
        if !is_catch_up {
            self.doubts_begin(now, source_id);
        }
        if is_catch_up || !self.wishing.is_empty() || !self.due.is_empty() {
            // If nothing has happened to its keys, only this tells that it is caught up.
            self.ask_stream(now, id, actions);
        }
    }

    fn source_canceled(&mut self, now: Instant, id: SourceId, response: &Response, actions: &mut Actions) {
        if response.compact_revision > 0 {
            self.compacted(id, response.compact_revision, actions);
            return;
        }
        self.withdraw(id, actions);
        match denial(&response.cancel_reason) {
            Some(status) => self.denied(id, status, &response.cancel_reason),
            None => self.rest(now, id),
        }
    }
}

/// The status in a cancel reason, if that refuses the caller for who it is.
fn denial(reason: &str) -> Option<Status> {
    let reason = reason.strip_prefix("rpc error: code = ").unwrap_or(reason);
    let (code, message) = reason.split_once(" desc = ").unwrap_or(("", reason));
    let code = match (code, message) {
        ("PermissionDenied", _) | (_, "etcdserver: permission denied") => Code::PermissionDenied,
        ("Unauthenticated", _) | (_, "etcdserver: invalid auth token") => Code::Unauthenticated,
        _ => Code::InvalidArgument,
    };
    let status = Status::owned(code, message.into());
    status.is_denial().then_some(status)
}
