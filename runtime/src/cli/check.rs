//! From values to options: etcd's checks first, in its order and words, then ours.

use core::num::NonZeroUsize;
use core::time::Duration;

use super::duration;
use super::flags::{FLAGS, Support, Value};
use super::options::{CacheMode, CacheOptions, ClusterTls, InMemoryEtcdOptions, StartOptions, Upstream};
use super::syntax::{Source, Values};
use super::tls;
use crate::logging::{Format, Level};
use crate::settings::{self, Endpoint, Keepalive, ListenAddress, Security};

/// Checks everything that `start` was given and resolves it.
///
/// # Errors
///
/// The message to print before exiting with 1, in one or more lines.
pub(super) fn check(values: &Values, unknown_environment: Vec<String>) -> Result<StartOptions, String> {
    let values = Typed(values);
    check_as_etcd(values)?;
    check_upstream(values)?;
    check_support(values)?;

    let probe_interval = match not_negative(values, "endpoint-probe-interval")? {
        Duration::ZERO => Duration::ZERO,
        _ => at_least(
            values,
            "endpoint-probe-interval",
            PROBE_MIN,
            ", or 0 to disable the probes",
        )?,
    };
    let probe_timeout = match probe_interval {
        Duration::ZERO => Duration::ZERO,
        _ => at_least(values, "endpoint-probe-timeout", PROBE_MIN, "")?,
    };
    let dial_timeout = at_least(values, "dial-timeout", DIAL_TIMEOUT_MIN, "")?;
    let lease_share_within = not_negative(values, "lease-share-within")?;
    let watch_progress_notify_interval = match not_negative(values, "watch-progress-notify-interval")? {
        Duration::ZERO => None,
        _ => Some(at_least(
            values,
            "watch-progress-notify-interval",
            NOTIFY_MIN,
            ", or 0 to learn it from members",
        )?),
    };
    let shutdown_timeout = not_negative(values, "shutdown-timeout")?;
    let cache = cache(values)?;
    let workers = values.uint("workers").try_into().ok().and_then(NonZeroUsize::new);

    let listen_address = ListenAddress::parse(values.text("listen-addr"))?;
    let server_tls = tls::to_clients(values, &listen_address)?;
    let (upstream, cluster_tls) = if values.bool("embedded") {
        (Upstream::Embedded, ClusterTls::Off)
    } else {
        let (endpoints, first) = endpoints(values.list("endpoints"))?;
        (Upstream::Endpoints(endpoints), tls::to_cluster(values, first)?)
    };
    let (max_send_bytes, max_recv_bytes) = message_limits(values)?;

    Ok(StartOptions {
        listen_address,
        upstream,
        server_tls,
        cluster_tls,
        max_send_bytes,
        max_recv_bytes,
        max_concurrent_streams: match u32::try_from(values.uint("max-concurrent-streams")) {
            Ok(0) | Err(_) => u32::MAX,
            Ok(limit) => limit,
        },
        lease_share_within: (!lease_share_within.is_zero()).then_some(lease_share_within),
        watch_progress_notify_interval,
        cache,
        keepalive_min_time: values
            .duration("grpc-keepalive-min-time")
            .unwrap_or(KEEPALIVE_MIN_TIME_GRPC),
        server_keepalive: match (
            values.duration("grpc-keepalive-interval"),
            values.duration("grpc-keepalive-timeout"),
        ) {
            (Some(interval), Some(timeout)) => Some(Keepalive {
                interval: interval.max(SERVER_PING_MIN),
                timeout,
            }),
            _ => None,
        },
        dial_keepalive: values.duration("dial-keepalive-time").map(|interval| Keepalive {
            interval: interval.max(CLIENT_PING_MIN),
            timeout: values
                .duration("dial-keepalive-timeout")
                .unwrap_or(CLIENT_PING_TIMEOUT),
        }),
        dial_keepalive_without_stream: values.bool("permit-without-stream"),
        dial_timeout,
        endpoint_probe: (!probe_interval.is_zero()).then_some(Keepalive {
            interval: probe_interval,
            timeout: probe_timeout,
        }),
        shutdown_timeout,
        workers,
        log_format: log_format(values),
        log_level: log_level(values),
        notes: notes(values),
        unknown_environment,
    })
}

