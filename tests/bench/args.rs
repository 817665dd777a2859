//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Load generator for etcd endpoints, and side-by-side benchmark of proxies.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the same load against etcd directly, `etcd grpc-proxy` and etcd-proxy, in turns
    Compare(CompareArgs),
    /// Load one cluster or proxy
    Load(LoadArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// Where to connect to; connections are spread round robin over several
    #[arg(
        long = "endpoint",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) endpoints: Vec<String>,
    #[arg(long)]
    pub(crate) workload: Workload,
    /// HTTP/2 connections; 0: one for each watcher (watch-fanout only)
    #[arg(long, default_value_t = 10)]
    pub(crate) connections: usize,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Process whose CPU time and memory to report; may be repeated
    #[arg(long = "pid", value_name = "PID")]
    pub(crate) pids: Vec<u32>,
    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Folder with the `etcd` binary
    #[arg(long, value_name = "DIR")]
    pub(crate) etcd_bin: PathBuf,
    /// An etcd-proxy binary; may be repeated, and named as NAME=PATH
    #[arg(long = "proxy", value_name = "[NAME=]PATH")]
    pub(crate) proxies: Vec<String>,
    /// What the proxies run in front of
    #[arg(long, default_value_t = Upstream::Etcd)]
    pub(crate) upstream: Upstream,
    /// TLS with client certificates on both sides of every proxy, and towards etcd
    #[arg(long)]
    pub(crate) tls: bool,
    /// Rounds per workload and number of connections; the table shows medians over them
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// What to run, in this order
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [Workload::Put, Workload::RangeLinearizable, Workload::RangeSerializable]
    )]
    pub(crate) workloads: Vec<Workload>,
    /// HTTP/2 connections; a list runs each workload with each. 0: one for each watcher (watch-fanout only, the others
    /// are not run with it)
    #[arg(long, value_delimiter = ',', default_values_t = [10])]
    pub(crate) connections: Vec<usize>,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Print the reports of all rounds as one JSON array, and no table
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the proxies run in front of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Upstream {
    /// A real etcd
    Etcd,
    /// The in-memory etcd of the first --proxy, which can do more than a real one
    InMemory,
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no upstream is hidden");
        f.write_str(value.get_name())
    }
}

/// What the load generator does; `README.md` beside this file describes each.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Workload {
    Connect,
    LeaseKeepalive,
    #[value(name = "mixed-5")]
    Mixed5,
    #[value(name = "mixed-50")]
    Mixed50,
    Put,
    RangeLinearizable,
    RangeSerializable,
    Txn,
    WatchCreate,
    WatchFanout,
}

impl Workload {
    /// Whether it can be run with this number of connections. Watchers are too many for a connection each when
    /// creating them is all that is measured.
    pub(crate) fn allows(self, connections: usize) -> bool {
        connections > 0 || self == Self::WatchFanout
    }

    /// Whether its load is made of watchers.
    pub(crate) fn watches(self) -> bool {
        matches!(self, Self::WatchCreate | Self::WatchFanout)
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no workload is hidden");
        f.write_str(value.get_name())
    }
}

/// How much load, in which shape.
#[derive(Clone, Debug, Args)]
pub(crate) struct Shape {
    /// Requests that are always under way, over all connections
    #[arg(long, default_value_t = 100, value_parser = at_least_one)]
    pub(crate) tasks: usize,
    /// Bytes per value
    #[arg(long, default_value_t = 256)]
    pub(crate) value_size: usize,
    /// Distinct keys of put, range, txn and mixed
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    pub(crate) keys: usize,
    /// Measured time (watch-create has none: it runs until all watchers exist)
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Unmeasured time before
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(crate) warmup: Duration,
    /// Watchers [default: 1000 for watch-fanout, 20000 for watch-create, 10 for mixed]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) watchers: Option<usize>,
    /// watch-fanout: writers, each with a key of its own; with more than one the watchers watch all of these keys
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(crate) writers: usize,
    /// watch-fanout: puts per second of each writer; 0: as fast as the slowest watcher follows
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u32,
    /// watch-fanout without a rate: puts of each writer that the slowest watcher may be behind
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub(crate) behind: usize,
    /// Leases of lease-keepalive, at least as many as tasks
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    pub(crate) leases: usize,
}

impl Shape {
    /// Watchers of a workload. Creating few takes less time than CPU clocks can tell.
    pub(crate) fn watchers(&self, workload: Workload) -> usize {
        match workload {
            Workload::WatchCreate => self.watchers.unwrap_or(20_000),
            Workload::WatchFanout => self.watchers.unwrap_or(1000),
            Workload::Mixed5 | Workload::Mixed50 => self.watchers.unwrap_or(10),
            _ => 0,
        }
    }
}

impl LoadArgs {
    /// Watchers, and the connections that they are spread over.
    pub(crate) fn watchers(&self) -> (usize, usize) {
        let watchers = self.shape.watchers(self.workload);
        match self.connections {
            0 => (watchers, watchers),
            connections => (watchers, connections.min(watchers)),
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// A number with a unit: `500ms`, `10s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number
        .parse()
        .map_err(|_| "expected a number and ms, s or m".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(60 * u64::from(number))),
        _ => Err("expected a number and ms, s or m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "10", "1h", "-1s", "1.5s", "1 s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
