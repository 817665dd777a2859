//! What a command was asked to do, typed and checked.

use core::num::NonZeroUsize;
use core::time::Duration;

use crate::logging::{Format, Level};
use crate::settings::{ClientTls, Endpoint, Keepalive, ListenAddress, ServerTls};

/// Everything `start` needs, with every limit resolved to the value that applies.
///
/// Flags whose feature this version does not have yet are refused by [`parse`](super::parse) and leave no field here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartOptions {
    /// `--listen-addr`: where clients connect, for gRPC and HTTP/1 alike.
    pub listen_address: ListenAddress,
    /// `--endpoints` or `--embedded`: what the proxy runs in front of.
    pub upstream: Upstream,

    /// `--cert-file`, `--auto-tls` and their kin; `None` for clients without TLS.
    pub server_tls: Option<ServerTls>,
    /// `--cert`, `--cacert` and their kin.
    pub cluster_tls: ClusterTls,

    /// `--max-send-bytes`: the largest message a client may send through the proxy to a member, in bytes.
    ///
    /// Zero or less on the command line means 2 MiB, as in etcd's clientv3.
    pub max_send_bytes: u64,
    /// `--max-recv-bytes`: the largest message a member may send through the proxy to a client, in bytes. Watches are
    /// excepted: they share their messages.
    ///
    /// Zero or less on the command line means 2^31 - 1, as in etcd's clientv3. Where it was given, it is not below
    /// `max_send_bytes`.
    pub max_recv_bytes: u64,
    /// `--max-concurrent-streams`: how many streams one client connection may have open at a time; never 0.
    ///
    /// Zero on the command line means no limit, as in grpc-go.
    pub max_concurrent_streams: u32,
    /// `--lease-share-within`: for how long after a heartbeat was sent to a member its answer is given to others for the
    /// same lease; above zero. `None` when off: each request is answered by a heartbeat that was sent after it.
    pub lease_share_within: Option<Duration>,
    /// `--watch-progress-notify-interval`: how often watches that ask for it are told of progress; `None` to learn it.
    pub watch_progress_notify_interval: Option<Duration>,
    /// `--cache` and its kin.
    pub cache: CacheOptions,

    /// `--grpc-keepalive-min-time`: the shortest interval at which a client may ping the proxy; above zero.
    ///
    /// Zero or less on the command line means 5 minutes, as in grpc-go.
    pub keepalive_min_time: Duration,
    /// `--grpc-keepalive-interval` and `--grpc-keepalive-timeout`: pings to clients; `None` when off.
    pub server_keepalive: Option<Keepalive>,
    /// `--dial-keepalive-time` and `--dial-keepalive-timeout`: HTTP/2 pings to members; `None` when off.
    pub dial_keepalive: Option<Keepalive>,
    /// `--permit-without-stream`: whether members are pinged while no call is open. Without effect when
    /// `dial_keepalive` is `None`.
    pub dial_keepalive_without_stream: bool,

    /// `--dial-timeout`: how long a call waits for a member that can be reached before it fails with UNAVAILABLE;
    /// above zero.
    pub dial_timeout: Duration,
    /// `--endpoint-probe-interval` and `--endpoint-probe-timeout`: the liveness and leader probe of each upstream
    /// connection; `None` when off.
    pub endpoint_probe: Option<Keepalive>,
    /// `--shutdown-timeout`: how long open calls may go on after SIGTERM or SIGINT; zero ends them at once.
    pub shutdown_timeout: Duration,
    /// `--workers`: the number of worker threads, up to 1024; `None` for one per core.
    pub workers: Option<NonZeroUsize>,

    /// `--log-format`; `None` for the console's on a terminal and JSON elsewhere.
    pub log_format: Option<Format>,
    /// `--log-level`, or [`Level::Debug`] with `--debug`.
    pub log_level: Level,
    /// What was asked for and isn't done as it was written: a flag that was given twice, a value that is raised, a flag
    /// that changes nothing beside the others. Whoever starts the proxy logs each.
    pub notes: Vec<String>,
    /// Names of `ETCD_PROXY_*` environment variables that no flag has, sorted. They change nothing; whoever starts the
    /// proxy logs them, because each is probably a misspelt setting.
    pub unknown_environment: Vec<String>,
}

/// TLS towards the cluster. As in clientv3 the first endpoint decides for all: by its scheme, or if it has none by whether any
/// flag is for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterTls {
    /// There is none, and no flag is for it.
    Off,
    /// There is none. Files that were named must be right all the same.
    Idle(ClientTls),
    /// There is.
    On(ClientTls),
}

/// How reads are cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// `--cache` and `--cache-prefixes`: what is watched, and so what may be cached.
    pub mode: CacheMode,
    /// `--cache-linearizable`: whether linearizable reads are answered from the cache.
    pub linearizable: bool,
    /// `--cache-size`: memory of the cache, in bytes.
    pub bytes_max: usize,
    /// `--cache-staleness`: how old an answer to a serializable read can be. Zero: it is checked for each.
    pub staleness_max: Duration,
}

/// What may be cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// All keys.
    All,
    /// Keys that begin with one of these; at least one, none of them empty.
    Prefixes(Vec<String>),
    /// None.
    Off,
}

/// What the proxy runs in front of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// An etcd in memory inside this process, for trying out and tests: its data is lost at exit.
    Embedded,
    /// Members of a cluster in the order given; at least one, without repeats.
    Endpoints(Vec<Endpoint>),
}

/// Everything `in-memory-etcd` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InMemoryEtcdOptions {
    /// `--listen-addr`: where clients connect.
    pub listen_address: ListenAddress,
    /// `--shutdown-timeout`: how long open calls may go on after SIGTERM or SIGINT; zero ends them at once.
    pub shutdown_timeout: Duration,
    /// As [`StartOptions::log_format`].
    pub log_format: Option<Format>,
    /// `--log-level`, or [`Level::Debug`] with `--debug`.
    pub log_level: Level,
    /// As [`StartOptions::notes`].
    pub notes: Vec<String>,
    /// As [`StartOptions::unknown_environment`].
    pub unknown_environment: Vec<String>,
}
