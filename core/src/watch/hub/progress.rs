//! How far streams, sources and clients are.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use bytes::Bytes;

use super::Hub;
use super::state::{Doubt, NO_WATCHER, Place, ProgressWish, SourceId, SourceState, Timer, WatcherId};
use crate::time::Instant;
use crate::watch::types::{Action, Actions, ClientId, Header, UpstreamId, UpstreamKind};
use crate::watch::wire::{request, write};

/// Questions for progress that a stream may have without answer before it is given up: its server has no idea of them.
const ASKED_MAX: usize = 1024;

/// Questions that a server which answers has left without answer, before its stream is given up: an answer may be for
/// any of them, and says nothing of sources that were created after it.
const LOST_MAX: usize = 128;

/// How much longer, at most, a question that no client waits for waits to be repeated. A power of two.
const PATIENCE: u32 = 8;

impl Hub {
    /// Sets the timers that run as long as there are live sources.
    pub(super) fn arm_timers(&mut self, now: Instant) {
        if !core::mem::replace(&mut self.is_armed, true) {
            self.timers
                .set(Timer::Positions, now + self.config.position_interval);
            self.timers
                .set(Timer::Notify, now + self.config.progress_notify_interval);
        }
    }

    /// Asks how far a stream is; if it is being asked, again when it has answered.
    pub(super) fn ask_stream(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        let Some(upstream) = self.upstreams.get_mut(id).filter(|upstream| upstream.is_open) else {
            return;
        };
        if !upstream.trusts_progress || upstream.sources.is_empty() {
            return;
        }
        if upstream.is_asking {
            upstream.ask_again = true;
        } else {
            self.send_question(now, id, actions);
        }
    }

    /// It is known whether a stream's member can be trusted.
    pub(super) fn trust_progress(
        &mut self,
        now: Instant,
        id: UpstreamId,
        trusted: bool,
        actions: &mut Actions,
    ) {
        let Some(upstream) = self.upstreams.get_mut(id) else {
            return;
        };
        upstream.trusts_progress = trusted;
        if upstream.kind == UpstreamKind::CatchUp && !trusted {
            self.resume_deferred();
        }
        let upstream = &self.upstreams[id];
        if upstream.kind == UpstreamKind::CatchUp || !self.wishing.is_empty() || !self.due.is_empty() {
            self.ask_stream(now, id, actions);
        }
    }

    fn send_question(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        let upstream = &mut self.upstreams[id];
        if upstream.asked.len() >= ASKED_MAX {
            self.reset(now, id, actions);
            return;
        }
        self.asked += 1;
        upstream.asked.push_back(self.asked);
        upstream.is_asking = true;
        upstream.ask_again = false;
        let is_awaited = !self.wishing.is_empty() || !self.due.is_empty();
        let patience = if upstream.kind == UpstreamKind::Live && is_awaited {
            1
        } else {
            1 << upstream.unanswered.min(PATIENCE.ilog2())
        };
        upstream.unanswered = upstream.unanswered.saturating_add(1);
        let wait = self.config.progress_retry.saturating_mul(patience);
        self.timers.set(Timer::Ask(id), now + wait);
        actions.push(Action::SendUpstream(id, request::progress()));
    }

    /// A question may have come to nothing: servers are silent as long as a watcher of the stream is behind.
    pub(super) fn ask_timer(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        let Some(upstream) = self.upstreams.get_mut(id) else {
            return;
        };
        let is_wanted = match upstream.kind {
            UpstreamKind::CatchUp => !upstream.sources.is_empty(),
            UpstreamKind::Live => !self.wishing.is_empty() || !self.due.is_empty() || upstream.is_asking,
            UpstreamKind::Leader => false,
        };
        // Whoever comes later asks anew.
        upstream.is_asking = false;
        if upstream.is_open && is_wanted {
            self.send_question(now, id, actions);
        }
    }