/// What was asked for and isn't done as it was written, for the log.
fn notes(values: Typed<'_>) -> Vec<String> {
    let mut notes = repeated(values);
    for (name, min) in [
        ("grpc-keepalive-interval", SERVER_PING_MIN),
        ("dial-keepalive-time", CLIENT_PING_MIN),
    ] {
        if values.duration(name).is_some_and(|interval| interval < min) {
            let min = min.as_secs();
            notes.push(format!("--{name} is below the least there is; {min}s is used"));
        }
    }
    let probes = values.duration("endpoint-probe-interval").is_some();
    let pings = values.duration("dial-keepalive-time").is_some();
    let cache = values.text("cache") != "off";
    for (name, is_used, because) in [
        ("endpoint-probe-timeout", probes, "--endpoint-probe-interval is 0"),
        ("dial-keepalive-timeout", pings, "--dial-keepalive-time is 0"),
        ("permit-without-stream", pings, "--dial-keepalive-time is 0"),
        ("cache-linearizable", cache, "--cache is off"),
        ("cache-size", cache, "--cache is off"),
        ("cache-staleness", cache, "--cache is off"),
    ] {
        if !is_used && values.0.of(name).1 != Source::Default {
            notes.push(format!("--{name} changes nothing as {because}"));
        }
    }
    notes.extend(tls::mixed(values));
    for flag in FLAGS {
        if *values.0.of(flag.name).0 != flag.default_value()
            && let Some(because) = idle(values, flag.name)
        {
            notes.push(format!("--{} changes nothing as {because}", flag.name));
        }
    }
    notes
}

fn repeated(values: Typed<'_>) -> Vec<String> {
    let names = values.0.repeated.iter();
    names
        .map(|name| format!("--{name} was given more than once; the last value is used"))
        .collect()
}

/// Checks everything that `in-memory-etcd` was given and resolves it.
///
/// # Errors
///
/// The message to print before exiting with 1.
pub(super) fn check_in_memory_etcd(
    values: &Values,
    unknown_environment: Vec<String>,
) -> Result<InMemoryEtcdOptions, String> {
    let values = Typed(values);
    let shutdown_timeout = not_negative(values, "shutdown-timeout")?;
    Ok(InMemoryEtcdOptions {
        listen_address: ListenAddress::parse(values.text("listen-addr"))?,
        shutdown_timeout,
        log_format: log_format(values),
        log_level: log_level(values),
        notes: repeated(values),
        unknown_environment,
    })
}

fn cache(values: Typed<'_>) -> Result<CacheOptions, String> {
    let prefixes = values.list("cache-prefixes");
    let mode = match values.text("cache") {
        "prefixes" if prefixes.is_empty() => return Err("--cache=prefixes needs --cache-prefixes".into()),
        "prefixes" if prefixes.iter().any(String::is_empty) => {
            return Err("--cache-prefixes can't be empty; --cache=all is for all keys".into());
        }
        "prefixes" => CacheMode::Prefixes(prefixes.to_vec()),
        mode if !prefixes.is_empty() => {
            return Err(format!("--cache-prefixes needs --cache=prefixes, not {mode}"));
        }
        "off" => CacheMode::Off,
        _ => CacheMode::All,
    };
    let bytes_max = values.uint("cache-size");
    if mode != CacheMode::Off && bytes_max < CACHE_BYTES_MIN {
        return Err(format!(
            "invalid cache-size {bytes_max}: it must be at least {CACHE_BYTES_MIN}; --cache=off is for no cache"
        ));
    }
    Ok(CacheOptions {
        mode,
        linearizable: values.bool("cache-linearizable"),
        bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        staleness_max: not_negative(values, "cache-staleness")?,
    })
}

