//! The watchers of the server's: whose they are, where they live, when they end.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::Hub;
use super::state::{Credentials, Doubt, Place, Port, Source, SourceId, SourceState, Timer, WatcherId};
use super::work::Work;
use crate::range::KeyRange;
use crate::time::Instant;
use crate::watch::history::History;
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
                (credentials, None),
                actions,
            );
            self.index.insert(range.clone(), source);
            source
        });
        self.watchers[id].place = Place::Lagging;
        self.join(id, source);
        if wants_prev && !self.sources[source].prev_asked {
            self.ask_for_prev(source, actions);
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
            unpushed: 0,
            is_pushing: false,
            held: Vec::new(),
            failures: 0,
            is_suspect: false,
            suspicions: 0,
            members: BTreeSet::new(),
            doubted: 0,
            clients: BTreeMap::new(),
            notified_at: None,
            is_notifying: false,
            is_ending: false,
            is_rewinding: false,
            merge_before: None,
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
        let Some(source) = self.sources.get(id) else {
            return;
        };
        if source.state != SourceState::Resting || source.is_ending {
            return;
        }
        let upstream = source.upstream;
        self.sources[id].is_suspect = false;
        self.queued += 1;
        self.set_state(id, SourceState::Queued(self.queued));
        self.upstreams[upstream].to_create.insert(self.queued, id);
        self.stirred.upstreams.insert(upstream);
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
        if let SourceState::Queued(turn) = source.state {
            upstream.to_create.remove(&turn);
        }
        source.held.clear();
        self.set_state(id, SourceState::Resting);
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
        // At the end of the event the one that it leaves may be seen to be idle.
        let source = &self.sources[id];
        self.stirred.upstreams.insert(source.upstream);
        let upstream = self.stream_for(source.kind, credentials, source.client, actions);
        self.put_on(id, upstream);
        self.queue_source(id);
    }

    /// Forgets a source that nobody needs.
    pub(super) fn drop_source(&mut self, id: SourceId, actions: &mut Actions) {
        self.withdraw(id, actions);
        if let Some(source) = self.sources.remove(id) {
            self.upstreams[source.upstream].sources.remove(&id);
            // At the end of the event it may be seen to be idle.
            self.stirred.upstreams.insert(source.upstream);
            self.stats.history_bytes -= source.history.bytes();
            self.merges.forget(id);
            self.suspects.remove(&id);
            if source.is_ending {
                self.ending -= 1;
            } else if source.kind == UpstreamKind::Live {
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
        let next = self.note_position(source_id);
        let source = &mut self.sources[source_id];
        if source.kind == UpstreamKind::CatchUp {
            source.take_owner(&self.watchers[id].credentials);
        }
        let port = source.port(&range);
        port.swap_remove(at);
        let moved = port.get(at).copied();
        source.close_port(&range);
        if let Some(moved) = moved {
            self.watchers[moved].place = Place::InStep(source_id, at);
        }
        let watcher = &mut self.watchers[id];
        watcher.next = watcher.next.max(next);
        watcher.place = Place::Lagging;
        if watcher.live == Some(source_id) {
            let client = watcher.client;
            self.count_behind(client, true);
        } else {
            self.end_catch_up_if_unheard(source_id, actions);
        }
    }

    /// Forgets a watcher, wherever it is, and what was only there for it.
    pub(super) fn remove_watcher(&mut self, id: WatcherId, actions: &mut Actions) {
        if let Some(source) = self.forget_watcher(id, actions) {
            self.disown(source, actions);
        }
    }

    /// Forgets a watcher, and answers its live source, which may have to be [disowned](Self::disown).
    pub(super) fn forget_watcher(&mut self, id: WatcherId, actions: &mut Actions) -> Option<SourceId> {
        if !self.watchers.contains_key(id) {
            return None;
        }
        self.leave_port(id, actions);
        let source = self.part(id);
        self.stop_waiting(id);
        let watcher = self.watchers.remove(id)?;
        self.notified.remove(&id);
        self.due.remove(&id);
        self.timers.cancel(Timer::Create(id));
        if let Some(client) = self.clients.get_mut(watcher.client) {
            if watcher.is_ahead
                && let Some(starts) = client.starts.get_mut(&watcher.start)
            {
                *starts -= 1;
                if *starts == 0 {
                    client.starts.remove(&watcher.start);
                }
            }
            client.doubted -= usize::from(watcher.doubt != Doubt::None);
            self.stir_wish(watcher.client);
        }
        source
    }

    /// Ends a live source that nobody owns. Those of narrower ranges don't keep a wide one: one by one they get sources of their
    /// own, that begin where the wide one is then.
    pub(super) fn disown(&mut self, id: SourceId, actions: &mut Actions) {
        let source = self.sources.get_mut(id);
        let Some(source) = source.filter(|source| source.owners.is_empty() && !source.is_ending) else {
            return;
        };
        if source.members.is_empty() {
            self.drop_source(id, actions);
        } else {
            source.is_ending = true;
            self.ending += 1;
            self.index.remove(&source.range);
            // Somebody else may want its range before all have left.
            self.withdraw(id, actions);
            self.begin(Work::Disown(id));
        }
    }

    /// Has a watcher of a source that is ending go to another one. Whether there may be more of them.
    pub(super) fn disown_one(&mut self, now: Instant, id: SourceId, actions: &mut Actions) -> bool {
        let Some(source) = self.sources.get(id) else {
            return false;
        };
        let Some(member) = source.members.first().copied() else {
            self.drop_source(id, actions);
            return false;
        };
        if !self.clients.contains_key(self.watchers[member].client) {
            self.forget_watcher(member, actions);
            return true;
        }
        let at = self.note_position(id);
        self.leave_port(member, actions);
        self.part(member);
        self.stop_waiting(member);
        self.attach(member, at, actions);
        if self.watchers[member].doubt != Doubt::None {
            self.limit_doubts_of(now, member);
        }
        self.advance(now, member, actions);
        true
    }
}
