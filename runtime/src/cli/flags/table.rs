//! The rows. Names, types and defaults of etcd's own flags are those of etcd 3.4 to 3.7.

use super::{Flag, Group, Kind, Support};

/// Every flag of `in-memory-etcd`, in the order of the help. A flag that `start` has too means the same there, as the
/// two share its environment variable.
pub(in crate::cli) static IN_MEMORY_ETCD_FLAGS: &[Flag] = &[
    full(
        Group::Listening,
        "listen-addr",
        Kind::Text,
        "127.0.0.1:2379",
        "Address for clients: host:port without a scheme; nothing before the colon for all addresses of the machine",
    ),
    SHUTDOWN_TIMEOUT,
    LOG_FORMAT,
    LOG_LEVEL,
    DEBUG,
];

/// Every flag of `start`, in the order of the help.
pub(in crate::cli) static FLAGS: &[Flag] = &[
    full(
        Group::Listening,
        "listen-addr",
        Kind::Text,
        "127.0.0.1:23790",
        "Address for clients, gRPC and HTTP/1 alike: host:port without a scheme; nothing before the colon for all addresses of the machine. Can be given once",
    ),
    Flag {
        support: Support::NotYet("advertising a client URL is"),
        // Not given is what this version does; asking for any URL, the one etcd has as default included, is not.
        ..full(
            Group::Listening,
            "advertise-client-url",
            Kind::Text,
            "",
            "Client URL that MemberList answers with. Only the empty one works so far: MemberList is passed through to the cluster, which is also what happens without this flag (etcd's own default is 127.0.0.1:23790)",
        )
    },
    full(
        Group::Upstream,
        "endpoints",
        Kind::List,
        "127.0.0.1:2379",
        "Members of the cluster, comma separated: host:port, http://host:port or unix:path, with TLS https://host:port or unixs:path; the first one decides on TLS for all. One is chosen at random and kept; the others take over when it fails",
    ),
    full(
        Group::Upstream,
        "embedded",
        Kind::Bool,
        "false",
        "Run in front of an etcd in memory inside this process instead of a cluster. For trying out and tests: its data is lost at exit. Not to be combined with flags that say where a cluster is or how to connect to it",
    ),
    full(
        Group::Upstream,
        "dial-timeout",
        Kind::Duration,
        "5s",
        "How long a call waits for a member that can be reached before it fails with UNAVAILABLE, at least 100ms; a call whose client waits no longer than that fails a little before the client gives up",
    ),
    full(
        Group::Upstream,
        "endpoint-probe-interval",
        Kind::Duration,
        "1s",
        "How often each connection to a member is probed, at least 100ms: does it answer, does it have a leader? 0 to disable",
    ),
    full(
        Group::Upstream,
        "endpoint-probe-timeout",
        Kind::Duration,
        "2.5s",
        "How long a member may take to answer a probe before another one takes over, at least 100ms",
    ),
    full(
        Group::Limits,
        "max-send-bytes",
        Kind::Int,
        "1572864",
        "Largest request of a client, in bytes, as etcd's --max-request-bytes: up to 512 KiB more pass, for the cluster to refuse; 0 or less for 2 MiB",
    ),
    full(
        Group::Limits,
        "max-recv-bytes",
        Kind::Int,
        "2147483647",
        "Largest message from the cluster to a client, in bytes, watches excepted; 0 or less for the default",
    ),
    full(
        Group::Limits,
        "max-concurrent-streams",
        Kind::Uint(u32::MAX as u64),
        "4294967295",
        "How many streams each client connection can have open at a time; 0 for no limit",
    ),
    full(
        Group::Limits,
        "lease-share-within",
        Kind::Duration,
        "0s",
        "Heartbeats of a lease are answered with the last answer while its heartbeat was sent at most this long ago: each lease costs the cluster at most one in that time, and a client may believe that its lease lives up to this much longer than it does; 0 to disable",
    ),
    full(
        Group::Limits,
        "watch-progress-notify-interval",
        Kind::Duration,
        "0s",
        "How often a watch with progress_notify is told of progress when it shares a wider one that is busy, at least 100ms, as the members' flag of this name; 0 to learn it from what members tell, 10m until then",
    ),
    full(
        Group::Cache,
        "cache",
        Kind::Choice(&["all", "prefixes", "off"]),
        "all",
        "Which reads without credentials are answered from the cache: all, which has the proxy watch all keys of the cluster while there are reads; prefixes, for --cache-prefixes; off",
    ),
    full(
        Group::Cache,
        "cache-linearizable",
        Kind::Bool,
        "true",
        "Answer linearizable reads from the cache too, when a check of the cluster's revision, shared by all who wait, says that it is right",
    ),
    full(
        Group::Cache,
        "cache-prefixes",
        Kind::List,
        "",
        "With --cache=prefixes: the keys that are watched and cached, comma-separated prefixes",
    ),
    full(
        Group::Cache,
        "cache-size",
        Kind::Uint(u64::MAX >> 1),
        "67108864",
        "Memory of the cache, in bytes, at least 65536; answers of more than a 64th of it are not cached. --cache=off is for no cache",
    ),
    full(
        Group::Cache,
        "cache-staleness",
        Kind::Duration,
        "1s",
        "How old an answer to a serializable read can be; 0 to check the cluster's revision for each",
    ),
    full(
        Group::Keepalive,
        "grpc-keepalive-min-time",
        Kind::Duration,
        "5s",
        "Shortest interval at which a client may ping the proxy; 0 or less for 5 minutes",
    ),
    full(
        Group::Keepalive,
        "grpc-keepalive-interval",
        Kind::Duration,
        "2h0m0s",
        "How often the proxy pings a client whose connection is silent, at least 1s; 0 to disable",
    ),
    full(
        Group::Keepalive,
        "grpc-keepalive-timeout",
        Kind::Duration,
        "20s",
        "How long a client may take to answer a ping before its connection is closed; 0 to disable the pings",
    ),
    full(
        Group::Keepalive,
        "dial-keepalive-time",
        Kind::Duration,
        "0s",
        "How often a connection to a member is pinged over HTTP/2 when it is silent, at least 10s; 0 to disable",
    ),
    full(
        Group::Keepalive,
        "dial-keepalive-timeout",
        Kind::Duration,
        "20s",
        "How long a member may take to answer such a ping; 0 or less for the default",
    ),
    full(
        Group::Keepalive,
        "permit-without-stream",
        Kind::Bool,
        "false",
        "Ping members over HTTP/2 even while no call is open",
    ),
    full(
        Group::ClientTls,
        "cert-file",
        Kind::Text,
        "",
        "The proxy's certificate in PEM, those that vouch for it behind it: clients connect with TLS then. Read again when it changes, as every file of these",
    ),
    full(
        Group::ClientTls,
        "key-file",
        Kind::Text,
        "",
        "Its private key in PEM, not encrypted",
    ),
    full(
        Group::ClientTls,
        "trusted-ca-file",
        Kind::Text,
        "",
        "Authorities in PEM that sign clients' certificates: every client must show one then",
    ),
    full(
        Group::ClientTls,
        "client-crl-file",
        Kind::Text,
        "",
        "Revocation lists in DER or PEM. Each binds the certificates of its own issuer; open connections of those that it revokes are closed",
    ),
    full(
        Group::ClientTls,
        "auto-tls",
        Kind::Bool,
        "false",
        "Serve with a certificate that the proxy makes itself and keeps below --data-dir, if no other file is named",
    ),
    full(
        Group::ClientTls,
        "self-signed-cert-validity",
        Kind::Uint(u64::MAX),
        "1",
        "How long that certificate is valid, in years",
    ),
    full(
        Group::ClientTls,
        "data-dir",
        Kind::Text,
        "default.proxy",
        "Where that certificate is kept",
    ),
    full(
        Group::ClientTls,
        "listen-cipher-suites",
        Kind::List,
        "",
        "Cipher suites for TLS 1.2 by Go's names, comma separated; those of TLS 1.3 are always offered",
    ),
    full(
        Group::ClientTls,
        "tls-min-version",
        Kind::Text,
        "TLS1.2",
        "Least version: TLS1.2 or TLS1.3",
    ),
    full(
        Group::ClientTls,
        "tls-max-version",
        Kind::Text,
        "",
        "Greatest version: TLS1.2 or TLS1.3; nothing for the greatest there is",
    ),
    full(
        Group::ClusterTls,
        "cert",
        Kind::Text,
        "",
        "Certificate in PEM that members are shown",
    ),
    full(
        Group::ClusterTls,
        "key",
        Kind::Text,
        "",
        "Its private key in PEM, not encrypted",
    ),
    full(
        Group::ClusterTls,
        "cacert",
        Kind::Text,
        "",
        "Authorities in PEM that sign members' certificates; the system's if there is none",
    ),
    full(
        Group::ClusterTls,
        "insecure-skip-tls-verify",
        Kind::Bool,
        "false",
        "Take any certificate of a member: whoever is in between can read and change everything",
    ),
    full(
        Group::ClusterTls,
        "allow-client-cert-common-name",
        Kind::Bool,
        "false",
        "Let the certificate of --cert have a common name: where etcd has --client-cert-auth and authentication, every client without a token acts as that user then",
    ),
    full(
        Group::Workers,
        "workers",
        Kind::Uint(1024),
        "0",
        "Number of worker threads, up to 1024; 0 for one per core",
    ),
    SHUTDOWN_TIMEOUT,
    LOG_FORMAT,
    LOG_LEVEL,
    DEBUG,
    not_yet(
        "a key prefix is",
        "namespace",
        Kind::Text,
        "",
        "Prefix for all keys of all clients",
    ),
    not_yet(
        "registration is",
        "resolver-prefix",
        Kind::Text,
        "",
        "Key prefix to register this proxy under",
    ),
    not_yet(
        "registration is",
        "resolver-ttl",
        Kind::Int,
        "0",
        "TTL of the registration, in seconds",
    ),
    not_yet(
        "DNS discovery is",
        "discovery-srv",
        Kind::Text,
        "",
        "Domain with SRV records of the members",
    ),
    not_yet(
        "DNS discovery is",
        "discovery-srv-name",
        Kind::Text,
        "",
        "Suffix of the service name in SRV records",
    ),
    not_yet(
        "DNS discovery is",
        "insecure-discovery",
        Kind::Bool,
        "false",
        "Accept SRV records of members without TLS",
    ),
    not_yet(
        "following the member list is",
        "endpoints-auto-sync-interval",
        Kind::Duration,
        "0s",
        "How often to take the endpoints from the member list; 0 to disable",
    ),
    not_yet(
        "a metrics listener is",
        "metrics-addr",
        Kind::Text,
        "",
        "URL of one more listener for /metrics and /health",
    ),
    not_yet(
        "profiling over HTTP is",
        "enable-pprof",
        Kind::Bool,
        "false",
        "Serve profiles under /debug/pprof/",
    ),
    not_yet(
        "ordering of serializable reads is",
        "experimental-serializable-ordering",
        Kind::Bool,
        "false",
        "Serializable reads never go back in time across members",
    ),
    not_yet(
        "logging of requests is",
        "experimental-enable-grpc-logging",
        Kind::Bool,
        "false",
        "Log every request and response",
    ),
    Flag {
        support: Support::Never(
            "leasing mode never stabilised in etcd, and linearizable reads through it return old values when a writer goes around it; a read cache fed by watches takes its place",
        ),
        ..full(
            Group::Never,
            "experimental-leasing-prefix",
            Kind::Text,
            "",
            "Metadata prefix of etcd's leasing mode, which never stabilised and returns old values from linearizable reads when a writer goes around it. A read cache fed by watches takes its place",
        )
    },
];

const SHUTDOWN_TIMEOUT: Flag = full(
    Group::Workers,
    "shutdown-timeout",
    Kind::Duration,
    "10s",
    "How long open calls may go on after SIGTERM or SIGINT; 0 to end them at once",
);

const LOG_FORMAT: Flag = full(
    Group::Logging,
    "log-format",
    Kind::Choice(&["auto", "json", "console"]),
    "auto",
    "Form of the log on standard error: json, console, or auto for console on a terminal and json elsewhere",
);

const LOG_LEVEL: Flag = full(
    Group::Logging,
    "log-level",
    Kind::Choice(&["debug", "info", "warn", "error", "dpanic", "panic", "fatal"]),
    "info",
    "Least level to log: debug, info, warn or error; etcd's dpanic, panic and fatal count as error",
);

const DEBUG: Flag = full(
    Group::Logging,
    "debug",
    Kind::Bool,
    "false",
    "Same as --log-level=debug, and wins over it",
);

const fn full(
    group: Group,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        default,
        group,
        help,
        support: Support::Full,
    }
}

const fn not_yet(
    what: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        default,
        group: Group::NotYet,
        help,
        support: Support::NotYet(what),
    }
}
