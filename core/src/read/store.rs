//! The answers that are kept, within a bound of bytes.
//!
//! Which of them make room is decided as by S3-FIFO: a new answer joins a small queue, a tenth of the bytes, and goes on to
//! the main one only if it is read again before it reaches the end, or if it was here not long ago. So reading very many
//! keys once displaces nothing but the small queue; a hit is a counter and moves nothing, which LRU would, and SIEVE, as
//! cheap, has no defence against such a scan. The queues are weighed in bytes: a large answer displaces as many bytes
//! of others as it has.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use hashbrown::HashTable;

use super::request;
use crate::interval::{Intervals, Link, Node, Span};
use crate::slab::{NONE, Slab};
use crate::time::Instant;

/// A cached answer.
#[derive(Debug)]
pub(super) struct Entry {
    /// What was asked.
    ident: Box<[u8]>,
    hash: u64,
    /// The response without its header.
    pub(super) body: Bytes,
    /// The revision in its header.
    pub(super) at: i64,
    /// When the read began that it is from, if that tells how old it may be: not if a member has answered that may be cut off
    /// from the others, unless a revision was asked for.
    pub(super) began: Option<Instant>,
    /// The revision that was asked for; 0 for the current one.
    revision: i64,
    link: Link,
    /// Its neighbours in its queue.
    newer: u32,
    older: u32,
    /// Times that it was read, up to a few, less those that it went round the main queue.
    hits: u8,
    is_main: bool,
}

/// More hits than that are not told apart.
const HITS_MAX: u8 = 3;

/// Memory of an entry's place: itself, its place in the table of hashes, which may be half full, and in the list of free
/// places.
const PLACE: usize = size_of::<Option<Entry>>() + 2 * (size_of::<u32>() + 1) + size_of::<u32>();

/// Memory of an entry besides its place, what was asked and the answer: what an allocator adds to each of them, and the
/// counter of the answer's references.
const OVERHEAD: usize = 16 + 16 + 40;

/// The same for one at a fixed revision, which has a place in one more index.
const OVERHEAD_FIXED: usize = OVERHEAD + 32;

/// When the last of more entries than that is gone, so is the memory of their places.
const PLACES_KEPT: usize = 256;

impl Entry {
    fn weight(&self) -> usize {
        weight(self.ident.len(), self.body.len(), self.revision)
    }

    /// Whether it was asked for a revision.
    pub(super) const fn is_fixed(&self) -> bool {
        self.revision > 0
    }
}

/// What an entry takes besides its place.
const fn weight(ident: usize, body: usize, revision: i64) -> usize {
    let overhead = if revision > 0 { OVERHEAD_FIXED } else { OVERHEAD };
    ident + body + overhead
}

impl Node for Entry {
    fn span(&self) -> Span<'_> {
        request::span_of(&self.ident).expect("what has no keys isn't in the tree")
    }

    fn link(&self) -> &Link {
        &self.link
    }

    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    newest: u32,
    oldest: u32,
    bytes: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            newest: NONE,
            oldest: NONE,
            bytes: 0,
        }
    }
}

/// All cached answers.
#[derive(Debug)]
pub(super) struct Store {
    bytes_max: usize,
    entries: Slab<Entry>,
    places: usize,
    table: HashTable<u32>,
    /// Of what is asked for the current revision: what a change of a key concerns.
    tree: Intervals,
    /// Of what is asked for a revision: by that.
    fixed: BTreeSet<(i64, u32)>,
    small: Queue,
    main: Queue,
    /// Marks of what has lately left the small queue unread, at the places that their hashes name.
    ghosts: Vec<u32>,
    found: Vec<u32>,
}

