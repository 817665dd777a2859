//! Which streams of a member a change concerns, so that a write costs nothing for each of the others.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bytes::Bytes;

use super::types::StreamId;

/// Single keys that are remembered of a stream. One that has watched more is asked about every change.
const KEYS_MAX: usize = 10_000;

/// Streams to look at when something is applied. May name one too many, never one too few: what a stream once
/// watched is remembered until it ends.
#[derive(Debug, Default)]
pub(super) struct Interest {
    by_key: BTreeMap<Bytes, BTreeSet<StreamId>>,
    keys: BTreeMap<StreamId, BTreeSet<Bytes>>,
    /// Streams with a watcher of more than one key.
    everything: BTreeSet<StreamId>,
    /// Streams that wait for an entry, whatever is in it.
    waiting: BTreeSet<StreamId>,
}

impl Interest {
    /// A stream watches a key, or (with `range_end`) a range.
    pub(super) fn watch(&mut self, stream: StreamId, key: &Bytes, range_end: &Bytes) {
        if self.everything.contains(&stream) {
            return;
        }
        let keys = self.keys.entry(stream).or_default();
        if !range_end.is_empty() || (keys.len() >= KEYS_MAX && !keys.contains(key)) {
            self.forget_keys(stream);
            self.everything.insert(stream);
        } else if keys.insert(key.clone()) {
            self.by_key.entry(key.clone()).or_default().insert(stream);
        }
    }

    /// A stream waits for an entry, or no longer.
    pub(super) fn wait(&mut self, stream: StreamId, waits: bool) {
        if waits {
            self.waiting.insert(stream);
        } else {
            self.waiting.remove(&stream);
        }
    }

    /// A stream has ended.
    pub(super) fn remove(&mut self, stream: StreamId) {
        self.forget_keys(stream);
        self.everything.remove(&stream);
        self.waiting.remove(&stream);
    }

    /// The streams that these keys concern, in a fixed order.
    pub(super) fn concerned<'a>(&self, changed: impl Iterator<Item = &'a Bytes>) -> Vec<StreamId> {
        let always = self.everything.iter().chain(&self.waiting).copied();
        if self.by_key.is_empty() && self.everything.is_empty() {
            return always.collect();
        }
        let mut concerned: BTreeSet<_> = always.collect();
        for key in changed {
            concerned.extend(self.by_key.get(key).into_iter().flatten());
        }
        concerned.into_iter().collect()
    }

    /// All streams that watch or wait.
    pub(super) fn all(&self) -> Vec<StreamId> {
        let all: BTreeSet<_> = self
            .keys
            .keys()
            .chain(&self.everything)
            .chain(&self.waiting)
            .copied()
            .collect();
        all.into_iter().collect()
    }

    fn forget_keys(&mut self, stream: StreamId) {
        for key in self.keys.remove(&stream).into_iter().flatten() {
            if let Some(streams) = self.by_key.get_mut(&key) {
                streams.remove(&stream);
                if streams.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: StreamId = StreamId(1);
    const TWO: StreamId = StreamId(2);
    const THREE: StreamId = StreamId(3);

    fn concerned(interest: &Interest, key: &'static str) -> Vec<StreamId> {
        interest.concerned([Bytes::from(key)].iter())
    }

    #[test]
    fn streams_are_named_for_what_they_watch() {
        let mut interest = Interest::default();
        interest.watch(ONE, &"a".into(), &Bytes::new());
        interest.watch(TWO, &"a".into(), &Bytes::new());
        interest.watch(TWO, &"b".into(), &"c".into());
        interest.wait(THREE, true);
        assert_eq!(concerned(&interest, "a"), [ONE, TWO, THREE]);
        assert_eq!(concerned(&interest, "x"), [TWO, THREE]);
        assert_eq!(interest.all(), [ONE, TWO, THREE]);
        interest.wait(THREE, false);
        interest.remove(TWO);
        assert_eq!(concerned(&interest, "a"), [ONE]);
        assert_eq!(concerned(&interest, "x"), []);
        interest.remove(ONE);
        assert!(interest.by_key.is_empty() && interest.keys.is_empty());
        interest.wait(THREE, true);
        assert_eq!(concerned(&interest, "x"), [THREE]);
    }

    #[test]
    fn many_keys_are_not_remembered() {
        let mut interest = Interest::default();
        for key in 0..=KEYS_MAX {
            let key = alloc::format!("{key}");
            interest.watch(ONE, &key.into(), &Bytes::new());
        }
        assert!(interest.by_key.is_empty() && interest.keys.is_empty());
        assert_eq!(concerned(&interest, "x"), [ONE]);
    }
}
