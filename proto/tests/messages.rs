//! Messages against bytes written by hand, and what decoding keeps and drops.

use std::fmt::Debug;

use bytes::Bytes;
use etcd_proxy_proto::authpb::{Permission, UserAddOptions};
use etcd_proxy_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd_proxy_proto::etcdserverpb::{
    AuthUserAddRequest, Compare, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader,
    TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse, request_op,
    watch_create_request::FilterType, watch_request::RequestUnion,
};
use etcd_proxy_proto::health::{HealthCheckResponse, health_check_response::ServingStatus};
use etcd_proxy_proto::mvccpb::{Event, KeyValue, event::EventType};
use etcd_proxy_proto::v3electionpb::{CampaignRequest, LeaderKey, ResignRequest};
use etcd_proxy_proto::v3lockpb::LockRequest;
use prost::Message;

#[test]
fn a_transaction() {
    let txn = TxnRequest {
        compare: vec![Compare {
            result: CompareResult::NotEqual.into(),
            target: CompareTarget::Lease.into(),
            key: "k".into(),
            target_union: Some(TargetUnion::Lease(7)),
            range_end: "l".into(),
        }],
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestTxn(TxnRequest {
                success: vec![RequestOp {
                    request: Some(request_op::Request::RequestPut(PutRequest {
                        key: "k".into(),
                        value: "v".into(),
                        ignore_lease: true,
                        ..Default::default()
                    })),
                }],
                ..Default::default()
            })),
        }],
        failure: vec![RequestOp { request: None }],
    };
    let bytes = [
        b"\x0a\x0d".as_slice(), // compare, 13 bytes
        b"\x08\x03\x10\x04\x1a\x01k\x40\x07\x82\x04\x01l",
        b"\x12\x0e\x22\x0c\x12\x0a\x12\x08", // success: txn: success: put
        b"\x0a\x01k\x12\x01v\x30\x01",
        b"\x1a\x00", // failure: an operation without a request
    ]
    .concat();
    same_both_ways(&txn, &bytes);
}

#[test]
fn a_watch() {
    same_both_ways(
        &WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: "a".into(),
                range_end: "b".into(),
                start_revision: 300,
                progress_notify: true,
                filters: vec![FilterType::Noput.into(), FilterType::Nodelete.into()],
                prev_kv: true,
                watch_id: -1,
                fragment: true,
            })),
        },
        b"\x0a\x1e\x0a\x01a\x12\x01b\x18\xac\x02\x20\x01\x2a\x02\x00\x01\x30\x01\
          \x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x40\x01",
    );
    same_both_ways(
        &WatchResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                member_id: 1,
                revision: 9,
                raft_term: 2,
            }),
            watch_id: 3,
            events: vec![Event {
                r#type: EventType::Delete.into(),
                kv: Some(KeyValue {
                    key: "a".into(),
                    mod_revision: 9,
                    ..Default::default()
                }),
                prev_kv: None,
            }],
            ..Default::default()
        },
        b"\x0a\x11\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x10\x01\x18\x09\x20\x02\
          \x10\x03\x5a\x09\x08\x01\x12\x05\x0a\x01a\x18\x09",
    );
}

#[test]
fn the_other_packages() {
    same_both_ways(&LeaseGrantRequest { ttl: 5, id: 6 }, b"\x08\x05\x10\x06");
    same_both_ways(
        &AuthUserAddRequest {
            name: "n".into(),
            password: "p".into(),
            options: Some(UserAddOptions { no_password: true }),
            hashed_password: "h".into(),
        },
        b"\x0a\x01n\x12\x01p\x1a\x02\x08\x01\x22\x01h",
    );
    same_both_ways(
        &Permission {
            perm_type: 2,
            key: "k".into(),
            range_end: "\0".into(),
        },
        b"\x08\x02\x12\x01k\x1a\x01\0",
    );
    same_both_ways(
        &CampaignRequest {
            name: "n".into(),
            lease: 1,
            value: "v".into(),
        },
        b"\x0a\x01n\x10\x01\x1a\x01v",
    );
    same_both_ways(
        &ResignRequest {
            leader: Some(LeaderKey {
                name: "n".into(),
                key: "k".into(),
                rev: 1,
                lease: 2,
            }),
        },
        b"\x0a\x0a\x0a\x01n\x12\x01k\x18\x01\x20\x02",
    );
    same_both_ways(
        &LockRequest {
            name: "n".into(),
            lease: 1,
        },
        b"\x0a\x01n\x10\x01",
    );
    same_both_ways(
        &HealthCheckResponse {
            status: ServingStatus::NotServing.into(),
        },
        b"\x08\x02",
    );
}

