//! The read cache's metrics: it has them as numbers, here they get their names.

use core::time::Duration;

use etcd_proxy_core::read::{Reason, Stats};
use prometheus::proto::MetricFamily;

use super::{counter, gauge, labelled};

/// `confirmed` is how long ago the watch was known to be in step with the cluster.
pub(super) fn families(stats: &Stats, confirmed: Option<Duration>) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    for (name, help, value) in [
        ("entries", "Answers that are cached.", stats.entries),
        ("bytes", "Memory that they take.", stats.bytes),
        ("waiting", "Reads that wait for the cache.", stats.waiters),
        (
            "forwarded",
            "Reads under way to the cluster whose answers may be cached.",
            stats.flights,
        ),
        (
            "queued",
            "Reads that wait because too many have fallen back to the cluster.",
            stats.queued,
        ),
        (
            "watched_revision",
            "The revision up to which the cache knows all events; 0 without a watch.",
            usize::try_from(stats.watched).unwrap_or_default(),
        ),
    ] {
        families.push(gauge(format!("etcd_proxy_read_{name}"), help, value as f64));
    }
    families.push(gauge(
        "etcd_proxy_read_staleness_seconds".to_owned(),
        "How long ago the cache was known to be in step with the cluster; -1 if it isn't known.",
        confirmed.map_or(-1.0, |confirmed| confirmed.as_secs_f64()),
    ));
    for (name, help, value) in [
        (
            "hits_serializable_total",
            "Serializable reads answered from the cache.",
            stats.hits_serializable,
        ),
        (
            "hits_linearizable_total",
            "Linearizable reads answered from the cache.",
            stats.hits_linearizable,
        ),
        (
            "forwarded_total",
            "Reads forwarded to the cluster whose answers might be cached.",
            stats.forwarded,
        ),
        (
            "shared_total",
            "Reads answered with the answer to another read.",
            stats.shared,
        ),
        (
            "fallbacks_total",
            "Reads that were forwarded because the cache took too long.",
            stats.fallbacks,
        ),
        (
            "checks_total",
            "Revision checks sent to the cluster.",
            stats.checks,
        ),
        (
            "progress_requests_total",
            "Progress requests sent on the watch of the cache.",
            stats.progress_asked,
        ),
        ("admitted_total", "Answers that were cached.", stats.admitted),
        (
            "invalidated_total",
            "Entries dropped because a key changed, or may have.",
            stats.invalidated,
        ),
        ("evicted_total", "Entries dropped to make room.", stats.evicted),
        (
            "flushes_total",
            "Times that all entries were dropped.",
            stats.flushes,
        ),
        (
            "denied_total",
            "Times that the cluster asked for credentials.",
            stats.denied,
        ),
    ] {
        families.push(counter(format!("etcd_proxy_read_{name}"), help, value as f64));
    }
    families.push(labelled(
        "etcd_proxy_read_bypasses_total".to_owned(),
        "Reads that the cache wasn't asked for.",
        "reason",
        Reason::ALL.iter().map(|reason| reason.name()).zip(stats.bypasses),
    ));
    // Under the names, and of the kind, that the existing proxy has them.
    for (name, help, value) in [
        (
            "keys_total",
            "Total number of keys/ranges cached",
            stats.entries as f64,
        ),
        (
            "hits_total",
            "Total number of cache hits",
            (stats.hits_serializable + stats.hits_linearizable) as f64,
        ),
        (
            "misses_total",
            "Total number of cache misses",
            stats.forwarded as f64,
        ),
    ] {
        families.push(gauge(format!("etcd_grpc_proxy_cache_{name}"), help, value));
    }
    families
}
