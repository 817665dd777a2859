//! Watchers that are behind, on their way to being in step.

use super::Hub;
use super::state::{Doubt, Needs, Place, Seen, Source, SourceId, Watcher, WatcherId};
use super::work::{Work, next_of};
use crate::range::KeyRange;
use crate::time::Instant;
use crate::watch::types::{Actions, ClientId, UpstreamKind};

/// So many clients are asked whether a catch-up that all of them need may be theirs, besides the first who needs it.
const HOSTS_MAX: usize = 64;

impl Hub {
    /// Brings a watcher as far as it can come: in step with its live source or, if it must, with a catch-up. The client
    /// may be full before; then it goes on when there is room.
    pub(super) fn advance(&mut self, now: Instant, id: WatcherId, actions: &mut Actions) {
        self.go_on(now, id, false, actions);
    }

    /// The same. It may have to go on also if what it was sent is still in its client's outbox.
    pub(super) fn go_on(&mut self, now: Instant, id: WatcherId, must: bool, actions: &mut Actions) {
        loop {
            let watcher = &self.watchers[id];
            let client = watcher.client;
            let Some(live) = watcher.live else { return };
            if watcher.doubt != Doubt::None || self.will_be_doubted(id) {
                // It goes on when it is known that it may.
                self.stop_waiting(id);
                self.watchers[id].place = Place::Lagging;
                return;
            }
            if self.is_full(client) {
                self.stop_waiting(id);
                self.line_up(id);
                return;
            }
            let catch_up = self.catch_ups.get(&watcher.range);
            let catch_up = catch_up.and_then(|catch_up| catch_up.source);
            let serves = |source: &SourceId| serves(&self.sources[*source], watcher);
            let Some(from) = Some(live).filter(serves).or_else(|| catch_up.filter(serves)) else {
                self.wait(id);
                return;
            };
            let source = &self.sources[from];
            let has_more =
                watcher.next < self.position(source) && source.history.from(watcher.next).is_some();
            if !has_more {
                self.step_in(id, from);
                return;
            }
            if !must && source.kind == UpstreamKind::Live && self.has_unsent(watcher) {
                // What comes until then goes out with it.
                self.stop_waiting(id);
                self.line_up(id);
                return;
            }
            self.give_late(now, id, from, actions);
        }
    }

    /// A watcher goes on when its client has room.
    pub(super) fn line_up(&mut self, id: WatcherId) {
        let watcher = &mut self.watchers[id];
        watcher.place = Place::Lagging;
        if let Some(client) = self.clients.get_mut(watcher.client)
            && !core::mem::replace(&mut watcher.is_in_line, true)
        {
            client.lagging.push_back(id);
        }
    }

    /// A watcher has all that a source has: it gets what comes from now on.
    fn step_in(&mut self, id: WatcherId, source_id: SourceId) {
        self.stop_waiting(id);
        let (range, credentials) = {
            let watcher = &self.watchers[id];
            (watcher.range.clone(), watcher.credentials.clone())
        };
        let next = self.note_position(source_id);
        let source = &mut self.sources[source_id];
        if source.kind == UpstreamKind::CatchUp {
            *source.owners.entry(credentials).or_default() += 1;
        }
        let port = source.port(&range);
        port.push(id);
        let at = port.len() - 1;
        let watcher = &mut self.watchers[id];
        watcher.next = watcher.next.max(next);
        watcher.place = Place::InStep(source_id, at);
        if watcher.live == Some(source_id) {
            if watcher.is_owed {
                self.due.insert(id);
                self.stirred.owed.insert(id);
            }
            let client = watcher.client;
            self.count_behind(client, false);
            self.stir_wish(client);
        }
    }

    /// A watcher needs what its live source doesn't have any more, nor the catch-up that runs.
    fn wait(&mut self, id: WatcherId) {
        let watcher = &mut self.watchers[id];
        watcher.place = Place::Waiting;
        let catch_up = self.catch_ups.entry(watcher.range.clone()).or_default();
        if catch_up.waiting.insert((watcher.next, id)) {
            *catch_up.clients.entry(watcher.client).or_default() += 1;
            catch_up.prev_wanted += usize::from(watcher.variant.prev_kv);
        }
        // At the end of the event, so that those who need one at the same time share it.
        self.stirred.ranges.insert(watcher.range.clone());
    }

