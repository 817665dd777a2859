//! Which keys a write may change, told from its request.

use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::range::KeyRange;
use crate::wire::read::{Malformed, Reader};

/// Ranges of one write that are told apart. A server takes 128 operations unless it is set otherwise.
const RANGES_MAX: usize = 1024;

/// The requests that name the keys they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// A `DeleteRangeRequest`.
    DeleteRange,
    /// A `PutRequest`.
    Put,
    /// A `TxnRequest`.
    Txn,
}

/// The keys that a request may change, without its gRPC prefix. In a transaction, and those inside it, that is what either
/// branch changes; a transaction that only reads changes none. What isn't understood changes everything.
#[must_use]
pub fn written(write: Write, request: &Bytes) -> Vec<KeyRange> {
    let whole = (0, request.len());
    let read = match write {
        Write::DeleteRange => delete(request, whole).map(|range| Some(vec![range])),
        Write::Put => put(request, whole).map(|range| Some(vec![range])),
        Write::Txn => txn(request),
    };
    match read {
        Ok(Some(ranges)) if ranges.len() <= RANGES_MAX => ranges,
        _ => vec![KeyRange::everything()],
    }
}

fn put(request: &Bytes, at: (usize, usize)) -> Result<KeyRange, Malformed> {
    let mut key = (0, 0);
    let mut reader = Reader::new("PutRequest", request, at);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => key = field.bytes("Key")?,
            2..=6 => {}
            _ => return Ok(KeyRange::everything()),
        }
    }
    Ok(KeyRange::new(request.slice(key.0..key.1), Bytes::new()))
}

fn delete(request: &Bytes, at: (usize, usize)) -> Result<KeyRange, Malformed> {
    let (mut key, mut end) = ((0, 0), (0, 0));
    let mut reader = Reader::new("DeleteRangeRequest", request, at);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => key = field.bytes("Key")?,
            2 => end = field.bytes("RangeEnd")?,
            3 => {}
            _ => return Ok(KeyRange::everything()),
        }
    }
    Ok(KeyRange::new(
        request.slice(key.0..key.1),
        request.slice(end.0..end.1),
    ))
}

/// What a transaction may change; none if that can't be told. Without recursion: how deep transactions are nested is for
/// clients to say.
fn txn(request: &Bytes) -> Result<Option<Vec<KeyRange>>, Malformed> {
    let mut ranges = Vec::new();
    let mut transactions = vec![(0, request.len())];
    while let Some(at) = transactions.pop() {
        let mut reader = Reader::new("TxnRequest", request, at);
        while let Some(field) = reader.next()? {
            match field.number {
                // What is compared is only read.
                1 => {}
                2 | 3 => {
                    let mut operation = Reader::new("RequestOp", request, field.bytes("Success")?);
                    while let Some(field) = operation.next()? {
                        let at = field.bytes("Request")?;
                        match field.number {
                            1 => {}
                            2 => ranges.push(put(request, at)?),
                            3 => ranges.push(delete(request, at)?),
                            4 => transactions.push(at),
                            _ => return Ok(None),
                        }
                        if ranges.len() > RANGES_MAX {
                            return Ok(None);
                        }
                    }
                }
                _ => return Ok(None),
            }
        }
    }
    Ok(Some(ranges))
}

