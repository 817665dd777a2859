//! Which calls keep others waiting on one connection.
//!
//! Calls of different classes never share a connection to a member, so that what must be prompt waits neither behind
//! megabytes of somebody's list nor for one of the streams that a server allows on a connection.

use alloc::vec;

use crate::wire::read::{Field, Malformed, Reader};

/// What kind of call it is to those that share its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Answered soon, with little.
    Prompt,
    /// Answered with what may be large.
    Bulk,
    /// Open for as long as its client likes: it waits for what others do, or has no end.
    Blocking,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Prompt, Self::Bulk, Self::Blocking];
}

/// How the class of a call is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassRule {
    /// All calls of the method are alike.
    Always(Class),
    /// A `RangeRequest` says how much it may be answered with.
    Range,
    /// A `DeleteRangeRequest` may ask for all that it deletes.
    DeleteRange,
    /// A `TxnRequest` may contain the others.
    Txn,
    /// A `LeaseTimeToLiveRequest` may ask for the lease's keys.
    LeaseTimeToLive,
}

/// Most keys with their values that a prompt answer may have: as many as a caller may want at once who isn't listing.
const KEYS_MAX: u64 = 16;

/// Most keys that a prompt answer may have without their values.
const BARE_KEYS_MAX: u64 = 256;

/// Operations and transactions of one transaction that are looked at. A server takes 128 operations unless it is set
/// otherwise.
const OPERATIONS_MAX: usize = 1024;

impl ClassRule {
    /// The class of a call with this request message; `None` if the message can't be read, as it is compressed or not
    /// there as a whole.
    #[must_use]
    pub fn class(self, request: Option<&[u8]>) -> Class {
        let asks_for_much = match (self, request) {
            (Self::Always(class), _) => return class,
            // The members of the others may be as large as those of a list.
            (_, None) => return Class::Bulk,
            (Self::Range, Some(request)) => range(request, (0, request.len())),
            (Self::DeleteRange, Some(request)) => delete(request, (0, request.len())),
            (Self::Txn, Some(request)) => txn(request),
            (Self::LeaseTimeToLive, Some(request)) => time_to_live(request),
        };
        match asks_for_much {
            Ok(false) => Class::Prompt,
            Ok(true) => Class::Bulk,
            // A server refuses it.
            Err(_) => Class::Prompt,
        }
    }
}

fn range(request: &[u8], at: (usize, usize)) -> Result<bool, Malformed> {
    let (mut key, mut end) = ((0, 0), (0, 0));
    let (mut limit, mut bare, mut count) = (0, 0, 0);
    let mut reader = Reader::new("RangeRequest", request, at);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => key = field.bytes("Key")?,
            2 => end = field.bytes("RangeEnd")?,
            3 => limit = field.varint("Limit")?,
            8 => bare = field.varint("KeysOnly")?,
            9 => count = field.varint("CountOnly")?,
            _ => {}
        }
    }
    let keys_max = if bare == 0 { KEYS_MAX } else { BARE_KEYS_MAX };
    // No limit is 0, and a negative one as a number without sign is large.
    let is_limited = (1..=keys_max).contains(&limit);
    Ok(count == 0 && !is_limited && has_many(request, key, end))
}

fn delete(request: &[u8], at: (usize, usize)) -> Result<bool, Malformed> {
    let (mut key, mut end, mut previous) = ((0, 0), (0, 0), 0);
    let mut reader = Reader::new("DeleteRangeRequest", request, at);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => key = field.bytes("Key")?,
            2 => end = field.bytes("RangeEnd")?,
            3 => previous = field.varint("PrevKv")?,
            _ => {}
        }
    }
    Ok(previous != 0 && has_many(request, key, end))
}

/// Whether there may be more than one key from `key` to `end`.
fn has_many(request: &[u8], key: (usize, usize), end: (usize, usize)) -> bool {
    let (key, end) = (&request[key.0..key.1], &request[end.0..end.1]);
    let only_next = end.split_last() == Some((&0, key));
    // "\0" is what stands for the end of all keys.
    !end.is_empty() && (end == b"\0" || (end > key && !only_next))
}

