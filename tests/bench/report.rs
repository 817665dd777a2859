//! The result of one run, for people and for programs.

use std::{collections::BTreeMap, fmt, time::Duration};

use etcd_proxy_tests::procstat::ProcStat;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{
    args::{LoadArgs, Workload},
    measure::{Recorder, Usage},
};

/// Everything that one run measured.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) workload: Workload,
    /// 0 for workloads without.
    pub(crate) watchers: usize,
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
    /// Of operations, in microseconds.
    pub(crate) latency: Latency,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) problems: BTreeMap<String, u64>,
    pub(crate) processes: Vec<Process>,
    /// The same of the load generator.
    pub(crate) own: ProcStat,
}

/// What a process that was watched has spent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) id: u32,
    /// CPU time inside the window, memory at its end.
    pub(crate) spent: ProcStat,
    /// Memory in RAM before the first connection, in KiB.
    pub(crate) rss_idle_kib: u64,
    /// The same when all watchers of watch-fanout were there, and nothing had been written yet.
    pub(crate) rss_unloaded_kib: u64,
}

/// In microseconds; 0 when nothing was counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Latency {
    fn of(latency: &Histogram<u64>) -> Self {
        Self {
            p50: latency.value_at_quantile(0.5),
            p90: latency.value_at_quantile(0.9),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
            max: latency.max(),
        }
    }
}

impl Report {
    /// `idle`: before the load, of the same processes as `usage`.
    pub(crate) fn new(args: &LoadArgs, recorder: &Recorder, idle: &Usage, usage: Usage) -> Self {
        let counts = recorder.counts();
        let before = idle.processes.iter().zip(&usage.rss_unloaded_kib);
        let processes = usage.processes.iter().zip(before);
        let processes = processes.map(|(&(id, spent), ((_, idle), &unloaded))| Process {
            id,
            spent,
            rss_idle_kib: idle.rss_kib,
            rss_unloaded_kib: unloaded,
        });
        Self {
            workload: args.workload,
            watchers: if args.workload.watches() {
                args.shape.watchers(args.workload)
            } else {
                0
            },
            operations: counts.operations,
            elapsed: usage.elapsed,
            latency: Latency::of(&counts.latency),
            errors: counts.errors.clone(),
            problems: counts.problems.clone(),
            processes: processes.collect(),
            own: usage.own,
        }
    }

    pub(crate) fn operations_per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU time per operation in microseconds; None without operations.
    pub(crate) fn cpu_micros_per_operation(&self, spent: &ProcStat) -> Option<f64> {
        (self.operations > 0).then(|| spent.cpu.as_secs_f64() * 1e6 / self.operations as f64)
    }

    /// By how much memory has grown since before the first connection, for each watcher, in KiB; None without watchers.
    pub(crate) fn rss_kib_per_watcher(&self, process: &Process) -> Option<f64> {
        self.growth_per_watcher(process, process.spent.rss_kib)
    }

    /// The same, before anything was written; None unless that was measured.
    pub(crate) fn rss_kib_per_silent_watcher(&self, process: &Process) -> Option<f64> {
        let growth = self.growth_per_watcher(process, process.rss_unloaded_kib);
        growth.filter(|_| self.workload == Workload::WatchFanout)
    }

    fn growth_per_watcher(&self, process: &Process, rss_kib: u64) -> Option<f64> {
        let growth = rss_kib.saturating_sub(process.rss_idle_kib);
        (self.watchers > 0).then(|| growth as f64 / self.watchers as f64)
    }

    /// Whether the numbers mean anything: something was measured, and nothing went wrong.
    pub(crate) fn is_sound(&self) -> bool {
        self.operations > 0 && self.errors.is_empty() && self.problems.is_empty()
    }

    /// Whether the load generator had hardly any time to spare, so that its own speed was measured.
    pub(crate) fn is_saturated(&self) -> bool {
        self.own.cpu.as_secs_f64() > 0.9 * self.elapsed.as_secs_f64()
    }

    pub(crate) fn to_json(&self) -> Value {
        let process = |spent: &ProcStat| {
            json!({
                "cpu_seconds": spent.cpu.as_secs_f64(),
                "cpu_micros_per_operation": self.cpu_micros_per_operation(spent),
                "rss_kib": spent.rss_kib,
                "rss_peak_kib": spent.rss_peak_kib,
            })
        };
        let watched = |watched: &Process| {
            let mut json = process(&watched.spent);
            json["rss_idle_kib"] = watched.rss_idle_kib.into();
            json["rss_unloaded_kib"] = watched.rss_unloaded_kib.into();
            json["rss_kib_per_watcher"] = self.rss_kib_per_watcher(watched).into();
            json["rss_kib_per_silent_watcher"] = self.rss_kib_per_silent_watcher(watched).into();
            (watched.id.to_string(), json)
        };
        let processes: serde_json::Map<_, _> = self.processes.iter().map(watched).collect();
        json!({
            "workload": self.workload.to_string(),
            "watchers": self.watchers,
            "sound": self.is_sound(),
            "operations": self.operations,
            "seconds": self.elapsed.as_secs_f64(),
            "operations_per_second": self.operations_per_second(),
            "latency_micros": {
                "p50": self.latency.p50,
                "p90": self.latency.p90,
                "p99": self.latency.p99,
                "p99.9": self.latency.p999,
                "max": self.latency.max,
            },
            "errors": self.errors,
            "problems": self.problems,
            "processes": processes,
            "load_generator": process(&self.own),
            "load_generator_saturated": self.is_saturated(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} operations in {:.2} s, {:.0} per second",
            self.workload,
            self.operations,
            self.elapsed.as_secs_f64(),
            self.operations_per_second()
        )?;
        let Latency {
            p50,
            p90,
            p99,
            p999,
            max,
        } = self.latency;
        writeln!(
            f,
            "latency µs: p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max}"
        )?;
        let own = ("load generator".to_owned(), &self.own);
        let others = self
            .processes
            .iter()
            .map(|process| (format!("process {}", process.id), &process.spent));
        for (name, spent) in others.chain([own]) {
            writeln!(
                f,
                "{name}: CPU {:.2} s, {:.1} µs per operation, {:.0} % of one core; \
                 RSS {} KiB, peak {} KiB",
                spent.cpu.as_secs_f64(),
                self.cpu_micros_per_operation(spent).unwrap_or(f64::NAN),
                100.0 * spent.cpu.as_secs_f64() / self.elapsed.as_secs_f64(),
                spent.rss_kib,
                spent.rss_peak_kib
            )?;
        }
        for process in &self.processes {
            if let Some(kib) = self.rss_kib_per_watcher(process) {
                write!(f, "process {}: RSS {kib:.1} KiB per watcher", process.id)?;
                match self.rss_kib_per_silent_watcher(process) {
                    Some(kib) => writeln!(f, ", {kib:.1} KiB before anything was written")?,
                    None => writeln!(f)?,
                }
            }
        }
        for (kind, kinds) in [("error", &self.errors), ("PROBLEM", &self.problems)] {
            for (what, times) in kinds {
                writeln!(f, "{kind}: {times} × {what}")?;
            }
        }
        if self.is_saturated() {
            writeln!(f, "note: {SATURATED}")?;
        }
        if self.operations == 0 {
            writeln!(f, "PROBLEM: nothing was measured")?;
        }
        Ok(())
    }
}

pub(crate) const SATURATED: &str =
    "the load generator used up its core: throughput and latency are its own, not the server's";