    pub(super) fn stop_waiting(&mut self, id: WatcherId) {
        let watcher = &self.watchers[id];
        let Some(catch_up) = self.catch_ups.get_mut(&watcher.range) else {
            return;
        };
        if !catch_up.waiting.remove(&(watcher.next, id)) {
            return;
        }
        catch_up.prev_wanted -= usize::from(watcher.variant.prev_kv);
        if let Some(of_client) = catch_up.clients.get_mut(&watcher.client) {
            *of_client -= 1;
            if *of_client == 0 {
                catch_up.clients.remove(&watcher.client);
            }
        }
        if catch_up.waiting.is_empty() && catch_up.source.is_none() {
            self.catch_ups.remove(&watcher.range);
        }
    }

    /// Begins a catch-up for all who wait for one of this range, unless one runs.
    pub(super) fn start_catch_up(&mut self, range: &KeyRange, actions: &mut Actions) {
        self.stats.steps += 1;
        let room = self.catch_up_room();
        let Some(catch_up) = self.catch_ups.get(range) else {
            return;
        };
        let Some((next, first)) = catch_up.waiting.first().copied() else {
            return;
        };
        if let Some(source) = catch_up.source {
            if !self.upstreams[self.sources[source].upstream].trusts_progress {
                // Its end can't be known for certain, so nobody waits for it.
                self.rewind(source, actions);
            }
            return;
        }
        // Those whose client is gone are forgotten anyway, and the catch-up ends if it is for nobody.
        let has_room = |client: &ClientId| {
            let client = self.clients.get(*client);
            client.is_none_or(|client| client.catching_up < room)
        };
        let first = &self.watchers[first];
        let others = catch_up.clients.keys().take(HOSTS_MAX);
        let host = core::iter::once(&first.client)
            .chain(others)
            .find(|id| has_room(id));
        let Some(client) = host.copied() else {
            if let Some(client) = self.clients.get_mut(first.client) {
                client.deferred.insert(range.clone());
            }
            return;
        };
        let credentials = self.clients.get(client).map(|client| &client.caller.credentials);
        let credentials = credentials.unwrap_or(&first.credentials).clone();
        let prev = catch_up.prev_wanted > 0;
        let source = self.new_source(
            UpstreamKind::CatchUp,
            range.clone(),
            next,
            prev,
            (credentials, Some(client)),
            actions,
        );
        if let Some(client) = self.clients.get_mut(client) {
            client.catching_up += 1;
        }
        self.stats.catch_ups += 1;
        if let Some(catch_up) = self.catch_ups.get_mut(range) {
            catch_up.source = Some(source);
        }
        self.begin(Work::Board(source, None));
    }

    /// Has the next watcher that waits for a catch-up join it. Whether there may be more.
    pub(super) fn board_one(
        &mut self,
        now: Instant,
        id: SourceId,
        after: &mut Option<Needs>,
        actions: &mut Actions,
    ) -> bool {
        let Some(source) = self.sources.get(id) else {
            return false;
        };
        let catch_up = self.catch_ups.get(&source.range);
        let catch_up = catch_up.filter(|catch_up| catch_up.source == Some(id));
        let next = catch_up.and_then(|catch_up| next_of(&catch_up.waiting, *after));
        let Some(next) = next else {
            self.end_catch_up_if_unheard(id, actions);
            return false;
        };
        *after = Some(next);
        self.advance(now, next.1, actions);
        true
    }

    /// How many catch-ups one client may have. Where a server's progress isn't trusted only an event tells that one has
    /// come to its end, which may take for ever.
    fn catch_up_room(&self) -> usize {
        let mut streams = self.upstreams.values();
        if streams.any(|stream| stream.kind == UpstreamKind::CatchUp && !stream.trusts_progress) {
            usize::MAX
        } else {
            self.config.catch_ups_per_client_max.max(1)
        }
    }

    /// Catch-ups that wait for others to end look again whether they have to.
    pub(super) fn resume_deferred(&mut self) {
        for client in self.clients.values_mut() {
            self.stirred.ranges.append(&mut client.deferred);
        }
    }

