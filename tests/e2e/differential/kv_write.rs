//! KV.Put, DeleteRange, Txn, Compact.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, compare::TargetUnion, request_op::Request,
};
use etcd_proxy_tests::{etcd::Options, suite::trial};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::pair::{Case, Pair};

const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const RANGE: &str = "/etcdserverpb.KV/Range";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("put_and_delete", put_and_delete),
        trial("txn", txn),
        trial("txn_combinations", txn_combinations),
        trial("compact", compact),
        trial("request_sizes", request_sizes),
    ]
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

async fn everything(pair: &mut Pair) {
    pair.ok(Case::unary("all keys", RANGE, &range("\0", "\0"))).await;
}

async fn put_and_delete() {
    let mut pair = Pair::start("put and delete", Options::default()).await;
    let grant = LeaseGrantRequest { ttl: 600, id: 77 };
    pair.ok(Case::unary("lease 77", "/etcdserverpb.Lease/LeaseGrant", &grant))
        .await;
    for (key, value) in [("a", "1"), ("a", ""), ("b", "2"), ("\0", "zero"), ("b\0c", "x")] {
        for prev_kv in [false, true] {
            let request = PutRequest {
                prev_kv,
                ..put(key, value)
            };
            pair.ok(Case::unary(&format!("{request:?}"), PUT, &request)).await;
        }
    }
    let leased = PutRequest {
        lease: 77,
        ..put("a", "leased")
    };
    pair.ok(Case::unary("with lease", PUT, &leased)).await;
    let keep = PutRequest {
        ignore_lease: true,
        prev_kv: true,
        ..put("a", "keeps its lease")
    };
    pair.ok(Case::unary("ignore_lease", PUT, &keep)).await;
    let touch = PutRequest {
        ignore_value: true,
        lease: 77,
        prev_kv: true,
        ..put("b", "")
    };
    pair.ok(Case::unary("ignore_value", PUT, &touch)).await;
    for (request, code, message) in [
        (put("", "v"), 3, "etcdserver: key is not provided"),
        (
            PutRequest {
                ignore_value: true,
                ..put("a", "v")
            },
            3,
            "etcdserver: value is provided",
        ),
        (
            PutRequest {
                ignore_lease: true,
                lease: 77,
                ..put("a", "v")
            },
            3,
            "etcdserver: lease is provided",
        ),
        (
            PutRequest {
                ignore_value: true,
                ..put("none", "")
            },
            3,
            "etcdserver: key not found",
        ),
        (
            PutRequest {
                ignore_lease: true,
                ..put("none", "v")
            },
            3,
            "etcdserver: key not found",
        ),
        (
            PutRequest {
                lease: 78,
                ..put("a", "v")
            },
            5,
            "etcdserver: requested lease not found",
        ),
        (
            PutRequest {
                lease: -1,
                ..put("a", "v")
            },
            5,
            "etcdserver: requested lease not found",
        ),
        (
            PutRequest {
                lease: i64::MAX,
                ..put("a", "v")
            },
            5,
            "etcdserver: requested lease not found",
        ),
    ] {
        pair.error(code, message, Case::unary(&format!("{request:?}"), PUT, &request))
            .await;
    }
    let mut unknown = put("u", "v").encode_to_vec();
    unknown.extend_from_slice(b"\xf2\x3f\x03xyz");
    pair.ok(Case::bytes("unknown field", PUT, unknown)).await;
    pair.code(13, Case::bytes("garbage", PUT, &b"\x0a\xff"[..])).await;
    everything(&mut pair).await;

    for (key, end, prev_kv) in [
        ("none", "", true),
        ("a", "", false),
        ("a", "", true),
        ("b", "b\0", true),
        ("c", "a", true),
        ("u", "\0", true),
    ] {
        let request = DeleteRangeRequest {
            prev_kv,
            ..delete(key, end)
        };
        pair.ok(Case::unary(&format!("{request:?}"), DELETE, &request))
            .await;
    }
    let nothing = Case::unary("no key", DELETE, &delete("", ""));
    pair.error(3, "etcdserver: key is not provided", nothing).await;
    everything(&mut pair).await;
    let all = DeleteRangeRequest {
        prev_kv: true,
        ..delete("\0", "\0")
    };
    pair.ok(Case::unary("delete everything", DELETE, &all)).await;
    everything(&mut pair).await;
    pair.finish();
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &str, value: &str) -> RequestOp {
    op(Request::RequestPut(put(key, value)))
}

