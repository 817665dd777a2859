//! The watchers of the server's: whose they are, where they live, when they end.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::Hub;
use super::state::{Credentials, Place, Port, Source, SourceId, SourceState, Timer, WatcherId};
use crate::range::KeyRange;
use crate::time::Instant;
use crate::watch::batch::History;
use crate::watch::types::{Action, Actions, ClientId, UpstreamKind};
use crate::watch::wire::request;

impl Hub {
    /// Gives a watcher the live source of its range, or of one that covers it; a new one begins at revision `at`.
    /// The watcher is behind then, until it is [advanced](Hub::advance).
    pub(super) fn attach(&mut self, id: WatcherId, at: i64, actions: &mut Actions) {
        let watcher = &self.watchers[id];
        let range = watcher.range.clone();
        let wants_prev = watcher.variant.prev_kv;
        let credentials = watcher.credentials.clone();
        let source = self.index.exact(&range).or_else(|| self.wider(&range));
        let source = source.unwrap_or_else(|| {
            let source = self.new_source(
                UpstreamKind::Live,
                range.clone(),
                at,
                wants_prev,
                (credentials.clone(), None),
                actions,
            );
            self.index.insert(range.clone(), source);
            source
        });
        let watcher = &mut self.watchers[id];
        watcher.live = Some(source);
        watcher.place = Place::Lagging;
        self.stats.behind += 1;
        let source_id = source;
        let source = &mut self.sources[source_id];
        source.members.insert(id);
        if source.range == range {
            *source.owners.entry(credentials).or_default() += 1;
        }
        if wants_prev {
            source.prev_wanted += 1;
            if !source.prev_asked {
                self.ask_for_prev(source_id, actions);
            }
        }
    }

    /// A source whose range covers another one, and may serve it too.
    fn wider(&self, range: &KeyRange) -> Option<SourceId> {
        let id = self.index.covering(range)?;
        let source = &self.sources[id];
        let is_free = range.is_single()
            || source.ranges.contains_key(range)
            || source.ranges.len() < self.config.narrow_ranges_max;
        is_free.then_some(id)
    }

    pub(super) fn new_source(
        &mut self,
        kind: UpstreamKind,
        range: KeyRange,
        next: i64,
        prev_asked: bool,
        (credentials, client): (Credentials, Option<ClientId>),
        actions: &mut Actions,
    ) -> SourceId {
        let upstream = self.stream_for(kind, credentials, client, actions);
        let id = self.sources.insert(Source {
            kind,
            range,
            client,
            upstream,
            state: SourceState::Resting,
            next,
            asked_from: next,
            known: 0,
            floor: next,
            prev_floor: next,
            prev_asked,
            prev_wanted: 0,
            history: History::default(),
            held: Vec::new(),
            failures: 0,
            members: BTreeSet::new(),
            owners: BTreeMap::new(),
            whole: Port::new(),
            keys: BTreeMap::new(),
            ranges: BTreeMap::new(),
        });
        self.upstreams[upstream].sources.insert(id);
        self.queue_source(id);
        id
    }

    /// Has a source created on its stream.
    pub(super) fn queue_source(&mut self, id: SourceId) {
        let Some(source) = self.sources.get_mut(id) else {
            return;
        };
        if source.state != SourceState::Resting {
            return;
        }
        source.state = SourceState::Queued;
        self.upstreams[source.upstream].to_create.push_back(id);
        self.stirred.upstreams.insert(source.upstream);
    }

    /// Ends what the server holds for a source, which goes on at its position when it is queued again.
    pub(super) fn withdraw(&mut self, id: SourceId, actions: &mut Actions) {
        let source = &mut self.sources[id];
        let upstream = &mut self.upstreams[source.upstream];
        if let Some(wire_id) = source.wire_id() {
            upstream.by_wire_id.remove(&wire_id);
            if upstream.is_open {
                actions.push(Action::SendUpstream(source.upstream, request::cancel(wire_id)));
            }
        }
        if source.state == SourceState::Queued {
            upstream.to_create.retain(|queued| *queued != id);
        }
        source.state = SourceState::Resting;
        source.held.clear();
        self.timers.cancel(Timer::Recreate(id));
        self.timers.cancel(Timer::Doubt(id));
    }

    /// From its position on a source gets previous pairs.
    fn ask_for_prev(&mut self, id: SourceId, actions: &mut Actions) {
        self.withdraw(id, actions);
        let source = &mut self.sources[id];
        source.prev_asked = true;
        source.prev_floor = source.next;
        self.queue_source(id);
    }

