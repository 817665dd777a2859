//! What the read cache reads of requests and responses, against prost: what identifies a read, which keys a write has changed,
//! and the header of a response.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use etcd_proxy_core::read::{
    Actions, Admission, Cache, Config, Reason, Write, header_of, is_serializable, written,
};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::request_op::Request;
use etcd_proxy_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse,
};
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// Most keys of one write that are told.
const KEYS_MAX: usize = 128;

#[derive(Arbitrary, Debug)]
struct Input {
    reads: [Encoded; 2],
    write: AnyWrite,
    header: [u64; 4],
    is_deleted: bool,
    succeeded: bool,
    tail: Vec<u8>,
}

/// An encoded `RangeRequest`.
#[derive(Arbitrary, Debug)]
enum Encoded {
    /// Fields in any order, as often as one likes, and numbers that are longer than they need be.
    Fields(Vec<Field>),
    Raw(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Field {
    Key(Vec<u8>),
    End(Vec<u8>),
    Number { field: u8, value: i64, is_long: bool },
}

#[derive(Arbitrary, Debug)]
enum AnyWrite {
    Put(Vec<u8>),
    Delete(Vec<u8>, Vec<u8>),
    Txn { success: Vec<Op>, failure: Vec<Op> },
    Raw(u8, Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Op {
    Put(Vec<u8>),
    Delete(Vec<u8>, Vec<u8>),
    Range(Vec<u8>),
    Txn(Vec<u8>),
    Nothing,
}

fuzz_target!(|input: Input| {
    reads(&input.reads);
    writes(&input);
    headers(&input);
});

impl Encoded {
    fn bytes(&self) -> Vec<u8> {
        let fields = match self {
            Self::Raw(bytes) => return bytes.clone(),
            Self::Fields(fields) => fields,
        };
        let mut bytes = Vec::new();
        for field in fields {
            match field {
                Field::Key(key) => put_bytes(&mut bytes, 1, key),
                Field::End(end) => put_bytes(&mut bytes, 2, end),
                Field::Number {
                    field,
                    value,
                    is_long,
                } => {
                    let number = 3 + field % 11;
                    // Enumerations are 32 bits wide.
                    let value = if matches!(number, 5 | 6) {
                        value & 0x3
                    } else {
                        *value
                    };
                    bytes.push(number << 3);
                    put_varint(&mut bytes, value.cast_unsigned(), *is_long);
                }
            }
        }
        bytes
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64, is_long: bool) {
    let mut length = 1;
    while value >= 0x80 || (is_long && length < 9) {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
        length += 1;
    }
    bytes.push(value as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, field: u8, value: &[u8]) {
    bytes.push(field << 3 | 2);
    put_varint(bytes, value.len() as u64, false);
    bytes.extend_from_slice(value);
}

/// What two requests must have in common to have the same answer.
fn meaning(request: &RangeRequest) -> RangeRequest {
    RangeRequest {
        serializable: false,
        revision: request.revision.max(0),
        ..request.clone()
    }
}

/// Two reads share an answer only if they ask the same, and a read shares with itself however it is written.
fn reads(reads: &[Encoded; 2]) {
    let [first, second] = reads.each_ref().map(|read| {
        let mut bytes = read.bytes();
        let is_whole = RangeRequest::decode(&bytes[..]).is_ok();
        if is_whole {
            // Serializable reads share with any that are on their way.
            bytes.extend_from_slice(&[7 << 3, 1]);
        }
        Bytes::from(bytes)
    });
    for bytes in [&first, &second] {
        if let Ok(request) = RangeRequest::decode(&bytes[..]) {
            assert_eq!(is_serializable(bytes), request.serializable, "{request:?}");
        } else {
            let _ = is_serializable(bytes);
        }
    }
    let (Ok(one), Ok(other)) = (
        RangeRequest::decode(&first[..]),
        RangeRequest::decode(&second[..]),
    ) else {
        shares(&first, &second);
        return;
    };
    if shares(&first, &second) == Some(true) {
        assert_eq!(meaning(&one), meaning(&other));
    }
    for (read, bytes, request) in [(&reads[0], &first, one), (&reads[1], &second, other)] {
        let again = Bytes::from(request.encode_to_vec());
        let is_shared = shares(bytes, &again);
        if matches!(read, Encoded::Fields(_)) {
            let expected = (!request.key.is_empty()).then_some(true);
            assert_eq!(is_shared, expected, "{request:?}");
        }
    }
}

/// Whether the second read waits for the first one's answer; `None` if the cache doesn't take the first.
fn shares(first: &Bytes, second: &Bytes) -> Option<bool> {
    let mut cache = Cache::new(Config::default(), 1);
    let mut actions = Actions::new();
    match cache.admit_read(Instant::ZERO, first, 0, &mut actions) {
        Admission::Forward(_ticket) => {}
        Admission::Bypass(reason) => {
            assert!(
                matches!(reason, Reason::Malformed | Reason::UnknownFields),
                "{reason:?}"
            );
            return None;
        }
        other => panic!("{other:?}, and nothing is cached"),
    }
    match cache.admit_read(Instant::ZERO, second, 0, &mut actions) {
        Admission::Wait(_) => Some(true),
        Admission::Forward(_ticket) => Some(false),
        Admission::Bypass(_) => Some(false),
        Admission::Hit(answer) => panic!("{answer:?}, and nothing is cached"),
    }
}

fn delete(key: &[u8], end: &[u8]) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
        ..DeleteRangeRequest::default()
    }
}

fn put(key: &[u8]) -> PutRequest {
    PutRequest {
        key: key.to_vec().into(),
        value: b"value"[..].into(),
        ..PutRequest::default()
    }
}

fn operation(op: &Op) -> RequestOp {
    let request = match op {
        Op::Put(key) => Some(Request::RequestPut(put(key))),
        Op::Delete(key, end) => Some(Request::RequestDeleteRange(delete(key, end))),
        Op::Range(key) => Some(Request::RequestRange(RangeRequest {
            key: key.clone().into(),
            ..RangeRequest::default()
        })),
        Op::Txn(key) => Some(Request::RequestTxn(TxnRequest {
            success: vec![operation(&Op::Put(key.clone()))],
            ..TxnRequest::default()
        })),
        Op::Nothing => None,
    };
    RequestOp { request }
}

/// The keys that a write has certainly changed are those that it names one by one.
fn writes(input: &Input) {
    let header = Some(header(input));
    let told = |write, request: Vec<u8>, response: Vec<u8>| written(write, &request.into(), &response);
    match &input.write {
        AnyWrite::Put(key) => {
            let response = PutResponse {
                header,
                ..PutResponse::default()
            };
            let keys = told(Write::Put, put(key).encode_to_vec(), response.encode_to_vec());
            assert_eq!(keys, [&key[..]]);
        }
        AnyWrite::Delete(key, end) => {
            let response = DeleteRangeResponse {
                header,
                deleted: i64::from(input.is_deleted),
                ..DeleteRangeResponse::default()
            };
            let request = delete(key, end).encode_to_vec();
            let keys = told(Write::DeleteRange, request, response.encode_to_vec());
            let expected = (input.is_deleted && end.is_empty()).then_some(&key[..]);
            assert!(keys.iter().eq(expected), "{keys:?}");
        }
        AnyWrite::Txn { success, failure } => {
            let operations = |ops: &[Op]| ops.iter().map(operation).collect();
            let request = TxnRequest {
                compare: Vec::new(),
                success: operations(success),
                failure: operations(failure),
            };
            let response = TxnResponse {
                header,
                succeeded: input.succeeded,
                responses: Vec::new(),
            };
            let keys = told(Write::Txn, request.encode_to_vec(), response.encode_to_vec());
            let taken = if input.succeeded { success } else { failure };
            let puts = taken.iter().filter_map(|op| match op {
                Op::Put(key) => Some(&key[..]),
                _ => None,
            });
            assert!(keys.iter().eq(puts.take(KEYS_MAX)), "{keys:?}");
        }
        AnyWrite::Raw(kind, request) => {
            let write = [Write::Put, Write::DeleteRange, Write::Txn][usize::from(kind % 3)];
            told(write, request.clone(), input.tail.clone());
        }
    }
}

fn header(input: &Input) -> ResponseHeader {
    let [cluster_id, member_id, revision, raft_term] = input.header;
    ResponseHeader {
        cluster_id,
        member_id,
        revision: revision.cast_signed(),
        raft_term,
    }
}

/// The header of a response is read whatever follows it.
fn headers(input: &Input) {
    let _ = header_of(&input.tail);
    let header = header(input);
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, 1, &header.encode_to_vec());
    bytes.extend_from_slice(&input.tail);
    let read = header_of(&bytes).map(|read| (read.cluster_id, read.member_id, read.revision, read.raft_term));
    let expected = (header.revision > 0).then_some((
        header.cluster_id,
        header.member_id,
        header.revision,
        header.raft_term,
    ));
    assert_eq!(read, expected);
}
