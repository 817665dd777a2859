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
        (
            "client_watchers",
            "Watchers of clients, on all watch streams.",
            stats.watchers,
        ),
        (
            "lagging_watchers",
            "Watchers of clients that haven't been sent all events yet.",
            stats.behind,
        ),
        (
            "upstream_streams",
            "Watch streams to the cluster, also ones waiting to be opened again.",
            stats.upstreams,
        ),
        (
            "upstream_watchers",
            "Watchers in the cluster that the watchers of clients share.",
            upstream_watchers,
        ),
        (
            "catch_up_watchers",
            "Watchers in the cluster that replay history for watchers of clients.",
            stats.catch_up_sources,
        ),
        (
            "outbox_bytes",
            "Bytes of watch responses waiting for clients to read.",
            stats.outbox_bytes,
        ),
        (
            "history_bytes",
            "Bytes of events kept for watchers that join or lag.",
            stats.history_bytes,
        ),
    ] {
        families.push(gauge(format!("etcd_proxy_watch_{name}"), help, value as f64));
    }
    for (name, help, value) in [
        (
            "events_received_total",
            "Events received from the cluster on watch streams.",
            stats.events_in,
        ),
        (
            "events_sent_total",
            "Events sent to watchers of clients.",
            stats.events_out,
        ),
        (
            "lags_total",
            "Times a watcher fell behind because a client was slow.",
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
            "Watchers of clients cancelled because of a compaction of events still to come.",
            stats.compacted,
        ),
        (
            "denied_total",
            "Watchers of clients refused or cancelled for lack of permission.",
            stats.denied,
        ),
        (
            "histories_total",
            "Times that the store turned out to have another history, and all watches ended.",
            stats.histories,
        ),
        (
            "doubts_total",
            "Questions of the watch hub because a member knew less than others, or is one of another cluster.",
            stats.doubts,
        ),
        (
            "late_frames_total",
            "Watch responses sent from history instead of live.",
            stats.late_frames,
        ),
    ] {
        families.push(counter(format!("etcd_proxy_watch_{name}"), help, value as f64));
    }
    families.push(counter(
        "etcd_proxy_watch_late_seconds_total".to_owned(),
        "Seconds that all watch responses sent from history have waited there.",
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
