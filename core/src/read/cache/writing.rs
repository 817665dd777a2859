//! Writes through this proxy.

use alloc::vec::Vec;

use super::Cache;
use super::state::WriteSpan;
use crate::interval::{Link, Span};
use crate::range::KeyRange;
use crate::read::types::{WriteOutcome, WriteTicket};

impl Cache {
    /// A write starts that may change these keys ([`written`](crate::read::written)).
    pub fn admit_write(&mut self, ranges: &[KeyRange]) -> WriteTicket {
        self.write_count += 1;
        let mut spans = Vec::with_capacity(ranges.len());
        for range in ranges {
            let Some(span) = Span::of_range(range) else {
                continue;
            };
            self.stats.invalidated += self.store.remove_changed(span, i64::MAX) as u64;
            // It may be part of a request that is larger than its keys by far.
            let own = |bytes: &[u8]| bytes::Bytes::copy_from_slice(bytes);
            let id = self.writes.insert(WriteSpan {
                range: KeyRange::new(own(range.key()), own(range.end())),
                link: Link::default(),
            });
            self.write_tree.insert(&mut self.writes, id);
            spans.push(id);
        }
        WriteTicket { spans }
    }

    /// A write has ended. What was read while it was under way isn't cached unless it is known to be as late.
    pub fn complete_write(&mut self, ticket: WriteTicket, outcome: WriteOutcome) {
        self.write_count = self.write_count.saturating_sub(1);
        for id in ticket.spans {
            if self.writes.get(id).is_none() {
                // Of another cache.
                continue;
            }
            self.write_tree.remove(&mut self.writes, id);
            let written = self.writes.remove(id).expect("it was there just now");
            let revision = match outcome {
                WriteOutcome::Committed(revision) => revision,
                WriteOutcome::Rejected => continue,
                WriteOutcome::Unknown => i64::MAX,
            };
            if let Some(span) = Span::of_range(&written.range) {
                self.touch(span, revision);
            }
        }
    }
}
