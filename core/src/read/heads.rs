//! The headers of messages that pass by as bytes.

use super::reply::header_of;
use crate::grpc::MESSAGE_PREFIX_LEN;

/// More than the header of a response takes, with its tag and length.
const HEAD_LEN_MAX: usize = 128;

/// What a message shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// Its header has no revision, or it has no header.
    Nothing,
    /// This revision of the store.
    Revision(i64),
    /// It is compressed: there is no telling.
    Unreadable,
}

/// Follows the messages of an answer that passes by in chunks cut anywhere, and reads of each of them its header, field 1 of
/// all responses of etcd. Of everything else only the length counts.
#[derive(Clone, Debug)]
pub struct Heads {
    prefix: [u8; MESSAGE_PREFIX_LEN],
    prefix_len: usize,
    head: [u8; HEAD_LEN_MAX],
    head_len: usize,
    /// How much of the message at hand is still to be looked at.
    wanted: usize,
    /// Bytes of the message at hand that are still to come.
    body_left: usize,
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            prefix: [0; MESSAGE_PREFIX_LEN],
            prefix_len: 0,
            head: [0; HEAD_LEN_MAX],
            head_len: 0,
            wanted: 0,
            body_left: 0,
        }
    }
}

impl Heads {
    /// Looks at the next chunk, before it is passed on. Tells what the messages show whose heads end in it: the most of it.
    /// `None` if there is none.
    pub fn look(&mut self, mut chunk: &[u8]) -> Option<Seen> {
        let mut seen = None;
        while !chunk.is_empty() {
            if self.wanted > 0 {
                let take = self.wanted.min(chunk.len());
                self.head[self.head_len..self.head_len + take].copy_from_slice(&chunk[..take]);
                self.head_len += take;
                self.wanted -= take;
                self.body_left -= take;
                chunk = &chunk[take..];
                if self.wanted == 0 {
                    let shown = header_of(&self.head[..self.head_len]).map(|header| header.revision);
                    seen = seen.max(Some(shown.map_or(Seen::Nothing, Seen::Revision)));
                }
            } else if self.body_left > 0 {
                let skip = self.body_left.min(chunk.len());
                self.body_left -= skip;
                chunk = &chunk[skip..];
            } else {
                let take = (MESSAGE_PREFIX_LEN - self.prefix_len).min(chunk.len());
                self.prefix[self.prefix_len..self.prefix_len + take].copy_from_slice(&chunk[..take]);
                self.prefix_len += take;
                chunk = &chunk[take..];
                if self.prefix_len == MESSAGE_PREFIX_LEN {
                    self.prefix_len = 0;
                    seen = seen.max(self.begin());
                }
            }
        }
        seen
    }

    /// A message begins.
    fn begin(&mut self) -> Option<Seen> {
        let [flag, a, b, c, d] = self.prefix;
        self.body_left = u32::from_be_bytes([a, b, c, d]) as usize;
        self.head_len = 0;
        if flag != 0 {
            return Some(Seen::Unreadable);
        }
        self.wanted = self.body_left.min(HEAD_LEN_MAX);
        (self.wanted == 0).then_some(Seen::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use etcd_proxy_proto::etcdserverpb::{RangeResponse, ResponseHeader};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::grpc::message_prefix;

    /// A message that shows this revision, and is so much longer than its header.
    fn message(revision: i64, more: usize) -> Vec<u8> {
        let response = RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                member_id: u64::MAX,
                revision,
                raft_term: 7,
            }),
            kvs: alloc::vec![etcd_proxy_proto::mvccpb::KeyValue {
                value: alloc::vec![1; more].into(),
                ..Default::default()
            }],
            ..RangeResponse::default()
        };
        framed(&response.encode_to_vec())
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&message_prefix(message.len()), message].concat()
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            messages in prop::collection::vec((1i64.., 0usize..300), 1..6),
            cut in 1usize..400,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(revision, more)| message(*revision, *more)).collect();
            let mut heads = Heads::default();
            let seen = stream.chunks(cut).filter_map(|chunk| heads.look(chunk)).max();
            let newest = messages.iter().map(|(revision, _)| *revision).max().expect("not empty");
            prop_assert_eq!(seen, Some(Seen::Revision(newest)));
        }

        #[test]
        fn any_bytes_are_taken(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20)) {
            let mut heads = Heads::default();
            for chunk in chunks {
                heads.look(&chunk);
            }
        }
    }

    /// What a message shows is known before its last byte is passed on.
    #[test]
    fn in_time() {
        let stream = [message(5, 0), message(6, 1000)].concat();
        let first = message(5, 0).len();
        let mut heads = Heads::default();
        assert_eq!(heads.look(&stream[..first - 1]), None);
        assert_eq!(heads.look(&stream[first - 1..first]), Some(Seen::Revision(5)));
        assert_eq!(
            heads.look(&stream[first..stream.len() - 1]),
            Some(Seen::Revision(6))
        );
        assert_eq!(heads.look(&stream[stream.len() - 1..]), None);
    }

    #[test]
    fn what_shows_nothing_and_what_cannot_be_read() {
        let mut compressed = message(5, 0);
        compressed[0] = 1;
        for (stream, seen) in [
            (compressed, Seen::Unreadable),
            (framed(b""), Seen::Nothing),
            (framed(b"\x08\x01"), Seen::Nothing),
            (framed(b"\x12\x03abc"), Seen::Nothing),
            (message(0, 3), Seen::Nothing),
        ] {
            let mut heads = Heads::default();
            assert_eq!(heads.look(&stream), Some(seen), "{stream:?}");
            assert_eq!(heads.look(&message(9, 0)), Some(Seen::Revision(9)));
        }
    }
}
