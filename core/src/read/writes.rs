//! Which keys a write has changed, told from its request and the beginning of its response.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::wire::read::{Malformed, Reader};

/// Keys of one write that are told. A server takes 128 operations unless it is set otherwise.
const KEYS_MAX: usize = 128;

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

/// Single keys that a write has certainly changed which was answered with a response that begins so; both without their gRPC
/// prefix. Not all that it has changed: ranges, and transactions inside a transaction, are left out.
#[must_use]
pub fn written(write: Write, request: &Bytes, response: &[u8]) -> Vec<Bytes> {
    let mut keys = Vec::new();
    let whole = (0, request.len());
    let read = match write {
        Write::Put => put(request, whole, &mut keys),
        // How many keys are gone.
        Write::DeleteRange if number(response, 2) > 0 => delete(request, &mut keys),
        Write::DeleteRange => Ok(()),
        Write::Txn => txn(request, number(response, 2) > 0, &mut keys),
    };
    // Of what can't be read the watch tells.
    if read.is_err() {
        keys.clear();
    }
    keys
}

/// A number in a message of which the beginning is enough; 0 if it isn't there.
fn number(message: &[u8], number: i32) -> u64 {
    let mut reader = Reader::all("Response", message);
    while let Ok(Some(field)) = reader.next() {
        if field.number == number {
            return field.varint("number").unwrap_or_default();
        }
    }
    0
}

fn put(request: &Bytes, at: (usize, usize), keys: &mut Vec<Bytes>) -> Result<(), Malformed> {
    let mut key = (0, 0);
    let mut reader = Reader::new("PutRequest", request, at);
    while let Some(field) = reader.next()? {
        if field.number == 1 {
            key = field.bytes("Key")?;
        }
    }
    keys.push(request.slice(key.0..key.1));
    Ok(())
}

fn delete(request: &Bytes, keys: &mut Vec<Bytes>) -> Result<(), Malformed> {
    let (mut key, mut end) = ((0, 0), (0, 0));
    let mut reader = Reader::all("DeleteRangeRequest", request);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => key = field.bytes("Key")?,
            2 => end = field.bytes("RangeEnd")?,
            _ => {}
        }
    }
    if end.0 == end.1 {
        keys.push(request.slice(key.0..key.1));
    }
    Ok(())
}

/// The puts of the branch that was taken.
fn txn(request: &Bytes, succeeded: bool, keys: &mut Vec<Bytes>) -> Result<(), Malformed> {
    let branch = if succeeded { 2 } else { 3 };
    let mut reader = Reader::all("TxnRequest", request);
    while let Some(field) = reader.next()? {
        if field.number != branch {
            continue;
        }
        let mut operation = Reader::new("RequestOp", request, field.bytes("Operation")?);
        while let Some(field) = operation.next()? {
            if field.number == 2 && keys.len() < KEYS_MAX {
                put(request, field.bytes("Request")?, keys)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use etcd_proxy_proto::etcdserverpb::request_op::Request;
    use etcd_proxy_proto::etcdserverpb::{
        DeleteRangeRequest, DeleteRangeResponse, PutRequest, RequestOp, ResponseHeader, TxnRequest,
        TxnResponse,
    };
    use prost::Message as _;

    use super::*;

    fn op(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put(key: &'static [u8]) -> RequestOp {
        op(Request::RequestPut(PutRequest {
            key: key.into(),
            value: b"value"[..].into(),
            ..PutRequest::default()
        }))
    }

    fn delete(key: &'static [u8], end: &'static [u8]) -> DeleteRangeRequest {
        DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            prev_kv: true,
        }
    }

    fn header() -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: 5,
            ..ResponseHeader::default()
        })
    }

    #[test]
    fn a_transaction_has_written_what_the_branch_it_took_puts() {
        let nested = TxnRequest {
            failure: vec![put(b"nested")],
            ..TxnRequest::default()
        };
        let request = TxnRequest {
            success: vec![
                put(b"a"),
                op(Request::RequestDeleteRange(delete(b"\0", b"\0"))),
                put(b"b"),
                op(Request::RequestTxn(nested)),
            ],
            failure: vec![put(b"c")],
            ..TxnRequest::default()
        };
        let request = request.encode_to_vec().into();
        for (succeeded, keys) in [(true, vec!["a", "b"]), (false, vec!["c"])] {
            let response = TxnResponse {
                header: header(),
                succeeded,
                responses: Vec::new(),
            };
            assert_eq!(written(Write::Txn, &request, &response.encode_to_vec()), keys);
        }
    }

    #[test]
    fn a_delete_has_written_what_was_there() {
        for (end, deleted, keys) in [
            (&b""[..], 1, vec!["a"]),
            (b"", 0, vec![]),
            (b"b", 1, vec![]),
            (b"\0", 7, vec![]),
        ] {
            let response = DeleteRangeResponse {
                header: header(),
                deleted,
                ..DeleteRangeResponse::default()
            };
            let request = delete(b"a", end).encode_to_vec().into();
            assert_eq!(
                written(Write::DeleteRange, &request, &response.encode_to_vec()),
                keys
            );
        }
    }

    #[test]
    fn single_puts() {
        for (request, keys) in [
            (&b"\x0a\x01a\x12\x01b"[..], vec!["a"]),
            (b"\x0a\x01a\x0a\x01b", vec!["b"]),
            (b"\x0a\x05a", vec![]),
            (b"\x08\x05", vec![]),
        ] {
            assert_eq!(
                written(Write::Put, &Bytes::from_static(request), b""),
                keys,
                "{request:?}"
            );
        }
        let many: Vec<RequestOp> = (0..2 * KEYS_MAX).map(|_| put(b"a")).collect();
        let request = TxnRequest {
            failure: many,
            ..TxnRequest::default()
        };
        assert_eq!(
            written(Write::Txn, &request.encode_to_vec().into(), b"").len(),
            KEYS_MAX
        );
    }
}
