//! What a call is to the cache, as far as its head tells.

use etcd_proxy_core::grpc::parse_timeout;
use etcd_proxy_core::read::Write;
use etcd_proxy_core::rpc::Rpc;
use http::Request;

use crate::grpc::GRPC_TIMEOUT;

/// What a call is to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A read that only its own client may have the answer of.
    Range,
    /// A read that anybody may have the answer of, if the cluster asks nobody who he is.
    Read,
    /// A write that names what it changes.
    Write(Write),
    /// What was compacted is gone from the cache too.
    Compact,
    /// Who may read what may be another question afterwards.
    Auth,
    /// It shows its client a revision, like all of the above.
    Shows,
}

impl Role {
    /// The role of a unary call.
    pub(crate) fn of<B>(rpc: Rpc, request: &Request<B>) -> Self {
        match rpc {
            Rpc::Range if is_plain(request) => Self::Read,
            Rpc::Range => Self::Range,
            Rpc::Put => Self::Write(Write::Put),
            Rpc::DeleteRange => Self::Write(Write::DeleteRange),
            Rpc::Txn => Self::Write(Write::Txn),
            Rpc::Compact => Self::Compact,
            Rpc::AuthEnable | Rpc::AuthDisable => Self::Auth,
            _ => Self::Shows,
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
    // Of several values a server may take another one than is looked at here.
    let is_single = |name| headers.get_all(name).iter().nth(1).is_none();
    request.method() == http::Method::POST
        && ["content-type", "grpc-encoding", GRPC_TIMEOUT]
            .into_iter()
            .all(is_single)
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
