//! Names and values of headers, as gRPC and etcd have them.

/// Where older clients of etcd put their token.
pub const AUTHORIZATION: &str = "authorization";

/// The version that a client says it has. etcd 3.5 servers die of one that isn't text.
pub const CLIENT_API_VERSION: &str = "client-api-version";

/// How a call's messages are compressed.
pub const GRPC_ENCODING: &str = "grpc-encoding";

/// What an answer's status says, percent-encoded.
pub const GRPC_MESSAGE: &str = "grpc-message";

/// The code of an answer's status.
pub const GRPC_STATUS: &str = "grpc-status";

/// How long a client waits for the answer.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Whether a call is for a member that has a leader only: it is if the value is [`TRUE`].
pub const HAS_LEADER: &str = "hasleader";

/// Whoever calls, as the cluster knows them.
pub const TOKEN: &str = "token";

/// What [`HAS_LEADER`] says of a call that needs one.
pub const TRUE: &str = "true";

/// The content type of gRPC, which may have a subtype behind it.
pub const APPLICATION_GRPC: &str = "application/grpc";

/// The value of `te` on every request: gRPC's answers end with trailers.
pub const TRAILERS: &str = "trailers";
