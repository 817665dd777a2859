//! `etcd-proxy-async-std`: a reverse proxy for the etcd v3 gRPC API, on async-std.

use std::process::ExitCode;

use etcd_proxy_async_std::AsyncStd;

fn main() -> ExitCode {
    etcd_proxy_runtime::main::<AsyncStd>("etcd-proxy-async-std")
}