/// Without recursion: how deep transactions are nested is for clients to say.
fn txn(request: &[u8]) -> Result<bool, Malformed> {
    let mut transactions = vec![(0, request.len())];
    let mut looked_at = 0;
    while let Some(at) = transactions.pop() {
        let mut reader = Reader::new("TxnRequest", request, at);
        while let Some(field) = reader.next()? {
            if !matches!(field.number, 2 | 3) {
                continue;
            }
            let mut operation = Reader::new("RequestOp", request, field.bytes("Success")?);
            while let Some(field) = operation.next()? {
                looked_at += 1;
                if looked_at > OPERATIONS_MAX || part(request, field, &mut transactions)? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Whether one operation of a transaction asks for much. Transactions in it are put aside.
fn part(
    request: &[u8],
    field: Field,
    transactions: &mut vec::Vec<(usize, usize)>,
) -> Result<bool, Malformed> {
    let at = field.bytes("Request")?;
    match field.number {
        1 => range(request, at),
        3 => delete(request, at),
        4 => {
            transactions.push(at);
            Ok(false)
        }
        _ => Ok(false),
    }
}

fn time_to_live(request: &[u8]) -> Result<bool, Malformed> {
    let mut keys = 0;
    let mut reader = Reader::all("LeaseTimeToLiveRequest", request);
    while let Some(field) = reader.next()? {
        if field.number == 2 {
            keys = field.varint("Keys")?;
        }
    }
    Ok(keys != 0)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use etcd_proxy_proto::etcdserverpb::request_op::Request;
    use etcd_proxy_proto::etcdserverpb::{
        Compare, DeleteRangeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    };
    use prost::Message as _;

    use super::Class::{Blocking, Bulk, Prompt};
    use super::*;
    use crate::rpc::Rpc;

    fn class(path: &str, request: &[u8]) -> Class {
        Rpc::of_path(path).class().class(Some(request))
    }

    fn list(key: &[u8], end: &[u8]) -> RangeRequest {
        RangeRequest {
            key: key.to_vec().into(),
            range_end: end.to_vec().into(),
            ..RangeRequest::default()
        }
    }

    #[test]
    fn lists_are_bulk_unless_they_say_that_they_are_small() {
        let with = |change: fn(&mut RangeRequest)| {
            let mut request = list(b"a", b"b");
            change(&mut request);
            request
        };
        for (request, expected) in [
            (list(b"a", b""), Prompt),
            (list(b"a", b"a\0"), Prompt),
            (list(b"b", b"a"), Prompt),
            (list(b"a", b"a"), Prompt),
            (list(b"a", b"b"), Bulk),
            (list(b"a", b"a\0\0"), Bulk),
            (list(b"\0", b"\0"), Bulk),
            (list(b"x", b"\0"), Bulk),
            (with(|request| request.count_only = true), Prompt),
            (with(|request| request.keys_only = true), Bulk),
            (with(|request| request.limit = 1), Prompt),
            (with(|request| request.limit = 16), Prompt),
            (with(|request| request.limit = 17), Bulk),
            (with(|request| request.limit = 500), Bulk),
            (with(|request| request.limit = -1), Bulk),
            (
                with(|request| {
                    request.limit = 256;
                    request.keys_only = true;
                }),
                Prompt,
            ),
            (
                with(|request| {
                    request.limit = 257;
                    request.keys_only = true;
                }),
                Bulk,
            ),
            (
                with(|request| {
                    request.revision = 5;
                    request.serializable = true;
                }),
                Bulk,
            ),
        ] {
            let encoded = request.encode_to_vec();
            assert_eq!(class("/etcdserverpb.KV/Range", &encoded), expected, "{request:?}");
        }
    }

    fn op(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn txn_of(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest {
            compare: vec![Compare::default()],
            success,
            failure,
        }
    }

    #[test]
    fn writes_are_prompt_unless_they_read_much() {
        let delete = |end: &[u8], prev_kv| DeleteRangeRequest {
            key: b"a"[..].into(),
            range_end: end.to_vec().into(),
            prev_kv,
        };
        for (request, expected) in [
            (delete(b"", true), Prompt),
            (delete(b"b", false), Prompt),
            (delete(b"b", true), Bulk),
        ] {
            let path = "/etcdserverpb.KV/DeleteRange";
            assert_eq!(class(path, &request.encode_to_vec()), expected, "{request:?}");
        }
        let put = || {
            op(Request::RequestPut(PutRequest {
                prev_kv: true,
                ..PutRequest::default()
            }))
        };
        let get = |end: &[u8]| op(Request::RequestRange(list(b"a", end)));
        let lists = || txn_of(vec![], vec![get(b""), get(b"b")]);
        for (request, expected) in [
            (txn_of(vec![], vec![]), Prompt),
            (txn_of(vec![put()], vec![get(b"")]), Prompt),
            (txn_of(vec![put(), get(b"b")], vec![]), Bulk),
            (lists(), Bulk),
            (
                txn_of(vec![op(Request::RequestTxn(txn_of(vec![put()], vec![])))], vec![]),
                Prompt,
            ),
            (
                txn_of(
                    vec![op(Request::RequestTxn(txn_of(
                        vec![op(Request::RequestTxn(lists()))],
                        vec![],
                    )))],
                    vec![put()],
                ),
                Bulk,
            ),
            (
                txn_of(vec![op(Request::RequestDeleteRange(delete(b"b", true)))], vec![]),
                Bulk,
            ),
            (txn_of(vec![put(); OPERATIONS_MAX], vec![]), Prompt),
            (txn_of(vec![put(); OPERATIONS_MAX + 1], vec![]), Bulk),
        ] {
            assert_eq!(
                class("/etcdserverpb.KV/Txn", &request.encode_to_vec()),
                expected,
                "{request:?}"
            );
        }
    }

    #[test]
    fn other_methods() {
        for (path, expected) in [
            ("/etcdserverpb.KV/Put", Prompt),
            ("/etcdserverpb.KV/Compact", Prompt),
            ("/etcdserverpb.Lease/LeaseGrant", Prompt),
            ("/etcdserverpb.Lease/LeaseRevoke", Prompt),
            ("/etcdserverpb.Lease/LeaseLeases", Bulk),
            ("/etcdserverpb.Auth/Authenticate", Prompt),
            ("/etcdserverpb.Maintenance/Status", Prompt),
            ("/etcdserverpb.Maintenance/Snapshot", Bulk),
            ("/etcdserverpb.Maintenance/SomethingNew", Blocking),
            ("/v3lockpb.Lock/Lock", Blocking),
            ("/v3lockpb.Lock/Unlock", Prompt),
            ("/v3electionpb.Election/Campaign", Blocking),
            ("/v3electionpb.Election/Observe", Blocking),
            ("/v3electionpb.Election/Proclaim", Prompt),
            ("/v3electionpb.Election/Resign", Prompt),
            ("/v3electionpb.Election/Leader", Prompt),
            ("/etcdserverpb.Watch/Watch", Blocking),
            ("/etcdserverpb.Lease/LeaseKeepAlive", Blocking),
            ("/grpc.health.v1.Health/Check", Prompt),
            ("/grpc.health.v1.Health/Watch", Blocking),
            ("/etcdserverpb.KV/RangeStream", Bulk),
            ("/no.such.Service/Method", Blocking),
        ] {
            assert_eq!(class(path, b""), expected, "{path}");
            assert_eq!(Rpc::of_path(path).class().class(None), expected, "{path}");
        }
        let path = "/etcdserverpb.Lease/LeaseTimeToLive";
        for (keys, expected) in [(false, Prompt), (true, Bulk)] {
            let request = LeaseTimeToLiveRequest { id: 7, keys };
            assert_eq!(class(path, &request.encode_to_vec()), expected);
        }
    }

    /// What can't be read may be anything; what is no request is answered with little.
    #[test]
    fn what_can_not_be_read() {
        for path in [
            "/etcdserverpb.KV/Range",
            "/etcdserverpb.KV/DeleteRange",
            "/etcdserverpb.KV/Txn",
            "/etcdserverpb.Lease/LeaseTimeToLive",
        ] {
            assert_eq!(Rpc::of_path(path).class().class(None), Bulk, "{path}");
            assert_eq!(class(path, b"\x0a\xff\xff"), Prompt, "{path}");
            assert_eq!(class(path, b""), Prompt, "{path}");
        }
    }
}
