//! The read cache's metrics: it has them as numbers, here they get their names.

use core::time::Duration;

use etcd_proxy_core::read::{Reason, Stats};
use prometheus::proto::MetricFamily;

use super::{counter, gauge, labelled};

/// `confirmed` is how long ago the watch was known to be in step with the cluster. Beyond `staleness_max` a check comes before
/// an answer.
pub(super) fn families(
    stats: &Stats,
    confirmed: Option<Duration>,
    staleness_max: Duration,
) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    for (name, help, value) in [
        ("entries", "Answers in the read cache.", stats.entries),
        (
            "bytes",
            "Memory taken by the answers in the read cache; 0 when none is cached.",
            stats.bytes,
        ),
        (
            "index_bytes",
            "Memory taken by the index of the read cache, most of which is there when no answer is cached. Together with etcd_proxy_read_bytes at most --cache-size.",
            stats.index_bytes,
        ),
        ("waiting", "Reads waiting for the read cache.", stats.waiters),
        (
            "forwarded",
            "Reads under way to the cluster whose answers may go to the read cache.",
            stats.flights,
        ),
        (
            "queued",
            "Reads queueing because too many for which the read cache took too long are under way to the cluster.",
            stats.queued,
        ),
        (
            "watched_revision",
            "Revision up to which the read cache knows all events; 0 without a watch.",
            usize::try_from(stats.watched).unwrap_or_default(),
        ),
    ] {
        families.push(gauge(format!("etcd_proxy_read_{name}"), help, value as f64));
    }
    families.push(gauge(
        "etcd_proxy_read_staleness_seconds".to_owned(),
        "How old an answer from the read cache to a serializable read can be now; at most --cache-staleness, since a check comes first when more time has passed; -1 without a watch, when nothing is answered from the read cache.",
        confirmed.map_or(-1.0, |confirmed| confirmed.min(staleness_max).as_secs_f64()),
    ));
    for (name, help, value) in [
        (
            "hits_serializable_total",
            "Serializable reads answered from the read cache.",
            stats.hits_serializable,
        ),
        (
            "hits_linearizable_total",
            "Linearizable reads answered from the read cache.",
            stats.hits_linearizable,
        ),
        (
            "forwarded_total",
            "Reads forwarded to the cluster whose answers might go to the read cache.",
            stats.forwarded,
        ),
        (
            "shared_total",
            "Reads answered with the answer to another read.",
            stats.shared,
        ),
        (
            "fallbacks_total",
            "Reads forwarded because the read cache took too long.",
            stats.fallbacks,
        ),
        (
            "checks_total",
            "Revision checks of the read cache sent to the cluster.",
            stats.checks,
        ),
        (
            "progress_requests_total",
            "Progress requests sent on the watch of the read cache.",
            stats.progress_asked,
        ),
        (
            "admitted_total",
            "Answers taken into the read cache.",
            stats.admitted,
        ),
        (
            "invalidated_total",
            "Answers dropped from the read cache because a key changed, or may have.",
            stats.invalidated,
        ),
        (
            "evicted_total",
            "Answers dropped from the read cache to make room.",
            stats.evicted,
        ),
        (
            "flushes_total",
            "Times all answers were dropped from the read cache.",
            stats.flushes,
        ),
        (
            "denied_total",
            "Times the cluster asked the read cache for credentials.",
            stats.denied,
        ),
    ] {
        families.push(counter(format!("etcd_proxy_read_{name}"), help, value as f64));
    }
    families.push(labelled(
        "etcd_proxy_read_bypasses_total".to_owned(),
        "Reads the read cache wasn't asked for, by reason.",
        "reason",
        Reason::ALL.iter().map(|reason| reason.name()).zip(stats.bypasses),
    ));
    // Under the names that the existing proxy has them. There all are gauges.
    families.push(gauge(
        "etcd_grpc_proxy_cache_keys_total".to_owned(),
        "Total number of keys/ranges cached",
        stats.entries as f64,
    ));
    for (name, help, value) in [
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
        families.push(counter(format!("etcd_grpc_proxy_cache_{name}"), help, value));
    }
    families
}
