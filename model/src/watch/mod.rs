//! Watch streams, as a server serves them.
//!
//! A [`WatchStream`] is what one member keeps for one Watch call. It is told what the client sends
//! ([`handle`](WatchStream::handle)), and [`pump`](WatchStream::pump) is called whenever something may have changed:
//! the member applied an entry, the client took something, the stream's timer fired. It does what etcd 3.5.30 does:
//!
//! * A watcher is *synced* and gets every revision as it is applied, or *unsynced* and is caught up in batches every
//!   100 ms, or its response didn't fit into the stream's buffer any more: then it keeps that one response, and is
//!   unsynced once the response found room. Nobody is ever cut off, and nothing is dropped.
//! * An unsynced watcher whose history is compacted is cancelled, but keeps its id until the client cancels it too;
//!   as long as it does, progress requests on the stream aren't answered.
//! * Events are looked up when they happen, previous values when the response leaves for the client: one that was
//!   compacted meanwhile is left out.
//! * An open-ended range (`range_end` `\0`) is only checked for permission to read its first key.
//!
//! Where a server leaves it to its scheduler, this keeps to one order: control responses and events leave in the
//! order in which they came up, and watchers take turns by their ids. A server also catches up no more than 512
//! watchers at a time, over all its streams; here there is no such limit.

mod fragment;
mod queue;
mod watcher;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{
    ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use etcd_proxy_proto::mvccpb::Event;

use self::queue::{Outgoing, Queue};
use self::watcher::{Batch, Phase, Range, Watcher};
use crate::error::Error;
use crate::store::Store;

/// Distinct revisions in one response to a watcher that is caught up (etcd: 1000).
const BATCH_REVISIONS_MAX: usize = 1000;

/// How often unsynced watchers are caught up (etcd 3.5: 100 ms).
const SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// The shortest time between progress notifications (etcd: 100 ms).
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The watch id of what concerns no watcher, or more than one.
const NO_WATCHER: i64 = -1;

/// Settings of a watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Event and progress responses that are held for a client that doesn't take them (etcd: 128).
    pub buffer_max: usize,
    /// etcd's `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    /// From this encoded size on, in bytes, a response is split for a watcher that asked for fragments (etcd:
    /// `--max-request-bytes` and 512 KiB).
    pub response_bytes_max: usize,
}

/// The server's end of one Watch call.
#[derive(Clone, Debug)]
pub struct WatchStream {
    watchers: BTreeMap<i64, Watcher>,
    /// Watchers of a single key, by that key.
    by_key: BTreeMap<Bytes, BTreeSet<i64>>,
    /// Watchers of ranges.
    ranges: BTreeSet<i64>,
    /// Where the search for an id begins.
    next_id: i64,
    /// The last revision whose events went to synced watchers.
    notified: i64,
    queue: Queue,
    /// The watchers that are [`Phase::Held`], first come first.
    held: VecDeque<i64>,
    /// How many watchers asked for progress notifications.
    notifiees: usize,
    /// When unsynced watchers are caught up; none if there are none.
    sync_at: Option<Instant>,
    progress_interval: Duration,
    progress_at: Instant,
}

impl WatchStream {
    /// A stream without watchers on a member that has applied what `store` holds. `random` draws what is added to
    /// the time between its progress notifications: 0 to 10 %.
    #[must_use]
    pub fn new(now: Instant, store: &Store, settings: &Settings, random: &mut fastrand::Rng) -> Self {
        let interval = settings.progress_interval.max(PROGRESS_INTERVAL_MIN);
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let progress_interval = interval.saturating_add(Duration::from_nanos(random.u64(0..nanos / 10)));
        Self {
            watchers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            ranges: BTreeSet::new(),
            next_id: 0,
            notified: store.revision(),
            queue: Queue::new(settings),
            held: VecDeque::new(),
            notifiees: 0,
            sync_at: None,
            progress_interval,
            progress_at: now + progress_interval,
        }
    }

