//! Streams to servers: opened when there is something to watch, opened again whenever they end.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use super::Hub;
use super::checks::is_too_large;
use super::state::{Credentials, SourceId, SourceState, Timer, Upstream};
use super::told::{Created, Told};
use super::work::Work;
use crate::range::KeyRange;
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

    pub(super) fn add_stream(
        &mut self,
        kind: UpstreamKind,
        credentials: Credentials,
        failures: u32,
    ) -> UpstreamId {
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
            flood: 0,
            ask_again: false,
            heard: 0,
            notified_at: None,
            notified_after: Duration::MAX,
            told: Told::default(),
            newest: Created::default(),
            is_creating: false,
            is_merging: false,
            lost: None,
            is_heir: false,
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

    pub(super) fn remove_stream(&mut self, id: UpstreamId) -> Option<Upstream> {
        self.retire_stream(id);
        self.upstreams.remove(id)
    }

    /// Nothing new is put on a stream, and it does nothing by itself any more.
    pub(super) fn retire_stream(&mut self, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get(id) else {
            return;
        };
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
        if upstream.is_heir || upstream.lost.is_some() {
            // There is more to come, or all of it goes elsewhere.
        } else if upstream.sources.is_empty() && upstream.kind != UpstreamKind::Leader {
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
        let is_idle = |upstream: &Upstream| upstream.sources.is_empty() && !upstream.is_heir;
        if self.upstreams.get(id).is_some_and(is_idle) {
            self.remove_stream(id);
            actions.push(Action::CloseUpstream(id));
        }
    }

    /// Gives up a stream whose server doesn't do what a server does.
    pub(super) fn reset(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        actions.push(Action::CloseUpstream(id));
        self.stream_lost(now, id);
    }

    pub(super) fn upstream_ended(&mut self, now: Instant, id: UpstreamId, status: &Status) {
        let Some(upstream) = self.upstreams.get_mut(id).filter(|upstream| upstream.is_open) else {
            return;
        };
        // There is nothing to be closed any more.
        upstream.is_open = false;
        if upstream.kind == UpstreamKind::Leader && status.is_no_leader() {
            let clients = core::mem::take(&mut self.leader_clients);
            self.begin(Work::End(clients.into_iter(), status.clone()));
        }
        self.stream_lost(now, id);
        if is_too_large(status) {
            self.too_large(id, status);
        }
    }

    /// A stream is on a connection that isn't in use any more. Its sources go on where calls go now: a former
    /// connection may fall silent unnoticed, and its member lose its leader without being left for it.
    pub(super) fn upstream_superseded(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) {
        if self.upstreams.get(id).is_some_and(|upstream| upstream.is_open) {
            self.reset(now, id, actions);
        }
    }

    /// A server has ended a stream because a message on it was too large for it. Its limit is lower than was thought.
    /// Those whom such a message is for are told what a server would tell them, or the stream would be ended for ever. They
    /// are looked for while its sources [go on](super::losses) elsewhere.
    fn too_large(&mut self, id: UpstreamId, status: &Status) {
        let numbers = status.message.rsplit_once(" vs. ");
        let limit = numbers.and_then(|(_, limit)| limit.trim_end_matches(')').parse().ok());
        let limit = limit.unwrap_or(REQUEST_BYTES_MIN).max(REQUEST_BYTES_MIN);
        self.config.request_bytes_max = self.config.request_bytes_max.min(limit);
        let lost = self
            .upstreams
            .get_mut(id)
            .and_then(|upstream| upstream.lost.as_mut());
        if let Some(lost) = lost {
            lost.too_large = Some(status.clone());
        }
    }

    /// Whether a watcher of this range can't be created on a server, as far as is known.
    pub(super) fn is_over_limit(&self, range: &KeyRange) -> bool {
        request::create_bytes_max(range) as u64 > self.config.request_bytes_max
    }

    /// Credentials with which a source may be watched, those of one of its own watchers, if these don't do.
    pub(super) fn other_host(&self, id: SourceId, these: &Credentials) -> Option<Credentials> {
        let owners = &self.sources[id].owners;
        if owners.contains_key(these) {
            None
        } else {
            owners.keys().next().cloned()
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
