//! How far sources are, and what each client has of them. Both are kept up to date source by source, so that no question about
//! a client or a stream has to look at all its watchers or sources, of which there may be very many.

use super::Hub;
use super::state::{Doubt, Source, SourceId, SourceState, WatcherId};
use crate::watch::types::{ClientId, UpstreamId};

impl Hub {
    /// The first revision whose events a source may not have had. What its stream was told counts as long as it runs there.
    pub(super) fn position(&self, source: &Source) -> i64 {
        let SourceState::Running { created, .. } = source.state else {
            return source.next;
        };
        let upstream = self.upstreams.get(source.upstream);
        let told = upstream.map(|upstream| upstream.told);
        let told = told.filter(|told| told.covers(created));
        source
            .next
            .max(told.map_or(0, |told| told.revision.saturating_add(1)))
    }

    /// Writes a source's position down.
    pub(super) fn note_position(&mut self, id: SourceId) -> i64 {
        let next = self.position(&self.sources[id]);
        self.sources[id].next = next;
        next
    }

    /// The only way for a source from one state to another.
    pub(super) fn set_state(&mut self, id: SourceId, state: SourceState) {
        self.note_position(id);
        let source = &mut self.sources[id];
        let before = core::mem::replace(&mut source.state, state);
        let created = match (before, state) {
            (SourceState::Running { .. }, SourceState::Running { .. }) => return,
            (_, SourceState::Running { created, .. }) => Some(created),
            (SourceState::Running { .. }, _) => None,
            _ => return,
        };
        if let Some(created) = created {
            let upstream = &mut self.upstreams[source.upstream];
            upstream.newest = upstream.newest.max(created);
        }
        self.stats.steps += source.clients.len() as u64;
        for client in source.clients.keys() {
            let client = self.clients.get_mut(*client);
            let Some(share) = client.and_then(|client| client.shares.get_mut(&source.upstream)) else {
                continue;
            };
            if let Some(created) = created {
                share.running += 1;
                share.newest = share.newest.max(created);
            } else {
                share.running -= 1;
            }
        }
    }

    /// Puts a source that doesn't run on another stream.
    pub(super) fn put_on(&mut self, id: SourceId, upstream: UpstreamId) {
        let source = &mut self.sources[id];
        debug_assert!(!matches!(source.state, SourceState::Running { .. }));
        let before = core::mem::replace(&mut source.upstream, upstream);
        if let Some(before) = self.upstreams.get_mut(before) {
            before.sources.remove(&id);
        }
        self.upstreams[upstream].sources.insert(id);
        self.stats.steps += source.clients.len() as u64;
        let clients: alloc::vec::Vec<ClientId> = source.clients.keys().copied().collect();
        for client in clients {
            self.take_share(client, before, false);
            self.give_share(client, id);
        }
    }

    fn give_share(&mut self, client: ClientId, id: SourceId) {
        let source = &self.sources[id];
        if let Some(client) = self.clients.get_mut(client) {
            let share = client.shares.entry(source.upstream).or_default();
            share.sources += 1;
            if let SourceState::Running { created, .. } = source.state {
                share.running += 1;
                share.newest = share.newest.max(created);
            }
        }
    }

    fn take_share(&mut self, client: ClientId, upstream: UpstreamId, is_running: bool) {
        if let Some(client) = self.clients.get_mut(client)
            && let Some(share) = client.shares.get_mut(&upstream)
        {
            share.sources -= 1;
            share.running -= usize::from(is_running);
            if share.sources == 0 {
                client.shares.remove(&upstream);
            }
        }
    }

    /// Makes a watcher one of a live source's. It is behind until it is in step.
    pub(super) fn join(&mut self, id: WatcherId, source_id: SourceId) {
        let watcher = &mut self.watchers[id];
        watcher.live = Some(source_id);
        let client = watcher.client;
        let source = &mut self.sources[source_id];
        source.members.insert(id);
        source.doubted += usize::from(watcher.doubt != Doubt::None);
        source.prev_wanted += usize::from(watcher.variant.prev_kv);
        if source.range == watcher.range {
            *source.owners.entry(watcher.credentials.clone()).or_default() += 1;
        }
        let of_client = source.clients.entry(client).or_default();
        *of_client += 1;
        if *of_client == 1 {
            self.give_share(client, source_id);
        }
        self.count_behind(client, true);
    }

    /// Makes a watcher that is behind one of no live source's, and answers which one it leaves.
    pub(super) fn part(&mut self, id: WatcherId) -> Option<SourceId> {
        let watcher = &mut self.watchers[id];
        let source_id = watcher.live.take()?;
        let client = watcher.client;
        let source = &mut self.sources[source_id];
        source.members.remove(&id);
        source.doubted -= usize::from(watcher.doubt != Doubt::None);
        source.prev_wanted -= usize::from(watcher.variant.prev_kv);
        if source.range == watcher.range {
            source.take_owner(&watcher.credentials);
        }
        if let Some(of_client) = source.clients.get_mut(&client) {
            *of_client -= 1;
            if *of_client == 0 {
                source.clients.remove(&client);
                let is_running = matches!(source.state, SourceState::Running { .. });
                let upstream = source.upstream;
                self.take_share(client, upstream, is_running);
            }
        }
        self.count_behind(client, false);
        Some(source_id)
    }

    /// A watcher has fallen behind its live source, or is in step with it again.
    pub(super) fn count_behind(&mut self, client: ClientId, is_behind: bool) {
        let client = self.clients.get_mut(client);
        let counters = [
            Some(&mut self.stats.behind),
            client.map(|client| &mut client.behind),
        ];
        for counter in counters.into_iter().flatten() {
            if is_behind {
                *counter += 1;
            } else {
                *counter -= 1;
            }
        }
    }
}
