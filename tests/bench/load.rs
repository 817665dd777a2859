//! One run of one workload against one target.

use std::{fmt, io, sync::Arc, time::Duration};

use etcd_proxy_tests::wire::{Wire, WireOptions};
use tokio::{
    task::{JoinError, JoinSet},
    time::{sleep, timeout, timeout_at},
};

use crate::{
    args::{LoadArgs, Workload},
    connect, create, fanout, keepalive,
    measure::{Recorder, Usage},
    mixed,
    report::Report,
    unary,
};

/// Why a run could not be done at all. What merely goes wrong while it runs is in the report.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    pub(crate) fn panicked(error: JoinError) -> Self {
        Self(format!("a task of the load generator failed: {error}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) async fn run(args: &LoadArgs) -> Result<Report, Failure> {
    if !args.workload.allows(args.connections) {
        return Err(Failure::new("0 connections are for watch-fanout only"));
    }
    let idle = Usage::start(&args.pids)?;
    let run = async {
        match args.workload {
            Workload::Connect => connect::run(args).await,
            Workload::LeaseKeepalive => keepalive::run(args).await,
            Workload::Put | Workload::RangeLinearizable | Workload::RangeSerializable | Workload::Txn => {
                unary::run(args).await
            }
            Workload::Mixed5 => mixed::run(args, 5).await,
            Workload::Mixed50 => mixed::run(args, 50).await,
            Workload::WatchCreate => create::run(args).await,
            Workload::WatchFanout => fanout::run(args).await,
        }
    };
    let limit = args.shape.warmup + args.shape.duration + AROUND_MAX;
    let (recorder, usage) = timeout(limit, run)
        .await
        .map_err(|_| Failure::new("not finished 10 minutes after the measured time"))??;
    Ok(Report::new(args, &recorder, &idle, usage))
}

/// Connects `count` times, round robin over the endpoints.
pub(crate) async fn connect_all(endpoints: &[String], count: usize) -> Result<Vec<Wire>, Failure> {
    // Windows so large that this client is never what holds a server back.
    let options = WireOptions {
        stream_window_bytes: 4 << 20,
        connection_window_bytes: 64 << 20,
    };
    let mut wires = Vec::with_capacity(count);
    for endpoint in endpoints.iter().cycle().take(count) {
        let wire = Wire::connect_with(endpoint, &options).await;
        wires.push(wire.map_err(|error| Failure::new(format!("{endpoint}: {error}")))?);
    }
    Ok(wires)
}

/// Waits for closed-loop tasks, which end by themselves soon after the window. Those that do not
/// within `grace` are a problem of the server.
pub(crate) async fn join_all(
    mut tasks: JoinSet<Result<(), Failure>>,
    recorder: &Arc<Recorder>,
    grace: Duration,
) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::from_std(recorder.until() + grace);
    loop {
        match timeout_at(deadline, tasks.join_next()).await {
            Ok(Some(ended)) => ended.map_err(Failure::panicked)??,
            Ok(None) => return Ok(()),
            Err(_) => {
                recorder.problem("calls that were never answered", tasks.len() as u64);
                return Ok(());
            }
        }
    }
}

/// Keeps a dead server from turning the closed loop into a busy one.
pub(crate) async fn pause_after_error() {
    sleep(Duration::from_millis(10)).await;
}

/// A part of a key that no other run uses, so that runs do not see each other's events.
pub(crate) fn nonce() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!(
        "{:x}-{:x}",
        std::process::id(),
        now.unwrap_or_default().as_nanos()
    )
}

/// How many of `total` fall to one of `parts`, spread evenly.
pub(crate) fn share(total: usize, parts: usize, part: usize) -> usize {
    total / parts + usize::from(part < total % parts)
}

/// How long answers may take after the end of the window.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Preparing and checking, which are not measured, take far less; a server that hangs must not
/// hang the load generator.
const AROUND_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_differ_by_one() {
        for (total, parts) in [(0, 1), (7, 3), (9, 3), (2, 5), (1000, 7)] {
            let shares: Vec<_> = (0..parts).map(|part| share(total, parts, part)).collect();
            assert_eq!(shares.iter().sum::<usize>(), total);
            assert!(shares[0] - shares[parts - 1] <= 1);
        }
    }

    #[tokio::test]
    async fn a_call_without_an_answer_is_a_problem() {
        let recorder = Recorder::new(Duration::ZERO, Duration::ZERO);
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        join_all(tasks, &recorder, Duration::from_millis(1))
            .await
            .unwrap();
        assert_eq!(recorder.counts().problems.values().sum::<u64>(), 1);
    }
}
