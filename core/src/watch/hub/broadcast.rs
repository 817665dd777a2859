//! Events on their way to the watchers that are in step.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

use super::Hub;
use super::state::{Doubt, Place, Port, SourceId, WatcherId};
use crate::range::KeyRange;
use crate::watch::batch::{Batch, Run, Variant, Wanted, split};
use crate::watch::types::{Action, Actions, Config, Frame, Header, UpstreamKind};
use crate::watch::wire::write;

/// Watch ids below this have their frames of a batch kept for the next one with the same id.
const FRAMES_MAX: usize = 256;

/// Batches of more bytes go to whom they are for at once, as long as there is room: with those that follow they'd make up no
/// fewer messages to speak of.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// What was encoded of a batch for one range. Equal frames are the same.
#[derive(Debug, Default)]
struct Encoded {
    /// A handful at most.
    variants: Vec<Encoding>,
}

/// The events of a batch that are left by a variant.
#[derive(Debug)]
struct Encoding {
    variant: Variant,
    run: Run,
    /// By watch id, with the batch's own header.
    frames: Vec<Option<Frame>>,
}

impl Encoded {
    fn of(&mut self, variant: Variant, batch: &Batch, range: Option<&KeyRange>) -> &mut Encoding {
        let known = self.variants.iter().position(|known| known.variant == variant);
        let at = known.unwrap_or_else(|| {
            let wanted = Wanted {
                variant,
                from: 0,
                prev_from: 0,
                range,
            };
            self.variants.push(Encoding {
                variant,
                run: batch.encode(wanted),
                frames: Vec::new(),
            });
            self.variants.len() - 1
        });
        &mut self.variants[at]
    }
}

/// The place of the frame for a watch id, if it is one that frames are kept for.
fn place_of(frames: &mut Vec<Option<Frame>>, wire_id: i64) -> Option<&mut Option<Frame>> {
    let at = usize::try_from(wire_id).ok().filter(|at| *at < FRAMES_MAX)?;
    if frames.len() <= at {
        frames.resize(at + 1, None);
    }
    Some(&mut frames[at])
}

impl Hub {
    /// Gives a batch to all who are in step with its source, and keeps it for those who aren't.
    pub(super) fn broadcast(&mut self, id: SourceId, batch: Batch, actions: &mut Actions) {
        let batch = Arc::new(batch);
        self.stats.events_in += batch.len() as u64;
        let source = &mut self.sources[id];
        source.next = batch.last().saturating_add(1);
        let whole = core::mem::take(&mut source.whole);
        let mut keys = BTreeSet::new();
        if !source.keys.is_empty() {
            keys.extend(batch.keys().filter(|key| source.keys.contains_key(*key)));
        }
        let keys = keys.into_iter().map(Bytes::copy_from_slice);
        let keys = keys.map(|key| KeyRange::new(key, Bytes::new()));
        let ranges = source.ranges.keys();
        let ranges = ranges.filter(|range| batch.keys().any(|key| range.contains(key)));
        let narrow: Vec<KeyRange> = keys.chain(ranges.cloned()).collect();
        let whole = self.broadcast_port(id, whole, &batch, None, actions);
        self.sources[id].whole = whole;
        for range in narrow {
            let port = core::mem::take(self.sources[id].port(&range));
            let port = self.broadcast_port(id, port, &batch, Some(&range), actions);
            *self.sources[id].port(&range) = port;
            self.sources[id].close_port(&range);
        }
        self.keep(id, batch);
    }

    /// Gives a batch to the watchers of one range, and answers those who are still in step.
    fn broadcast_port(
        &mut self,
        source: SourceId,
        mut port: Port,
        batch: &Arc<Batch>,
        range: Option<&KeyRange>,
        actions: &mut Actions,
    ) -> Port {
        let mut encoded = Encoded::default();
        // The stream of a live source isn't lost when that has something to give.
        let is_catch_up = self.sources[source].kind == UpstreamKind::CatchUp;
        // Who catches up with a source leaves it for good if he leaves it.
        let holds = self.sources[source].kind == UpstreamKind::Live && batch.size() <= HELD_BYTES_MAX;
        let mut at = 0;
        while let Some(id) = port.get(at).copied() {
            let watcher = &self.watchers[id];
            let is_doubted = watcher.doubt != Doubt::None || is_catch_up && self.will_be_doubted(id);
            let has_to_wait = self.is_full(watcher.client) || holds && self.has_unsent(watcher);
            if is_doubted || has_to_wait {
                self.fall_behind(id, source, batch.first(), is_doubted);
                port.swap_remove(at);
                if let Some(moved) = port.get(at) {
                    self.watchers[*moved].place = Place::InStep(source, at);
                }
                continue;
            }
            if self.watchers[id].next <= batch.first() {
                self.give(id, batch, range, &mut encoded, actions);
            } else {
                self.give_rest(id, batch, range, actions);
            }
            at += 1;
        }
        port
    }

    /// A watcher leaves the broadcast, for its client is slow or hasn't taken what came before, or it isn't known whether it may
    /// have this.
    fn fall_behind(&mut self, id: WatcherId, source: SourceId, first: i64, is_doubted: bool) {
        let watcher = &mut self.watchers[id];
        watcher.next = watcher.next.max(first);
        let client = watcher.client;
        let is_full = !is_doubted && self.clients.contains_key(client) && self.is_full(client);
        self.stats.lagged += u64::from(is_full);
        let watcher = &self.watchers[id];
        if watcher.live == Some(source) {
            self.count_behind(client, true);
        } else {
            self.sources[source].take_owner(&watcher.credentials);
        }
        if is_doubted {
            self.watchers[id].place = Place::Lagging;
        } else {
            self.line_up(id);
        }
    }

