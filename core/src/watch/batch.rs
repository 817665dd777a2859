//! Events as they came.

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
    /// The header to pass on. All events of the source up to its revision have come with this batch.
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

/// What a watcher gets of what there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) variant: Variant,
    /// No event before this revision.
    pub(super) from: i64,
    /// Events before this revision come without previous pairs.
    pub(super) prev_from: i64,
    /// Only keys in here, if it is given.
    pub(super) range: Option<&'a KeyRange>,
}

/// Encoded events, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) events: Bytes,
    pub(super) count: usize,
    /// How many revisions they are of.
    pub(super) revisions: usize,
    /// The revision of the last one.
    pub(super) last: i64,
}

impl Batch {
    /// Takes the events from a message, without those before revision `from`, and without those of the last revision
    /// if the rest of them is yet `to_come`: they go to `held`, and what it held before is put in front.
    ///
    /// A server has put the store's revision in the header, although of a history of more than `revisions_max` revisions
    /// more is to come then. Nobody is told that, for whoever goes on behind it would miss what comes.
    pub(super) fn read(
        message: &Bytes,
        from: i64,
        to_come: bool,
        held: &mut Vec<u8>,
        (header, at): (Header, Instant),
        revisions_max: usize,
    ) -> Result<Option<Self>, Malformed> {
        let mut message = message.clone();
        let is_part = to_come || !held.is_empty();
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
        let is_all = !is_part && revisions(&events) < revisions_max;
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
        let reached = if is_all { header.revision } else { 0 };
        let header = Header {
            revision: last.revision.max(reached),
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

    /// The encoded events that a watcher wants.
    pub(super) fn encode(&self, wanted: Wanted<'_>) -> Run {
        let is_wanted = |event: &&EventAt| {
            event.revision >= wanted.from
                && !(if event.is_delete {
                    wanted.variant.no_delete
                } else {
                    wanted.variant.no_put
                })
                && wanted.range.is_none_or(|range| range.contains(self.key(event)))
        };
        let has_all = |event: &EventAt| {
            event.prev.0 == event.prev.1 || wanted.variant.prev_kv && event.revision >= wanted.prev_from
        };
        let Some(first) = self.events.iter().find(is_wanted) else {
            return Run::default();
        };
        let mut run = Run::default();
        let mut end = first.field.0;
        let mut as_it_came = true;
        for event in self.events.iter().filter(is_wanted) {
            as_it_came &= event.field.0 == end && has_all(event);
            end = event.field.1;
            run.count += 1;
            run.revisions += usize::from(event.revision > run.last);
            run.last = event.revision;
        }
        if as_it_came {
            run.events = self.message.slice(first.field.0..end);
            return run;
        }
        let mut buffer = Vec::with_capacity(end - first.field.0);
        for event in self.events.iter().filter(is_wanted) {
            if has_all(event) {
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
        run.events = buffer.into();
        run
    }
}

/// How many revisions events are of, which are in order.
fn revisions(events: &[EventAt]) -> usize {
    events
        .chunk_by(|one, other| one.revision == other.revision)
        .count()
}

/// Splits encoded events into pieces of less than `bytes` bytes, but of one event at least.
pub(super) fn split(events: &Bytes, bytes: usize) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let (mut from, mut to) = (0, 0);
    let read = read_events(events, |event| {
        let (start, end) = event.field;
        if start > from && end - from >= bytes {
            pieces.push(events.slice(from..start));
            from = start;
        }
        to = end;
    });
    debug_assert!(read.is_ok(), "they were read before");
    pieces.push(events.slice(from..to));
    pieces
}
