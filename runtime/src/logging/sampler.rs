//! A limit on how often one callsite logs.

use core::hash::{BuildHasher as _, BuildHasherDefault};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::hash::DefaultHasher;

use tracing::callsite::Identifier;

#[cfg(test)]
mod tests;

/// How many lines of one callsite are logged in one second before the sampling begins; etcd's setting.
pub const SAMPLE_FIRST: u64 = 100;
/// Beyond [`SAMPLE_FIRST`], each so manieth line of that second is logged; etcd's setting.
pub const SAMPLE_THEREAFTER: u64 = 100;

/// Counts the lines of each callsite in the current second, in a table of fixed size: two callsites that meet in one
/// slot share its limit, as in zap.
#[derive(Debug)]
pub(super) struct Sampler {
    slots: Box<[Slot]>,
}

#[derive(Debug, Default)]
struct Slot {
    second: AtomicU64,
    lines: AtomicU64,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
        }
    }

    /// Whether to log one more line. Threads that meet at the turn of a second may let a few more through.
    pub(super) fn admit(&self, second: u64, key: u64) -> bool {
        let slot = &self.slots[(key % SLOTS) as usize];
        if slot.second.swap(second, Relaxed) != second {
            slot.lines.store(0, Relaxed);
        }
        let earlier = slot.lines.fetch_add(1, Relaxed);
        earlier < SAMPLE_FIRST || (earlier - SAMPLE_FIRST + 1).is_multiple_of(SAMPLE_THEREAFTER)
    }
}

/// A number for a callsite, the same for the life of the process.
pub(super) fn key_of(callsite: &Identifier) -> u64 {
    // Not keyed by a secret: callsites are ours, nobody outside chooses them.
    BuildHasherDefault::<DefaultHasher>::default().hash_one(callsite)
}

const SLOTS: u64 = 1024;