    /// The positions of idle sources move too: else they'd fall behind compaction, and be cancelled when their stream
    /// is lost.
    pub(super) fn ask_positions(&mut self, now: Instant, actions: &mut Actions) {
        if self.index.len() == 0 {
            self.is_armed = false;
            self.timers.cancel(Timer::Notify);
            return;
        }
        self.timers
            .set(Timer::Positions, now + self.config.position_interval);
        self.ask_live_streams(now, actions);
    }

    fn ask_live_streams(&mut self, now: Instant, actions: &mut Actions) {
        let streams = self.upstreams.iter();
        let live = streams.filter(|(_, upstream)| upstream.kind == UpstreamKind::Live);
        let live: Vec<UpstreamId> = live.map(|(id, _)| id).collect();
        for id in live {
            self.ask_stream(now, id, actions);
        }
    }

    /// A stream has answered: all its watchers have had what there was up to this revision. That is true of those only
    /// that the server knew when it was asked, and which question it answers isn't told. A watcher certainly was known
    /// if it was created before the first question that has no answer, or at a lower revision.
    pub(super) fn stream_progress(
        &mut self,
        now: Instant,
        id: UpstreamId,
        revision: i64,
        actions: &mut Actions,
    ) {
        let upstream = &mut self.upstreams[id];
        let Some(question) = upstream.asked.pop_front() else {
            return;
        };
        if !upstream.trusts_progress {
            return;
        }
        upstream.heard = upstream.asked.back().copied().unwrap_or(question);
        upstream.is_asking = false;
        upstream.unanswered = 0;
        let mut asks_again = upstream.ask_again;
        let sources: Vec<SourceId> = upstream.sources.iter().copied().collect();
        let mut moved = Vec::new();
        for source_id in sources {
            let source = &mut self.sources[source_id];
            if let SourceState::Running {
                created,
                asked_before,
                ..
            } = source.state
                && source.next <= revision
            {
                if revision > created || question > asked_before {
                    source.next = revision.saturating_add(1);
                    moved.push(source_id);
                } else {
                    // The server answers now, so it won't be long until it answers a question that is new enough.
                    asks_again = true;
                }
            }
        }
        for source_id in moved {
            self.merge(now, source_id, actions);
        }
        self.stirred.progress = true;
        let lost = self.upstreams.get(id).map_or(0, |upstream| upstream.asked.len());
        if lost >= LOST_MAX {
            self.reset(now, id, actions);
        } else if asks_again {
            self.ask_stream(now, id, actions);
        }
    }

    /// The server notifies one source of its progress, which it does only if that has had all.
    pub(super) fn source_progress(
        &mut self,
        now: Instant,
        id: SourceId,
        revision: i64,
        actions: &mut Actions,
    ) {
        let source = &mut self.sources[id];
        if !self.upstreams[source.upstream].trusts_progress {
            return;
        }
        source.next = source.next.max(revision.saturating_add(1));
        let told = source.members.intersection(&self.notified).copied();
        let told: Vec<WatcherId> = told.collect();
        for watcher in told {
            self.make_due(watcher);
        }
        self.stirred.progress = true;
        self.merge(now, id, actions);
    }

    /// The time has come to tell all who wish it.
    pub(super) fn notify_all(&mut self, now: Instant, actions: &mut Actions) {
        self.timers
            .set(Timer::Notify, now + self.config.progress_notify_interval);
        for watcher in self.notified.clone() {
            self.make_due(watcher);
        }
        if !self.due.is_empty() {
            self.ask_live_streams(now, actions);
        }
        self.stirred.progress = true;
    }

    /// What a watcher has just been sent tells it more than a notification would.
    fn make_due(&mut self, id: WatcherId) {
        if !core::mem::replace(&mut self.watchers[id].active, false) {
            self.due.insert(id);
        }
    }