fn log_format(values: Typed<'_>) -> Option<Format> {
    match values.text("log-format") {
        "console" => Some(Format::Console),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn log_level(values: Typed<'_>) -> Level {
    match values.text("log-level") {
        _ if values.bool("debug") => Level::Debug,
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        _ => Level::Error,
    }
}

/// What `checkArgs` of etcd's grpc-proxy checks (3.5.30), in its order.
fn check_as_etcd(values: Typed<'_>) -> Result<(), String> {
    let prefix = values.text("resolver-prefix");
    let ttl = values.int("resolver-ttl");
    if !prefix.is_empty() && ttl < 1 {
        return Err(format!("invalid resolver-ttl {ttl}"));
    }
    if prefix.is_empty() && ttl > 0 {
        return Err("invalid resolver-prefix \"\"".into());
    }
    // Not given, etcd's default stands, which is not empty.
    let (advertise, source) = values.0.of("advertise-client-url");
    if !prefix.is_empty() && *advertise == Value::Text(String::new()) && source != Source::Default {
        return Err("invalid advertise-client-url \"\"".into());
    }
    if values.bool("auto-tls") && values.uint("self-signed-cert-validity") == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".into());
    }
    for name in ["tls-min-version", "tls-max-version"] {
        let version = values.text(name);
        if !["", "TLS1.2", "TLS1.3"].contains(&version) {
            let version = settings::quote(version);
            return Err(format!(
                "{name} is invalid: unexpected TLS version {version} (must be one of: TLS1.2, TLS1.3)"
            ));
        }
    }
    let (min, max) = (values.text("tls-min-version"), values.text("tls-max-version"));
    if min == "TLS1.3" && max == "TLS1.2" {
        return Err("min version (TLS1.3) is greater than max version (TLS1.2)".into());
    }
    if min == "TLS1.3" && !values.list("listen-cipher-suites").is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
    }
    Ok(())
}

/// Refuses flags that say where a cluster is, or how to connect to it, beside `--embedded`: of two answers to one
/// question the process must not choose.
fn check_upstream(values: Typed<'_>) -> Result<(), String> {
    let others: Vec<String> = CLUSTER_FLAGS
        .iter()
        .filter(|name| values.0.of(name).1 != Source::Default)
        .map(|name| format!("--{name}"))
        .collect();
    if others.is_empty() || !values.bool("embedded") {
        return Ok(());
    }
    Err(format!(
        "--embedded cannot be combined with {}: the in-memory etcd is the only endpoint",
        others.join(", ")
    ))
}

/// Why a flag of a feature that this version does not have asks for nothing: in etcd it would have no effect either. Scripts
/// pass such flags all the time.
fn idle(values: Typed<'_>, name: &str) -> Option<&'static str> {
    match name {
        "discovery-srv-name" | "insecure-discovery" if values.text("discovery-srv").is_empty() => {
            Some("there is no --discovery-srv")
        }
        _ => tls::idle(values, name),
    }
}

/// Refuses every flag that asks for what this version does not do, all in one go.
fn check_support(values: Typed<'_>) -> Result<(), String> {
    let refusals: Vec<String> = FLAGS
        .iter()
        .filter(|flag| *values.0.of(flag.name).0 != flag.default_value())
        .filter(|flag| idle(values, flag.name).is_none())
        .filter_map(|flag| match flag.support {
            Support::Full => None,
            Support::NotYet(what) => Some(format!(
                "--{}: {what} not supported by this version of etcd-proxy yet",
                flag.name
            )),
            Support::Never(reason) => Some(format!("--{}: not supported: {reason}", flag.name)),
        })
        .collect();
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals.join("\n"))
    }
}

