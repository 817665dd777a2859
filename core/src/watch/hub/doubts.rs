//! Who may still see what. A server asks for permission when a watcher is created, so each loss of a stream has every
//! client of a server's asked again, as it creates its watchers anew. The clients of the hub don't notice the loss: it
//! asks for them, once for all with the same credentials and range, and sends them nothing until it knows. Sources go
//! on meanwhile, each with the credentials of somebody whom the server lets in.

use super::Hub;
use super::checks::Verdict;
use super::starts::refusal;
use super::state::{Doubt, Place, Question, Seen, SourceId, SourceState, Timer, WatcherId};
use super::work::Work;
use crate::grpc::Code;
use crate::time::Instant;
use crate::watch::types::{Actions, Status};

impl Hub {
    /// A watcher that a lost stream served is asked about, if it isn't anyway.
    pub(super) fn doubt_one(&mut self, id: WatcherId) {
        let watcher = &mut self.watchers[id];
        // Those whose client is gone are forgotten anyway.
        let Some(client) = self.clients.get_mut(watcher.client) else {
            return;
        };
        let losses = self.losses;
        if core::mem::replace(&mut watcher.doubt, Doubt::Asked { losses }) != Doubt::None {
            // It waits for an answer, and asks again if that is older than this.
            return;
        }
        client.doubted += 1;
        let question = Question::permission(watcher.credentials.clone(), &watcher.range);
        let is_waiting = matches!(watcher.place, Place::Waiting);
        if let Some(live) = watcher.live {
            self.sources[live].doubted += 1;
        }
        if is_waiting {
            self.stop_waiting(id);
            self.watchers[id].place = Place::Lagging;
        }
        self.wait_for(question, id);
    }

    /// Whether a watcher will be in doubt: the stream of its live source is lost, and its turn to be asked about is yet to come.
    pub(super) fn will_be_doubted(&self, id: WatcherId) -> bool {
        let live = self.watchers[id].live;
        let source = live.and_then(|live| self.sources.get(live));
        let upstream = source.and_then(|source| self.upstreams.get(source.upstream));
        let lost = upstream.and_then(|upstream| upstream.lost.as_ref());
        lost.is_some_and(|lost| lost.source != live || lost.seen.member.is_none_or(|last| last < id))
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
        if self.sources[id].doubted > 0 {
            self.limit_doubts(now, id);
        }
    }

    /// Watchers of a source have waited for too long: all that are in doubt by now.
    pub(super) fn doubts_timed_out(&mut self, id: SourceId) {
        if self.sources.contains_key(id) {
            self.begin(Work::EndDoubted(id, Seen::default(), self.losses));
        }
    }

    /// Ends the client's stream of the next watcher of a source that was in doubt when so many streams had been lost. Whether
    /// there may be more.
    pub(super) fn end_next_doubted(
        &mut self,
        id: SourceId,
        seen: &mut Seen,
        losses: u64,
        actions: &mut Actions,
    ) -> bool {
        let Some(watcher) = self.next_seen(id, seen) else {
            return false;
        };
        let watcher = &self.watchers[watcher];
        if matches!(watcher.doubt, Doubt::Asked { losses: asked } if asked <= losses) {
            let message = "etcdserver: request timed out, possibly due to connection lost";
            self.end_client(watcher.client, Status::of(Code::Unavailable, message), actions);
        }
        true
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
                if let Some(live) = watcher.live {
                    self.sources[live].doubted -= 1;
                }
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
        if status.is(Code::PermissionDenied) || watcher.credentials.is_none() {
            self.canceled(id, 0, reason, actions);
        } else {
            // Its token has expired. A client whose stream breaks authenticates again, as it would have to if the
            // stream was the server's; told that it may not watch, it would give up.
            let status = Status::of(
                Code::Unavailable,
                "etcdserver: the stream was lost and its token is not valid any more",
            );
            self.end_client(watcher.client, status, actions);
        }
    }
}
