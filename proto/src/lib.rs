//! The etcd v3 gRPC API on the wire: messages for prost, client and server stubs for tonic.
//!
//! The modules are named after the protobuf packages. They are compiled from the `.proto` files in
//! this crate's `proto/` folder, which were written for this project and cover the API of etcd 3.4
//! to 3.7; a field that a server does not know yet is ignored by it, as protobuf has it.
//!
//! * Every `bytes` field is a [`bytes::Bytes`](prost::bytes::Bytes): decoding from `Bytes` shares the buffer, and
//!   cloning a message does not copy keys and values.
//! * Decoding drops fields that are not in the `.proto` files. What is only forwarded must
//!   therefore be forwarded as bytes, never decoded and encoded again.
//! * The stubs are generated without tonic's `transport`, so no runtime comes with them: a client
//!   is made with `new(service)` or `with_origin(service, uri)` over any
//!   `tonic::client::GrpcService`, a server is a `tower_service::Service`.
//!
//! # Features
//!
//! * `stubs` (default): the `*_client` and `*_server` modules. Without it the crate is `no_std`
//!   (with `alloc`) and needs no crate but `prost`.
//!
//! # Example
//!
//! ```
//! use etcd_proxy_proto::etcdserverpb::{RangeRequest, range_request::SortOrder};
//! use prost::Message;
//!
//! let request = RangeRequest {
//!     key: "a".into(),
//!     range_end: "b".into(),
//!     sort_order: SortOrder::Descend.into(),
//!     ..Default::default()
//! };
//! assert_eq!(request.encode_to_vec(), b"\x0a\x01a\x12\x01b\x28\x02");
//! ```

#![cfg_attr(not(feature = "stubs"), no_std)]

/// Package `mvccpb`: keys with their values and revisions, and events.
#[allow(missing_docs, unused_qualifications, reason = "generated code")]
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// Package `authpb`: users, roles and permissions.
#[allow(missing_docs, unused_qualifications, reason = "generated code")]
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}

/// Package `etcdserverpb`: the services KV, Watch, Lease, Cluster, Maintenance and Auth.
#[allow(missing_docs, unused_qualifications, reason = "generated code")]
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// Package `v3electionpb`: the service Election.
#[allow(missing_docs, unused_qualifications, reason = "generated code")]
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}

/// Package `v3lockpb`: the service Lock.
#[allow(missing_docs, unused_qualifications, reason = "generated code")]
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}

/// Package `grpc.health.v1`: the gRPC health checking protocol.
#[allow(missing_docs, unused_qualifications, reason = "generated code")]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// A `google.protobuf.FileDescriptorSet` of all packages, encoded, without source positions.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