fn range_op(key: &str, end: &str) -> RequestOp {
    op(Request::RequestRange(range(key, end)))
}

fn delete_op(key: &str, end: &str) -> RequestOp {
    op(Request::RequestDeleteRange(delete(key, end)))
}

fn success(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        success: ops,
        ..Default::default()
    }
}

/// A transaction in a transaction in a transaction.
fn nested(depth: usize, inner: RequestOp) -> TxnRequest {
    let mut request = success(vec![inner]);
    for _ in 1..depth {
        request = success(vec![range_op("a", ""), op(Request::RequestTxn(request))]);
    }
    request
}

async fn txn() {
    let mut pair = Pair::start("txn", Options::default()).await;
    pair.put("a", "1").await;
    let empty_op = RequestOp::default();
    for (name, request) in [
        ("empty", TxnRequest::default()),
        ("range", success(vec![range_op("a", ""), range_op("\0", "\0")])),
        ("put and read", success(vec![put_op("t", "1"), range_op("t", "")])),
        (
            "read, delete",
            success(vec![range_op("t", ""), delete_op("t", "")]),
        ),
        ("nested", nested(2, put_op("n", "2"))),
        ("nested deep", nested(20, put_op("n", "20"))),
        ("delete a range", success(vec![delete_op("a", "c")])),
        (
            "overlapping ranges",
            success(vec![range_op("a", "z"), range_op("b", "y")]),
        ),
    ] {
        pair.ok(Case::unary(name, TXN, &request)).await;
    }
    let key_not_found = "etcdserver: key not found";
    let no_key = "etcdserver: key is not provided";
    let duplicate = "etcdserver: duplicate key given in txn request";
    let many = "etcdserver: too many operations in txn request";
    let many_ops = |count: usize| -> Vec<RequestOp> {
        (0..count)
            .map(|number| put_op(&format!("m{number}"), "x"))
            .collect()
    };
    let compare_no_key = Compare {
        target_union: Some(TargetUnion::Version(1)),
        ..Default::default()
    };
    for (name, request, code, message) in [
        (
            "empty op in success",
            success(vec![empty_op.clone()]),
            3,
            key_not_found,
        ),
        (
            "empty op in failure",
            TxnRequest {
                failure: vec![empty_op.clone()],
                ..Default::default()
            },
            3,
            key_not_found,
        ),
        ("empty op, nested", nested(3, empty_op), 3, key_not_found),
        ("put without key", success(vec![put_op("", "x")]), 3, no_key),
        ("range without key", success(vec![range_op("", "")]), 3, no_key),
        ("delete without key", success(vec![delete_op("", "")]), 3, no_key),
        ("nested put without key", nested(4, put_op("", "x")), 3, no_key),
        (
            "compare without key",
            TxnRequest {
                compare: vec![compare_no_key],
                ..Default::default()
            },
            3,
            no_key,
        ),
        (
            "same key twice",
            success(vec![put_op("d", "1"), put_op("d", "2")]),
            3,
            duplicate,
        ),
        (
            "put and delete",
            success(vec![put_op("d", "1"), delete_op("c", "e")]),
            3,
            duplicate,
        ),
        ("129 operations", success(many_ops(129)), 3, many),
        (
            "129 compares",
            TxnRequest {
                compare: vec![
                    Compare {
                        key: "a".into(),
                        ..Default::default()
                    };
                    129
                ],
                ..Default::default()
            },
            3,
            many,
        ),
        (
            "unknown lease",
            success(vec![op(Request::RequestPut(PutRequest {
                lease: 5,
                ..put("l", "x")
            }))]),
            5,
            "etcdserver: requested lease not found",
        ),
        (
            "future revision",
            success(vec![op(Request::RequestRange(RangeRequest {
                revision: 100_000,
                ..range("a", "")
            }))]),
            11,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ] {
        pair.error(code, message, Case::unary(name, TXN, &request)).await;
    }
    pair.ok(Case::unary("128 operations", TXN, &success(many_ops(128))))
        .await;
    // A transaction with an operation of a later version, and a put of the same key in both branches.
    pair.check(Case::bytes(
        "unknown operation",
        TXN,
        &b"\x12\x03\x9a\x01\x00"[..],
    ))
    .await;
    let both = TxnRequest {
        success: vec![put_op("both", "1")],
        failure: vec![put_op("both", "2")],
        ..Default::default()
    };
    pair.ok(Case::unary("both branches", TXN, &both)).await;
    everything(&mut pair).await;
    pair.finish();
}

async fn txn_combinations() {
    let mut pair = Pair::start("txn combinations", Options::default()).await;
    pair.put("a", "1").await;
    pair.put("a", "2").await;
    pair.put("b", "3").await;
    let unions = [
        None,
        Some(TargetUnion::Version(2)),
        Some(TargetUnion::Version(-1)),
        Some(TargetUnion::CreateRevision(2)),
        Some(TargetUnion::ModRevision(3)),
        Some(TargetUnion::ModRevision(i64::MAX)),
        Some(TargetUnion::Value(Bytes::from_static(b"2"))),
        Some(TargetUnion::Value(Bytes::new())),
        Some(TargetUnion::Lease(0)),
        Some(TargetUnion::Lease(i64::MIN)),
    ];
    // 4 and 5 are unknown to every version: what a server makes of them must come through.
    for result in 0..=4 {
        for target in 0..=5 {
            for (number, target_union) in unions.iter().enumerate() {
                let (key, range_end) = match number % 3 {
                    0 => ("a", ""),
                    1 => ("a", "c"),
                    _ => ("none", ""),
                };
                let compare = Compare {
                    result,
                    target,
                    key: key.into(),
                    range_end: range_end.into(),
                    target_union: target_union.clone(),
                };
                let request = TxnRequest {
                    compare: vec![compare],
                    success: vec![put_op("yes", "1")],
                    failure: vec![range_op("yes", "")],
                };
                pair.check(Case::unary(&format!("{request:?}"), TXN, &request))
                    .await;
            }
        }
    }
    everything(&mut pair).await;
    pair.finish();
}

async fn compact() {
    let mut pair = Pair::start("compact", Options::default()).await;
    for number in 0..10 {
        pair.put("a", &number.to_string()).await;
    }
    let request = |revision, physical| CompactionRequest { revision, physical };
    pair.ok(Case::unary("5", COMPACT, &request(5, false))).await;
    pair.ok(Case::unary("7, physical", COMPACT, &request(7, true)))
        .await;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    for (revision, message) in [
        (0, compacted),
        (-1, compacted),
        (3, compacted),
        (7, compacted),
        (i64::MIN, compacted),
        (1000, future),
        (i64::MAX, future),
    ] {
        for physical in [false, true] {
            let name = format!("{revision}, physical {physical}");
            let case = Case::unary(&name, COMPACT, &request(revision, physical));
            pair.error(11, message, case).await;
        }
    }
    for revision in 1..=11 {
        let read = RangeRequest {
            revision,
            ..range("a", "")
        };
        pair.check(Case::unary(&format!("read at {revision}"), RANGE, &read))
            .await;
        let serializable = RangeRequest {
            serializable: true,
            ..read
        };
        pair.check(Case::unary(
            &format!("stale read at {revision}"),
            RANGE,
            &serializable,
        ))
        .await;
    }
    pair.finish();
}

/// Around etcd's limit of 1.5 MiB for a request and of 2 MiB for a gRPC message.
async fn request_sizes() {
    let mut pair = Pair::start("request sizes", Options::default()).await;
    let of = |size: usize| {
        let value = "v".repeat(size);
        Case::unary(&format!("{size} bytes"), PUT, &put("big", &value))
    };
    let too_large = "etcdserver: request is too large";
    for size in [0, 1, 255, 256, 1024, 16_384, 65_535, 1_000_000, 1_500_000] {
        pair.ok(of(size)).await;
        pair.ok(Case::unary("read it", RANGE, &range("big", ""))).await;
    }
    for size in [1_572_865, 1_677_722, 2_000_000] {
        pair.error(3, too_large, of(size)).await;
    }
    for size in [2_097_200, 3_000_000, 5_000_000] {
        let full = put("big", &"v".repeat(size)).encoded_len();
        let message = format!("grpc: received message larger than max ({full} vs. 2097152)");
        pair.error(8, &message, of(size)).await;
    }
    pair.ok(of(3)).await;
    pair.finish();
}