#[cfg(test)]
mod tests {
    use etcd_proxy_proto::etcdserverpb::request_op::Request;
    use etcd_proxy_proto::etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    };
    use prost::Message as _;

    use super::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::new(key.into(), end.into())
    }

    fn op(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put(key: &'static [u8]) -> RequestOp {
        op(Request::RequestPut(PutRequest {
            key: key.into(),
            value: b"value"[..].into(),
            lease: 7,
            prev_kv: true,
            ..PutRequest::default()
        }))
    }

    fn delete(key: &'static [u8], end: &'static [u8]) -> RequestOp {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            prev_kv: true,
        }))
    }

    fn read(key: &'static [u8]) -> RequestOp {
        op(Request::RequestRange(RangeRequest {
            key: key.into(),
            ..RangeRequest::default()
        }))
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(txn(success, failure)))
    }

    fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest {
            compare: vec![Compare {
                key: b"compared"[..].into(),
                ..Compare::default()
            }],
            success,
            failure,
        }
    }

    fn sorted(request: &TxnRequest) -> Vec<KeyRange> {
        let mut ranges = written(Write::Txn, &request.encode_to_vec().into());
        ranges.sort_unstable();
        ranges
    }

    #[test]
    fn transactions_write_what_either_branch_writes() {
        let table = [
            (txn(vec![], vec![]), vec![]),
            (
                txn(vec![read(b"a")], vec![nested(vec![read(b"b")], vec![])]),
                vec![],
            ),
            (txn(vec![put(b"a")], vec![]), vec![range(b"a", b"")]),
            (
                txn(vec![], vec![delete(b"a", b"\0"), read(b"x")]),
                vec![range(b"a", b"\0")],
            ),
            (
                txn(
                    vec![
                        put(b"b"),
                        nested(vec![], vec![nested(vec![delete(b"c", b"d")], vec![])]),
                    ],
                    vec![put(b"a")],
                ),
                vec![range(b"a", b""), range(b"b", b""), range(b"c", b"d")],
            ),
            (txn(vec![RequestOp { request: None }], vec![]), vec![]),
        ];
        for (request, expected) in table {
            assert_eq!(sorted(&request), expected, "{request:?}");
        }
    }

    #[test]
    fn single_writes() {
        for (write, request, expected) in [
            (Write::Put, &b"\x0a\x01a\x12\x01b"[..], range(b"a", b"")),
            (Write::Put, b"\x0a\x01a\x0a\x01b", range(b"b", b"")),
            (Write::Put, b"", range(b"\0", b"")),
            (Write::DeleteRange, b"\x0a\x01a", range(b"a", b"")),
            (Write::DeleteRange, b"\x0a\x01a\x12\x01\0", range(b"a", b"\0")),
            (Write::DeleteRange, b"\x12\x01\0", KeyRange::everything()),
            (
                Write::DeleteRange,
                b"\x0a\x01a\x12\x01z\x18\x01",
                range(b"a", b"z"),
            ),
        ] {
            assert_eq!(
                written(write, &Bytes::from_static(request)),
                [expected],
                "{request:?}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_writes_everything() {
        for (write, request) in [
            (Write::Put, &b"\x0a\x01a\x38\x01"[..]),
            (Write::Put, b"\x0a\x05a"),
            (Write::Put, b"\x08\x05"),
            (Write::DeleteRange, b"\x0a\x01a\x20\x01"),
            (Write::DeleteRange, b"\xff"),
            // A field, an operation, and a field of an operation inside that nobody knows.
            (Write::Txn, b"\x20\x01"),
            (Write::Txn, b"\x12\x02\x2a\x00"),
            (Write::Txn, b"\x12\x06\x12\x04\x0a\x00\x38\x01"),
            (Write::Txn, b"\x12\x02\x10\x00"),
            (Write::Txn, b"\x12\x07\x12"),
        ] {
            let ranges = written(write, &Bytes::from_static(request));
            assert_eq!(ranges, [KeyRange::everything()], "{request:?}");
        }
        let many: Vec<RequestOp> = (0..=RANGES_MAX).map(|_| put(b"a")).collect();
        assert_eq!(sorted(&txn(many, vec![])), [KeyRange::everything()]);
    }

    /// As deep as a message can hold.
    #[test]
    fn depth_does_not_matter() {
        let mut message = b"\x12\x05\x12\x03\x0a\x01k".to_vec();
        let mut depth = 0;
        while message.len() < 60_000 {
            for tag in [0x22, 0x12] {
                let mut outer = vec![tag];
                let mut length = message.len();
                while length >= 0x80 {
                    outer.push(length as u8 | 0x80);
                    length >>= 7;
                }
                outer.push(length as u8);
                outer.append(&mut message);
                message = outer;
            }
            depth += 1;
        }
        assert!(depth > 5_000, "{depth}");
        assert_eq!(written(Write::Txn, &message.into()), [range(b"k", b"")]);
    }
}
