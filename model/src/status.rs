//! How a call or a stream ended.

pub use etcd_proxy_core::grpc::Status;
