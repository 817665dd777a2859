//! Checksums, as etcd 3.5.30 answered them after the same requests.

use etcd_proxy_proto::etcdserverpb::request_op::Request;
use etcd_proxy_proto::etcdserverpb::{RequestOp, TxnRequest};

use super::*;

fn check(store: &Store, revision: i64, hash: u32, compacted: i64) {
    let answer = store.hash_kv(revision).unwrap();
    assert_eq!(
        (answer.hash, answer.compacted),
        (hash, compacted),
        "revision {revision}"
    );
}

#[test]
fn of_a_small_history() {
    let mut world = World::default();
    check(&world.store, 0, 1_084_519_789, -1);
    world.put("a", "1");
    check(&world.store, 0, 2_587_454_935, -1);
    world.leases.grant(7, 500, 2).unwrap();
    let mut writer = world.writer();
    writer
        .put(&PutRequest {
            key: "b".into(),
            value: "2".into(),
            lease: 7,
            ..Default::default()
        })
        .unwrap();
    writer.finish();
    world.put("a", "3");
    world.delete("b", "");
    let op = |request| RequestOp {
        request: Some(request),
    };
    let put = |key: &'static str, value: &'static str| {
        op(Request::RequestPut(PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        }))
    };
    let delete = op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    }));
    let txn = TxnRequest {
        success: [put("c", "x"), put("d", ""), delete].into(),
        ..Default::default()
    };
    world.writer().txn(&txn).unwrap();
    world.put("a", "5");
    check(&world.store, 0, 3_726_130_863, -1);
    check(&world.store, 5, 4_179_884_692, -1);
    check(&world.store, 4, 2_719_140_733, -1);
    assert_eq!(world.store.hash_kv(9), Err(Error::FutureRevision));

    world.store.compact(5).unwrap();
    check(&world.store, 0, 494_758_757, 5);
    check(&world.store, 5, 4_179_884_692, -1);
    check(&world.store, 6, 3_368_651_766, 5);
    assert_eq!(world.store.hash_kv(4), Err(Error::Compacted));

    world.store.compact(6).unwrap();
    check(&world.store, 0, 2_693_882_775, 6);
    check(&world.store, 6, 3_368_651_766, 5);
    world.delete("a", "\0");
    check(&world.store, 0, 3_801_954_621, 6);
    world.store.compact(8).unwrap();
    check(&world.store, 0, 1_084_519_789, 8);
    world.put("q", "");
    check(&world.store, 0, 2_211_266_881, 8);
    check(&world.store, -3, 1_084_519_789, 8);
    world.store.compact(9).unwrap();
    check(&world.store, 0, 2_211_266_881, 9);
}

#[test]
fn of_the_last_ten_compactions() {
    let mut world = World::default();
    world.put("a", "1");
    world.store.compact(0).unwrap();
    check(&world.store, 0, 1_084_519_789, -1);
    world.put("a", "2");
    check(&world.store, 1, 1_084_519_789, 0);
    for n in 0..15 {
        world.put("a", &alloc::format!("{n}"));
        world.store.compact(4 + n).unwrap();
    }
    assert_eq!(world.store.hash_kv(8), Err(Error::Compacted));
    check(&world.store, 9, 760_302_541, 8);
    check(&world.store, 17, 3_586_148_308, 16);
    check(&world.store, 18, 527_051_139, 17);
    check(&world.store, 0, 527_051_139, 18);
}
