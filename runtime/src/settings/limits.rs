//! What clients and members may send.

use etcd_proxy_core::http2::PingPolicyConfig;

use super::Keepalive;

/// What etcd adds to its `--max-request-bytes` to get the largest message that its gRPC server takes, in bytes
/// (etcd's `grpcOverheadBytes`): a request a little too large is refused by name, not by the transport.
pub(crate) const OVERHEAD_BYTES: u64 = 512 * 1024;

/// Limits on what clients and members may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest message from a client, in bytes.
    pub(crate) request_bytes_max: u64,
    /// Largest message from a member, in bytes.
    pub(crate) response_bytes_max: u64,
    /// Receive window of a client connection, in bytes: what its calls together may have on their way to us.
    pub(crate) connection_window_bytes: u32,
    /// Calls that one client connection may have open.
    pub(crate) concurrent_streams_max: u32,
    /// How often clients may ping.
    pub(crate) pings: PingPolicyConfig,
    /// How clients are pinged.
    pub(crate) keepalive: Option<Keepalive>,
}
