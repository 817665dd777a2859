//! Watchers that are behind, on their way to being in step.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Hub;
use super::state::{Doubt, Place, Source, SourceId, Watcher, WatcherId};
use super::work::Work;
use crate::range::KeyRange;
use crate::time::Instant;
use crate::watch::types::{Actions, ClientId, UpstreamKind};

impl Hub {
    /// Brings a watcher as far as it can come: in step with its live source or, if it must, with a catch-up. The client
    /// may be full before; then it goes on when there is room.
    pub(super) fn advance(&mut self, now: Instant, id: WatcherId, actions: &mut Actions) {
        loop {
            let watcher = &self.watchers[id];
            let client = watcher.client;
            let Some(live) = watcher.live else { return };
            if watcher.doubt != Doubt::None {
                // It goes on when it is known that it may.
                let range = watcher.range.clone();
                self.stop_waiting(&range, id);
                self.watchers[id].place = Place::Lagging;
                return;
            }
            if self.is_full(client) {
                let range = watcher.range.clone();
                self.stop_waiting(&range, id);
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
            match source
                .history
                .from(watcher.next)
                .filter(|_| watcher.next < self.position(source))
            {
                Some(batch) => {
                    let batch = Arc::clone(batch);
                    self.give_late(now, id, &batch, actions);
                }
                None => {
                    self.step_in(id, from);
                    return;
                }
            }
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
        let range = self.watchers[id].range.clone();
        self.stop_waiting(&range, id);
        let next = self.note_position(source_id);
        let port = self.sources[source_id].port(&range);
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
        catch_up.waiting.insert(id);
        // At the end of the event, so that those who need one at the same time share it.
        self.stirred.ranges.insert(watcher.range.clone());
    }

    pub(super) fn stop_waiting(&mut self, range: &KeyRange, id: WatcherId) {
        if let Some(catch_up) = self.catch_ups.get_mut(range)
            && catch_up.waiting.remove(&id)
            && catch_up.waiting.is_empty()
            && catch_up.source.is_none()
        {
            self.catch_ups.remove(range);
        }
    }

    /// Begins a catch-up for all who wait for one of this range, unless one runs.
    pub(super) fn start_catch_up(&mut self, now: Instant, range: &KeyRange, actions: &mut Actions) {
        let room = self.catch_up_room();
        let Some(catch_up) = self.catch_ups.get_mut(range) else {
            return;
        };
        if let Some(source) = catch_up.source
            && self.upstreams[self.sources[source].upstream].trusts_progress
        {
            return;
        }
        let waiting = core::mem::take(&mut catch_up.waiting);
        // Those whose client is gone are forgotten anyway.
        let is_there = |watcher: &&Watcher| self.clients.contains_key(watcher.client);
        let watchers = || waiting.iter().map(|id| &self.watchers[*id]).filter(is_there);
        let Some(first) = watchers().min_by_key(|watcher| watcher.next) else {
            if catch_up.source.is_none() {
                self.catch_ups.remove(range);
            }
            return;
        };
        let next = first.next;
        let has_room = |watcher: &&Watcher| self.clients[watcher.client].catching_up < room;
        let host = watchers().filter(has_room).min_by_key(|watcher| watcher.next);
        let host = host.map(|watcher| (watcher.credentials.clone(), watcher.client));
        let Some((credentials, client)) = host.or_else(|| catch_up.source.map(|_| (None, first.client)))
        else {
            let client = first.client;
            self.clients[client].deferred.insert(range.clone());
            catch_up.waiting = waiting;
            return;
        };
        let prev = watchers().any(|watcher| watcher.variant.prev_kv);
        if let Some(source) = catch_up.source {
            // Its end can't be known for certain, so nobody waits for it.
            self.rewind(source, next, prev, actions);
            for id in waiting {
                self.advance(now, id, actions);
            }
            return;
        }
        let source = self.new_source(
            UpstreamKind::CatchUp,
            range.clone(),
            next,
            prev,
            (credentials, Some(client)),
            actions,
        );
        self.clients[client].catching_up += 1;
        self.stats.catch_ups += 1;
        if let Some(catch_up) = self.catch_ups.get_mut(range) {
            catch_up.source = Some(source);
        }
        self.stats.steps += waiting.len() as u64;
        for id in waiting {
            self.advance(now, id, actions);
        }
        self.end_catch_up_if_unheard(source, actions);
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
    pub(super) fn catch_up_ended(&mut self, client: ClientId) {
        let room = self.catch_up_room();
        let Some(client) = self.clients.get_mut(client) else {
            return;
        };
        client.catching_up -= 1;
        let mut room = room.saturating_sub(client.catching_up);
        while room > 0
            && let Some(range) = client.deferred.pop_first()
        {
            let catch_up = self.catch_ups.get(&range);
            if catch_up.is_some_and(|catch_up| catch_up.source.is_none()) {
                self.stirred.ranges.insert(range);
                room -= 1;
            }
        }
    }

    /// Has a catch-up source begin anew, earlier than it did. Those who are in step with it remember how far they are.
    fn rewind(&mut self, id: SourceId, next: i64, prev: bool, actions: &mut Actions) {
        self.withdraw(id, actions);
        self.forget_history(id);
        let source = &mut self.sources[id];
        for watcher in &source.whole {
            let watcher = &mut self.watchers[*watcher];
            watcher.next = watcher.next.max(source.next);
        }
        // Some may wait for previous pairs only, and not be behind it.
        let next = next.min(source.next);
        source.next = next;
        source.floor = next;
        source.prev_floor = next;
        source.prev_asked |= prev;
        self.queue_source(id);
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

    /// A source of a server that has compacted what it was to go on with: those of its watchers who need that are
    /// cancelled, and it goes on from there for the others.
    pub(super) fn compacted(&mut self, now: Instant, id: SourceId, compacted: i64, actions: &mut Actions) {
        self.compact_revision = self.compact_revision.max(compacted);
        self.withdraw(id, actions);
        let source = &self.sources[id];
        let next = source.next;
        let mut concerned: Vec<WatcherId> = match self.catch_ups.get(&source.range) {
            // Those who wait for the next catch-up would only hear it later.
            Some(catch_up) if source.kind == UpstreamKind::CatchUp => {
                catch_up.waiting.iter().copied().collect()
            }
            _ => Vec::new(),
        };
        concerned.extend(&source.whole);
        concerned.extend(source.keys.values().flatten());
        concerned.extend(source.ranges.values().flatten());
        let is_lost = |id: &WatcherId| {
            let watcher = &self.watchers[*id];
            let reached = match watcher.place {
                Place::InStep(..) => watcher.next.max(next),
                Place::Starting(_) | Place::Lagging | Place::Waiting => watcher.next,
            };
            // Those whose client is gone are forgotten anyway.
            reached < compacted && self.clients.contains_key(watcher.client)
        };
        concerned.retain(is_lost);
        self.stats.compacted += concerned.len() as u64;
        self.stats.steps += concerned.len() as u64;
        // All of them, before the source moves: those who leave it take its position with them.
        let mut disowned = BTreeSet::new();
        for watcher in concerned {
            self.tell_canceled(watcher, compacted, "", actions);
            disowned.extend(self.forget_watcher(watcher, actions));
        }
        // A catch-up ends with the last who needs it.
        let Some(source) = self.sources.get_mut(id) else {
            for id in disowned {
                self.disown(id, actions);
            }
            return;
        };
        // Those who are left go on with what the server has, and nobody may think that it has what came before.
        if compacted > source.next {
            source.next = compacted;
            source.floor = compacted;
            source.prev_floor = compacted;
            self.forget_history(id);
            self.queue_source(id);
        } else {
            // It had no reason to.
            self.rest(now, id);
        }
        for id in disowned {
            self.disown(id, actions);
        }
        self.merge(id);
    }
}

/// Whether a source has all that a watcher needs, or will have.
fn serves(source: &Source, watcher: &Watcher) -> bool {
    let has_prev = !watcher.variant.prev_kv || source.prev_asked;
    has_prev && watcher.next >= source.floor_for(watcher.variant)
}
