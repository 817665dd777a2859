//! `etcd-proxy`: a reverse proxy for the etcd v3 gRPC API.

use std::process::ExitCode;

use etcd_proxy_tokio::Tokio;

fn main() -> ExitCode {
    etcd_proxy_runtime::main::<Tokio>("etcd-proxy")
}
