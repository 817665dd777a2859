//! Which upstream watcher serves a range.

use alloc::collections::BTreeMap;

use crate::interval::{Intervals, Link, Node, Span};
use crate::range::KeyRange;
use crate::slab::Slab;

/// Values by their ranges. Finds the value of exactly a range, or one whose range covers it, adds and removes one, each in
/// O(log n) steps whatever the ranges are: a wide range that comes and goes costs no more for all that it covers.
#[derive(Debug)]
pub(super) struct RangeIndex<V> {
    all: BTreeMap<KeyRange, u32>,
    /// By the numbers in `all`.
    entries: Slab<Entry<V>>,
    /// Those of more than one key: a single key covers only itself.
    wide: Intervals,
}

#[derive(Debug)]
struct Entry<V> {
    range: KeyRange,
    value: V,
    link: Link,
}

impl<V> Node for Entry<V> {
    fn span(&self) -> Span<'_> {
        Span::of_range(&self.range).expect("nobody watches an empty range")
    }

    fn link(&self) -> &Link {
        &self.link
    }

    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl<V: Copy> RangeIndex<V> {
    /// An empty one. The seed is for its balance.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            all: BTreeMap::new(),
            entries: Slab::default(),
            wide: Intervals::new(seed),
        }
    }

    /// The value of exactly this range.
    pub(super) fn exact(&self, range: &KeyRange) -> Option<V> {
        self.all.get(range).map(|id| self.entries[*id].value)
    }

    /// The value of a range that covers this one.
    pub(super) fn covering(&self, range: &KeyRange) -> Option<V> {
        let wide = self.wide.covering(&self.entries, Span::of_range(range)?);
        wide.map(|id| self.entries[id].value)
    }

    /// Adds a value. The range must not be there yet, nor be empty.
    pub(super) fn insert(&mut self, range: KeyRange, value: V) {
        let is_wide = !range.is_single();
        let id = self.entries.insert(Entry {
            range: range.clone(),
            value,
            link: Link::default(),
        });
        if is_wide {
            self.wide.insert(&mut self.entries, id);
        }
        self.all.insert(range, id);
    }

    /// Removes the value of exactly this range.
    pub(super) fn remove(&mut self, range: &KeyRange) {
        let Some(id) = self.all.remove(range) else {
            return;
        };
        if !range.is_single() {
            self.wide.remove(&mut self.entries, id);
        }
        self.entries.remove(id);
    }

    /// All that there is, one after the other.
    pub(super) fn into_pieces(self) -> impl Iterator<Item = ()> + Send
    where
        V: Send + 'static,
    {
        let all = self.all.into_keys().map(drop);
        all.chain(self.entries.into_places().map(drop))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use bytes::Bytes;
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
            let mut index = RangeIndex::new(seed);
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
                // A single key is found as it is.
                let covers = |range: &&KeyRange| range.covers(&asked) && !range.is_single();
                let exists = naive.iter().any(|range| covers(&range));
                assert_eq!(index.covering(&asked).is_some(), exists, "{asked:?} in {naive:?}");
                assert_eq!(index.exact(&asked).is_some(), naive.contains(&asked));
                assert_eq!(index.len(), naive.len());
            }
        }
    }
}