impl Store {
    pub(super) fn new(bytes_max: usize, seed: u64) -> Self {
        // About one for each entry, if entries are small.
        let ghosts = (bytes_max / 512).next_power_of_two();
        Self {
            bytes_max,
            entries: Slab::default(),
            places: 0,
            table: HashTable::new(),
            tree: Intervals::new(seed),
            fixed: BTreeSet::new(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: vec![0; ghosts],
            found: Vec::new(),
        }
    }

    /// How many entries there are.
    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory of all that is here.
    pub(super) const fn bytes(&self) -> usize {
        self.places * PLACE + self.small.bytes + self.main.bytes + self.ghosts.len() * size_of::<u32>()
    }

    /// The part of it that entries have, and none has without any.
    pub(super) const fn entry_bytes(&self) -> usize {
        self.entries.len() * PLACE + self.small.bytes + self.main.bytes
    }

    /// Whether an answer isn't too large.
    pub(super) const fn has_room_for(&self, ident: usize, body: usize) -> bool {
        weight(ident, body, 1) + PLACE <= self.bytes_max / 64
    }

    pub(super) fn find(&self, hash: u64, ident: &[u8]) -> Option<u32> {
        self.table
            .find(hash, |id| &*self.entries[*id].ident == ident)
            .copied()
    }

    pub(super) fn entry(&self, id: u32) -> &Entry {
        &self.entries[id]
    }

    /// The entry was read.
    pub(super) fn count_hit(&mut self, id: u32) {
        let entry = &mut self.entries[id];
        entry.hits = (entry.hits + 1).min(HITS_MAX);
    }

    /// Keeps an answer, and makes room for it. What there was of the same question is replaced if it isn't newer. Answers how
    /// many entries had to go.
    pub(super) fn put(
        &mut self,
        (hash, ident, revision): (u64, &[u8], i64),
        body: &[u8],
        (at, began): (i64, Option<Instant>),
    ) -> usize {
        if let Some(id) = self.find(hash, ident) {
            if self.entries[id].at > at {
                return 0;
            }
            self.unlink(id);
            let entry = &mut self.entries[id];
            entry.body = Bytes::copy_from_slice(body);
            entry.at = at;
            entry.began = began.max(entry.began);
            self.enqueue(id);
        } else {
            let mark = mark_of(hash);
            let ghost = self.ghost(hash);
            let id = self.entries.insert(Entry {
                ident: ident.into(),
                hash,
                body: Bytes::copy_from_slice(body),
                at,
                began,
                revision,
                link: Link::default(),
                newer: NONE,
                older: NONE,
                hits: 0,
                is_main: self.ghosts[ghost] == mark,
            });
            self.places = self.places.max(id as usize + 1);
            if self.ghosts[ghost] == mark {
                self.ghosts[ghost] = 0;
            }
            let entries = &self.entries;
            self.table.insert_unique(hash, id, |id| entries[*id].hash);
            if revision > 0 {
                self.fixed.insert((revision, id));
            } else if request::span_of(ident).is_some() {
                self.tree.insert(&mut self.entries, id);
            }
            self.enqueue(id);
        }
        self.make_room()
    }

    /// Removes all that was asked for the current revision, has keys of a range, and is of an earlier revision than this.
    /// Answers how many.
    pub(super) fn remove_changed(&mut self, span: Span<'_>, revision: i64) -> usize {
        let mut found = core::mem::take(&mut self.found);
        self.tree.find(&self.entries, span, &mut found);
        found.retain(|id| self.entries[*id].at < revision);
        let count = found.len();
        for id in found.drain(..) {
            self.remove(id);
        }
        self.found = found;
        count
    }

    /// Removes all that was asked for a revision up to this one. Answers how many.
    pub(super) fn remove_compacted(&mut self, revision: i64) -> usize {
        let mut count = 0;
        while let Some((_, id)) = self
            .fixed
            .first()
            .copied()
            .filter(|(first, _)| *first <= revision)
        {
            self.remove(id);
            count += 1;
        }
        count
    }

    /// Removes everything, and gives the memory back. Answers how many entries there were.
    pub(super) fn clear(&mut self) -> usize {
        let count = self.len();
        self.entries = Slab::default();
        self.places = 0;
        self.table = HashTable::new();
        self.tree.clear();
        self.fixed.clear();
        self.small = Queue::default();
        self.main = Queue::default();
        count
    }

    /// Removes an entry, from everywhere.
    pub(super) fn remove(&mut self, id: u32) {
        self.unlink(id);
        let (hash, revision) = (self.entries[id].hash, self.entries[id].revision);
        if let Ok(place) = self.table.find_entry(hash, |other| *other == id) {
            place.remove();
        }
        if revision > 0 {
            self.fixed.remove(&(revision, id));
        } else if request::span_of(&self.entries[id].ident).is_some() {
            self.tree.remove(&mut self.entries, id);
        }
        self.entries.remove(id);
        if self.entries.len() == 0 && self.places > PLACES_KEPT {
            self.clear();
        }
    }

    fn ghost(&self, hash: u64) -> usize {
        // Its length is a power of two.
        (hash >> 32) as usize & (self.ghosts.len() - 1)
    }

    fn make_room(&mut self) -> usize {
        let mut evicted = 0;
        while self.bytes() > self.bytes_max && self.entries.len() > 0 {
            let small_max = self.bytes_max / 10;
            let from_small =
                self.small.oldest != NONE && (self.small.bytes > small_max || self.main.oldest == NONE);
            let id = if from_small {
                self.small.oldest
            } else {
                self.main.oldest
            };
            let entry = &mut self.entries[id];
            if entry.hits > 0 {
                // The one from the small queue has shown that it is read; the other has used up one of its hits.
                entry.hits = if from_small { 0 } else { entry.hits - 1 };
                self.unlink(id);
                self.entries[id].is_main = true;
                self.enqueue(id);
                continue;
            }
            if from_small {
                let hash = entry.hash;
                let ghost = self.ghost(hash);
                self.ghosts[ghost] = mark_of(hash);
            }
            self.remove(id);
            evicted += 1;
        }
        evicted
    }

    fn enqueue(&mut self, id: u32) {
        let entry = &mut self.entries[id];
        let weight = entry.weight();
        let queue = if entry.is_main {
            &mut self.main
        } else {
            &mut self.small
        };
        (entry.newer, entry.older) = (NONE, queue.newest);
        let before = core::mem::replace(&mut queue.newest, id);
        queue.bytes += weight;
        if before == NONE {
            queue.oldest = id;
        } else {
            self.entries[before].newer = id;
        }
    }

    fn unlink(&mut self, id: u32) {
        let entry = &self.entries[id];
        let (newer, older, weight) = (entry.newer, entry.older, entry.weight());
        let queue = if entry.is_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.bytes -= weight;
        if newer == NONE {
            queue.newest = older;
        }
        if older == NONE {
            queue.oldest = newer;
        }
        if newer != NONE {
            self.entries[newer].older = older;
        }
        if older != NONE {
            self.entries[older].newer = newer;
        }
    }
}

/// What is remembered of a hash; never 0.
const fn mark_of(hash: u64) -> u32 {
    // The half that doesn't say where.
    hash as u32 | 1
}

#[cfg(test)]
mod tests;
