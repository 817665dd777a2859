//! Metrics of certificates.

use std::collections::BTreeMap;

use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::family;
use crate::tls::Expiry;

/// When certificates end. Of those of one file with one subject only the first to end counts.
pub(super) fn families(expiries: &[Expiry]) -> Option<MetricFamily> {
    let mut ends = BTreeMap::<_, i64>::new();
    for Expiry {
        flag,
        path,
        subject,
        at,
    } in expiries
    {
        let end = ends.entry((*flag, path, subject)).or_insert(*at);
        *end = (*end).min(*at);
    }
    let metrics: Vec<Metric> = ends
        .into_iter()
        .map(|((flag, path, subject), at)| {
            let mut gauge = Gauge::default();
            gauge.set_value(at as f64);
            let mut metric = Metric::default();
            metric.set_gauge(gauge);
            let labels = [
                ("file", path.as_str()),
                ("flag", flag.trim_start_matches('-')),
                ("subject", subject),
            ];
            metric.set_label(labels.map(|(name, value)| label(name, value)).into());
            metric
        })
        .collect();
    (!metrics.is_empty()).then(|| {
        family(
            "etcd_proxy_tls_certificate_not_after_timestamp_seconds".to_owned(),
            "When a certificate ends that is in use, by the flag and the file that it is from and its subject, in seconds since 1970.",
            MetricType::GAUGE,
            metrics,
        )
    })
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(subject: &str, at: i64) -> Expiry {
        Expiry {
            flag: "--cacert",
            path: "ca.crt".to_owned(),
            subject: subject.to_owned(),
            at,
        }
    }

    #[test]
    fn namesakes_are_one_metric() {
        assert!(
            families(&[]).is_none(),
            "a family without metrics can't be written"
        );
        let family = families(&[ends("CN=a", 7), ends("CN=b", 5), ends("CN=a", 6)]).expect("some");
        let values: Vec<_> = family
            .get_metric()
            .iter()
            .map(|m| m.get_gauge().get_value())
            .collect();
        assert_eq!(values, [6.0, 5.0]);
    }
}
