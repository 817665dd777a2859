//! How far streams, sources and clients are.

use alloc::vec::Vec;
use core::ops::Bound;
use core::time::Duration;

use bytes::Bytes;

use super::Hub;
use super::state::{Client, Credentials, Doubt, NO_WATCHER, Place, SourceId, Timer, WatcherId};
use super::told::{ProgressWish, Told};
use super::work::{Work, next_of};
use crate::time::Instant;
use crate::watch::types::{Action, Actions, ClientId, Header, UpstreamId, UpstreamKind};
use crate::watch::wire::{request, write};

/// Questions for progress that a stream may have without answer before it is given up: its server has no idea of them.
const ASKED_MAX: usize = 1024;

/// Questions that a server which answers has left without answer, before its stream is given up: an answer may be for
/// any of them, and says nothing of sources that were created after it.
const LOST_MAX: usize = 128;

/// No server notifies more often. What comes sooner was held up on its way.
const NOTIFY_MIN: Duration = Duration::from_millis(100);

/// Questions that are sent at once where lost ones are in the way.
const FLOOD_MAX: usize = 16;

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
        self.push_question(id, actions);
    }

    fn push_question(&mut self, id: UpstreamId, actions: &mut Actions) {
        self.asked += 1;
        self.upstreams[id].asked.push_back(self.asked);
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
        upstream.flood = 0;
        if upstream.is_open && is_wanted {
            self.send_question(now, id, actions);
        }
    }

    /// The positions of idle sources move too: else they'd fall behind compaction, and be cancelled when their stream
    /// is lost.
    pub(super) fn ask_positions(&mut self, now: Instant) {
        if self.index.len() == 0 {
            self.is_armed = false;
            self.timers.cancel(Timer::Notify);
            return;
        }
        self.timers
            .set(Timer::Positions, now + self.config.position_interval);
        self.begin(Work::AskStreams(None));
    }

    /// Asks how far the live streams are of who follows, of all who have some: they are as many as there are credentials. Whether
    /// there may be more.
    pub(super) fn ask_next_streams(
        &mut self,
        now: Instant,
        after: &mut Option<Credentials>,
        actions: &mut Actions,
    ) -> bool {
        let from = match after.take() {
            None => Bound::Included((UpstreamKind::Live, None)),
            Some(after) => Bound::Excluded((UpstreamKind::Live, after)),
        };
        let next = self.by_credentials.range((from, Bound::Unbounded)).next();
        let Some(((UpstreamKind::Live, credentials), streams)) = next else {
            return false;
        };
        *after = Some(credentials.clone());
        for id in streams.clone() {
            self.ask_stream(now, id, actions);
        }
        true
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
        upstream.flood = upstream.flood.saturating_sub(1);
        upstream.unanswered = 0;
        let mut asks_again = upstream.ask_again;
        if revision >= upstream.told.revision {
            upstream.told = Told { revision, question };
        }
        // The server answers now, so it won't be long until it answers a question that is new enough for all.
        asks_again |= !upstream.told.covers(upstream.newest);
        if upstream.kind == UpstreamKind::CatchUp && !core::mem::replace(&mut upstream.is_merging, true) {
            self.begin(Work::MergeAll(id, None));
        }
        self.tell_all();
        let upstream = &self.upstreams[id];
        if upstream.asked.len() >= LOST_MAX + upstream.flood {
            self.reset(now, id, actions);
        } else if asks_again && upstream.flood == 0 {
            self.ask_past_lost(now, id, actions);
        }
    }

    /// Asks a stream that answers again. Each answer is taken for one of the first question that has none: as many as were lost
    /// before the newest source was created must have one before an answer says anything of it. So several are asked at once.
    fn ask_past_lost(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        let upstream = &self.upstreams[id];
        let newest = upstream.newest.asked_before;
        let lost = upstream.asked.partition_point(|question| *question <= newest);
        self.ask_stream(now, id, actions);
        let Some(upstream) = self.upstreams.get_mut(id).filter(|upstream| upstream.is_asking) else {
            return;
        };
        let flood = lost.min(FLOOD_MAX);
        upstream.flood = flood;
        for _ in 0..flood {
            self.push_question(id, actions);
        }
    }

    /// The server notifies one source of its progress, which it does only if that has had all.
    pub(super) fn source_progress(&mut self, now: Instant, id: SourceId, revision: i64) {
        self.learn_notify_interval(now, self.sources[id].upstream);
        let source = &mut self.sources[id];
        if !self.upstreams[source.upstream].trusts_progress {
            return;
        }
        source.notified_at = Some(now);
        source.next = source.next.max(revision.saturating_add(1));
        if !self.notified.is_empty() && !core::mem::replace(&mut source.is_notifying, true) {
            self.begin(Work::Notify(Some(id), None));
        }
        self.tell_all();
        self.merge(id);
    }

    /// A server notifies its idle watchers on a stream at an interval, all at the same time. The longer one of the last two
    /// counts, since one that comes late makes the next one seem early.
    fn learn_notify_interval(&mut self, now: Instant, id: UpstreamId) {
        let upstream = &mut self.upstreams[id];
        let took = upstream.notified_at.map_or(Duration::MAX, |at| now - at);
        if took < NOTIFY_MIN {
            return;
        }
        upstream.notified_at = Some(now);
        let interval = took.max(core::mem::replace(&mut upstream.notified_after, took));
        if self.config.learns_notify_interval && interval < self.config.progress_notify_interval {
            self.config.progress_notify_interval = interval;
            if self.is_armed {
                self.timers.set(Timer::Notify, now + interval);
            }
        }
    }

    /// Whether a watcher has no need to be told by itself: the server tells its source when it is idle.
    fn is_notified(&self, now: Instant, id: WatcherId) -> bool {
        let live = self.watchers[id].live.and_then(|live| self.sources.get(live));
        let interval = self.config.progress_notify_interval;
        live.and_then(|live| live.notified_at)
            .is_some_and(|at| now < at + interval + interval / 4)
    }

    /// The time has come to tell all who wish it.
    pub(super) fn notify_all(&mut self, now: Instant) {
        self.timers
            .set(Timer::Notify, now + self.config.progress_notify_interval);
        if !core::mem::replace(&mut self.is_notifying, true) {
            self.begin(Work::Notify(None, None));
        }
    }

    /// Has the next watcher be told of progress: of those that follow one, of a source or of all. Whether there may be more.
    pub(super) fn notify_next(
        &mut self,
        now: Instant,
        source: Option<SourceId>,
        after: &mut Option<WatcherId>,
    ) -> bool {
        let next = match source {
            None => next_of(&self.notified, *after),
            Some(source) => {
                let source = self.sources.get(source);
                source.and_then(|source| next_of(&source.members, *after))
            }
        };
        if let Some(next) = next {
            *after = Some(next);
            let is_meant = match source {
                Some(_) => self.notified.contains(&next),
                None => !self.is_notified(now, next),
            };
            if is_meant {
                self.make_due(next);
            }
            return true;
        }
        if let Some(source) = source {
            if let Some(source) = self.sources.get_mut(source) {
                source.is_notifying = false;
            }
        } else {
            self.is_notifying = false;
            if !self.due.is_empty() {
                self.begin(Work::AskStreams(None));
            }
        }
        self.tell_all();
        false
    }

    /// What a watcher has just been sent tells it more than a notification would. Who isn't in step is told when it is.
    fn make_due(&mut self, id: WatcherId) {
        let watcher = &mut self.watchers[id];
        if !core::mem::replace(&mut watcher.active, false) {
            watcher.is_owed = true;
            if matches!(watcher.place, Place::InStep(source, _) if watcher.live == Some(source)) {
                self.due.insert(id);
            }
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
        let reached = self.position(&self.sources[source]).saturating_sub(1);
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
        let streams: Vec<UpstreamId> = client.shares.keys().copied().collect();
        self.wishing.insert(id);
        self.timers.set(Timer::Progress(id), deadline);
        for stream in streams {
            self.ask_stream(now, stream, actions);
        }
    }

    pub(super) fn forget_progress(&mut self, id: ClientId) {
        self.wishing.remove(&id);
        if let Some(client) = self.clients.get_mut(id) {
            client.progress = None;
        }
    }

    /// Looks after all who wait for progress: there is some.
    fn tell_all(&mut self) {
        if let Some(again) = &mut self.telling {
            *again = true;
        } else if !self.due.is_empty() || !self.wishing.is_empty() {
            self.telling = Some(false);
            self.begin(Work::TellWatchers(None));
        }
    }

    /// All who wait for progress were looked at. Whether they have to be once more, since there was more progress meanwhile.
    pub(super) fn tell_again(&mut self) -> bool {
        let again = self.telling == Some(true);
        self.telling = again.then_some(false);
        again
    }

    /// A client's progress request may have become answerable.
    pub(super) fn stir_wish(&mut self, id: ClientId) {
        let client = self.clients.get(id);
        if client.is_some_and(|client| client.progress.is_some()) {
            self.stirred.wishing.insert(id);
        }
    }

    /// Tells a watcher of progress, if it can be told.
    pub(super) fn tell_watcher(&mut self, id: WatcherId, actions: &mut Actions) {
        let Some(watcher) = self.watchers.get(id) else {
            return;
        };
        let (client_id, wire_id) = (watcher.client, watcher.wire_id);
        let client = self.clients.get(client_id);
        let is_in_step = matches!(watcher.place, Place::InStep(source, _) if watcher.live == Some(source));
        let told = if watcher.active {
            // Events came first, and said it.
            None
        } else if let Some(client) = client.filter(|_| is_in_step) {
            let told = self.reached(id).filter(|revision| *revision >= client.revision);
            if told.is_none() {
                return;
            }
            told
        } else {
            // It is told when it is in step again.
            self.due.remove(&id);
            return;
        };
        self.due.remove(&id);
        self.watchers[id].is_owed = false;
        if let Some(revision) = told
            && !self.is_full(client_id)
        {
            self.tell_progress(client_id, wire_id, revision, actions);
        }
    }

    /// Answers a client's progress request, if it can be answered.
    pub(super) fn tell_client(&mut self, now: Instant, id: ClientId, actions: &mut Actions) {
        let Some(client) = self.clients.get(id) else {
            return;
        };
        let Some(wish) = client.progress else { return };
        if let Some(revision) = self.progress_of(client, wish) {
            self.forget_progress(id);
            self.timers.cancel(Timer::Progress(id));
            self.tell_progress(id, NO_WATCHER, revision, actions);
            return;
        }
        let streams = client.shares.keys().copied();
        let stale = streams.filter(|stream| self.is_stale(wish, *stream));
        for stream in stale.collect::<Vec<UpstreamId>>() {
            self.ask_stream(now, stream, actions);
        }
    }

    /// Whether a stream hasn't been asked since a client wished to know.
    fn is_stale(&self, wish: ProgressWish, stream: UpstreamId) -> bool {
        let upstream = self.upstreams.get(stream);
        upstream.is_none_or(|upstream| upstream.heard < wish.asked)
    }

    /// The revision up to which all watchers of a client have been sent everything, if that is as new as it wished.
    fn progress_of(&self, client: &Client, wish: ProgressWish) -> Option<i64> {
        if client.creating > 0 || client.watchers.is_empty() || client.behind + client.doubted > 0 {
            return None;
        }
        let mut revision = i64::MAX;
        for (stream, share) in &client.shares {
            let told = self.upstreams.get(*stream)?.told;
            if share.running < share.sources || !told.covers(share.newest) || self.is_stale(wish, *stream) {
                return None;
            }
            revision = revision.min(told.revision);
        }
        let farthest = client.starts.last_key_value().map_or(0, |(start, _)| *start);
        (revision >= client.revision && revision >= farthest).then_some(revision)
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