    /// The revision up to which a watcher has been sent everything.
    fn reached(&self, id: WatcherId) -> Option<i64> {
        let watcher = &self.watchers[id];
        let Place::InStep(source, _) = watcher.place else {
            return None;
        };
        if watcher.doubt != Doubt::None {
            return None;
        }
        let reached = self.sources[source].next.saturating_sub(1);
        (watcher.live == Some(source) && reached >= watcher.start).then_some(reached)
    }

    pub(super) fn progress_request(&mut self, now: Instant, id: ClientId, actions: &mut Actions) {
        let client = &mut self.clients[id];
        if client.watchers.is_empty() && client.creating == 0 {
            return;
        }
        let deadline = now + self.config.progress_timeout;
        // The next question is asked later than this.
        client.progress = Some(ProgressWish {
            asked: self.asked + 1,
        });
        self.wishing.insert(id);
        self.timers.set(Timer::Progress(id), deadline);
        for stream in self.streams_of(id) {
            self.ask_stream(now, stream, actions);
        }
    }

    fn streams_of(&self, id: ClientId) -> BTreeSet<UpstreamId> {
        let watchers = self.clients[id].watchers.values();
        let sources = watchers.filter_map(|watcher| self.watchers[*watcher].live);
        sources.map(|source| self.sources[source].upstream).collect()
    }

    pub(super) fn forget_progress(&mut self, id: ClientId) {
        self.wishing.remove(&id);
        if let Some(client) = self.clients.get_mut(id) {
            client.progress = None;
        }
    }

    /// Answers what can be answered.
    pub(super) fn answer_progress(&mut self, now: Instant, actions: &mut Actions) {
        for id in self.due.clone() {
            let watcher = &self.watchers[id];
            let (client, wire_id) = (watcher.client, watcher.wire_id);
            if watcher.active {
                // Events came first, and said it.
                self.due.remove(&id);
            } else if let Some(revision) = self.reached(id)
                && revision >= self.clients[client].revision
            {
                self.due.remove(&id);
                if !self.is_full(client) {
                    self.tell_progress(client, wire_id, revision, actions);
                }
            }
        }
        for id in self.wishing.clone() {
            match self.progress_of(id) {
                Some(revision) => {
                    self.forget_progress(id);
                    self.timers.cancel(Timer::Progress(id));
                    self.tell_progress(id, NO_WATCHER, revision, actions);
                }
                None => {
                    let behind: Vec<UpstreamId> = self
                        .streams_of(id)
                        .into_iter()
                        .filter(|stream| self.is_stale(id, *stream))
                        .collect();
                    for stream in behind {
                        self.ask_stream(now, stream, actions);
                    }
                }
            }
        }
    }

    /// Whether a stream hasn't been asked since a client wished to know.
    fn is_stale(&self, id: ClientId, stream: UpstreamId) -> bool {
        let wish = self.clients[id].progress;
        wish.is_some_and(|wish| self.upstreams[stream].heard < wish.asked)
    }

    /// The revision up to which all watchers of a client have been sent everything, if that is as new as it wished.
    fn progress_of(&self, id: ClientId) -> Option<i64> {
        let client = &self.clients[id];
        if client.creating > 0 || client.watchers.is_empty() {
            return None;
        }
        let mut revision = i64::MAX;
        for watcher in client.watchers.values() {
            revision = revision.min(self.reached(*watcher)?);
        }
        for watcher in client.watchers.values() {
            if self.watchers[*watcher].start > revision {
                return None;
            }
        }
        let is_new = self
            .streams_of(id)
            .iter()
            .all(|stream| !self.is_stale(id, *stream));
        (is_new && revision >= client.revision).then_some(revision)
    }

    fn tell_progress(&mut self, id: ClientId, wire_id: i64, revision: i64, actions: &mut Actions) {
        let header = Header {
            revision,
            ..self.header
        };
        let frame = write::events(header, wire_id, false, &Bytes::new(), 0);
        self.deliver(id, frame, revision, actions);
    }
}
