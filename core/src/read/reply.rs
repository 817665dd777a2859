//! Range responses: their header, and the rest, which isn't read.

use bytes::Bytes;

use super::types::{Answer, Header};
use crate::grpc::MESSAGE_PREFIX_LEN;
use crate::wire::header;
use crate::wire::read::{Malformed, Reader};

/// The tag of the header, field 1 of all responses.
const HEADER: u8 = 1 << 3 | 2;

/// The longest head: a prefix, a tag, a length, and four numbers with a tag each.
const HEAD_LEN_MAX: usize = MESSAGE_PREFIX_LEN + 2 + 4 * 11;

/// Reads the header of a `RangeResponse`, and tells where the rest begins. Servers write fields in the order of their
/// numbers, so the header comes first; what begins otherwise isn't taken.
pub(super) fn read_header(response: &[u8]) -> Result<(Header, usize), Malformed> {
    let first = Reader::all("RangeResponse", response)
        .next()?
        .ok_or(Malformed::Truncated)?;
    if first.number != 1 {
        return Err(Malformed::Implausible);
    }
    let at = first.bytes("Header")?;
    Ok((header::read_header(response, at)?, at.1))
}

/// The header of a response of any kind, of which the beginning is enough, if there is a revision in it.
#[must_use]
pub fn header_of(response: &[u8]) -> Option<Header> {
    let (header, _) = read_header(response).ok()?;
    Some(header).filter(|header| header.revision > 0)
}

/// The answer with this header in front of the rest of a response.
pub(super) fn answer(header: Header, history: u64, body: &Bytes) -> Answer {
    let mut head = Head::new();
    head.push(HEADER);
    head.push(0);
    head.number(1, header.cluster_id);
    head.number(2, header.member_id);
    head.number(3, header.revision.cast_unsigned());
    head.number(4, header.raft_term);
    let length = head.len - MESSAGE_PREFIX_LEN - 2;
    // Both fit: the header is short, and a response is far below 4 GiB.
    head.bytes[MESSAGE_PREFIX_LEN + 1] = length as u8;
    let message = (head.len - MESSAGE_PREFIX_LEN + body.len()) as u32;
    head.bytes[1..MESSAGE_PREFIX_LEN].copy_from_slice(&message.to_be_bytes());
    Answer {
        head: Bytes::copy_from_slice(&head.bytes[..head.len]),
        body: body.clone(),
        revision: header.revision,
        history,
    }
}

struct Head {
    bytes: [u8; HEAD_LEN_MAX],
    len: usize,
}

impl Head {
    const fn new() -> Self {
        Self {
            bytes: [0; HEAD_LEN_MAX],
            len: MESSAGE_PREFIX_LEN,
        }
    }

    const fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    const fn number(&mut self, field: u8, mut value: u64) {
        if value == 0 {
            return;
        }
        self.push(field << 3);
        while value >= 0x80 {
            // The low seven bits.
            self.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use etcd_proxy_proto::etcdserverpb::{RangeResponse, ResponseHeader};
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_new_header_is_all_that_changes() {
        let mut response = RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                member_id: 5,
                revision: 7,
                raft_term: 0,
            }),
            kvs: alloc::vec![Default::default()],
            more: true,
            count: 3,
        };
        let message = response.encode_to_vec();
        let (header, rest) = read_header(&message).expect("well-formed");
        assert_eq!((header.cluster_id, header.member_id), (u64::MAX, 5));
        assert_eq!((header.revision, header.raft_term), (7, 0));
        for (revision, raft_term) in [(8, 0), (i64::MAX, u64::MAX), (-1, 127), (0, 128)] {
            let header = Header {
                revision,
                raft_term,
                ..header
            };
            let answer = answer(header, 0, &Bytes::copy_from_slice(&message[rest..]));
            let whole = [&answer.head[..], &answer.body[..]].concat();
            let length = u32::try_from(whole.len() - 5).expect("short");
            assert_eq!(whole[0], 0);
            assert_eq!(whole[1..5], length.to_be_bytes());
            let own = response.header.as_mut().expect("it was put there");
            (own.revision, own.raft_term) = (revision, raft_term);
            assert_eq!(RangeResponse::decode(&whole[5..]), Ok(response.clone()));
            assert_eq!(answer.revision, revision);
        }
    }

    #[test]
    fn what_begins_otherwise_is_left_alone() {
        for response in [
            &b""[..],
            b"\x0a",
            b"\x0a\x05\x08\x01",
            b"\x20\x01",
            b"\x08\x01",
            b"\x0a\x02\x0a\x00",
        ] {
            assert!(read_header(response).is_err(), "{response:?}");
        }
    }
}
