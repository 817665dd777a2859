//! What a unary call is to the cache, as far as its head tells.

use super::writes::Write;
use crate::grpc::{header, parse_timeout};
use crate::rpc::Rpc;

/// What a unary call is to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheRole {
    /// A call that switches authentication on or off. Who may read what is another question afterwards.
    Auth,
    /// A compaction. What is compacted is gone from the cache too.
    Compact,
    /// A read whose answer is for its own client alone.
    PersonalRead,
    /// A read whose answer anybody may have, as long as the cluster asks nobody for credentials.
    Read,
    /// Any other call: all that counts is the revision that its answer shows.
    RevealsRevision,
    /// A write that names the keys it changes.
    Write(Write),
}

impl CacheRole {
    /// The role of a call. `is_plain` tells whether it is [plain](is_plain), and is asked for reads only.
    #[must_use]
    pub fn of(rpc: Rpc, is_plain: impl FnOnce() -> bool) -> Self {
        match rpc {
            Rpc::Range if is_plain() => Self::Read,
            Rpc::Range => Self::PersonalRead,
            Rpc::Put => Self::Write(Write::Put),
            Rpc::DeleteRange => Self::Write(Write::DeleteRange),
            Rpc::Txn => Self::Write(Write::Txn),
            Rpc::Compact => Self::Compact,
            Rpc::AuthEnable | Rpc::AuthDisable => Self::Auth,
            _ => Self::RevealsRevision,
        }
    }
}

/// Whether a request with these headers is nobody's in particular, sets no condition, and has a message that can be read.
/// Names are in lower case; a header that comes twice is there twice.
#[must_use]
pub fn is_plain<'a>(is_post: bool, headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> bool {
    // Of several values a server may take another one than is looked at here.
    let (mut has_type, mut has_encoding, mut has_timeout) = (false, false, false);
    for (name, value) in headers {
        let (is_there, is_right) = match name {
            header::AUTHORIZATION | "connection" | header::HAS_LEADER | header::TOKEN => return false,
            "content-type" => (
                &mut has_type,
                matches!(value, b"application/grpc" | b"application/grpc+proto"),
            ),
            header::GRPC_ENCODING => (&mut has_encoding, matches!(value, b"" | b"identity")),
            header::GRPC_TIMEOUT => (
                &mut has_timeout,
                parse_timeout(value).is_some_and(|timeout| !timeout.is_zero()),
            ),
            name if name.ends_with("-bin") => return false,
            _ => continue,
        };
        if core::mem::replace(is_there, true) || !is_right {
            return false;
        }
    }
    is_post && has_type
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers = &'static [(&'static str, &'static [u8])];

    fn plain(headers: Headers) -> bool {
        is_plain(true, headers.iter().copied())
    }

    #[test]
    fn calls_by_their_paths() {
        for (path, plain, personal) in [
            ("/etcdserverpb.KV/Range", CacheRole::Read, CacheRole::PersonalRead),
            (
                "/etcdserverpb.KV/Put",
                CacheRole::Write(Write::Put),
                CacheRole::Write(Write::Put),
            ),
            (
                "/etcdserverpb.KV/DeleteRange",
                CacheRole::Write(Write::DeleteRange),
                CacheRole::Write(Write::DeleteRange),
            ),
            (
                "/etcdserverpb.KV/Txn",
                CacheRole::Write(Write::Txn),
                CacheRole::Write(Write::Txn),
            ),
            ("/etcdserverpb.KV/Compact", CacheRole::Compact, CacheRole::Compact),
            ("/etcdserverpb.Auth/AuthEnable", CacheRole::Auth, CacheRole::Auth),
            ("/etcdserverpb.Auth/AuthDisable", CacheRole::Auth, CacheRole::Auth),
            (
                "/etcdserverpb.Auth/AuthStatus",
                CacheRole::RevealsRevision,
                CacheRole::RevealsRevision,
            ),
            // To a server a `?` is part of the method's name.
            (
                "/etcdserverpb.KV/Range?",
                CacheRole::RevealsRevision,
                CacheRole::RevealsRevision,
            ),
            ("", CacheRole::RevealsRevision, CacheRole::RevealsRevision),
        ] {
            assert_eq!(CacheRole::of(Rpc::of_path(path), || true), plain, "{path}");
            assert_eq!(CacheRole::of(Rpc::of_path(path), || false), personal, "{path}");
        }
    }

    const TYPE: (&str, &[u8]) = ("content-type", b"application/grpc");

    #[test]
    fn plain_reads() {
        let plain_ones: [Headers; 6] = [
            &[TYPE],
            &[("content-type", b"application/grpc+proto")],
            &[TYPE, ("grpc-timeout", b"1S"), ("user-agent", b"x")],
            &[TYPE, ("grpc-encoding", b"identity")],
            &[TYPE, ("grpc-encoding", b"")],
            &[TYPE, ("te", b"trailers"), ("te", b"trailers"), ("binary", b"x")],
        ];
        for headers in plain_ones {
            assert!(plain(headers), "{headers:?}");
            assert!(!is_plain(false, headers.iter().copied()), "{headers:?}");
        }
    }

    #[test]
    fn reads_that_are_not_plain() {
        let others: [Headers; 16] = [
            &[],
            &[("user-agent", b"x")],
            &[("content-type", b"application/grpc+json")],
            &[("content-type", b"application/json")],
            &[TYPE, TYPE],
            &[TYPE, ("token", b"x")],
            &[TYPE, ("authorization", b"x")],
            &[TYPE, ("authorization", b"")],
            &[TYPE, ("hasleader", b"true")],
            &[TYPE, ("hasleader", b"")],
            &[TYPE, ("connection", b"close")],
            &[TYPE, ("trace-bin", b"")],
            &[TYPE, ("grpc-encoding", b"gzip")],
            &[TYPE, ("grpc-encoding", b""), ("grpc-encoding", b"")],
            &[TYPE, ("grpc-timeout", b"0S")],
            &[TYPE, ("grpc-timeout", b"soon")],
        ];
        for headers in others {
            assert!(!plain(headers), "{headers:?}");
        }
        assert!(!plain(&[TYPE, ("grpc-timeout", b"1S"), ("grpc-timeout", b"1S")]));
    }
}