    /// Whether the server reads no further request for now, because too many answers wait for the client.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.queue.is_blocked()
    }

    /// A request of the client. `check` says whether the stream's caller may read a key (second argument empty) or
    /// a range; it is asked at most once, for a create request.
    pub fn handle(
        &mut self,
        now: Instant,
        store: &Store,
        request: WatchRequest,
        check: impl FnOnce(&[u8], &[u8]) -> Result<(), Error>,
    ) {
        self.advance(now, store);
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(now, store, request, check),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(store, request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.progress_all(store),
            None => {}
        }
    }

    /// Does what is due, and answers the next response if there is one and `room` for it with the client. To be
    /// called, again and again until it answers None, after every entry that changed a key of one of its watchers,
    /// when there is room again, when the timer fires, and before a compaction: what is compacted before the stream
    /// saw it is lost to its watchers, as if a snapshot had been installed. `header` is the member's; its revision
    /// doesn't matter.
    pub fn pump(
        &mut self,
        now: Instant,
        store: &Store,
        header: &ResponseHeader,
        room: bool,
    ) -> Option<WatchResponse> {
        self.advance(now, store);
        if !room {
            return None;
        }
        let response = self.queue.pop(store, header)?;
        if !response.events.is_empty()
            && let Some(watcher) = self.watchers.get_mut(&response.watch_id)
            && let Some(progress) = &mut watcher.progress
        {
            // The next notification would say nothing new.
            *progress = false;
        }
        // What was held may move up into the place that this left.
        self.release(now, store);
        Some(response)
    }

    /// When [`pump`](Self::pump) is due next, if nothing else happens.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let progress_at = (self.notifiees > 0).then_some(self.progress_at);
        self.sync_at.into_iter().chain(progress_at).min()
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant, store: &Store) {
        self.notify(now, store);
        if self.sync_at.is_some_and(|at| at <= now) {
            self.sync(now, store);
        }
        if self.progress_at <= now {
            self.progress_tick(now, store);
        }
        self.release(now, store);
    }

    fn create(
        &mut self,
        now: Instant,
        store: &Store,
        request: WatchCreateRequest,
        check: impl FnOnce(&[u8], &[u8]) -> Result<(), Error>,
    ) {
        let range = Range::new(request.key.clone(), request.range_end.clone());
        let (id, reason) = match self.admit(&request, &range, check) {
            Ok(id) => (id, String::new()),
            Err(reason) => (NO_WATCHER, reason),
        };
        if reason.is_empty() {
            self.insert(now, store, id, range, &request);
        }
        self.queue.push(Outgoing::created(id, reason, store.revision()));
    }

    /// The id of a new watcher, or why there is none.
    fn admit(
        &mut self,
        request: &WatchCreateRequest,
        range: &Range,
        check: impl FnOnce(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<i64, String> {
        if request.start_revision < 0 {
            return Err(String::from(Error::Compacted.status().message));
        }
        check(range.key(), range.end_checked()).map_err(refusal)?;
        if range.is_empty() {
            return Err(String::from("mvcc: watcher range is empty"));
        }
        if request.watch_id != 0 {
            return if self.watchers.contains_key(&request.watch_id) {
                Err(String::from(
                    "mvcc: duplicate watch ID provided on the WatchStream",
                ))
            } else {
                Ok(request.watch_id)
            };
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        Ok(id)
    }

    fn insert(&mut self, now: Instant, store: &Store, id: i64, range: Range, request: &WatchCreateRequest) {
        let next = store.revision().saturating_add(1);
        let start = request.start_revision;
        let (phase, min_revision) = if start == 0 || start >= next {
            (Phase::Synced, next.max(start))
        } else {
            self.schedule_sync(now);
            (Phase::Unsynced, start)
        };
        match range.single() {
            Some(key) => {
                self.by_key.entry(key.clone()).or_default().insert(id);
            }
            None => {
                self.ranges.insert(id);
            }
        }
        self.notifiees += usize::from(request.progress_notify);
        let watcher = Watcher::new(range, phase, min_revision, request);
        self.watchers.insert(id, watcher);
    }

    fn cancel(&mut self, store: &Store, id: i64) {
        let Some(watcher) = self.watchers.remove(&id) else {
            return;
        };
        match watcher.range.single() {
            Some(key) => {
                if let Some(ids) = self.by_key.get_mut(key) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.by_key.remove(key);
                    }
                }
            }
            None => {
                self.ranges.remove(&id);
            }
        }
        self.held.retain(|held| *held != id);
        self.notifiees -= usize::from(watcher.progress.is_some());
        self.queue.push(Outgoing::canceled(id, store.revision()));
    }

    /// Gives synced watchers what was applied since the last time, one revision after the other.
    fn notify(&mut self, now: Instant, store: &Store) {
        let revision = store.revision();
        let from = self.notified.saturating_add(1);
        if revision < from {
            return;
        }
        self.notified = revision;
        if self.watchers.is_empty() {
            return;
        }
        if store.compacted() > from {
            // We weren't called in time, so history is missing: as after a snapshot, start over from what there is.
            for watcher in self.watchers.values_mut() {
                if matches!(watcher.phase, Phase::Synced) && watcher.min_revision <= revision {
                    watcher.phase = Phase::Unsynced;
                }
            }
            self.schedule_sync(now);
            return;
        }
        let mut current = from;
        let mut batches: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
        for change in store.log_from(from) {
            let at = change.revision();
            if at != current {
                self.notify_revision(current, &mut batches);
                current = at;
            }
            for id in self.watchers_of(&change.kv.key) {
                let watcher = &self.watchers[&id];
                if matches!(watcher.phase, Phase::Synced) && watcher.min_revision <= at {
                    batches.entry(id).or_default().push(change.event());
                }
            }
        }
        self.notify_revision(current, &mut batches);
    }

    fn notify_revision(&mut self, revision: i64, batches: &mut BTreeMap<i64, Vec<Event>>) {
        while let Some((id, events)) = batches.pop_first() {
            let next = revision.saturating_add(1);
            let batch = Batch { events, next };
            let held = self.send(id, batch, revision);
            let Some(watcher) = self.watchers.get_mut(&id) else {
                continue;
            };
            watcher.min_revision = next;
            if let Err(batch) = held {
                watcher.phase = Phase::Held(batch);
                self.held.push_back(id);
            }
        }
    }

    /// The watchers whose range has this key.
    fn watchers_of<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = i64> + 'a {
        let single = self.by_key.get(key).into_iter().flatten();
        let ranges = self
            .ranges
            .iter()
            .filter(move |&id| self.watchers[id].range.contains(key));
        single.chain(ranges).copied()
    }

    /// Catches unsynced watchers up, by one batch each.
    fn sync(&mut self, now: Instant, store: &Store) {
        self.sync_at = None;
        let (revision, compacted) = (store.revision(), store.compacted());
        let unsynced = self.watchers.iter().filter(|(_, watcher)| watcher.is_unsynced());
        let unsynced: Vec<i64> = unsynced.map(|(id, _)| *id).collect();
        for id in unsynced {
            let has_space = self.queue.has_space();
            let Some(watcher) = self.watchers.get_mut(&id) else {
                continue;
            };
            if watcher.min_revision < compacted {
                if has_space {
                    watcher.phase = Phase::Compacted;
                    self.queue.push(Outgoing::compacted(id, compacted));
                }
                continue;
            }
            let batch = watcher.history(store);
            let more = batch.next <= revision;
            watcher.min_revision = batch.next;
            watcher.phase = if more { Phase::Unsynced } else { Phase::Synced };
            if let Err(batch) = self.send(id, batch, revision)
                && let Some(watcher) = self.watchers.get_mut(&id)
            {
                watcher.phase = Phase::Held(batch);
                self.held.push_back(id);
            }
        }
        if self.watchers.values().any(Watcher::is_unsynced) {
            self.schedule_sync(now);
        }
    }

    /// Lets responses that didn't fit in as far as there is space for them.
    fn release(&mut self, now: Instant, store: &Store) {
        while self.queue.has_space()
            && let Some(id) = self.held.pop_front()
        {
            let Some(watcher) = self.watchers.get_mut(&id) else {
                continue;
            };
            let synced = watcher.min_revision > store.revision();
            let next = if synced { Phase::Synced } else { Phase::Unsynced };
            let Phase::Held(batch) = core::mem::replace(&mut watcher.phase, next) else {
                continue;
            };
            let revision = batch.next.saturating_sub(1);
            let sent = self.send(id, batch, revision);
            debug_assert!(sent.is_ok(), "there was space for it");
            if !synced {
                self.schedule_sync(now);
            }
        }
    }

    /// Queues the events that the watcher's filters leave; gives the batch back if there is no space for it.
    fn send(&mut self, id: i64, batch: Batch, revision: i64) -> Result<(), Batch> {
        let Some(watcher) = self.watchers.get(&id) else {
            return Ok(());
        };
        if !batch.events.iter().any(|event| watcher.wants(event)) {
            return Ok(());
        }
        if !self.queue.has_space() {
            return Err(batch);
        }
        let events = batch.events.into_iter().filter(|event| watcher.wants(event));
        self.queue.push(Outgoing::events(id, events, revision, watcher));
        Ok(())
    }

    fn progress_all(&mut self, store: &Store) {
        let ready = |watcher: &Watcher| watcher.has_progress(store);
        if !self.watchers.is_empty() && self.watchers.values().all(ready) && self.queue.has_space() {
            self.queue.push(Outgoing::progress(NO_WATCHER, store.revision()));
        }
    }

    fn progress_tick(&mut self, now: Instant, store: &Store) {
        let interval = u64::try_from(self.progress_interval.as_nanos()).unwrap_or(u64::MAX);
        let late = now.as_nanos() - self.progress_at.as_nanos();
        let skipped = Duration::from_nanos((late / interval).saturating_mul(interval));
        self.progress_at = self.progress_at + skipped + self.progress_interval;
        let mut due = Vec::new();
        for (id, watcher) in &mut self.watchers {
            let ready = watcher.has_progress(store);
            if let Some(progress) = &mut watcher.progress
                && core::mem::replace(progress, true)
                && ready
            {
                due.push(*id);
            }
        }
        for id in due {
            // A client that doesn't take what there is has no use for it.
            if self.queue.has_space() {
                self.queue.push(Outgoing::progress(id, store.revision()));
            }
        }
    }

    /// etcd's loop runs all the time, so the next round isn't a full interval away.
    fn schedule_sync(&mut self, now: Instant) {
        let interval = u64::try_from(SYNC_INTERVAL.as_nanos()).unwrap_or(u64::MAX);
        let round = (now.as_nanos() / interval).saturating_add(1);
        let at = Instant::from_nanos(round.saturating_mul(interval));
        self.sync_at = self.sync_at.or(Some(at));
    }
}

/// A refusal as a watcher's cancel reason has it: how Go prints a gRPC status.
fn refusal(error: Error) -> String {
    let (code, status) = match error {
        Error::AuthOldRevision | Error::UserEmpty => ("InvalidArgument", error.status()),
        Error::InvalidAuthToken => ("Unauthenticated", error.status()),
        _ => ("PermissionDenied", Error::PermissionDenied.status()),
    };
    format!("rpc error: code = {code} desc = {}", status.message)
}

#[cfg(test)]
mod tests;
