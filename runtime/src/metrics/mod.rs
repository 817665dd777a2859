//! What the process tells of itself, in the text format of Prometheus.

mod lease;
mod read;
mod tls;
mod watch;

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_proxy_core::lease::Router;
use etcd_proxy_core::read::Cache;
use etcd_proxy_core::watch::Hub;
use prometheus::core::Collector as _;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

use crate::lease::LeaseRouter;
use crate::read::ReadCache;
use crate::tls::Expiries;
use crate::watch::WatchHub;

/// The metrics of the process.
#[derive(Debug)]
pub(crate) struct Metrics {
    watch: Arc<WatchHub>,
    lease: Arc<LeaseRouter>,
    reads: Arc<ReadCache>,
    /// Endpoints of another cluster.
    foreign: Arc<AtomicUsize>,
    /// Of certificates.
    expiries: Arc<Expiries>,
    /// `--cache-staleness`.
    staleness_max: Duration,
}

impl Metrics {
    pub(crate) fn new(
        watch: Arc<WatchHub>,
        lease: Arc<LeaseRouter>,
        reads: Arc<ReadCache>,
        foreign: Arc<AtomicUsize>,
        expiries: Arc<Expiries>,
        staleness_max: Duration,
    ) -> Self {
        Self {
            watch,
            lease,
            reads,
            foreign,
            expiries,
            staleness_max,
        }
    }

    /// All of them, as they are now.
    ///
    /// # Errors
    /// When one can't be written: a fault of this module.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let mut families = watch::families(&self.watch.look(Hub::stats));
        families.extend(self.watch.delivery().collect());
        families.extend(lease::families(&self.lease.look(Router::stats)));
        families.extend(self.lease.delivery().collect());
        let stats = self.reads.look(Cache::stats);
        let confirmed = stats.confirmed_at.map(|then| self.reads.since(then));
        families.extend(read::families(&stats, confirmed, self.staleness_max));
        families.push(gauge(
            "etcd_proxy_endpoints_foreign".to_owned(),
            "Endpoints left unused as members of another cluster than the one in use.",
            self.foreign.load(Ordering::Relaxed) as f64,
        ));
        families.extend(tls::families(&self.expiries.all()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        let mut text = String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))?;
        for name in UNTYPED {
            // The encoder knows no other kind.
            text = text.replace(
                &format!("# TYPE {name} gauge\n"),
                &format!("# TYPE {name} untyped\n"),
            );
        }
        Ok(text)
    }
}

/// Metrics of the existing proxy that go up and down, though `_total` at the end of their names says that they only grow. So
/// their type is left open: whoever knows them by name finds them, and nobody takes them for counters, or bad gauges.
const UNTYPED: [&str; 2] = [
    "etcd_grpc_proxy_cache_keys_total",
    "etcd_grpc_proxy_watchers_coalescing_total",
];

fn family(name: String, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name);
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// Numbers stay exact up to 2^53, as far as Prometheus itself goes.
fn gauge(name: String, help: &str, value: f64) -> MetricFamily {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_gauge(gauge);
    family(name, help, MetricType::GAUGE, vec![metric])
}

fn counter(name: String, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![count(value)])
}

fn count(value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::default();
    metric.set_counter(counter);
    metric
}

