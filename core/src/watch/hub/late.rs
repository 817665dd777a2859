//! Events for watchers that are behind: what there is of them in history goes out together, as from a server, and is put
//! together once for all who get the same.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use super::Hub;
use super::state::{Doubt, Place, SourceId, WatcherId};
use super::work::{Work, next_of};
use crate::range::KeyRange;
use crate::time::Instant;
use crate::watch::batch::{Variant, Wanted};
use crate::watch::history::{Limits, Merged};
use crate::watch::types::{Actions, Header, UpstreamKind};

/// So many events are looked at for one watcher in the time that other steps take.
const EVENTS_PER_STEP: u64 = 16;

/// Merges that are kept for the next one who gets the same.
const MERGES_MAX: usize = 16;

/// Bytes that they may have together.
const MERGED_BYTES_MAX: usize = 4 << 20;

/// The latest merges of sources to which nothing came since.
#[derive(Debug, Default)]
pub(super) struct Merges {
    kept: VecDeque<(Key, Arc<Merged>)>,
    bytes: usize,
}

/// What makes merges equal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    source: SourceId,
    /// The number of the first batch.
    first: u64,
    /// Where in it to begin, if not at its beginning.
    from: i64,
    prev_from: i64,
    variant: Variant,
    fragment: bool,
    range: Option<KeyRange>,
}

impl Merges {
    fn get(&self, key: &Key) -> Option<Arc<Merged>> {
        let mut kept = self.kept.iter().rev();
        let (_, merged) = kept.find(|(known, _)| known == key)?;
        Some(Arc::clone(merged))
    }

    fn keep(&mut self, key: Key, merged: Arc<Merged>) {
        self.bytes += merged.run.events.len();
        self.kept.push_back((key, merged));
        while (self.kept.len() > MERGES_MAX || self.bytes > MERGED_BYTES_MAX)
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            self.bytes -= oldest.run.events.len();
        }
    }

    /// There is more of a source, or nothing any more.
    pub(super) fn forget(&mut self, source: SourceId) {
        let bytes = &mut self.bytes;
        self.kept.retain(|(key, merged)| {
            let is_other = key.source != source;
            if !is_other {
                *bytes -= merged.run.events.len();
            }
            is_other
        });
    }
}

impl Hub {
    /// Sends a watcher that is behind what a source has for it in its history, as much as goes out together.
    pub(super) fn give_late(
        &mut self,
        now: Instant,
        id: WatcherId,
        source_id: SourceId,
        actions: &mut Actions,
    ) {
        let watcher = &self.watchers[id];
        let source = &self.sources[source_id];
        let Some((first, batch)) = source.history.from(watcher.next) else {
            return;
        };
        let range = Some(&watcher.range).filter(|range| **range != source.range);
        let from_revision = |revision: i64| if revision > batch.first() { revision } else { 0 };
        let wanted = Wanted {
            variant: watcher.variant,
            from: from_revision(watcher.next),
            // A server looks for the previous pair in the revision before, which isn't there any more then.
            prev_from: from_revision(self.compact_revision.saturating_add(1)),
            range,
        };
        let limits = Limits {
            revisions_max: self.config.batch_revisions_max,
            // A message that comes in pieces may be long.
            bytes_max: if watcher.fragment {
                usize::MAX
            } else {
                self.config.batch_bytes_max
            },
        };
        // What a single batch holds is nothing to put together.
        let key = (first + 1 < source.history.end()).then(|| Key {
            source: source_id,
            first,
            from: wanted.from,
            prev_from: wanted.prev_from,
            variant: wanted.variant,
            fragment: watcher.fragment,
            range: range.cloned(),
        });
        let kept = key.as_ref().and_then(|key| self.merges.get(key));
        let merged = kept.unwrap_or_else(|| {
            let merged = Arc::new(source.history.merge(first, wanted, limits));
            self.stats.steps += merged.seen as u64 / EVENTS_PER_STEP;
            if let Some(key) = key {
                self.merges.keep(key, Arc::clone(&merged));
            }
            merged
        });
        let run = &merged.run;
        if run.count > 0 {
            // Whoever goes on behind the header misses nothing: it tells of the store only if nothing is to come before.
            let revision = if merged.is_all {
                let reached = self.position(source).saturating_sub(1);
                run.last.max(merged.header.revision).max(reached)
            } else {
                run.last
            };
            let header = Header {
                revision,
                ..merged.header
            };
            self.give_own(id, header, run, actions);
            let nanos = u64::try_from((now - merged.since).as_nanos()).unwrap_or(u64::MAX);
            self.stats.late_nanos = self.stats.late_nanos.saturating_add(nanos);
            self.stats.late_frames += 1;
        }
        // Who waits is known by what he needs next.
        self.stop_waiting(id);
        let watcher = &mut self.watchers[id];
        watcher.next = watcher.next.max(merged.next);
    }

    /// Has those go on who wait until what they were sent has left, before a live source forgets what they need: then they wait
    /// only for room.
    pub(super) fn push(&mut self, id: SourceId) {
        let source = &mut self.sources[id];
        let is_time = source.unpushed >= self.config.history_bytes_max / 4;
        if source.kind == UpstreamKind::Live && is_time {
            source.unpushed = 0;
            if !core::mem::replace(&mut source.is_pushing, true) {
                self.begin(Work::Push(id, None));
            }
        }
    }

    /// Has the next watcher of a source go on that waits and follows one. Whether there may be more.
    pub(super) fn push_next(
        &mut self,
        now: Instant,
        id: SourceId,
        after: &mut Option<WatcherId>,
        actions: &mut Actions,
    ) -> bool {
        let Some(source) = self.sources.get_mut(id) else {
            return false;
        };
        *after = next_of(&source.members, *after);
        let Some(next) = *after else {
            source.is_pushing = false;
            return false;
        };
        let watcher = &self.watchers[next];
        let waits = matches!(watcher.place, Place::Lagging) && watcher.doubt == Doubt::None;
        if waits && !self.is_full(watcher.client) {
            self.go_on(now, next, true, actions);
        }
        true
    }
}
