//! Streams to servers: opened when there is something to watch, opened again whenever they end.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::Hub;
use super::checks::is_too_large;
use super::starts::is_no_leader;
use super::state::{Created, Credentials, SourceId, SourceState, Timer, Told, Upstream};
use super::work::Work;
use crate::time::Instant;
use crate::watch::types::{Action, Actions, ClientId, Status, UpstreamId, UpstreamKind};
use crate::watch::wire::request;

/// No server takes less than this in a message.
const REQUEST_BYTES_MIN: u64 = 64 * 1024;

impl Hub {
    /// The stream that a new source is put on: that of its client, if it is a catch-up; else the one with the fewest,
    /// or a new one as long as more are allowed.
    pub(super) fn stream_for(
        &mut self,
        kind: UpstreamKind,
        credentials: Credentials,
        client: Option<ClientId>,
        actions: &mut Actions,
    ) -> UpstreamId {
        let key = (kind, credentials);
        let streams = self.by_credentials.get(&key).map_or(&[][..], Vec::as_slice);
        let load = |id: &UpstreamId| self.upstreams[*id].sources.len();
        let is_own = |id: &&UpstreamId| client.is_some() && self.upstreams[**id].client == client;
        if let Some(own) = streams.iter().find(is_own) {
            return *own;
        }
        let least = streams.iter().copied().min_by_key(load);
        let max = match kind {
            UpstreamKind::Live => self.config.live_streams_max.max(1),
            UpstreamKind::CatchUp => self.config.catch_up_streams_max.max(1),
            UpstreamKind::Leader => 1,
        };
        match least {
            Some(id) if load(&id) == 0 => {
                self.upstreams[id].client = client;
                id
            }
            Some(id) if streams.len() >= max => id,
            _ => {
                let id = self.add_stream(key.0, key.1, 0);
                self.upstreams[id].client = client;
                self.open_stream(id, actions);
                id
            }
        }
    }

    fn add_stream(&mut self, kind: UpstreamKind, credentials: Credentials, failures: u32) -> UpstreamId {
        let id = self.upstreams.insert(Upstream {
            kind,
            credentials: credentials.clone(),
            client: None,
            is_open: false,
            trusts_progress: self.config.trusts_progress,
            failures,
            sources: BTreeSet::new(),
            to_create: BTreeMap::new(),
            creating: VecDeque::new(),
            by_wire_id: BTreeMap::new(),
            // Zero would leave the choice to the server.
            next_wire_id: 1,
            asked: VecDeque::new(),
            is_asking: false,
            unanswered: 0,
            ask_again: false,
            heard: 0,
            told: Told::default(),
            newest: Created::default(),
            is_creating: false,
            is_merging: false,
        });
        let streams = self.by_credentials.entry((kind, credentials));
        streams.or_default().push(id);
        id
    }

    fn open_stream(&mut self, id: UpstreamId, actions: &mut Actions) {
        let upstream = &mut self.upstreams[id];
        upstream.is_open = true;
        actions.push(Action::OpenUpstream {
            upstream: id,
            kind: upstream.kind,
            credentials: upstream.credentials.clone(),
        });
    }

    fn remove_stream(&mut self, id: UpstreamId) -> Option<Upstream> {
        let upstream = self.upstreams.remove(id)?;
        let key = (upstream.kind, upstream.credentials.clone());
        if let Some(streams) = self.by_credentials.get_mut(&key) {
            streams.retain(|stream| *stream != id);
            if streams.is_empty() {
                self.by_credentials.remove(&key);
            }
        }
        self.timers.cancel(Timer::Linger(id));
        self.timers.cancel(Timer::Reopen(id));
        self.timers.cancel(Timer::Ask(id));
        Some(upstream)
    }

    pub(super) fn open_leader_stream(&mut self, actions: &mut Actions) {
        let key = (UpstreamKind::Leader, None);
        if !self.by_credentials.contains_key(&key) {
            let id = self.add_stream(key.0, key.1, 0);
            self.open_stream(id, actions);
        }
    }

    pub(super) fn close_leader_stream(&mut self, actions: &mut Actions) {
        let streams = self.by_credentials.get(&(UpstreamKind::Leader, None)).cloned();
        for id in streams.into_iter().flatten() {
            if self.remove_stream(id).is_some_and(|upstream| upstream.is_open) {
                actions.push(Action::CloseUpstream(id));
            }
        }
    }

