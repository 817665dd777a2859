//! The adapter does what the proxy expects of a runtime.

use etcd_proxy_tokio::Tokio;

#[test]
fn conforms() {
    etcd_proxy_runtime::conformance::check::<Tokio>();
}