/// A counter for each value of a label.
fn labelled(
    name: String,
    help: &str,
    label: &str,
    counts: impl Iterator<Item = (&'static str, u64)>,
) -> MetricFamily {
    let metrics = counts.map(|(value, counted)| {
        let mut pair = LabelPair::default();
        pair.set_name(label.to_owned());
        pair.set_value(value.to_owned());
        let mut metric = count(counted as f64);
        metric.set_label(vec![pair]);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics.collect())
}

/// `counts` are those of each bucket alone; the last one's has no bound.
fn histogram(name: String, help: &str, bounds: &[f64], counts: &[u64], sum: f64) -> MetricFamily {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, count) in bounds.iter().zip(counts) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use tokio::sync::mpsc;

    use super::*;
    use crate::shown::Shown;

    /// The metrics of a proxy that has just started.
    pub(crate) fn metrics() -> Metrics {
        let (watch_worker, _watch_mailbox) = mpsc::unbounded_channel();
        let hub = Hub::new(etcd_proxy_core::watch::Config::default(), 1);
        let shown = Arc::<Shown>::default();
        let watch = Arc::new(WatchHub::new(hub, "watch", shown.clone(), vec![watch_worker]));
        let (lease_worker, _lease_mailbox) = mpsc::unbounded_channel();
        let router = Router::new(etcd_proxy_core::lease::Config::default(), 1);
        let lease = Arc::new(LeaseRouter::new(
            router,
            "lease",
            shown.clone(),
            vec![lease_worker],
        ));
        let (read_worker, _read_mailbox) = mpsc::unbounded_channel();
        let config = etcd_proxy_core::read::Config::default();
        let scope = config.scope.clone();
        let reads = ReadCache::new(
            Cache::new(config, 1),
            scope,
            shown,
            watch.clone(),
            lease.clone(),
            vec![read_worker],
        );
        Metrics::new(
            watch,
            lease,
            Arc::new(reads),
            Arc::default(),
            Arc::default(),
            Duration::from_secs(1),
        )
    }

    fn text() -> String {
        metrics().text().unwrap()
    }

    #[test]
    fn each_metric_has_a_name_of_its_own() {
        let text = text();
        for line in [
            "# TYPE etcd_proxy_watch_client_watchers gauge",
            "etcd_proxy_watch_client_watchers 0",
            "# TYPE etcd_proxy_watch_events_sent_total counter",
            "etcd_proxy_watch_delivery_duration_seconds_count 0",
            "etcd_grpc_proxy_watchers_coalescing_total 0",
            "# TYPE etcd_proxy_read_bypasses_total counter",
            "etcd_proxy_read_bypasses_total{reason=\"watch_down\"} 0",
            "etcd_grpc_proxy_cache_keys_total 0",
            "# TYPE etcd_proxy_lease_answer_duration_seconds histogram",
            "etcd_proxy_lease_answer_duration_seconds_bucket{le=\"+Inf\"} 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} isn't in {text}");
        }
        let types = text.lines().filter(|line| line.starts_with("# TYPE"));
        let names = types.map(|line| line.split(' ').nth(2)).collect::<Vec<_>>();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{text}");
    }

    /// What `promtool check metrics` looks at, and more of the HELP texts: each is read alone.
    #[test]
    fn metrics_keep_the_conventions() {
        let text = text();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                if kind != "untyped" {
                    assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
                }
                assert!(
                    !["_count", "_sum", "_bucket", "_info"]
                        .iter()
                        .any(|end| name.ends_with(end)),
                    "{name}"
                );
                assert!(
                    name.bytes()
                        .all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte)),
                    "{name}"
                );
                for unit in ["milliseconds", "nanoseconds", "minutes", "kilobytes", "megabytes"] {
                    assert!(!name.contains(unit), "{name} isn't in base units");
                }
                if kind != "untyped" && kind != "counter" {
                    for type_name in ["gauge", "counter", "histogram"] {
                        assert!(!name.contains(type_name), "{name} names its type");
                    }
                }
            }
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                let words = help.split(|c: char| !c.is_alphanumeric());
                for word in words {
                    assert!(
                        !["it", "its", "they", "them", "their", "those", "these"]
                            .contains(&word.to_ascii_lowercase().as_str()),
                        "{name}: \"{word}\" stands for something that isn't said: {help}"
                    );
                }
                // What the name is about is in the text as well.
                let about: &[&str] = match name
                    .strip_prefix("etcd_proxy_")
                    .and_then(|name| name.split('_').next())
                {
                    Some("watch") => &["watch"],
                    Some("lease") => &["lease", "heartbeat", "keep-alive"],
                    Some("read") => &["read"],
                    _ => &[""],
                };
                let help = help.to_lowercase();
                assert!(about.iter().any(|about| help.contains(about)), "{name}: {help}");
            }
        }
    }

    /// What is asked for before anything has happened is no number of something else.
    #[test]
    fn an_idle_proxy_shows_nothing() {
        let text = text();
        let value = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name}"))
                .parse::<f64>()
                .unwrap()
        };
        for name in ["entries", "bytes", "waiting", "forwarded", "watched_revision"] {
            assert_eq!(value(&format!("etcd_proxy_read_{name}")), 0.0, "{name}");
        }
        assert!(value("etcd_proxy_read_index_bytes") > 0.0);
    }

    #[test]
    fn buckets_add_up() {
        let family = histogram("h".to_owned(), "Help.", &[0.1, 0.2], &[1, 2, 4], 1.5);
        let mut text = Vec::new();
        TextEncoder::new().encode(&[family], &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            "h_bucket{le=\"0.1\"} 1",
            "h_bucket{le=\"0.2\"} 3",
            "h_bucket{le=\"+Inf\"} 7",
            "h_sum 1.5",
            "h_count 7",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} isn't in {text}");
        }
    }
}