    /// A catch-up of a client's has ended: others have their turn.
    pub(super) fn catch_up_ended(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        client.catching_up -= 1;
        if !client.deferred.is_empty() && !core::mem::replace(&mut client.is_resuming, true) {
            self.begin(Work::Resume(id));
        }
    }

    /// Begins the next catch-up of a client's that waits for others to end, if there is room. Whether there was one.
    pub(super) fn resume_one(&mut self, id: ClientId, actions: &mut Actions) -> bool {
        let room = self.catch_up_room();
        let Some(client) = self.clients.get_mut(id) else {
            return false;
        };
        let has_room = client.catching_up < room;
        let Some(range) = has_room.then(|| client.deferred.pop_first()).flatten() else {
            client.is_resuming = false;
            return false;
        };
        self.start_catch_up(&range, actions);
        true
    }

    /// Has a catch-up source begin anew, earlier than it did.
    fn rewind(&mut self, id: SourceId, actions: &mut Actions) {
        self.withdraw(id, actions);
        self.forget_history(id);
        let source = &mut self.sources[id];
        if !core::mem::replace(&mut source.is_rewinding, true) {
            self.begin(Work::Rewind(id, Seen::default()));
        }
    }

    /// Has the next of those who are in step with a source that is about to begin anew remember how far it is. Then the source
    /// goes back. Whether there may be more to do.
    pub(super) fn rewind_one(&mut self, id: SourceId, seen: &mut Seen, actions: &mut Actions) -> bool {
        let Some(source) = self.sources.get(id) else {
            return false;
        };
        let position = source.next;
        if let Some(watcher) = self.next_seen(id, seen) {
            let watcher = &mut self.watchers[watcher];
            watcher.next = watcher.next.max(position);
            return true;
        }
        self.withdraw(id, actions);
        let source = &mut self.sources[id];
        source.is_rewinding = false;
        let catch_up = self.catch_ups.get(&source.range);
        let waiting = catch_up.and_then(|catch_up| catch_up.waiting.first().copied());
        // Some may wait for previous pairs only, and not be behind it.
        let next = waiting.map_or(source.next, |(next, _)| next.min(source.next));
        source.next = next;
        source.floor = next;
        source.prev_floor = next;
        source.prev_asked |= catch_up.is_some_and(|catch_up| catch_up.prev_wanted > 0);
        self.queue_source(id);
        self.begin(Work::Board(id, None));
        false
    }

    /// A catch-up source has come further: those whose next revision the live source has go over to it.
    pub(super) fn merge(&mut self, id: SourceId) {
        let source = self.sources.get_mut(id);
        let Some(source) = source.filter(|source| source.kind == UpstreamKind::CatchUp) else {
            return;
        };
        let is_merging = source.merge_before.is_some();
        source.merge_before = Some(source.whole.len());
        if !is_merging {
            self.begin(Work::Merge(id));
        }
    }

    /// Has the next watcher of a catch-up source go over to its live source, if that has what it needs. Whether there may be
    /// another one.
    pub(super) fn merge_one(&mut self, now: Instant, id: SourceId, actions: &mut Actions) -> bool {
        let Some(source) = self.sources.get_mut(id) else {
            return false;
        };
        // Who leaves is replaced by the last one, which was looked at before.
        let before = source.merge_before.unwrap_or_default().min(source.whole.len());
        source.merge_before = before.checked_sub(1);
        let Some(at) = source.merge_before else {
            return false;
        };
        let watcher_id = source.whole[at];
        let next = self.note_position(id);
        let watcher = &self.watchers[watcher_id];
        let live = watcher.live.and_then(|live| self.sources.get(live));
        if live.is_some_and(|live| watcher.next.max(next) >= live.floor_for(watcher.variant)) {
            self.leave_port(watcher_id, actions);
            self.advance(now, watcher_id, actions);
        }
        true
    }
}

/// Whether a source has all that a watcher needs, or will have.
fn serves(source: &Source, watcher: &Watcher) -> bool {
    let has_prev = !watcher.variant.prev_kv || source.prev_asked;
    has_prev && watcher.next >= source.floor_for(watcher.variant)
}
