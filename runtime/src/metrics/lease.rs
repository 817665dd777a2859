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
            "Open lease keep-alive streams of clients.",
            stats.clients,
        ),
        (
            "upstream_streams",
            "Lease keep-alive streams to the cluster, also ones waiting to be opened.",
            stats.upstreams,
        ),
        (
            "leases",
            "Leases with heartbeats of clients that haven't ended as far as is known.",
            stats.leases,
        ),
        (
            "outbox_bytes",
            "Bytes of heartbeat answers waiting for clients to read.",
            stats.outbox_bytes,
        ),
    ] {
        families.push(gauge(format!("etcd_proxy_lease_{name}"), help, value as f64));
    }
    for (name, help, value) in [
        (
            "heartbeats_received_total",
            "Heartbeats of leases received from clients.",
            stats.heartbeats_in,
        ),
        (
            "heartbeats_sent_total",
            "Heartbeats of leases sent to the cluster.",
            stats.heartbeats_out,
        ),
        (
            "heartbeats_resent_total",
            "Heartbeats of leases sent to the cluster again because a stream was lost.",
            stats.resent,
        ),
        (
            "heartbeats_shared_total",
            "Heartbeats of clients that were served by a heartbeat sent for another one.",
            stats.shared,
        ),
        (
            "answers_total",
            "Heartbeat answers sent to clients.",
            stats.answers,
        ),
        (
            "stray_answers_total",
            "Heartbeat answers of the cluster that nothing had asked for.",
            stats.strays,
        ),
        (
            "stalls_total",
            "Lease keep-alive streams to the cluster given up because nothing was answered.",
            stats.stalls,
        ),
        (
            "refused_total",
            "Lease keep-alive streams of clients ended because the cluster refused.",
            stats.refused,
        ),
        (
            "timed_out_total",
            "Lease keep-alive streams of clients ended because no answer came in time.",
            stats.timed_out,
        ),
        (
            "leaderless_total",
            "Lease keep-alive streams of clients ended because the cluster has no leader.",
            stats.leaderless,
        ),
    ] {
        families.push(counter(format!("etcd_proxy_lease_{name}"), help, value as f64));
    }
    let bounds = LATENCY_BOUNDS.map(|bound| Duration::from_millis(bound).as_secs_f64());
    families.push(histogram(
        "etcd_proxy_lease_answer_duration_seconds".to_owned(),
        "Time between a heartbeat of a client and the answer.",
        &bounds,
        &stats.latency,
        Duration::from_nanos(stats.answer_nanos).as_secs_f64(),
    ));
    families
}
