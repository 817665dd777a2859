//! Streams that are lost, for whatever reason. Their sources go on at their positions on a new one, one after the other: they may
//! be very many. All whom a source serves are asked about before it goes on.

use super::Hub;
use super::state::{Lost, Seen, SourceId, Timer, WatcherId};
use super::work::{Work, next_of};
use crate::time::Instant;
use crate::watch::types::{Actions, Status, UpstreamId, UpstreamKind};

impl Hub {
    /// A stream is gone. Another one is opened a little later, if it is needed.
    pub(super) fn stream_lost(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self
            .upstreams
            .get_mut(id)
            .filter(|upstream| upstream.lost.is_none())
        else {
            return;
        };
        upstream.is_open = false;
        let is_needed = upstream.kind == UpstreamKind::Leader && !self.leader_clients.is_empty();
        let is_empty = upstream.sources.is_empty() && !upstream.is_heir;
        if is_empty && !is_needed {
            self.remove_stream(id);
            return;
        }
        let (kind, credentials, failures) = (upstream.kind, upstream.credentials.clone(), upstream.failures);
        let client = upstream.client;
        let wait = self.backoff(failures);
        let heir = self.add_stream(kind, credentials, failures.saturating_add(1));
        self.upstreams[heir].client = client;
        self.timers.set(Timer::Reopen(heir), now + wait);
        if is_empty {
            self.remove_stream(id);
            return;
        }
        self.retire_stream(id);
        self.upstreams[heir].is_heir = true;
        self.upstreams[id].lost = Some(Lost {
            heir,
            source: None,
            seen: Seen::default(),
            too_large: None,
        });
        self.losses += 1;
        self.begin(Work::Lose(id));
    }

    /// Has the next watcher that a lost stream served be asked about, or a source go on when that is done. Whether there may be
    /// more to do.
    pub(super) fn lose_one(&mut self, now: Instant, id: UpstreamId, actions: &mut Actions) -> bool {
        let Some(upstream) = self.upstreams.get_mut(id) else {
            return false;
        };
        let (Some(lost), first) = (&mut upstream.lost, upstream.sources.first().copied()) else {
            return false;
        };
        let heir = lost.heir;
        let Some(source_id) = first else {
            if !upstream.is_heir {
                self.all_lost(id, heir);
            }
            // Else it goes on when it has got all that it is to lose.
            return false;
        };
        if lost.source != Some(source_id) {
            lost.source = Some(source_id);
            lost.seen = Seen::default();
        }
        let mut seen = lost.seen;
        let watcher = self.next_seen(source_id, &mut seen);
        if let Some(lost) = &mut self.upstreams[id].lost {
            lost.seen = seen;
        }
        if let Some(watcher) = watcher
            && let Some(status) = self.refusal_of_size(watcher, source_id)
        {
            self.end_client(self.watchers[watcher].client, status, actions);
        } else if let Some(watcher) = watcher {
            self.doubt_one(watcher);
            if self.sources[source_id].kind != UpstreamKind::Live {
                self.limit_doubts_of(now, watcher);
            }
        } else {
            self.move_on(source_id, heir, actions);
        }
        true
    }

    /// How the server has refused the message that a watcher of a lost stream's source needs, if that was too large for it. Those of
    /// narrower ranges need smaller ones.
    fn refusal_of_size(&self, watcher: WatcherId, source: SourceId) -> Option<Status> {
        let source = &self.sources[source];
        let lost = self.upstreams[source.upstream].lost.as_ref()?;
        let refusal = lost.too_large.as_ref()?;
        let is_own = self.watchers[watcher].range == source.range;
        (is_own && self.is_over_limit(&source.range)).then(|| refusal.clone())
    }

    /// A source whose stream is lost goes on elsewhere: on a stream with other credentials, if nobody with these is left.
    fn move_on(&mut self, id: SourceId, heir: UpstreamId, actions: &mut Actions) {
        let is_known = self.sources[id].wire_id().is_some();
        self.stats.resumes += u64::from(is_known);
        self.withdraw(id, actions);
        self.put_on(id, heir);
        self.spare_prev(id);
        self.queue_source(id);
        let credentials = self.upstreams[heir].credentials.clone();
        if let Some(other) = self.other_host(id, &credentials) {
            self.rehost(id, other, actions);
        }
    }

    /// All sources of a lost stream have gone to another one, which may be lost itself by now.
    fn all_lost(&mut self, id: UpstreamId, heir: UpstreamId) {
        self.upstreams.remove(id);
        let upstream = &mut self.upstreams[heir];
        upstream.is_heir = false;
        if upstream.lost.is_some() {
            self.begin(Work::Lose(heir));
        }
        self.stirred.upstreams.insert(heir);
        self.send_questions();
    }

    /// Previous pairs that nobody wants any more aren't asked for again.
    fn spare_prev(&mut self, id: SourceId) {
        let source = &mut self.sources[id];
        if source.kind == UpstreamKind::Live && source.prev_wanted == 0 {
            source.prev_asked = false;
        }
    }

    /// The next watcher of a source that hasn't been looked at: of all of a live one's, or of those in step with a catch-up.
    pub(super) fn next_seen(&self, id: SourceId, seen: &mut Seen) -> Option<WatcherId> {
        let source = self.sources.get(id)?;
        if source.kind == UpstreamKind::Live {
            let next = next_of(&source.members, seen.member)?;
            seen.member = Some(next);
            return Some(next);
        }
        // Who leaves is replaced by the last one, which was looked at before.
        let before = seen.place.unwrap_or(source.whole.len());
        let place = before.min(source.whole.len()).checked_sub(1)?;
        seen.place = Some(place);
        source.whole.get(place).copied()
    }
}
