use alloc::vec;

use etcd_proxy_proto::etcdserverpb::compare::TargetUnion;
use etcd_proxy_proto::etcdserverpb::request_op::Request;
use etcd_proxy_proto::etcdserverpb::response_op::Response;
use etcd_proxy_proto::etcdserverpb::{Compare, RequestOp, TxnRequest, TxnResponse};

use super::*;

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put(key: &'static str) -> PutRequest {
    PutRequest {
        key: key.into(),
        ..Default::default()
    }
}

fn put_op(request: PutRequest) -> RequestOp {
    op(Request::RequestPut(request))
}

fn delete_op(key: &'static str, range_end: &'static str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..Default::default()
    }))
}

fn range_op(revision: i64) -> RequestOp {
    op(Request::RequestRange(RangeRequest { revision, ..all() }))
}

fn success(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        success,
        ..Default::default()
    }
}

fn nested(request: TxnRequest) -> RequestOp {
    op(Request::RequestTxn(request))
}

/// What each operation answered: revision and what was found, put or deleted.
fn summary(response: &TxnResponse) -> alloc::string::String {
    let revision = response.header.unwrap().revision;
    let mut text = alloc::format!("{}@{revision}[", if response.succeeded { "yes" } else { "no" });
    for op in &response.responses {
        let part = match op.response.as_ref().unwrap() {
            Response::ResponseRange(r) => alloc::format!("r{}@{}", r.count, r.header.unwrap().revision),
            Response::ResponsePut(r) => alloc::format!("p@{}", r.header.unwrap().revision),
            Response::ResponseDeleteRange(r) => {
                alloc::format!("d{}@{}", r.deleted, r.header.unwrap().revision)
            }
            Response::ResponseTxn(r) => summary(r),
        };
        text += &part;
        text.push(' ');
    }
    text.push(']');
    text
}

#[test]
fn operations_see_those_before_them() {
    let mut world = World::default();
    world.put("a", "1");
    let request = success(vec![
        range_op(0),
        nested(success(vec![put_op(put("b")), range_op(0)])),
        nested(success(vec![delete_op("b", "")])),
        range_op(0),
        range_op(2),
        delete_op("x", ""),
    ]);
    let response = world.writer().txn(&request).unwrap();
    assert_eq!(
        summary(&response),
        "yes@3[r1@2 yes@0[p@3 r2@3 ] yes@0[d1@3 ] r1@3 r1@3 d0@3 ]"
    );
    assert_eq!(events(&world.store, 3), ["b@3", "-b@3"]);
    assert_eq!(world.store.at(b"b", 3), None);
}

#[test]
fn nested_branches_are_chosen_before_anything_is_done() {
    let mut world = World::default();
    let exists = Compare {
        key: "a".into(),
        target: 1,
        result: 1,
        ..Default::default()
    };
    let inner = TxnRequest {
        compare: vec![exists],
        ..success(vec![range_op(0)])
    };
    let request = success(vec![put_op(put("a")), nested(inner)]);
    let response = world.writer().txn(&request).unwrap();
    assert_eq!(summary(&response), "yes@2[p@2 no@0[] ]");
}

#[test]
fn checks_come_before_effects_puts_before_ranges() {
    let mut world = World::default();
    let lease = PutRequest { lease: 9, ..put("b") };
    let ignore = PutRequest {
        ignore_value: true,
        ..lease.clone()
    };
    let run = |world: &mut World, ops| world.writer().txn(&success(ops));
    let ops = vec![put_op(put("a")), range_op(9), put_op(ignore)];
    assert_eq!(run(&mut world, ops), Err(Error::KeyNotFound));
    let ops = vec![put_op(put("a")), range_op(9), put_op(lease)];
    assert_eq!(run(&mut world, ops), Err(Error::LeaseNotFound));
    let ops = vec![put_op(put("a")), nested(success(vec![range_op(9)]))];
    assert_eq!(run(&mut world, ops), Err(Error::FutureRevision));
    // What a transaction makes isn't there yet when its ranges are checked.
    assert_eq!(
        run(&mut world, vec![put_op(put("a")), range_op(2)]),
        Err(Error::FutureRevision)
    );
    assert_eq!(world.store.revision(), 1);
    assert_eq!(world.store.range(&all()).unwrap().count, 0);
}