    /// Begins to send the create requests that it is time for, one after the other without waiting for answers. A stream
    /// without sources is left to itself for a while.
    pub(super) fn send_creates(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else {
            return;
        };
        if upstream.sources.is_empty() && upstream.kind != UpstreamKind::Leader {
            if upstream.is_open {
                self.timers.set(Timer::Linger(id), now + self.config.linger);
            } else {
                self.remove_stream(id);
            }
            return;
        }
        self.timers.cancel(Timer::Linger(id));
        if self.may_create(id) && !core::mem::replace(&mut self.upstreams[id].is_creating, true) {
            self.begin(Work::Create(id));
        }
    }

    fn may_create(&self, id: UpstreamId) -> bool {
        let upstream = &self.upstreams[id];
        let is_free = upstream.creating.len() < self.config.creates_in_flight_max.max(1);
        upstream.is_open && is_free && !upstream.to_create.is_empty()
    }

    /// Sends the next create request of a stream, if it is time for one. Whether it was.
    pub(super) fn send_create(&mut self, id: UpstreamId, actions: &mut Actions) -> bool {
        if !self.upstreams.contains_key(id) {
            return false;
        }
        let may_create = self.may_create(id);
        let upstream = &mut self.upstreams[id];
        let next = if may_create {
            upstream.to_create.pop_first()
        } else {
            None
        };
        let Some((_, source_id)) = next else {
            upstream.is_creating = false;
            return false;
        };
        let wire_id = upstream.next_wire_id;
        upstream.next_wire_id += 1;
        upstream.creating.push_back(wire_id);
        upstream.by_wire_id.insert(wire_id, source_id);
        self.set_state(source_id, SourceState::Creating(wire_id));
        let source = &mut self.sources[source_id];
        // A server tells no progress of a stream while the start of one of its watchers is still to come. Where
        // that may be so this one starts with what follows its creation, whose header tells if that is too late.
        source.asked_from = if source.next > self.header.revision {
            0
        } else {
            source.next
        };
        source.known = self.header.revision;
        let message = request::create(&source.range, source.asked_from, source.prev_asked, wire_id);
        actions.push(Action::SendUpstream(id, message));
        true
    }

    pub(super) fn close_if_idle(&mut self, id: UpstreamId, actions: &mut Actions) {
        let is_idle = |upstream: &Upstream| upstream.sources.is_empty();
        if self.upstreams.get(id).is_some_and(is_idle) {
            self.remove_stream(id);
            actions.push(Action::CloseUpstream(id));
        }
    }

    /// Gives up a stream whose server doesn't do what a server does.
    pub(super) fn reset(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        actions.push(Action::CloseUpstream(id));
        self.stream_lost(now, id, actions);
    }

    pub(super) fn upstream_ended(
        &mut self,
        now: Instant,
        id: UpstreamId,
        status: &Status,
        actions: &mut Actions,
    ) {
        let Some(upstream) = self.upstreams.get_mut(id).filter(|upstream| upstream.is_open) else {
            return;
        };
        // There is nothing to be closed any more.
        upstream.is_open = false;
        if is_too_large(status) {
            self.too_large(id, status, actions);
        }
        let Some(upstream) = self.upstreams.get(id) else {
            return;
        };
        if upstream.kind == UpstreamKind::Leader && is_no_leader(status) {
            let clients = core::mem::take(&mut self.leader_clients);
            self.begin(Work::End(clients.into_iter(), status.clone()));
        }
        self.stream_lost(now, id, actions);
    }

    /// A stream is on a connection that isn't in use any more. Its sources go on where calls go now: a former
    /// connection may fall silent unnoticed, and its member lose its leader without being left for it.
    pub(super) fn upstream_superseded(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        if self.upstreams.get(id).is_some_and(|upstream| upstream.is_open) {
            self.reset(now, id, actions);
        }
    }