/// Lists of numbers are packed by proto3 encoders, but older ones may send them one by one.
#[test]
fn unpacked_filters_are_understood() {
    let create = WatchCreateRequest::decode(b"\x28\x00\x28\x01".as_slice()).expect("valid");
    assert_eq!(create.filters, [0, 1]);
}

/// Enums are open in proto3: a number that a later server gave a meaning passes through.
#[test]
fn an_unknown_enum_value_is_kept() {
    let bytes = b"\x0a\x01k\x30\x63";
    let range = RangeRequest::decode(bytes.as_slice()).expect("valid");
    assert_eq!(range.sort_target, 99);
    assert_eq!(range.encode_to_vec(), bytes);
}

/// A newer peer's fields do not disturb decoding, in any wire type and at any depth, but they are
/// lost on the way: the reason why forwarded messages are not decoded.
#[test]
fn unknown_fields_are_skipped_and_not_kept() {
    let header = b"\x18\x07\xa0\x3f\x01"; // revision, field 1012 as a varint
    let unknown = [
        b"\xf8\x3f\x2a".as_slice(),                  // 1023 varint
        b"\xf9\x3f\x01\x02\x03\x04\x05\x06\x07\x08", // 1023 fixed64
        b"\xfa\x3f\x03abc",                          // 1023 bytes
        b"\xfd\x3f\x01\x02\x03\x04",                 // 1023 fixed32
        b"\xfb\x3f\x08\x01\xfc\x3f",                 // 1023 group with a field in it
    ];
    let known = [b"\x0a\x02\x18\x07".as_slice(), b"\x10\x05"].concat();
    for unknown in unknown {
        let bytes = [unknown, b"\x0a\x05", header, unknown, b"\x10\x05", unknown].concat();
        let response = WatchResponse::decode(bytes.as_slice()).expect("valid");
        assert_eq!(response.header.as_ref().map(|h| h.revision), Some(7));
        assert_eq!(response.watch_id, 5);
        assert_eq!(response.encode_to_vec(), known);
    }
}

/// What is cut off in the middle of a field, known or not, is an error and not a shorter message.
#[test]
fn cut_messages_are_errors() {
    let bytes = b"\x0a\x03key\x12\x03end\xfa\x3f\x03abc";
    for end in 0..bytes.len() {
        let decoded = RangeRequest::decode(&bytes[..end]);
        assert_eq!(decoded.is_ok(), [0, 5, 10].contains(&end), "{end} bytes");
    }
    RangeRequest::decode(bytes.as_slice()).expect("the whole is valid");
}

/// Keys and values share the buffer that they were decoded from.
#[test]
fn decoding_does_not_copy() {
    let buffer = Bytes::from(
        PutRequest {
            key: "key".into(),
            value: "value".into(),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    let put = PutRequest::decode(buffer.clone()).expect("valid");
    assert_eq!(put.value, "value");
    let whole = buffer.as_ptr_range();
    assert!(whole.contains(&put.key.as_ptr()));
    assert!(whole.contains(&put.value.as_ptr()));
}

fn same_both_ways<M: Debug + Default + Message + PartialEq>(message: &M, bytes: &[u8]) {
    assert_eq!(message.encode_to_vec(), bytes);
    assert_eq!(&M::decode(bytes).expect("valid"), message);
}
