//! The watch hub's metrics: it has them as numbers, here they get their names.

use core::time::Duration;

use etcd_proxy_core::watch::Stats;
use prometheus::proto::MetricFamily;

use super::{counter, gauge};

pub(super) fn families(stats: &Stats) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    let upstream_watchers = stats.live_sources + stats.catch_up_sources;
    for (name, help, value) in [
        ("client_streams", "Open watch streams of clients.", stats.clients),
        ("client_watchers", "Watchers of clients.", stats.watchers),
        (
            "lagging_watchers",
            "Watchers of clients that haven't been sent all events yet.",
            stats.behind,
        ),
        (
            "upstream_streams",
            "Watch streams to the cluster, also those that wait to be opened again.",
            stats.upstreams,
        ),
        (
            "upstream_watchers",
            "Watchers that the cluster has for this proxy.",
            upstream_watchers,
        ),
        (
            "catch_up_watchers",
            "Those of them that replay history.",
            stats.catch_up_sources,
        ),
        ("outbox_bytes", "Bytes that wait for clients.", stats.outbox_bytes),
        (
            "history_bytes",
            "Bytes of events that are kept for watchers that join or lag.",
            stats.history_bytes,
        ),
    ] {
        families.push(gauge(format!("etcd_proxy_watch_{name}"), help, value as f64));
    }
    for (name, help, value) in [
        (
            "events_received_total",
            "Events received from the cluster.",
            stats.events_in,
        ),
        ("events_sent_total", "Events sent to clients.", stats.events_out),
        (
            "lags_total",
            "Times that a watcher fell behind because its client was slow.",
            stats.lagged,
        ),
        (
            "catch_ups_total",
            "Watchers created in the cluster to replay history.",
            stats.catch_ups,
        ),
        (
            "resumes_total",
            "Times that a watcher in the cluster had to be created again.",
            stats.resumes,
        ),
        (
            "compacted_total",
            "Watchers of clients cancelled because their history was compacted.",
            stats.compacted,
        ),
        (
            "denied_total",
            "Watchers of clients refused or cancelled for their credentials.",
            stats.denied,
        ),
        (
            "histories_total",
            "Times that the store turned out to have another history, and all watches ended.",
            stats.histories,
        ),
        (
            "doubts_total",
            "Questions because a member knew less than others, or is one of another cluster.",
            stats.doubts,
        ),
        (
            "late_frames_total",
            "Responses sent from history.",
            stats.late_frames,
        ),
    ] {
        families.push(counter(format!("etcd_proxy_watch_{name}"), help, value as f64));
    }
    families.push(counter(
        "etcd_proxy_watch_late_seconds_total".to_owned(),
        "How long responses sent from history have waited in it, together.",
        Duration::from_nanos(stats.late_nanos).as_secs_f64(),
    ));
    // Under the names that the existing proxy has them.
    families.push(gauge(
        "etcd_grpc_proxy_watchers_coalescing_total".to_owned(),
        "Total number of current watchers coalescing",
        stats.watchers.saturating_sub(upstream_watchers) as f64,
    ));
    families.push(counter(
        "etcd_grpc_proxy_events_coalescing_total".to_owned(),
        "Total number of events coalescing",
        stats.events_out.saturating_sub(stats.events_in) as f64,
    ));
    families
}
