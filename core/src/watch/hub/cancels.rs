//! Watchers of clients that a server's cancels with it: what they need is compacted, or they may not see it. They are told one after
//! the other, as they may be very many; until then their source rests.

use alloc::string::String;

use super::Hub;
use super::state::{Credentials, Needs, Place, Seen, SourceId, WatcherId};
use super::work::{Work, next_of};
use crate::time::Instant;
use crate::watch::types::{Actions, Status, UpstreamKind};

/// A compaction of what a source was to go on with.
#[derive(Debug)]
pub(super) struct Compaction {
    source: SourceId,
    compacted: i64,
    /// Where the source was.
    position: i64,
    /// Who waits for the next catch-up would only hear it later, and is told first.
    waiting: Option<Needs>,
    seen: Seen,
}

/// A source may not be watched any more with these credentials.
#[derive(Debug)]
pub(super) struct Denial {
    source: SourceId,
    credentials: Credentials,
    status: Status,
    reason: String,
    seen: Seen,
}

impl Hub {
    /// A source of a server that has compacted what it was to go on with: those of its watchers who need that are
    /// cancelled, and it goes on from there for the others.
    pub(super) fn compacted(&mut self, id: SourceId, compacted: i64, actions: &mut Actions) {
        self.compact_revision = self.compact_revision.max(compacted);
        self.withdraw(id, actions);
        self.begin(Work::Compact(Compaction {
            source: id,
            compacted,
            position: self.sources[id].next,
            waiting: None,
            seen: Seen::default(),
        }));
    }

    /// Cancels the next watcher of a source that needs what is compacted. In the end the source moves. Whether there may be more.
    pub(super) fn compact_one(&mut self, now: Instant, work: &mut Compaction, actions: &mut Actions) -> bool {
        let Some(source) = self.sources.get(work.source) else {
            return false;
        };
        if source.kind == UpstreamKind::CatchUp {
            let catch_up = self.catch_ups.get(&source.range);
            let next = catch_up.and_then(|catch_up| next_of(&catch_up.waiting, work.waiting));
            if let Some(next) = next.filter(|(needs, _)| *needs < work.compacted) {
                work.waiting = Some(next);
                self.cancel_compacted(next.1, work.compacted, actions);
                return true;
            }
        }
        if let Some(id) = self.next_seen(work.source, &mut work.seen) {
            let watcher = &self.watchers[id];
            let is_here = matches!(watcher.place, Place::InStep(source, _) if source == work.source);
            // All of them before the source moves: those who leave it take its position with them.
            if is_here && watcher.next.max(work.position) < work.compacted {
                self.cancel_compacted(id, work.compacted, actions);
            }
            return true;
        }
        self.pass_compaction(now, work.source, work.compacted, actions);
        false
    }

    fn cancel_compacted(&mut self, id: WatcherId, compacted: i64, actions: &mut Actions) {
        // Those whose client is gone are forgotten anyway.
        if self.clients.contains_key(self.watchers[id].client) {
            self.stats.compacted += 1;
            self.canceled(id, compacted, "", actions);
        }
    }

    /// Watchers that don't need what is compacted go on with what the server has, and nobody may think that their source has
    /// what came before.
    fn pass_compaction(&mut self, now: Instant, id: SourceId, compacted: i64, actions: &mut Actions) {
        // A catch-up ends with the last who needs it.
        let Some(source) = self.sources.get(id).filter(|source| !source.is_ending) else {
            return;
        };
        if compacted > source.next {
            self.withdraw(id, actions);
            let source = &mut self.sources[id];
            source.next = compacted;
            source.floor = compacted;
            source.prev_floor = compacted;
            self.forget_history(id);
            self.queue_source(id);
        } else {
            // The server had no reason to, or it has been seen since.
            self.rest(now, id);
        }
        self.merge(id);
    }

    /// A source may not be watched any more with the credentials that it was watched with. Who has these loses it, and
    /// nobody else does.
    pub(super) fn denied(&mut self, id: SourceId, status: Status, reason: &str) {
        let source = &self.sources[id];
        self.begin(Work::Deny(Denial {
            source: id,
            credentials: self.upstreams[source.upstream].credentials.clone(),
            status,
            reason: reason.into(),
            seen: Seen::default(),
        }));
    }

    /// Cancels the next watcher of a source that may not see it. In the end it goes on with others' credentials. Whether there may
    /// be more.
    pub(super) fn deny_one(&mut self, now: Instant, work: &mut Denial, actions: &mut Actions) -> bool {
        let id = work.source;
        if let Some(watcher_id) = self.next_seen(id, &mut work.seen) {
            let watcher = &self.watchers[watcher_id];
            let is_there = self.clients.contains_key(watcher.client);
            let is_own = watcher.range == self.sources[id].range;
            if is_there && is_own && watcher.credentials == work.credentials {
                self.stats.denied += 1;
                self.deny(watcher_id, &work.status, &work.reason, actions);
            }
            return true;
        }
        // The last of them may have ended it.
        if self.sources.get(id).is_some_and(|source| !source.is_ending) {
            let owners = self.sources[id].owners.keys();
            match owners.clone().find(|owner| **owner != work.credentials).cloned() {
                Some(host) => self.rehost(id, host, actions),
                None => self.rest(now, id),
            }
        }
        false
    }
}
