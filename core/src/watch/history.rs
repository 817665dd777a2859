//! The latest batches of a source, and what of them goes out together.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

use super::batch::{Batch, Run, Wanted};
use super::types::Header;
use crate::time::Instant;

/// The latest batches of a source.
#[derive(Debug, Default)]
pub(super) struct History {
    batches: VecDeque<Arc<Batch>>,
    /// Number of the first batch, of all that there were.
    first: u64,
    bytes: usize,
}

/// How much may go out together, unless a single batch is more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) revisions_max: usize,
    pub(super) bytes_max: usize,
}

/// Events of successive batches.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    pub(super) run: Run,
    /// All events below it are in this, or aren't wanted.
    pub(super) next: i64,
    /// The header of the last batch.
    pub(super) header: Header,
    /// Whether there were no more batches.
    pub(super) is_all: bool,
    /// When the oldest one came.
    pub(super) since: Instant,
    /// How many events were looked at.
    pub(super) seen: usize,
}

impl History {
    /// Adds a batch, and answers its number.
    pub(super) fn push(&mut self, batch: Arc<Batch>) -> u64 {
        self.bytes += batch.size();
        self.batches.push_back(batch);
        self.end() - 1
    }

    /// All batches, one after the other.
    pub(super) fn into_batches(self) -> impl Iterator<Item = Arc<Batch>> + Send {
        self.batches.into_iter()
    }

    /// Removes the oldest batch.
    pub(super) fn pop(&mut self) -> Option<Arc<Batch>> {
        let batch = self.batches.pop_front()?;
        self.bytes -= batch.size();
        self.first += 1;
        Some(batch)
    }

    /// The number of the oldest batch that is still there, or of the next one to come.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next batch to come.
    pub(super) fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// Memory it takes, in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first batch that has a revision from `from` on, and its number.
    pub(super) fn from(&self, from: i64) -> Option<(u64, &Batch)> {
        let index = self.batches.partition_point(|batch| batch.last() < from);
        let batch = self.batches.get(index)?;
        Some((self.first + index as u64, batch))
    }

    /// What is wanted of a batch, which must be there, and of those that follow, as far as it may go out together.
    pub(super) fn merge(&self, number: u64, wanted: Wanted<'_>, limits: Limits) -> Merged {
        let at = (number - self.first) as usize;
        let first = &self.batches[at];
        let mut merged = Merged {
            run: first.encode(wanted),
            next: first.last().saturating_add(1),
            header: first.header,
            is_all: true,
            since: first.at,
            seen: first.len(),
        };
        let mut buffer = Vec::new();
        for batch in self.batches.range(at + 1..) {
            let next = batch.encode(wanted);
            let run = &mut merged.run;
            if next.count > 0 && run.count > 0 {
                let bytes = buffer.len().max(run.events.len()) + next.events.len();
                if run.revisions + next.revisions > limits.revisions_max || bytes > limits.bytes_max {
                    merged.is_all = false;
                    break;
                }
                if buffer.is_empty() {
                    buffer.extend_from_slice(&run.events);
                    run.events = Bytes::new();
                }
                buffer.extend_from_slice(&next.events);
                run.count += next.count;
                run.revisions += next.revisions;
                run.last = next.last;
            } else if next.count > 0 {
                *run = next;
            }
            merged.next = batch.last().saturating_add(1);
            merged.header = batch.header;
            merged.seen += batch.len();
        }
        if !buffer.is_empty() {
            merged.run.events = buffer.into();
        }
        merged
    }
}