#[test]
fn revisions_below_zero_are_refused_once_compacted() {
    let mut world = World::default();
    let read = |world: &World, revision| {
        let response = world.store.read_txn(&success(vec![range_op(revision)]));
        response.map(|response| summary(&response))
    };
    assert_eq!(read(&world, -1), Ok("yes@1[r0@1 ]".into()));
    assert_eq!(read(&world, -2), Err(Error::Compacted));
    world.store.compact(0).unwrap();
    assert_eq!(read(&world, -1), Err(Error::Compacted));
    assert_eq!(read(&world, 0), Ok("yes@1[r0@1 ]".into()));
}

#[test]
fn what_would_kill_a_server_is_taken_back() {
    let mut world = World::default();
    world.leases.grant(7, 100, 2).unwrap();
    let leased = PutRequest { lease: 7, ..put("a") };
    world.writer().txn(&success(vec![put_op(leased)])).unwrap();
    let ignore = PutRequest {
        ignore_lease: true,
        ..put("a")
    };
    let request = success(vec![delete_op("a", "\0"), put_op(put("b")), put_op(ignore)]);
    let before = world.store.hash_kv(0);
    let size = world.store.size();
    assert_eq!(world.writer().txn(&request), Err(Error::KeyNotFound));
    assert_eq!(world.store.hash_kv(0), before);
    assert_eq!(world.store.size(), size);
    assert_eq!(world.store.log_from(0).count(), 1);
    assert_eq!(world.leases.of_key(b"a"), Some(7));
    assert_eq!(world.store.revision(), 2);
}

#[test]
fn comparisons() {
    let mut world = World::default();
    world.put("a", "m");
    world.put("b", "n");
    let holds = |key: &'static str, end: &'static str, target: i32, result: i32, union| {
        let compare = Compare {
            key: key.into(),
            range_end: end.into(),
            target,
            result,
            target_union: union,
        };
        let request = TxnRequest {
            compare: vec![compare],
            ..Default::default()
        };
        world.store.read_txn(&request).unwrap().succeeded
    };
    let (equal, greater, less, not_equal) = (0, 1, 2, 3);
    let value = |value: &'static str| Some(TargetUnion::Value(value.into()));
    assert!(holds("a", "", 3, equal, value("m")));
    assert!(!holds("a", "", 3, not_equal, value("m")));
    assert!(holds("a", "", 3, greater, value("l")));
    assert!(holds("a", "", 3, less, value("ma")));
    assert!(holds("a", "", 3, greater, None));
    // All keys of a range must match; if there is none, only values can't.
    assert!(!holds("a", "\0", 3, equal, value("m")));
    assert!(holds("a", "\0", 3, greater, value("l")));
    assert!(!holds("x", "", 3, not_equal, value("m")));
    assert!(!holds("x", "\0", 3, equal, None));
    assert!(holds("x", "\0", 0, equal, Some(TargetUnion::Version(0))));
    // A number of the wrong kind counts as 0.
    assert!(holds("x", "", 0, equal, value("5")));
    assert!(holds("a", "", 2, greater, Some(TargetUnion::CreateRevision(9))));
    assert!(holds("a", "", 1, equal, Some(TargetUnion::CreateRevision(2))));
    assert!(holds("b", "", 2, equal, Some(TargetUnion::ModRevision(3))));
    assert!(holds("b", "", 4, equal, Some(TargetUnion::Lease(0))));
    // An unknown target compares equal, an unknown result holds.
    assert!(holds("a", "", 9, equal, value("5")));
    assert!(!holds("a", "", 9, greater, value("5")));
    assert!(holds("a", "", 9, 9, value("5")));
    assert!(holds("a", "", 3, 9, value("5")));
}

#[test]
fn kinds_of_transactions() {
    let serializable = op(Request::RequestRange(RangeRequest {
        serializable: true,
        ..all()
    }));
    assert!(is_read_only(&TxnRequest::default()));
    assert!(is_serializable(&TxnRequest::default()));
    assert!(is_read_only(&success(vec![range_op(0)])));
    assert!(!is_serializable(&success(vec![
        serializable.clone(),
        range_op(0)
    ])));
    assert!(is_serializable(&success(vec![serializable])));
    assert!(!is_read_only(&success(vec![nested(TxnRequest::default())])));
    assert!(has_put(&success(vec![put_op(put("a"))])));
    assert!(!has_put(&success(vec![nested(success(vec![put_op(put("a"))]))])));
}