    /// Sends a watcher its events of a batch, if there are any. This is where most of the hub's time goes.
    fn give(
        &mut self,
        id: WatcherId,
        batch: &Batch,
        range: Option<&KeyRange>,
        encoded: &mut Encoded,
        actions: &mut Actions,
    ) {
        let watcher = &mut self.watchers[id];
        let encoding = encoded.of(watcher.variant, batch, range);
        let run = &encoding.run;
        if run.count == 0 {
            return;
        }
        let client_id = watcher.client;
        let client = &mut self.clients[client_id];
        let wire_id = watcher.wire_id;
        if watcher.fragment && is_split(&self.config, batch.header, wire_id, run) {
            let run = run.clone();
            self.give_own(id, batch.header, &run, actions);
            return;
        }
        let inline_max = self.config.inline_bytes_max;
        let new = || write::events(batch.header, wire_id, false, &run.events, inline_max);
        let frame = match place_of(&mut encoding.frames, wire_id) {
            Some(kept) => kept.get_or_insert_with(new).clone(),
            None => new(),
        };
        client.queued += frame.len();
        client.revision = client.revision.max(batch.header.revision);
        watcher.active = true;
        watcher.was_sent(client, run.revisions);
        self.stats.outbox_bytes += frame.len();
        self.stats.events_out += run.count as u64;
        actions.push(Action::Deliver(client_id, frame));
    }

    /// Sends a watcher its events of a batch from its own next revision on.
    fn give_rest(&mut self, id: WatcherId, batch: &Batch, range: Option<&KeyRange>, actions: &mut Actions) {
        let watcher = &self.watchers[id];
        let wanted = Wanted {
            variant: watcher.variant,
            from: watcher.next,
            prev_from: 0,
            range,
        };
        let run = batch.encode(wanted);
        if run.count > 0 {
            self.give_own(id, batch.header, &run, actions);
        }
    }

    /// Sends a watcher events in a frame that is nobody else's, or in several.
    pub(super) fn give_own(&mut self, id: WatcherId, header: Header, run: &Run, actions: &mut Actions) {
        let watcher = &mut self.watchers[id];
        let (client, wire_id) = (watcher.client, watcher.wire_id);
        watcher.active = true;
        self.stats.events_out += run.count as u64;
        let pieces = if watcher.fragment && is_split(&self.config, header, wire_id, run) {
            let others = write::events_len(header, wire_id, 0) + write::FRAGMENT_LEN;
            split(&run.events, self.config.fragment_bytes.saturating_sub(others))
        } else {
            alloc::vec![run.events.clone()]
        };
        let last = pieces.len() - 1;
        for (index, piece) in pieces.into_iter().enumerate() {
            let frame = write::events(
                header,
                wire_id,
                index < last,
                &piece,
                self.config.inline_bytes_max,
            );
            self.deliver(client, frame, header.revision, actions);
        }
        self.watchers[id].was_sent(&self.clients[client], run.revisions);
    }

    /// Adds a batch to its source's history, and forgets what is too much: of this one first, then the oldest of all.
    fn keep(&mut self, id: SourceId, batch: Arc<Batch>) {
        self.merges.forget(id);
        let source = &mut self.sources[id];
        self.stats.history_bytes += batch.size();
        source.unpushed += batch.size();
        let number = source.history.push(batch);
        self.batches.push_back((id, number));
        self.push(id);
        while self.sources[id].history.bytes() > self.config.history_bytes_max {
            self.forget_oldest(id);
        }
        while self.stats.history_bytes > self.config.history_bytes_total_max
            && let Some((oldest, number)) = self.batches.pop_front()
        {
            if self.has_batch(oldest, number) {
                self.forget_oldest(oldest);
            }
        }
        // Entries whose batch is gone mustn't pile up; half of them at least go each time.
        if self.batches.len() > self.batches_max() {
            let mut batches = core::mem::take(&mut self.batches);
            batches.retain(|(id, number)| self.has_batch(*id, *number));
            self.batches = batches;
        }
    }

    fn has_batch(&self, id: SourceId, number: u64) -> bool {
        let source = self.sources.get(id);
        source.is_some_and(|source| source.history.first() <= number)
    }

    /// Twice the number of batches that there can be is an upper bound that needs no counting: each has a size.
    fn batches_max(&self) -> usize {
        2 * (self.stats.history_bytes / size_of::<Batch>()) + 64
    }

    fn forget_oldest(&mut self, id: SourceId) {
        let source = &mut self.sources[id];
        if let Some(batch) = source.history.pop() {
            source.floor = source.floor.max(batch.last().saturating_add(1));
            self.stats.history_bytes -= batch.size();
        }
    }

    /// Forgets all events of a source.
    pub(super) fn forget_history(&mut self, id: SourceId) {
        while self.sources[id].history.bytes() > 0 {
            self.forget_oldest(id);
        }
    }

    /// Ends a catch-up that lost its last watcher.
    pub(super) fn end_catch_up_if_unheard(&mut self, id: SourceId, actions: &mut Actions) {
        let Some(source) = self.sources.get(id) else {
            return;
        };
        if source.kind != UpstreamKind::CatchUp || !source.is_unheard() {
            return;
        }
        let range = source.range.clone();
        self.drop_source(id, actions);
        if let Some(catch_up) = self.catch_ups.get_mut(&range) {
            catch_up.source = None;
            if catch_up.waiting.is_empty() {
                self.catch_ups.remove(&range);
            } else {
                self.stirred.ranges.insert(range);
            }
        }
    }
}

/// Whether events are split for who asked for it. So does etcd: at its limit, and if there is more than one.
fn is_split(config: &Config, header: Header, wire_id: i64, run: &Run) -> bool {
    run.count > 1 && write::events_len(header, wire_id, run.events.len()) >= config.fragment_bytes
}
