//! What is on its way, in the order of its time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use etcd_proxy_core::time::Instant;

use crate::delivery::Delivery;

/// Deliveries by time; those of the same time in the order in which they were put in.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Entry>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    sequence: u64,
    delivery: Delivery,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Instant, delivery: Delivery) {
        self.sequence += 1;
        self.heap.push(Entry {
            at,
            sequence: self.sequence,
            delivery,
        });
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Instant, Delivery)> {
        let entry = self.heap.pop()?;
        Some((entry.at, entry.delivery))
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

impl Ord for Entry {
    /// The heap gives its greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
