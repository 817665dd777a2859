//! A store that isn't the one that was seen: what makes the hub doubt it, and what it does when it is so.

use super::Hub;
use super::state::{Question, SourceId, Timer};
use super::work::Work;
use crate::grpc::Code;
use crate::time::Instant;
use crate::watch::types::{Action, Actions, Header, Status, UpstreamId};

/// How streams of clients end when the store has another history. Clients take it for the loss of a member, and watch again.
const ANOTHER_HISTORY: Status = Status::of(Code::Unavailable, "the store has gone back to another history");

impl Hub {
    /// The number of the history that the hub is in.
    #[must_use]
    pub const fn history(&self) -> u64 {
        self.history
    }

    /// Whether a header names another cluster than those before.
    pub(super) const fn is_foreign(&self, header: Header) -> bool {
        let known = self.header.cluster_id;
        known != 0 && header.cluster_id != 0 && header.cluster_id != known
    }

    /// What a stream's member says is about another store, or an older one. Only the newest revision can tell, read with the
    /// right of somebody who watches there.
    pub(super) fn suspect_stream(&mut self, id: UpstreamId) {
        let upstream = &self.upstreams[id];
        let credentials = upstream.credentials.clone();
        let Some(source) = upstream.sources.first() else {
            return;
        };
        let question = Question::revision(credentials, &self.sources[*source].range);
        self.wonder_about_store(question);
    }

    /// A source was created on a member that knows less than was known when that was asked for. It isn't watched there until it
    /// is known why: what comes may be another history's, and no event tells.
    pub(super) fn suspect_source(&mut self, id: SourceId, actions: &mut Actions) {
        self.suspect_stream(self.sources[id].upstream);
        self.withdraw(id, actions);
        let source = &mut self.sources[id];
        source.is_suspect = true;
        source.suspicions = source.suspicions.saturating_add(1);
        self.suspects.insert(id);
    }

    /// Has all suspects created again: it was asked whether the store is the same, and if it isn't there are none any more.
    pub(super) fn acquit_all(&mut self) {
        if !self.suspects.is_empty() {
            let suspects = core::mem::take(&mut self.suspects);
            self.begin(Work::Acquit(suspects.into_iter()));
        }
    }

    /// Has a suspect created again, where its member may have caught up. If it hadn't the last time, after a while.
    pub(super) fn acquit(&mut self, now: Instant, id: SourceId) {
        let source = self.sources.get(id);
        // One that is about to begin anew is created then.
        let Some(source) = source.filter(|source| source.is_suspect && !source.is_rewinding) else {
            return;
        };
        let again = source.suspicions.saturating_sub(1);
        if again == 0 {
            self.queue_source(id);
        } else {
            let wait = self.backoff(again);
            self.timers.set(Timer::Recreate(id), now + wait);
        }
    }

    /// Forgets all there is, as nothing of it is of the store any more: the hub is as it was in the beginning. Streams end at
    /// once, as all of them have to; what they had, which may be very much, [goes in pieces](super::former).
    pub(super) fn another_history(&mut self, number: u64, actions: &mut Actions) {
        if number <= self.history {
            return;
        }
        self.history = number;
        self.stats.histories += 1;
        // Ids of what was there find nothing: they are generational.
        let clients = self.clients.drain().map(|(id, client)| {
            actions.push(Action::EndClient(id, ANOTHER_HISTORY));
            client
        });
        let clients = clients.collect();
        let upstreams = self.upstreams.drain().map(|(id, upstream)| {
            if upstream.is_open {
                actions.push(Action::CloseUpstream(id));
            }
            upstream
        });
        let upstreams = upstreams.collect();
        let index_seed = self.rng.u64(..);
        self.begin_to_forget(clients, upstreams, index_seed);
        self.is_asking = false;
        self.is_notifying = false;
        self.telling = None;
        self.ending = 0;
        self.is_armed = false;
        self.header = Header::default();
        self.compact_revision = 0;
        self.stats.behind = 0;
        self.stats.outbox_bytes = 0;
        self.stats.history_bytes = 0;
    }
}
