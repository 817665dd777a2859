//! What a call is to the cache, as far as its head tells.

use etcd_proxy_core::grpc::parse_timeout;
use etcd_proxy_core::method::{Method, Shape};
use etcd_proxy_core::read::Write;
use http::Request;

use crate::forward::GRPC_TIMEOUT;

/// What a call is to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A read that anybody may have the answer of, if the cluster asks nobody who he is.
    Read,
    /// A write that names what it may change.
    Write(Write),
    /// What was compacted is gone from the cache too.
    Compact,
    /// Who may read what may be another question afterwards.
    Auth,
    /// It shows its client a revision, like all of the above.
    Shows,
    /// Nothing.
    None,
}

impl Role {
    pub(crate) fn of<B>(request: &Request<B>, method: Method) -> Self {
        match request.uri().path() {
            "/etcdserverpb.KV/Range" if is_plain(request) => Self::Read,
            "/etcdserverpb.KV/Put" => Self::Write(Write::Put),
            "/etcdserverpb.KV/DeleteRange" => Self::Write(Write::DeleteRange),
            "/etcdserverpb.KV/Txn" => Self::Write(Write::Txn),
            "/etcdserverpb.KV/Compact" => Self::Compact,
            "/etcdserverpb.Auth/AuthEnable" | "/etcdserverpb.Auth/AuthDisable" => Self::Auth,
            _ if method.shape == Shape::Unary => Self::Shows,
            _ => Self::None,
        }
    }
}

/// Whether a read is one of nobody in particular, on no condition, with a message that can be read.
fn is_plain<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let timeout = headers
        .get(GRPC_TIMEOUT)
        .map(|value| parse_timeout(value.as_bytes()));
    let is_plain = |name, plain: &[&[u8]]| {
        let value = headers.get(name).map(|value| value.as_bytes());
        value.is_none_or(|value| plain.contains(&value))
    };
    let content_type = headers
        .get(http::header::CONTENT_TYPE)
        .map(|value| value.as_bytes());
    request.method() == http::Method::POST
        && timeout.is_none_or(|timeout| timeout.is_some_and(|timeout| !timeout.is_zero()))
        && !headers.contains_key("connection")
        && !headers.keys().any(|name| name.as_str().ends_with("-bin"))
        && !headers.contains_key("token")
        && !headers.contains_key("authorization")
        && is_plain("hasleader", &[])
        && is_plain("grpc-encoding", &[b"", b"identity"])
        && matches!(
            content_type,
            Some(b"application/grpc" | b"application/grpc+proto")
        )
}
