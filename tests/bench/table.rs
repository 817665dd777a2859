//! Medians over rounds as a Markdown table.

use std::fmt::Write as _;

use crate::{
    args::{CompareArgs, Upstream},
    report::{Report, SATURATED},
    servers::GRPC_PROXY,
};

/// All rounds of one target.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) reports: Vec<Report>,
}

/// What was run, in words.
pub(crate) fn preamble(args: &CompareArgs) -> String {
    let shape = &args.shape;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let etcd = match args.upstream {
        Upstream::Etcd => "One etcd member (`--unsafe-no-fsync`: its disk is not measured)",
        Upstream::InMemory => "The in-memory etcd of the first proxy, a process of its own with one thread",
    };
    format!(
        "{etcd}, the proxies and the load \
         generator share {cores} cores. {} connections, {} tasks, {} B values, {} keys, {} \
         leases; {:?} per round after {:?} of warm-up. Medians of {} rounds taken in \
         turns; in parentheses the lowest and the highest round.\n",
        shape.connections,
        shape.tasks,
        shape.value_size,
        shape.keys,
        shape.leases,
        shape.duration,
        shape.warmup,
        args.rounds,
    )
}

/// The table of one workload, with everything that went wrong below it.
pub(crate) fn of(title: &str, measured: &[Measured]) -> String {
    let rows: Vec<_> = measured.iter().map(Row::of).collect();
    let row = |name: &str| rows.iter().find(|row| row.name == name);
    // etcd itself comes first.
    let (direct, existing) = (rows.first(), row(GRPC_PROXY));
    let mut text = format!(
        "### {title}\n\n\
         | target | ops/s | p50 µs | p99 µs | proxy CPU µs/op | etcd CPU µs/op | proxy RSS MiB \
         | proxy CPU ÷ grpc-proxy | ops/s ÷ grpc-proxy | ops/s ÷ direct |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for row in &rows {
        let to = |base: Option<&Row>, value: fn(&Row) -> Option<Spread>| {
            let base = value(base?)?.median;
            Some(value(row)?.median / base).filter(|ratio| ratio.is_finite())
        };
        let cells = [
            cell(row.speed.map(|speed| format!("{:.0}", speed.median))),
            cell(row.p50.map(|micros| format!("{:.0}", micros.median))),
            cell(row.p99.map(|micros| format!("{:.0}", micros.median))),
            cell(row.proxy_cpu.map(|cpu| cpu.with_range())),
            cell(row.etcd_cpu.map(|cpu| cpu.with_range())),
            cell(row.proxy_rss.map(|mib| format!("{:.1}", mib.median))),
            cell(to(existing, |row| row.proxy_cpu).map(|ratio| format!("{ratio:.2}"))),
            cell(to(existing, |row| row.speed).map(|ratio| format!("{ratio:.2}"))),
            cell(to(direct, |row| row.speed).map(|ratio| format!("{ratio:.2}"))),
        ];
        let _ = writeln!(text, "| {} | {} |", row.name, cells.join(" | "));
    }
    for target in measured {
        if target.reports.iter().any(Report::is_saturated) {
            let _ = writeln!(text, "\n{}: {SATURATED}.", target.name);
        }
        for (round, report) in target.reports.iter().enumerate() {
            if !report.is_sound() {
                let _ = write!(text, "\n**{}, round {}, went wrong:** ", target.name, round + 1);
                let kinds = report.errors.iter().chain(&report.problems);
                let kinds: Vec<_> = kinds.map(|(what, times)| format!("{times} × {what}")).collect();
                let _ = writeln!(text, "{} operations; {}", report.operations, kinds.join("; "));
            }
        }
    }
    text
}

fn cell(value: Option<String>) -> String {
    value.unwrap_or_else(|| "–".into())
}

struct Row {
    name: String,
    speed: Option<Spread>,
    p50: Option<Spread>,
    p99: Option<Spread>,
    proxy_cpu: Option<Spread>,
    etcd_cpu: Option<Spread>,
    proxy_rss: Option<Spread>,
}

