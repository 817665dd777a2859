//! Who may still see what. A server asks for permission when a watcher is created, so each loss of a stream has every
//! client of a server's asked again, as it creates its watchers anew. The clients of the hub don't notice the loss: it
//! asks for them, once for all with the same credentials and range, and sends them nothing until it knows. Sources go
//! on meanwhile, each with the credentials of somebody whom the server lets in.

use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::Hub;
use super::checks::{PERMISSION_DENIED, UNAVAILABLE, Verdict};
use super::starts::refusal;
use super::state::{Doubt, Place, Question, SourceId, SourceState, Timer, WatcherId};
use super::work::Work;
use crate::time::Instant;
use crate::watch::types::{Actions, ClientId, Status, UpstreamKind};

impl Hub {
    /// The stream of these sources is lost: all whom they serve are asked about.
    pub(super) fn doubt(&mut self, now: Instant, sources: &BTreeSet<SourceId>) {
        self.losses += 1;
        let mut questions: BTreeMap<Question, Vec<WatcherId>> = BTreeMap::new();
        for id in sources {
            let source = &self.sources[*id];
            let watchers: Vec<WatcherId> = match source.kind {
                UpstreamKind::Live => source.members.iter().copied().collect(),
                UpstreamKind::CatchUp => source.whole.clone(),
                UpstreamKind::Leader => Vec::new(),
            };
            let is_live = source.kind == UpstreamKind::Live;
            self.stats.steps += watchers.len() as u64;
            for watcher in watchers {
                if let Some(question) = self.doubt_one(watcher) {
                    questions.entry(question).or_default().push(watcher);
                    if !is_live {
                        self.limit_doubts_of(now, watcher);
                    }
                }
            }
        }
        for (question, watchers) in questions {
            self.wonder_all(question, &watchers);
        }
    }

    /// Answers what must be asked about a watcher, if it isn't being asked anyway.
    fn doubt_one(&mut self, id: WatcherId) -> Option<Question> {
        let watcher = &mut self.watchers[id];
        // Those whose client is gone are forgotten anyway.
        let client = self.clients.get_mut(watcher.client)?;
        let losses = self.losses;
        if core::mem::replace(&mut watcher.doubt, Doubt::Asked { losses }) != Doubt::None {
            // It waits for an answer, and asks again if that is older than this.
            return None;
        }
        client.doubted += 1;
        let question = Question::permission(watcher.credentials.clone(), &watcher.range);
        if matches!(watcher.place, Place::Waiting) {
            let range = watcher.range.clone();
            self.stop_waiting(&range, id);
            self.watchers[id].place = Place::Lagging;
        }
        Some(question)
    }

    /// Those who wait for their permission have waited for long enough, some time from now: their source runs, so
    /// there is somebody to ask.
    fn limit_doubts(&mut self, now: Instant, id: SourceId) {
        self.timers
            .set(Timer::Doubt(id), now + self.config.create_timeout);
    }

    /// The same, of a watcher whose live source may be running all the time.
    pub(super) fn limit_doubts_of(&mut self, now: Instant, watcher: WatcherId) {
        if let Some(live) = self.watchers[watcher].live
            && matches!(self.sources[live].state, SourceState::Running { .. })
        {
            self.limit_doubts(now, live);
        }
    }

    /// A live source runs.
    pub(super) fn doubts_begin(&mut self, now: Instant, id: SourceId) {
        let mut members = self.sources[id].members.iter();
        if members.any(|watcher| self.watchers[*watcher].doubt != Doubt::None) {
            self.limit_doubts(now, id);
        }
    }

    pub(super) fn doubts_timed_out(&mut self, id: SourceId) {
        let Some(source) = self.sources.get(id) else {
            return;
        };
        let watchers = source.members.iter().map(|watcher| &self.watchers[*watcher]);
        let waiting = watchers.filter(|watcher| watcher.doubt != Doubt::None);
        let clients: BTreeSet<ClientId> = waiting.map(|watcher| watcher.client).collect();
        self.stats.steps += source.members.len() as u64;
        let message = "etcdserver: request timed out, possibly due to connection lost";
        let status = Status::new(UNAVAILABLE, message);
        self.begin(Work::End(clients.into_iter(), status));
    }

    /// It is known whether a watcher may go on.
    pub(super) fn doubt_answered(
        &mut self,
        now: Instant,
        id: WatcherId,
        verdict: &Verdict,
        question: &Question,
        asked: u64,
        actions: &mut Actions,
    ) {
        let watcher = &mut self.watchers[id];
        match (verdict, watcher.doubt) {
            (Verdict::Refused(status), Doubt::Asked { .. }) => {
                self.stats.denied += 1;
                self.deny(id, status, &refusal(status), actions);
            }
            // Another stream was lost since.
            (Verdict::Permitted, Doubt::Asked { losses }) if asked < losses => {
                self.wonder(question.clone(), id);
            }
            (Verdict::Permitted, Doubt::Asked { .. }) => {
                watcher.doubt = Doubt::None;
                let goes_on = matches!(watcher.place, Place::Lagging) && !watcher.is_in_line;
                let client = watcher.client;
                if let Some(client) = self.clients.get_mut(client) {
                    client.doubted -= 1;
                }
                self.stir_wish(client);
                if self.due.contains(&id) {
                    self.stirred.owed.insert(id);
                }
                if goes_on {
                    self.advance(now, id, actions);
                }
            }
            _ => {}
        }
    }

    /// Tells a client that a watcher of its may not go on, as a server refuses to create it anew.
    pub(super) fn deny(&mut self, id: WatcherId, status: &Status, reason: &str, actions: &mut Actions) {
        let Some(watcher) = self.watchers.get(id) else {
            return;
        };
        if !self.clients.contains_key(watcher.client) {
            return;
        }
        if status.code == PERMISSION_DENIED || watcher.credentials.is_none() {
            self.canceled(id, 0, reason, actions);
        } else {
            // Its token has expired. A client whose stream breaks authenticates again, as it would have to if the
            // stream was the server's; told that it may not watch, it would give up.
            let message =
                Cow::Borrowed("etcdserver: the stream was lost and its token is not valid any more");
            let status = Status {
                code: UNAVAILABLE,
                message,
            };
            self.end_client(watcher.client, status, actions);
        }
    }
}
