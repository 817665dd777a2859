use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::Compare;
use proptest::collection::vec as list;
use proptest::prelude::*;

use super::*;

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &'static str) -> RequestOp {
    op(Request::RequestPut(PutRequest {
        key: key.into(),
        ..Default::default()
    }))
}

fn delete_op(key: &'static str, range_end: &'static str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..Default::default()
    }))
}

fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest {
        success,
        failure,
        ..Default::default()
    }))
}

fn check_ops(success: Vec<RequestOp>) -> Result<(), Error> {
    let request = TxnRequest {
        success,
        ..Default::default()
    };
    txn(&request, 128)
}

#[test]
fn single_requests() {
    assert_eq!(range(&RangeRequest::default()), Err(Error::EmptyKey));
    assert_eq!(delete_range(&DeleteRangeRequest::default()), Err(Error::EmptyKey));
    let mut request = PutRequest {
        value: "v".into(),
        lease: 1,
        ignore_value: true,
        ignore_lease: true,
        ..Default::default()
    };
    assert_eq!(put(&request), Err(Error::EmptyKey));
    request.key = "k".into();
    assert_eq!(put(&request), Err(Error::ValueProvided));
    request.value = Bytes::new();
    assert_eq!(put(&request), Err(Error::LeaseProvided));
    request.lease = 0;
    assert_eq!(put(&request), Ok(()));
}

#[test]
fn a_sort_target_that_kills_a_server_is_refused() {
    let request = |sort_order, sort_target| RangeRequest {
        key: "k".into(),
        sort_order,
        sort_target,
        ..Default::default()
    };
    assert_eq!(range(&request(0, 5)), Err(Error::InvalidSortOption));
    assert_eq!(range(&request(2, -1)), Err(Error::InvalidSortOption));
    // Nothing is sorted for an unknown order.
    assert_eq!(range(&request(9, 5)), Ok(()));
    assert_eq!(range(&request(9, 4)), Ok(()));
    assert_eq!(range(&request(0, 4)), Ok(()));
}

#[test]
fn what_is_refused_first() {
    assert_eq!(check_ops(vec![put_op(""); 129]), Err(Error::TooManyOperations));
    assert_eq!(check_ops(vec![RequestOp::default()]), Err(Error::KeyNotFound));
    let request = TxnRequest {
        compare: vec![Compare::default()],
        success: vec![RequestOp::default()],
        ..Default::default()
    };
    assert_eq!(txn(&request, 128), Err(Error::EmptyKey));
    // Every operation is looked at before duplicates are.
    let dup = vec![put_op("a"), put_op("a"), put_op("")];
    assert_eq!(check_ops(dup), Err(Error::EmptyKey));
}

#[test]
fn nested_operations_count_against_what_is_left() {
    let nested = |count| vec![txn_op(vec![delete_op("a", ""); count], Vec::new())];
    assert_eq!(check_ops(nested(127)), Ok(()));
    assert_eq!(check_ops(nested(128)), Err(Error::TooManyOperations));
}

#[test]
fn duplicates_as_etcd_sees_them() {
    let dup = Err(Error::DuplicateKey);
    assert_eq!(check_ops(vec![put_op("a"), put_op("b")]), Ok(()));
    assert_eq!(check_ops(vec![put_op("a"), put_op("a")]), dup);
    assert_eq!(check_ops(vec![put_op("a"), delete_op("a", "")]), dup);
    assert_eq!(check_ops(vec![put_op("b"), delete_op("a", "c")]), dup);
    assert_eq!(check_ops(vec![put_op("c"), delete_op("a", "c")]), Ok(()));
    // To the end of all keys: an interval that ends before it begins.
    assert_eq!(check_ops(vec![put_op("b"), delete_op("a", "\0")]), Ok(()));
    // Only one branch is taken.
    assert_eq!(
        check_ops(vec![txn_op(vec![put_op("a")], vec![put_op("a")])]),
        Ok(())
    );
    let twice = vec![
        txn_op(vec![put_op("a")], vec![]),
        txn_op(vec![], vec![put_op("a")]),
    ];
    assert_eq!(check_ops(twice), dup);
    let put_then_delete = vec![
        txn_op(vec![put_op("a")], vec![]),
        txn_op(vec![delete_op("a", "")], vec![]),
    ];
    assert_eq!(check_ops(put_then_delete), Ok(()));
    let delete_then_put = vec![
        txn_op(vec![delete_op("a", "")], vec![]),
        txn_op(vec![put_op("a")], vec![]),
    ];
    assert_eq!(check_ops(delete_then_put), dup);
    assert_eq!(
        check_ops(vec![put_op("a"), txn_op(vec![delete_op("a", "")], vec![])]),
        dup
    );
}

proptest! {
    /// Merging ranges changes nothing about what they contain.
    #[test]
    fn merged_ranges_contain_the_same_keys(
        ranges in list((0u8..12, 0u8..12, any::<bool>()), 0..12),
        later in list((0u8..12, 0u8..12, any::<bool>()), 0..6),
    ) {
        let key = |n: u8| vec![b'a' + n];
        let spans = |ranges: &[(u8, u8, bool)]| -> Vec<(Vec<u8>, Vec<u8>)> {
            ranges.iter().map(|(from, to, point)| (key(*from), if *point { Vec::new() } else { key(*to) })).collect()
        };
        let (ranges, later) = (spans(&ranges), spans(&later));
        let mut deletes = Deletes::default();
        for (from, to) in &ranges {
            deletes.insert(from, to);
        }
        let mut other = Deletes::default();
        for (from, to) in &later {
            other.insert(from, to);
        }
        deletes.join(other);
        for n in 0..13 {
            for wanted in [key(n), [key(n), vec![0]].concat()] {
                let contains = ranges.iter().chain(&later).any(|(from, to)| {
                    if to.is_empty() { *from == wanted } else { *from <= wanted && wanted < *to }
                });
                prop_assert_eq!(deletes.contains(&wanted), contains, "{:?}", wanted);
            }
        }
    }
}
