//! The watch of the cache, as a shell and a member make it.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::read::{Event, Scope, WatchId};
use etcd_proxy_core::time::Instant;

use super::{What, World, ms};

/// What a stream brings.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Changed(i64, Vec<Bytes>),
    Progressed(i64),
    Started(i64),
}

/// The stream of the watch.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) watch: Option<WatchId>,
    /// Changes whenever it breaks.
    pub(crate) generation: u64,
    pub(crate) is_open: bool,
    member: usize,
    /// What has been sent on it.
    position: i64,
    /// When the last of that comes.
    busy_until: Instant,
    pub(crate) opened: usize,
}

impl World {
    pub(super) fn open_watch(&mut self, watch: WatchId) {
        assert_eq!(self.stream.watch, None, "it is closed");
        self.stream.watch = Some(watch);
        self.stream.generation += 1;
        let (after, generation) = (self.latency(), self.stream.generation);
        self.later(after, What::WatchOpen(generation));
    }

    pub(super) fn close_watch(&mut self, watch: WatchId) {
        assert_eq!(self.stream.watch, Some(watch), "it is open");
        self.stream.watch = None;
        self.stream.is_open = false;
    }

    /// The stream breaks. What is on its way doesn't come any more; the proxy notices in a while.
    pub(crate) fn break_watch(&mut self, notice: Duration) {
        if let Some(watch) = self.stream.watch
            && self.stream.is_open
        {
            self.stream.is_open = false;
            self.stream.generation += 1;
            let generation = self.stream.generation;
            self.later(notice, What::WatchLost(generation, watch));
        }
    }

    pub(super) fn lose_watch(&mut self, generation: u64, watch: WatchId) {
        if self.stream.generation != generation || self.stream.watch != Some(watch) {
            return;
        }
        // Sometimes it starts again before anybody has said that it was lost.
        if self.rng.u8(..4) > 0 {
            self.tell(Event::WatchLost(watch));
        }
        let after = self.latency();
        self.later(after, What::WatchOpen(generation));
    }

    pub(super) fn watch_opens(&mut self, generation: u64) {
        let Some(watch) = self.stream.watch else {
            return;
        };
        if self.stream.generation != generation || self.stream.is_open {
            return;
        }
        let member = self.cluster.member();
        let state = self.cluster.state_of(member);
        if state.auth || self.faults.is_down {
            self.later(ms(50), What::WatchOpen(generation));
            return;
        }
        let revision = state.revision;
        self.stream.opened += 1;
        self.stream.is_open = true;
        self.stream.member = member;
        self.stream.position = revision;
        self.stream.busy_until = self.now;
        self.send(watch, Item::Started(revision));
    }

    fn send(&mut self, watch: WatchId, item: Item) {
        let longest = self.faults.watch_latency;
        let after = Duration::from_micros(self.rng.u64(longest / 2..=longest));
        let at = (self.now + after).max(self.stream.busy_until);
        self.stream.busy_until = at;
        let generation = self.stream.generation;
        self.at(at, What::WatchDeliver(generation, watch, item));
    }

    /// A member has come further: its watcher is told.
    pub(super) fn feed_watch(&mut self, member: usize) {
        let Some(watch) = self.stream.watch else {
            return;
        };
        if !self.stream.is_open || self.stream.member != member {
            return;
        }
        let revision = self.cluster.state_of(member).revision;
        let first = self.stream.position + 1;
        self.stream.position = self.stream.position.max(revision);
        let mut gathered: Option<(i64, Vec<Bytes>)> = None;
        for at in first..=revision {
            let changed = self.cluster.changed[&at].iter();
            let is_watched = |key: &&Vec<u8>| match &self.config.scope {
                Scope::Ranges(ranges) => ranges.iter().any(|range| range.contains(key)),
                _ => true,
            };
            let keys: Vec<Bytes> = changed.filter(is_watched).map(|key| key.clone().into()).collect();
            if keys.is_empty() {
                continue;
            }
            let (last, all) = gathered.get_or_insert_default();
            *last = at;
            all.extend(keys);
            if self.rng.bool() {
                let (last, all) = gathered.take().expect("just put there");
                self.send(watch, Item::Changed(last, all));
            }
        }
        if let Some((last, all)) = gathered {
            self.send(watch, Item::Changed(last, all));
        }
    }

    pub(super) fn ask_progress(&mut self, watch: WatchId) {
        assert_eq!(self.stream.watch, Some(watch), "it is open");
        assert!(matches!(self.config.scope, Scope::Ranges(_)), "events tell all");
        self.told.progress_asked += 1;
        let (after, generation) = (self.latency(), self.stream.generation);
        self.later(after, What::ProgressArrive(generation));
    }

    pub(super) fn progress_arrives(&mut self, generation: u64) {
        if self.stream.generation == generation
            && self.stream.is_open
            && !self.faults.is_silent
            && let Some(watch) = self.stream.watch
        {
            let revision = self.stream.position;
            self.send(watch, Item::Progressed(revision));
        }
    }

    pub(super) fn deliver(&mut self, generation: u64, watch: WatchId, item: Item) {
        // What a stream brought that is closed may still come, with its id.
        if self.stream.watch == Some(watch) && self.stream.generation != generation {
            return;
        }
        if let Item::Changed(revision, _) = item {
            // Client watchers are told as well.
            if self.rng.bool() {
                self.show(revision);
            }
        }
        self.tell(match item {
            Item::Changed(revision, keys) => Event::WatchChanged {
                watch,
                revision,
                keys,
            },
            Item::Progressed(revision) => Event::WatchProgressed { watch, revision },
            Item::Started(revision) => Event::WatchStarted { watch, revision },
        });
    }
}