/// The endpoints, and what the first of them says of TLS.
fn endpoints(list: &[String]) -> Result<(Vec<Endpoint>, Security), String> {
    let mut endpoints = Vec::with_capacity(list.len());
    let mut first = None;
    for text in list {
        let (endpoint, security) = Endpoint::parse(text)
            .map_err(|problem| format!("--endpoints: cannot use {}: {problem}", settings::quote(text)))?;
        first.get_or_insert(security);
        // Failing over from a member to itself would only lose time.
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    let first = first.ok_or("etcdclient: no available endpoints")?;
    Ok((endpoints, first))
}

/// `--max-send-bytes` and `--max-recv-bytes` with the defaults and the check of etcd's clientv3.
fn message_limits(values: Typed<'_>) -> Result<(u64, u64), String> {
    let (send, recv) = (values.int("max-send-bytes"), values.int("max-recv-bytes"));
    if recv > 0 && send > recv {
        return Err(format!(
            "gRPC message recv limit ({recv} bytes) must be greater than send limit ({send} bytes)"
        ));
    }
    let or_default = |limit: i64, default| if limit > 0 { limit.unsigned_abs() } else { default };
    Ok((
        or_default(send, CLIENT_SEND_BYTES),
        or_default(recv, CLIENT_RECV_BYTES),
    ))
}

/// `otherwise` follows the message.
fn at_least(values: Typed<'_>, name: &str, min: Duration, otherwise: &str) -> Result<Duration, String> {
    values
        .duration(name)
        .filter(|given| *given >= min)
        .ok_or_else(|| {
            format!(
                "invalid {name} {}: it must be at least {}ms{otherwise}",
                duration::format(values.duration_ns(name)),
                min.as_millis()
            )
        })
}

fn not_negative(values: Typed<'_>, name: &str) -> Result<Duration, String> {
    match u64::try_from(values.duration_ns(name)) {
        Ok(ns) => Ok(Duration::from_nanos(ns)),
        Err(_) => Err(format!(
            "invalid {name} {}: it must not be negative",
            duration::format(values.duration_ns(name))
        )),
    }
}

/// Values by type. Asking for another type than the table gives is a bug, and panics; a test asks for all.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a>(&'a Values);

impl<'a> Typed<'a> {
    pub(super) fn bool(self, name: &str) -> bool {
        let Value::Bool(value) = self.0.of(name).0 else {
            panic!("--{name} is not a boolean")
        };
        *value
    }

    pub(super) fn int(self, name: &str) -> i64 {
        let Value::Int(value) = self.0.of(name).0 else {
            panic!("--{name} is not an integer")
        };
        *value
    }

    pub(super) fn uint(self, name: &str) -> u64 {
        let Value::Uint(value) = self.0.of(name).0 else {
            panic!("--{name} is not an unsigned integer")
        };
        *value
    }

    pub(super) fn text(self, name: &str) -> &'a str {
        let Value::Text(value) = self.0.of(name).0 else {
            panic!("--{name} is not a text")
        };
        value
    }

    pub(super) fn list(self, name: &str) -> &'a [String] {
        let Value::List(value) = self.0.of(name).0 else {
            panic!("--{name} is not a list")
        };
        value
    }

    pub(super) fn duration_ns(self, name: &str) -> i64 {
        let Value::Duration(value) = self.0.of(name).0 else {
            panic!("--{name} is not a duration")
        };
        *value
    }

    /// `None` for zero and less.
    pub(super) fn duration(self, name: &str) -> Option<Duration> {
        u64::try_from(self.duration_ns(name))
            .ok()
            .filter(|ns| *ns > 0)
            .map(Duration::from_nanos)
    }
}

/// Where a cluster is, and how to connect to it.
const CLUSTER_FLAGS: [&str; 10] = [
    "allow-client-cert-common-name",
    "endpoints",
    "endpoints-auto-sync-interval",
    "discovery-srv",
    "discovery-srv-name",
    "insecure-discovery",
    "cert",
    "key",
    "cacert",
    "insecure-skip-tls-verify",
];

/// Shorter intervals than this would keep members busy with probes, of each connection of each worker; and a shorter
/// time-out would take a busy member for a dead one.
const PROBE_MIN: Duration = Duration::from_millis(100);
/// etcd's own least.
const NOTIFY_MIN: Duration = Duration::from_millis(100);
/// Connecting takes a round trip, or several with a name to resolve.
const DIAL_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// A smaller cache would hold next to nothing and still cost a watch.
const CACHE_BYTES_MIN: u64 = 64 * 1024;
/// Ping enforcement of grpc-go when nothing is set.
const KEEPALIVE_MIN_TIME_GRPC: Duration = Duration::from_secs(300);
/// grpc-go raises a shorter interval of a server to this.
const SERVER_PING_MIN: Duration = Duration::from_secs(1);
/// grpc-go raises a shorter interval of a client to this.
const CLIENT_PING_MIN: Duration = Duration::from_secs(10);
/// grpc-go's default.
const CLIENT_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// clientv3's default for what it sends: 2 MiB.
const CLIENT_SEND_BYTES: u64 = 2 * 1024 * 1024;
/// clientv3's default for what it receives: `math.MaxInt32`.
const CLIENT_RECV_BYTES: u64 = 2_147_483_647;
