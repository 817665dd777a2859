//! Places for values, named by small numbers.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// The number of no place.
pub(crate) const NONE: u32 = u32::MAX;

const CHUNK: usize = 256;

/// Values that keep their number. Grows by a few places at a time, so that no memory is held for places that may never be
/// needed; never shrinks.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Slab<T> {
    /// How many values there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Puts a value somewhere.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(id) = self.free.pop() {
            self.chunks[id as usize / CHUNK][id as usize % CHUNK] = Some(value);
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self
            .chunks
            .last_mut()
            .expect("one was just pushed if there was none");
        let id = u32::try_from(before + chunk.len()).expect("memory ends before the numbers do");
        chunk.push(Some(value));
        id
    }

    /// All places, also those without a value.
    pub(crate) fn into_places(self) -> impl Iterator<Item = Option<T>> {
        self.chunks.into_iter().flatten()
    }

    /// Takes a value away.
    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.place(id)?.take()?;
        self.free.push(id);
        self.len -= 1;
        Some(value)
    }

    /// The value in a place.
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.chunks
            .get(id as usize / CHUNK)?
            .get(id as usize % CHUNK)?
            .as_ref()
    }

    /// The value in a place.
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.place(id)?.as_mut()
    }

    /// The numbers of all values.
    #[cfg(test)]
    pub(crate) fn ids(&self) -> Vec<u32> {
        let all = self.chunks.iter().flatten().zip(0u32..);
        all.filter(|(value, _)| value.is_some())
            .map(|(_, id)| id)
            .collect()
    }

    fn place(&mut self, id: u32) -> Option<&mut Option<T>> {
        self.chunks
            .get_mut(id as usize / CHUNK)?
            .get_mut(id as usize % CHUNK)
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        self.get(id)
            .expect("numbers are forgotten before their values are removed")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        self.get_mut(id)
            .expect("numbers are forgotten before their values are removed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::default();
        let ids: Vec<u32> = (0..600).map(|value| slab.insert(value)).collect();
        assert_eq!((slab.len(), slab[ids[599]]), (600, 599));
        assert_eq!(slab.remove(ids[300]), Some(300));
        assert_eq!((slab.remove(ids[300]), slab.get(ids[300])), (None, None));
        assert_eq!((slab.insert(7), slab.len()), (ids[300], 600));
        slab[ids[300]] += 1;
        assert_eq!(slab.ids(), ids);
        assert_eq!(slab.chunks.len(), 3);
        assert_eq!(slab.get(NONE), None);
    }
}
