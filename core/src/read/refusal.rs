//! Refusals of reads: what they tell, and whose they are.

use crate::grpc::{Code, Status};

/// Whether a refusal is what every request for the same would get, now: it comes from what was asked, from the state of the
/// store, or from the state of the cluster, which says so in words of its own. What a call met on its way (limits, calls that
/// aren't there, protocols, time) is its own.
pub(super) fn is_shared(status: &Status) -> bool {
    match Code::of_number(status.code) {
        Some(
            Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::DataLoss
            | Code::Unauthenticated,
        ) => true,
        Some(Code::Unavailable) => ["etcdserver: ", "etcd-proxy: "]
            .iter()
            .any(|origin| status.message.starts_with(origin)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_all_would_get_is_shared() {
        for (code, message, shared) in [
            (1, "context canceled", false),
            (2, "EOF", false),
            (3, "etcdserver: key is not provided", true),
            (4, "context deadline exceeded", false),
            (5, "etcdserver: requested lease not found", true),
            (7, "etcdserver: permission denied", true),
            (8, "grpc: received message larger than max (9 vs. 8)", false),
            (8, "etcdserver: too many requests", false),
            (9, "etcdserver: not capable", true),
            (11, "etcdserver: mvcc: required revision has been compacted", true),
            (12, "unknown method Range?x for service etcdserverpb.KV", false),
            (
                12,
                "grpc: Decompressor is not installed for grpc-encoding \"x\"",
                false,
            ),
            (
                13,
                "grpc: compressed flag set with identity or empty encoding",
                false,
            ),
            (14, "etcdserver: no leader", true),
            (14, "etcd-proxy: no endpoint is reachable", true),
            (14, "upstream connect error", false),
            (14, "", false),
            (15, "etcdserver: corrupt cluster", true),
            (16, "etcdserver: invalid auth token", true),
        ] {
            assert_eq!(is_shared(&Status::new(code, message)), shared, "{code} {message}");
        }
    }
}
