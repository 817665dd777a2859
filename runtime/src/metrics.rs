//! What the process tells of itself, in the text format of Prometheus.

use core::time::Duration;
use std::sync::Arc;

use etcd_proxy_core::watch::Stats;
use prometheus::core::Collector;
use prometheus::{Counter, Encoder as _, IntCounter, IntGauge, Registry, TextEncoder};

use crate::watch::WatchHub;

/// The metrics of the process.
#[derive(Debug)]
pub(crate) struct Metrics {
    watch: Arc<WatchHub>,
}

impl Metrics {
    pub(crate) fn new(watch: Arc<WatchHub>) -> Self {
        Self { watch }
    }

    /// All of them, as they are now.
    ///
    /// # Errors
    /// When two have the same name, or a name is no name: faults of this module.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(self.watch.delivery().clone()))?;
        watch(&self.watch.stats(), &registry)?;
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// The hub's own counters and gauges. It has them as numbers; here they get their names.
fn watch(stats: &Stats, registry: &Registry) -> Result<(), prometheus::Error> {
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
        gauge(registry, &format!("etcd_proxy_watch_{name}"), help, value)?;
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
            "late_frames_total",
            "Responses sent from history.",
            stats.late_frames,
        ),
    ] {
        counter(registry, &format!("etcd_proxy_watch_{name}"), help, value)?;
    }
    let late = Counter::new(
        "etcd_proxy_watch_late_seconds_total",
        "How long responses sent from history have waited in it, together.",
    )?;
    late.inc_by(Duration::from_nanos(stats.late_nanos).as_secs_f64());
    register(registry, late)?;
    // Under the names that the existing proxy has them.
    gauge(
        registry,
        "etcd_grpc_proxy_watchers_coalescing_total",
        "Total number of current watchers coalescing",
        stats.watchers.saturating_sub(upstream_watchers),
    )?;
    counter(
        registry,
        "etcd_grpc_proxy_events_coalescing_total",
        "Total number of events coalescing",
        stats.events_out.saturating_sub(stats.events_in),
    )
}

fn gauge(registry: &Registry, name: &str, help: &str, value: usize) -> Result<(), prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    register(registry, gauge)
}

fn counter(registry: &Registry, name: &str, help: &str, value: u64) -> Result<(), prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    counter.inc_by(value);
    register(registry, counter)
}

fn register(registry: &Registry, metric: impl Collector + 'static) -> Result<(), prometheus::Error> {
    registry.register(Box::new(metric))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn each_metric_has_a_name_of_its_own() {
        let (worker, _mailbox) = mpsc::unbounded_channel();
        let hub = WatchHub::new(etcd_proxy_core::watch::Config::default(), 1, vec![worker]);
        let text = Metrics::new(Arc::new(hub)).text().unwrap();
        for line in [
            "# TYPE etcd_proxy_watch_client_watchers gauge",
            "etcd_proxy_watch_client_watchers 0",
            "# TYPE etcd_proxy_watch_events_sent_total counter",
            "etcd_proxy_watch_delivery_duration_seconds_count 0",
            "etcd_grpc_proxy_watchers_coalescing_total 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} isn't in {text}");
        }
    }
}
