//! Which upstream watcher serves a range.

use alloc::collections::BTreeMap;
use core::ops::Bound;

use bytes::Bytes;

use crate::range::KeyRange;

/// Values by their ranges. Finds the value of exactly a range, or one whose range covers it, in O(log n).
///
/// Ranges that no other one covers are held apart, by their first key. None of them covers another, so their ends are
/// in the same order as their beginnings, and of those that begin early enough the last one reaches farthest.
#[derive(Debug)]
pub(super) struct RangeIndex<V> {
    all: BTreeMap<KeyRange, V>,
    widest: BTreeMap<Bytes, KeyRange>,
}

impl<V> Default for RangeIndex<V> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            widest: BTreeMap::new(),
        }
    }
}

impl<V: Copy> RangeIndex<V> {
    /// The value of exactly this range.
    pub(super) fn exact(&self, range: &KeyRange) -> Option<V> {
        self.all.get(range).copied()
    }

    /// The value of a range that covers this one.
    pub(super) fn covering(&self, range: &KeyRange) -> Option<V> {
        let (_, wide) = self.widest.range(..=range.key().clone()).next_back()?;
        if wide.covers(range) {
            self.exact(wide)
        } else {
            None
        }
    }

    /// Adds a value. The range must not be there yet.
    pub(super) fn insert(&mut self, range: KeyRange, value: V) {
        self.widen(&range);
        self.all.insert(range, value);
    }

    /// Removes the value of exactly this range.
    pub(super) fn remove(&mut self, range: &KeyRange) {
        if self.all.remove(range).is_none() || self.widest.get(range.key()) != Some(range) {
            return;
        }
        self.widest.remove(range.key());
        // What it covered begins inside it.
        let inside: alloc::vec::Vec<KeyRange> = self
            .all
            .range((
                Bound::Included(KeyRange::new(range.key().clone(), Bytes::new())),
                Bound::Unbounded,
            ))
            .map(|(covered, _)| covered)
            .take_while(|covered| range.contains(covered.key()))
            .filter(|covered| range.covers(covered))
            .cloned()
            .collect();
        for covered in inside {
            self.widen(&covered);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Makes a range one of the widest, if no other one covers it.
    fn widen(&mut self, range: &KeyRange) {
        let before = self.widest.range(..=range.key().clone()).next_back();
        if before.is_some_and(|(_, wide)| wide.covers(range)) {
            return;
        }
        while let Some((key, _)) = self
            .widest
            .range(range.key().clone()..)
            .next()
            .filter(|(_, wide)| range.covers(wide))
        {
            let key = key.clone();
            self.widest.remove(&key);
        }
        self.widest.insert(range.key().clone(), range.clone());
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use fastrand::Rng;

    use super::*;

    fn random_range(rng: &mut Rng) -> KeyRange {
        let key = |rng: &mut Rng| Bytes::copy_from_slice(&[b'a' + rng.u8(..8)]);
        loop {
            let end = match rng.u8(..4) {
                0 => Bytes::new(),
                1 => Bytes::from_static(b"\0"),
                _ => key(rng),
            };
            let range = KeyRange::new(key(rng), end);
            if !range.is_empty() {
                return range;
            }
        }
    }

    #[test]
    fn covering_ranges_are_found_whenever_there_are_some() {
        for seed in 0..300 {
            let mut rng = Rng::with_seed(seed);
            let mut index = RangeIndex::default();
            let mut naive: Vec<KeyRange> = Vec::new();
            for number in 0..60 {
                if rng.bool() && !naive.is_empty() {
                    let gone = naive.swap_remove(rng.usize(..naive.len()));
                    index.remove(&gone);
                } else {
                    let range = random_range(&mut rng);
                    if !naive.contains(&range) {
                        naive.push(range.clone());
                        index.insert(range, number);
                    }
                }
                let asked = random_range(&mut rng);
                let exists = naive.iter().any(|range| range.covers(&asked));
                assert_eq!(index.covering(&asked).is_some(), exists, "{asked:?} in {naive:?}");
                assert_eq!(index.exact(&asked).is_some(), naive.contains(&asked));
                assert_eq!(index.len(), naive.len());
            }
        }
    }
}
