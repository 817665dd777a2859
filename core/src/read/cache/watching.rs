//! What the watch tells.

use bytes::Bytes;

use super::Cache;
use super::state::{Timer, Watch};
use crate::interval::Span;
use crate::read::types::{Action, Actions, Scope, WatchId};
use crate::time::Instant;

impl Cache {
    /// Opens the watch, if it isn't.
    pub(super) fn open_watch(&mut self, now: Instant, actions: &mut Actions) {
        if self.watch == Watch::Closed {
            self.watches_opened += 1;
            let id = WatchId(self.watches_opened);
            self.watch = Watch::Opening(id);
            self.timers.set(Timer::Idle, now + self.config.idle);
            actions.push(Action::OpenWatch(id));
        }
    }

    pub(super) fn idle_timer(&mut self, now: Instant, actions: &mut Actions) {
        let until = self.last_read + self.config.idle;
        if until > now {
            self.timers.set(Timer::Idle, until);
        } else if let Some(id) = self.watch.id() {
            self.forget_watch(Watch::Closed);
            self.flush(now, actions);
            actions.push(Action::CloseWatch(id));
        }
    }

    pub(super) fn watch_started(
        &mut self,
        now: Instant,
        watch: WatchId,
        revision: i64,
        actions: &mut Actions,
    ) {
        if self.watch.id() == Some(watch) {
            self.forget_watch(Watch::Up(watch));
            self.watched = revision;
            self.started = revision;
            self.newest_event = revision;
            self.flush(now, actions);
        }
    }

    pub(super) fn watch_lost(&mut self, now: Instant, watch: WatchId, actions: &mut Actions) {
        if self.watch == Watch::Up(watch) {
            self.forget_watch(Watch::Opening(watch));
            self.flush(now, actions);
        }
    }

    pub(super) fn forget_watch(&mut self, watch: Watch) {
        self.watch = watch;
        self.confirmed = None;
        self.pending.clear();
        self.stuck = 0;
        self.progress_asked = false;
        self.timers.cancel(Timer::Progress);
    }

    pub(super) fn watch_changed(
        &mut self,
        now: Instant,
        watch: WatchId,
        revision: i64,
        keys: &[Bytes],
        actions: &mut Actions,
    ) {
        if self.watch != Watch::Up(watch) {
            return;
        }
        for key in keys {
            self.touch(Span::of_key(key), revision);
        }
        self.newest_event = self.newest_event.max(revision);
        // With several ranges the events of one tell nothing of the others.
        if !matches!(&self.config.scope, Scope::Ranges(ranges) if ranges.len() > 1) {
            self.advance(now, revision, actions);
        }
    }

    pub(super) fn watch_progressed(
        &mut self,
        now: Instant,
        watch: WatchId,
        revision: i64,
        actions: &mut Actions,
    ) {
        if self.watch != Watch::Up(watch) || !self.trusts_progress {
            return;
        }
        self.progress_asked = false;
        self.timers.cancel(Timer::Progress);
        self.advance(now, revision, actions);
    }

    /// Keys have changed at a revision: what was read earlier is wrong, and so may be what is being read.
    pub(super) fn touch(&mut self, span: Span<'_>, revision: i64) {
        self.stats.invalidated += self.store.remove_changed(span, revision) as u64;
        let mut found = core::mem::take(&mut self.found);
        self.flight_tree.find(&self.flights, span, &mut found);
        for id in found.drain(..) {
            let flight = &mut self.flights[id];
            flight.touched = flight.touched.max(revision);
        }
        self.found = found;
    }

    fn advance(&mut self, now: Instant, revision: i64, actions: &mut Actions) {
        if revision <= self.watched {
            return;
        }
        self.watched = revision;
        if self.confirm_pending() {
            self.wake_fresh(now, actions);
        }
        while let Some((_, id)) = self
            .by_revision
            .first()
            .copied()
            .filter(|(need, _)| *need <= revision)
        {
            // It goes elsewhere: to its answer, or to where it waits for something else.
            self.reconsider(now, id, actions);
        }
    }

    /// Asks how far the watch has come, if events alone don't tell and somebody waits for it.
    pub(super) fn ask_progress(&mut self, now: Instant, actions: &mut Actions) {
        let Watch::Up(id) = self.watch else {
            return;
        };
        let is_wanted = !self.by_revision.is_empty() || self.pending.iter().any(|pending| pending.is_wanted);
        if is_wanted
            && !self.progress_asked
            && self.trusts_progress
            && matches!(self.config.scope, Scope::Ranges(_))
        {
            self.progress_asked = true;
            self.timers.set(Timer::Progress, now + self.config.progress_retry);
            self.stats.progress_asked += 1;
            actions.push(Action::AskProgress(id));
        }
    }
}