impl Row {
    /// The first process of a report is etcd, the second, if any, the proxy.
    fn of(measured: &Measured) -> Self {
        let spread = |value: &dyn Fn(&Report) -> Option<f64>| {
            Spread::of(measured.reports.iter().map(value).collect::<Option<Vec<_>>>()?)
        };
        let cpu = |report: &Report, process: usize| {
            report.cpu_micros_per_operation(&report.processes.get(process)?.1)
        };
        Self {
            name: measured.name.clone(),
            speed: spread(&|report| Some(report.operations_per_second())),
            p50: spread(&|report| Some(report.latency.p50 as f64)),
            p99: spread(&|report| Some(report.latency.p99 as f64)),
            proxy_cpu: spread(&|report| cpu(report, 1)),
            etcd_cpu: spread(&|report| cpu(report, 0)),
            proxy_rss: spread(&|report| Some(report.processes.get(1)?.1.rss_kib as f64 / 1024.0)),
        }
    }
}

/// Median and extremes of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    /// None of nothing.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        // Of an even number of rounds the mean of the two in the middle.
        let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        Some(Self {
            low,
            median: middle,
            high,
        })
    }

    fn with_range(self) -> String {
        format!("{:.1} ({:.1}–{:.1})", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use etcd_proxy_tests::procstat::ProcStat;

    use super::*;
    use crate::{args::Workload, report::Latency};

    fn report(operations: u64, cpu_millis: &[u64]) -> Report {
        let spent = |&millis: &u64| ProcStat {
            cpu: Duration::from_millis(millis),
            rss_kib: 2048,
            rss_peak_kib: 4096,
        };
        Report {
            workload: Workload::Put,
            operations,
            elapsed: Duration::from_secs(2),
            latency: Latency {
                p50: 10,
                p90: 20,
                p99: 30,
                p999: 40,
                max: 50,
            },
            errors: BTreeMap::new(),
            problems: BTreeMap::new(),
            processes: cpu_millis.iter().map(|millis| (1, spent(millis))).collect(),
            own: spent(&0),
        }
    }

    #[test]
    fn medians() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[]), None);
        assert_eq!(
            spread(&[3.0, 1.0, 9.0]),
            Some(Spread {
                low: 1.0,
                median: 3.0,
                high: 9.0
            })
        );
        assert_eq!(
            spread(&[4.0, 1.0]),
            Some(Spread {
                low: 1.0,
                median: 2.5,
                high: 4.0
            })
        );
    }

    #[test]
    fn ratios_are_of_medians() {
        let measured = |name: &str, rounds: &[(u64, &[u64])]| Measured {
            name: name.into(),
            reports: rounds
                .iter()
                .map(|&(operations, cpu)| report(operations, cpu))
                .collect(),
        };
        let mut bad = report(5000, &[50, 100]);
        bad.problems.insert("events left out".into(), 3);
        let mut ours = measured("etcd-proxy", &[(5000, &[50, 100]), (5000, &[50, 200])]);
        ours.reports.push(bad);
        let text = of(
            "put",
            &[
                measured(
                    "etcd, direct",
                    &[(20_000, &[200]), (10_000, &[100]), (10_000, &[100])],
                ),
                measured(
                    GRPC_PROXY,
                    &[(4000, &[40, 200]), (4000, &[40, 160]), (400, &[4, 40])],
                ),
                ours,
            ],
        );
        let lines: Vec<_> = text.lines().skip(4).collect();
        let expected = [
            "| etcd, direct | 5000 | 10 | 30 | – | 10.0 (10.0–10.0) | – | – | 2.50 | 1.00 |",
            "| etcd grpc-proxy | 2000 | 10 | 30 | 50.0 (40.0–100.0) | 10.0 (10.0–10.0) | 2.0 \
             | 1.00 | 1.00 | 0.40 |",
            "| etcd-proxy | 2500 | 10 | 30 | 20.0 (20.0–40.0) | 10.0 (10.0–10.0) | 2.0 \
             | 0.40 | 1.25 | 0.50 |",
            "",
            "**etcd-proxy, round 3, went wrong:** 5000 operations; 3 × events left out",
        ];
        assert_eq!(lines, expected);
    }
}
