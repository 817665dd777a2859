//! The lease router's metrics: it has them as numbers, here they get their names.

use core::time::Duration;

use etcd_proxy_core::lease::{LATENCY_BOUNDS, Stats};
use prometheus::proto::MetricFamily;

use super::{counter, gauge, histogram};

pub(super) fn families(stats: &Stats) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    for (name, help, value) in [
        (
            "client_streams",
            "Open keep-alive streams of clients.",
            stats.clients,
        ),
        (
            "upstream_streams",
            "Keep-alive streams to the cluster, also those that wait to be opened.",
            stats.upstreams,
        ),
        (
            "leases",
            "Leases that heartbeats came for and that haven't ended, as far as is known.",
            stats.leases,
        ),
        ("outbox_bytes", "Bytes that wait for clients.", stats.outbox_bytes),
    ] {
        families.push(gauge(format!("etcd_proxy_lease_{name}"), help, value as f64));
    }
    for (name, help, value) in [
        (
            "heartbeats_received_total",
            "Heartbeats that clients sent.",
            stats.heartbeats_in,
        ),
        (
            "heartbeats_sent_total",
            "Heartbeats sent to the cluster.",
            stats.heartbeats_out,
        ),
        (
            "heartbeats_resent_total",
            "Those of them that were sent again because their stream was lost.",
            stats.resent,
        ),
        (
            "heartbeats_shared_total",
            "Heartbeats of clients that were served by a heartbeat sent for another one.",
            stats.shared,
        ),
        ("answers_total", "Answers sent to clients.", stats.answers),
        (
            "stray_answers_total",
            "Answers of the cluster to nothing that was asked.",
            stats.strays,
        ),
        (
            "stalls_total",
            "Upstream streams given up because nothing was answered on them.",
            stats.stalls,
        ),
        (
            "refused_total",
            "Client streams ended because the cluster refused.",
            stats.refused,
        ),
        (
            "timed_out_total",
            "Client streams ended because no answer came in time.",
            stats.timed_out,
        ),
        (
            "leaderless_total",
            "Client streams ended because the cluster has no leader.",
            stats.leaderless,
        ),
    ] {
        families.push(counter(format!("etcd_proxy_lease_{name}"), help, value as f64));
    }
    let bounds = LATENCY_BOUNDS.map(|bound| Duration::from_millis(bound).as_secs_f64());
    families.push(histogram(
        "etcd_proxy_lease_answer_duration_seconds".to_owned(),
        "How long heartbeats of clients have waited for their answers.",
        &bounds,
        &stats.latency,
        Duration::from_nanos(stats.answer_nanos).as_secs_f64(),
    ));
    families
}
