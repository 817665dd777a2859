//! Medians over rounds as a Markdown table.

use std::fmt::Write as _;

use crate::{
    args::{CompareArgs, Upstream},
    report::{Report, SATURATED},
    servers::GRPC_PROXY,
};

/// All rounds of one target.
#[derive(Debug, Default)]
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
         generator share {cores} cores. {} tasks, {} B values, {} keys, {} \
         leases; {:?} per round after {:?} of warm-up. Medians of {} rounds taken in \
         turns; in parentheses the lowest and the highest round.\n",
        shape.tasks, shape.value_size, shape.keys, shape.leases, shape.duration, shape.warmup, args.rounds,
    )
}

/// The table of one workload, with everything that went wrong below it.
pub(crate) fn of(title: &str, measured: &[Measured]) -> String {
    let rows: Vec<_> = measured.iter().map(Row::of).collect();
    let row = |name: &str| rows.iter().find(|row| row.name == name);
    // etcd itself comes first.
    let (direct, existing) = (rows.first(), row(GRPC_PROXY));
    let mut text = format!("### {title}\n\n");
    for (index, row) in rows.iter().enumerate() {
        let columns = row.columns(direct, existing);
        if index == 0 {
            let names: String = columns.iter().map(|(name, _)| format!(" {name} |")).collect();
            let _ = writeln!(text, "| target |{names}\n|---|{}", "--:|".repeat(columns.len()));
        }
        let cells: String = columns.iter().map(|(_, cell)| format!(" {cell} |")).collect();
        let _ = writeln!(text, "| {} |{cells}", row.name);
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

struct Row {
    name: String,
    speed: Option<Spread>,
    p50: Option<Spread>,
    p99: Option<Spread>,
    proxy_cpu: Option<Spread>,
    etcd_cpu: Option<Spread>,
    proxy_rss: Option<Spread>,
    /// None without watchers.
    rss_per_watcher: Option<Spread>,
    rss_per_silent_watcher: Option<Spread>,
    watches: bool,
}

impl Row {
    /// The first process of a report is etcd, the second, if any, the proxy.
    fn of(measured: &Measured) -> Self {
        let spread = |value: &dyn Fn(&Report) -> Option<f64>| {
            Spread::of(measured.reports.iter().map(value).collect::<Option<Vec<_>>>()?)
        };
        let cpu = |report: &Report, process: usize| {
            report.cpu_micros_per_operation(&report.processes.get(process)?.spent)
        };
        Self {
            name: measured.name.clone(),
            speed: spread(&|report| Some(report.operations_per_second())),
            p50: spread(&|report| Some(report.latency.p50 as f64)),
            p99: spread(&|report| Some(report.latency.p99 as f64)),
            proxy_cpu: spread(&|report| cpu(report, 1)),
            etcd_cpu: spread(&|report| cpu(report, 0)),
            proxy_rss: spread(&|report| Some(report.processes.get(1)?.spent.rss_kib as f64 / 1024.0)),
            rss_per_watcher: spread(&|report| report.rss_kib_per_watcher(report.processes.get(1)?)),
            rss_per_silent_watcher: spread(&|report| {
                report.rss_kib_per_silent_watcher(report.processes.get(1)?)
            }),
            watches: measured.reports.iter().any(|report| report.watchers > 0),
        }
    }

    /// The names of the columns and what is in them.
    fn columns(&self, direct: Option<&Self>, existing: Option<&Self>) -> Vec<(&'static str, String)> {
        let ratio = |base: Option<&Self>, value: fn(&Self) -> Option<Spread>| {
            let ratio = value(self)?.median / value(base?)?.median;
            ratio.is_finite().then(|| format!("{ratio:.2}"))
        };
        let whole = |value: Option<Spread>| value.map(|value| format!("{:.0}", value.median));
        let tenths = |value: Option<Spread>| value.map(|value| format!("{:.1}", value.median));
        let mut columns = vec![
            ("ops/s", whole(self.speed)),
            ("p50 µs", whole(self.p50)),
            ("p99 µs", whole(self.p99)),
            ("proxy CPU µs/op", self.proxy_cpu.map(Spread::with_range)),
            ("etcd CPU µs/op", self.etcd_cpu.map(Spread::with_range)),
            ("proxy RSS MiB", tenths(self.proxy_rss)),
        ];
        if self.watches {
            columns.push((
                "proxy RSS KiB/silent watcher",
                tenths(self.rss_per_silent_watcher),
            ));
            columns.push(("proxy RSS KiB/watcher", tenths(self.rss_per_watcher)));
        }
        columns.push(("proxy CPU ÷ grpc-proxy", ratio(existing, |row| row.proxy_cpu)));
        if self.watches {
            let silent = ratio(existing, |row| row.rss_per_silent_watcher);
            columns.push(("RSS/silent watcher ÷ grpc-proxy", silent));
            columns.push((
                "RSS/watcher ÷ grpc-proxy",
                ratio(existing, |row| row.rss_per_watcher),
            ));
            columns.push(("p99 ÷ grpc-proxy", ratio(existing, |row| row.p99)));
        }
        columns.push(("ops/s ÷ grpc-proxy", ratio(existing, |row| row.speed)));
        columns.push(("ops/s ÷ direct", ratio(direct, |row| row.speed)));
        let columns = columns.into_iter();
        columns
            .map(|(name, cell)| (name, cell.unwrap_or_else(|| "–".into())))
            .collect()
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
    use crate::{
        args::Workload,
        report::{Latency, Process},
    };

    fn report(operations: u64, cpu_millis: &[u64]) -> Report {
        let spent = |&millis: &u64| ProcStat {
            cpu: Duration::from_millis(millis),
            rss_kib: 2048,
            rss_peak_kib: 4096,
        };
        let process = |millis| Process {
            id: 1,
            spent: spent(millis),
            rss_idle_kib: 1024,
            rss_unloaded_kib: 1224,
        };
        Report {
            workload: Workload::Put,
            watchers: 0,
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
            processes: cpu_millis.iter().map(process).collect(),
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

    #[test]
    fn watchers_have_columns_of_their_own() {
        let measured = |name: &str, watchers: usize, cpu_millis: &[u64]| Measured {
            name: name.into(),
            reports: vec![Report {
                workload: Workload::WatchFanout,
                watchers,
                ..report(4000, cpu_millis)
            }],
        };
        let text = of(
            "watch-fanout",
            &[
                measured("etcd, direct", 100, &[40]),
                measured(GRPC_PROXY, 100, &[40, 200]),
                measured("etcd-proxy", 400, &[40, 200]),
            ],
        );
        let lines: Vec<Vec<_>> = text
            .lines()
            .skip(2)
            .map(|line| line.split(" | ").collect())
            .collect();
        // 200 and 1,024 KiB more than before, for 100 watchers and for 400.
        for (name, cells) in [
            ("proxy RSS KiB/silent watcher", ["–", "2.0", "0.5"]),
            ("RSS/silent watcher ÷ grpc-proxy", ["–", "1.00", "0.25"]),
            ("proxy RSS KiB/watcher", ["–", "10.2", "2.6"]),
            ("RSS/watcher ÷ grpc-proxy", ["–", "1.00", "0.25"]),
            ("p99 ÷ grpc-proxy", ["1.00", "1.00", "1.00"]),
        ] {
            let column = lines[0].iter().position(|column| *column == name).expect(name);
            assert_eq!([2, 3, 4].map(|line| lines[line][column]), cells, "{name}");
        }
    }
}
