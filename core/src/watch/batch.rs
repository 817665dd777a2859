//! Events as they came, and the history of them.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

use super::types::Header;
use super::wire::response::{EventAt, read_events};
use crate::history::is_plausible;
use crate::range::KeyRange;
use crate::time::Instant;
use crate::wire::read::Malformed;
use crate::wire::write;

/// The events of whole revisions, in the message that brought them: nothing is copied as long as all that came is
/// passed on.
#[derive(Debug)]
pub(super) struct Batch {
    message: Bytes,
    events: Vec<EventAt>,
    /// The header to pass on.
    pub(super) header: Header,
    /// When it came.
    pub(super) at: Instant,
}

/// Which events a watcher gets, and what of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Variant {
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) prev_kv: bool,
}

impl Batch {
    /// Takes the events from a message, without those before revision `from`, and without those of the last revision
    /// if the rest of them is yet `to_come`: they go to `held`, and what it held before is put in front.
    pub(super) fn read(
        message: &Bytes,
        from: i64,
        to_come: bool,
        held: &mut Vec<u8>,
        (header, at): (Header, Instant),
    ) -> Result<Option<Self>, Malformed> {
        let mut message = message.clone();
        if !held.is_empty() {
            read_events(&message, |event| {
                held.extend_from_slice(&message[event.field.0..event.field.1]);
            })?;
            message = core::mem::take(held).into();
        }
        let mut events: Vec<EventAt> = Vec::new();
        let mut ordered = true;
        read_events(&message, |event| {
            ordered &= events.last().is_none_or(|last| last.revision <= event.revision);
            events.push(event);
        })?;
        if !ordered || events.last().is_some_and(|last| !is_plausible(last.revision)) {
            return Err(Malformed::Implausible);
        }
        events.retain(|event| event.revision >= from);
        if to_come && let Some(last) = events.last().map(|event| event.revision) {
            let whole = events.partition_point(|event| event.revision < last);
            for event in events.drain(whole..) {
                held.extend_from_slice(&message[event.field.0..event.field.1]);
            }
        }
        let Some(last) = events.last() else {
            return Ok(None);
        };
        let header = Header {
            revision: header.revision.max(last.revision),
            ..header
        };
        Ok(Some(Self {
            message,
            events,
            header,
            at,
        }))
    }

    /// The first revision.
    pub(super) fn first(&self) -> i64 {
        self.events[0].revision
    }

    /// The last revision.
    pub(super) fn last(&self) -> i64 {
        self.events[self.events.len() - 1].revision
    }

    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The keys of all events.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.events.iter().map(|event| self.key(event))
    }

    fn key(&self, event: &EventAt) -> &[u8] {
        &self.message[event.key.0..event.key.1]
    }

    /// Memory it takes, in bytes.
    pub(super) fn size(&self) -> usize {
        self.message.len() + self.events.len() * size_of::<EventAt>() + size_of::<Self>()
    }

    /// The encoded events of a variant, from a revision on and within a range if one is given, with their number.
    pub(super) fn encode(&self, variant: Variant, from: i64, range: Option<&KeyRange>) -> (Bytes, usize) {
        let wanted = |event: &&EventAt| {
            event.revision >= from
                && !(if event.is_delete {
                    variant.no_delete
                } else {
                    variant.no_put
                })
                && range.is_none_or(|range| range.contains(self.key(event)))
        };
        let Some(first) = self.events.iter().find(wanted) else {
            return (Bytes::new(), 0);
        };
        let (mut end, mut count) = (first.field.0, 0);
        let mut as_it_came = true;
        for event in self.events.iter().filter(wanted) {
            as_it_came &= event.field.0 == end && (variant.prev_kv || event.prev.0 == event.prev.1);
            end = event.field.1;
            count += 1;
        }
        if as_it_came {
            return (self.message.slice(first.field.0..end), count);
        }
        let mut buffer = Vec::with_capacity(end - first.field.0);
        for event in self.events.iter().filter(wanted) {
            if variant.prev_kv || event.prev.0 == event.prev.1 {
                buffer.extend_from_slice(&self.message[event.field.0..event.field.1]);
            } else {
                let before = &self.message[event.body.0..event.prev.0];
                let after = &self.message[event.prev.1..event.body.1];
                write::varint(&mut buffer, 11 << 3 | 2);
                write::varint(&mut buffer, (before.len() + after.len()) as u64);
                buffer.extend_from_slice(before);
                buffer.extend_from_slice(after);
            }
        }
        (buffer.into(), count)
    }
}

/// Splits encoded events into pieces of at most `bytes_max` bytes, but of one event at least.
pub(super) fn split(events: &Bytes, bytes_max: usize) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let (mut from, mut to) = (0, 0);
    let read = read_events(events, |event| {
        let (start, end) = event.field;
        if start > from && end - from > bytes_max {
            pieces.push(events.slice(from..start));
            from = start;
        }
        to = end;
    });
    debug_assert!(read.is_ok(), "they were read before");
    pieces.push(events.slice(from..to));
    pieces
}

/// The latest batches of a source.
#[derive(Debug, Default)]
pub(super) struct History {
    batches: VecDeque<Arc<Batch>>,
    /// Number of the first batch, of all that there were.
    first: u64,
    bytes: usize,
}

impl History {
    /// Adds a batch, and answers its number.
    pub(super) fn push(&mut self, batch: Arc<Batch>) -> u64 {
        self.bytes += batch.size();
        self.batches.push_back(batch);
        self.first + self.batches.len() as u64 - 1
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

    /// Memory it takes, in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first batch that has a revision from `from` on.
    pub(super) fn from(&self, from: i64) -> Option<&Arc<Batch>> {
        let index = self.batches.partition_point(|batch| batch.last() < from);
        self.batches.get(index)
    }
}