    /// A server has ended a stream because a message on it was too large for it. Its limit is lower than was thought.
    /// Those whom such a message is for are told what a server would tell them, or the stream would be ended for ever.
    fn too_large(&mut self, id: UpstreamId, status: &Status, actions: &mut Actions) {
        let numbers = status.message.rsplit_once(" vs. ");
        let limit = numbers.and_then(|(_, limit)| limit.trim_end_matches(')').parse().ok());
        let limit = limit.unwrap_or(REQUEST_BYTES_MIN).max(REQUEST_BYTES_MIN);
        self.config.request_bytes_max = self.config.request_bytes_max.min(limit);
        let mut clients = BTreeSet::new();
        for source in &self.upstreams[id].sources {
            let source = &self.sources[*source];
            if request::create_bytes_max(&source.range) as u64 > limit {
                let watchers = source.members.iter().chain(&source.whole);
                let watchers = watchers.map(|watcher| &self.watchers[*watcher]);
                let own = watchers.filter(|watcher| watcher.range == source.range);
                clients.extend(own.map(|watcher| watcher.client));
            }
        }
        for client in clients {
            self.end_client(client, status.clone(), actions);
        }
    }

    /// A stream is gone, for whatever reason. Its sources go on at their positions on a new one, which is opened a
    /// little later; or on one with other credentials, if nobody with these is left.
    fn stream_lost(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        let Some(upstream) = self.upstreams.get_mut(id) else {
            return;
        };
        upstream.is_open = false;
        let is_needed = upstream.kind == UpstreamKind::Leader && !self.leader_clients.is_empty();
        if upstream.sources.is_empty() && !is_needed {
            self.remove_stream(id);
            return;
        }
        let (kind, credentials, failures) = (upstream.kind, upstream.credentials.clone(), upstream.failures);
        let client = upstream.client;
        let wait = self.backoff(failures);
        let new = self.add_stream(kind, credentials.clone(), failures.saturating_add(1));
        self.upstreams[new].client = client;
        self.timers.set(Timer::Reopen(new), now + wait);
        let sources = self.upstreams[id].sources.clone();
        self.doubt(now, &sources);
        for source_id in sources {
            self.stats.steps += 1;
            let is_known = self.sources[source_id].wire_id().is_some();
            self.stats.resumes += u64::from(is_known);
            self.withdraw(source_id, actions);
            self.put_on(source_id, new);
            self.spare_prev(source_id);
            self.queue_source(source_id);
            if let Some(other) = self.other_host(source_id, &credentials) {
                self.rehost(source_id, other, actions);
            }
        }
        self.remove_stream(id);
        self.stirred.upstreams.insert(new);
    }

    /// Previous pairs that nobody wants any more aren't asked for again.
    fn spare_prev(&mut self, id: SourceId) {
        let source = &mut self.sources[id];
        if source.kind == UpstreamKind::Live && source.prev_wanted == 0 {
            source.prev_asked = false;
        }
    }

    /// Credentials with which a source may be watched, those of one of its own watchers, if these don't do.
    pub(super) fn other_host(&self, id: SourceId, these: &Credentials) -> Option<Credentials> {
        let source = &self.sources[id];
        match source.kind {
            UpstreamKind::Live if source.owners.contains_key(these) => None,
            UpstreamKind::Live => source.owners.keys().next().cloned(),
            UpstreamKind::CatchUp | UpstreamKind::Leader => {
                let watchers = source.whole.iter().map(|watcher| &self.watchers[*watcher]);
                let mut hosts = watchers.map(|watcher| &watcher.credentials);
                let first = hosts.clone().next()?;
                (!hosts.any(|host| host == these)).then(|| first.clone())
            }
        }
    }

    /// The credentials with which a source may be watched: those of its own watchers.
    pub(super) fn hosts(&self, id: SourceId) -> BTreeSet<Credentials> {
        let source = &self.sources[id];
        match source.kind {
            UpstreamKind::Live => source.owners.keys().cloned().collect(),
            UpstreamKind::CatchUp | UpstreamKind::Leader => {
                let watchers = source.whole.iter().map(|watcher| &self.watchers[*watcher]);
                watchers.map(|watcher| watcher.credentials.clone()).collect()
            }
        }
    }

    pub(super) fn reopen(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        if self.upstreams.get(id).is_some_and(|upstream| !upstream.is_open) {
            self.open_stream(id, actions);
            self.send_creates(now, id);
        }
    }

    /// Has a source that its server ended created again after a while.
    pub(super) fn rest(&mut self, now: Instant, id: SourceId) {
        self.stats.resumes += 1;
        let source = &mut self.sources[id];
        let failures = source.failures;
        source.failures = failures.saturating_add(1);
        let wait = self.backoff(failures);
        self.timers.set(Timer::Recreate(id), now + wait);
    }
}
