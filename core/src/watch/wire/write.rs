//! Watch responses for clients, behind their gRPC prefixes.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::grpc::{MESSAGE_PREFIX_LEN, message_prefix};
use crate::watch::types::{Frame, Header};
use crate::wire::write::{bytes, number, number_len};

/// How many bytes [`response`] writes.
const fn response_len(header: Header, watch_id: i64) -> usize {
    MESSAGE_PREFIX_LEN
        + 2
        + number_len(header.cluster_id)
        + number_len(header.member_id)
        + number_len(header.revision.cast_unsigned())
        + number_len(header.raft_term)
        + number_len(watch_id.cast_unsigned())
}

/// How long a message is that holds so many bytes of events, and isn't a fragment.
pub(in crate::watch) const fn events_len(header: Header, watch_id: i64, events: usize) -> usize {
    response_len(header, watch_id) - MESSAGE_PREFIX_LEN + events
}

/// How much longer it is as a fragment.
pub(in crate::watch) const FRAGMENT_LEN: usize = number_len(1);

/// The start of a response, behind room for its prefix, with room for what follows: when that is exactly filled, the
/// buffer becomes [`Bytes`] without being moved.
fn response(header: Header, watch_id: i64, room: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(response_len(header, watch_id) + room);
    head.extend_from_slice(&[0; MESSAGE_PREFIX_LEN]);
    // Its length is below 128, so one byte holds it.
    head.extend_from_slice(&[1 << 3 | 2, 0]);
    let from = head.len();
    number(&mut head, 1, header.cluster_id);
    number(&mut head, 2, header.member_id);
    number(&mut head, 3, header.revision.cast_unsigned());
    number(&mut head, 4, header.raft_term);
    head[from - 1] = (head.len() - from) as u8;
    number(&mut head, 2, watch_id.cast_unsigned());
    head
}

fn finish(mut head: Vec<u8>, tail: Bytes) -> Frame {
    let prefix = message_prefix(head.len() - MESSAGE_PREFIX_LEN + tail.len());
    head[..MESSAGE_PREFIX_LEN].copy_from_slice(&prefix);
    Frame {
        head: head.into(),
        tail,
    }
}

/// Events, or without any a progress notification. Runs of events up to `inline_max` bytes are copied.
pub(in crate::watch) fn events(
    header: Header,
    watch_id: i64,
    fragment: bool,
    events: &Bytes,
    inline_max: usize,
) -> Frame {
    let inline = if events.len() <= inline_max {
        events.len()
    } else {
        0
    };
    let fragment = u64::from(fragment);
    let mut head = response(header, watch_id, number_len(fragment) + inline);
    number(&mut head, 7, fragment);
    if events.len() <= inline_max {
        head.extend_from_slice(events);
        finish(head, Bytes::new())
    } else {
        finish(head, events.clone())
    }
}

/// The answer to a create request.
pub(in crate::watch) fn created(header: Header, watch_id: i64, refusal: &str) -> Frame {
    let mut head = response(header, watch_id, 16 + refusal.len());
    number(&mut head, 3, 1);
    number(&mut head, 4, u64::from(!refusal.is_empty()));
    bytes(&mut head, 6, refusal.as_bytes());
    finish(head, Bytes::new())
}

/// The end of a watcher.
pub(in crate::watch) fn canceled(header: Header, watch_id: i64, compacted: i64, reason: &str) -> Frame {
    let mut head = response(header, watch_id, 32 + reason.len());
    number(&mut head, 4, 1);
    number(&mut head, 5, compacted.cast_unsigned());
    bytes(&mut head, 6, reason.as_bytes());
    finish(head, Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_known_before() {
        let header = Header {
            cluster_id: u64::MAX,
            member_id: 1,
            revision: 300,
            raft_term: 0,
        };
        for bytes in [0, 10, 5000] {
            let some = Bytes::from(alloc::vec![0; bytes]);
            for (fragment, more) in [(false, 0), (true, FRAGMENT_LEN)] {
                let frame = events(header, 200, fragment, &some, 100);
                let len = events_len(header, 200, bytes) + more;
                assert_eq!(frame.len() - MESSAGE_PREFIX_LEN, len);
            }
        }
    }

    #[test]
    fn frames_of_events_fill_their_buffer() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::MAX >> 1, u64::MAX] {
            let header = Header {
                cluster_id: value,
                member_id: value,
                revision: value.cast_signed(),
                raft_term: value,
            };
            for fragment in [false, true] {
                let mut head = response(header, value.cast_signed(), number_len(u64::from(fragment)));
                number(&mut head, 7, u64::from(fragment));
                assert_eq!(head.len(), head.capacity(), "{value} {fragment}");
            }
        }
    }
}