    /// Moves a source to a stream with other credentials.
    pub(super) fn rehost(&mut self, id: SourceId, credentials: Credentials, actions: &mut Actions) {
        self.withdraw(id, actions);
        self.leave_stream(id);
        let source = &self.sources[id];
        let upstream = self.stream_for(source.kind, credentials, source.client, actions);
        self.sources[id].upstream = upstream;
        self.upstreams[upstream].sources.insert(id);
        self.queue_source(id);
    }

    fn leave_stream(&mut self, id: SourceId) {
        let upstream = self.sources[id].upstream;
        self.upstreams[upstream].sources.remove(&id);
        // At the end of the event it is seen to be idle.
        self.stirred.upstreams.insert(upstream);
    }

    /// Forgets a source that nobody needs.
    pub(super) fn drop_source(&mut self, id: SourceId, actions: &mut Actions) {
        self.withdraw(id, actions);
        self.leave_stream(id);
        if let Some(source) = self.sources.remove(id) {
            self.stats.history_bytes -= source.history.bytes();
            if source.kind == UpstreamKind::Live {
                self.index.remove(&source.range);
            }
            if let Some(client) = source.client {
                self.catch_up_ended(client);
            }
        }
    }

    /// Takes a watcher from where it is in step with a source; it is lagging then.
    pub(super) fn leave_port(&mut self, id: WatcherId, actions: &mut Actions) {
        let Place::InStep(source_id, at) = self.watchers[id].place else {
            return;
        };
        let range = self.watchers[id].range.clone();
        let source = &mut self.sources[source_id];
        let port = source.port(&range);
        port.swap_remove(at);
        let moved = port.get(at).copied();
        source.close_port(&range);
        let next = source.next;
        if let Some(moved) = moved {
            self.watchers[moved].place = Place::InStep(source_id, at);
        }
        let watcher = &mut self.watchers[id];
        watcher.next = watcher.next.max(next);
        watcher.place = Place::Lagging;
        if watcher.live == Some(source_id) {
            self.stats.behind += 1;
        } else {
            self.end_catch_up_if_unheard(source_id, actions);
        }
    }

    /// Forgets a watcher, wherever it is, and what was only there for it.
    pub(super) fn remove_watcher(&mut self, now: Instant, id: WatcherId, actions: &mut Actions) {
        if let Some(source) = self.forget_watcher(id, actions) {
            self.disown(now, source, actions);
        }
    }

    /// Forgets a watcher, and answers its live source, which may have to be [disowned](Self::disown).
    pub(super) fn forget_watcher(&mut self, id: WatcherId, actions: &mut Actions) -> Option<SourceId> {
        if !self.watchers.contains_key(id) {
            return None;
        }
        self.leave_port(id, actions);
        let watcher = self.watchers.remove(id)?;
        self.stirred.progress = true;
        self.notified.remove(&id);
        self.due.remove(&id);
        self.timers.cancel(Timer::Create(id));
        let source_id = watcher.live?;
        self.stats.behind -= 1;
        self.stop_waiting(&watcher.range, id);
        let source = &mut self.sources[source_id];
        source.members.remove(&id);
        source.prev_wanted -= usize::from(watcher.variant.prev_kv);
        if source.range == watcher.range
            && let Some(owners) = source.owners.get_mut(&watcher.credentials)
        {
            *owners -= 1;
            if *owners == 0 {
                source.owners.remove(&watcher.credentials);
            }
        }
        Some(source_id)
    }

    pub(super) fn disown_all(&mut self, now: Instant, ids: BTreeSet<SourceId>, actions: &mut Actions) {
        for id in ids {
            self.disown(now, id, actions);
        }
    }

    /// Ends a source without watchers. Those of narrower ranges don't keep a wide one: they get sources of their own,
    /// that begin where the wide one ends.
    pub(super) fn disown(&mut self, now: Instant, id: SourceId, actions: &mut Actions) {
        let Some(source) = self.sources.get(id).filter(|source| source.owners.is_empty()) else {
            return;
        };
        let at = source.next;
        let members: Vec<WatcherId> = source.members.iter().copied().collect();
        for member in &members {
            self.leave_port(*member, actions);
            self.stats.behind -= 1;
        }
        self.drop_source(id, actions);
        for member in &members {
            let range = self.watchers[*member].range.clone();
            self.stop_waiting(&range, *member);
            self.attach(*member, at, actions);
        }
        for member in members {
            // An earlier one may have ended it.
            if self.watchers.contains_key(member) {
                self.advance(now, member, actions);
            }
        }
    }
}
