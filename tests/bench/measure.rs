//! Counting what happens inside the measured window, and what processes spend meanwhile.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use etcd_proxy_tests::{procstat::ProcStat, wire::Reply};
use hdrhistogram::Histogram;

/// Operations, their latencies, and everything that went wrong.
///
/// Operations count when they end inside the window; errors and problems count always.
#[derive(Debug)]
pub(crate) struct Recorder {
    from: Instant,
    until: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) operations: u64,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Failed calls by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    /// What a correct server never does: lost, repeated or wrong answers, by kind.
    pub(crate) problems: BTreeMap<String, u64>,
}

impl Recorder {
    /// Opens the window after `warmup` from now, for `duration`.
    pub(crate) fn new(warmup: Duration, duration: Duration) -> Arc<Self> {
        let from = Instant::now() + warmup;
        let latency =
            Histogram::new_with_max(LATENCY_MAX.as_micros() as u64, 3).expect("the bounds are valid");
        let counts = Counts {
            operations: 0,
            latency,
            errors: BTreeMap::new(),
            problems: BTreeMap::new(),
        };
        Arc::new(Self {
            from,
            until: from + duration,
            counts: Mutex::new(counts),
        })
    }

    /// The end of the window.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Whether there is anything left to measure.
    pub(crate) fn running(&self) -> bool {
        Instant::now() < self.until
    }

    /// An operation that began at `started` and ends now.
    pub(crate) fn done(&self, started: Instant) {
        let now = Instant::now();
        if now < self.from || now >= self.until {
            return;
        }
        let micros = now.saturating_duration_since(started).as_micros() as u64;
        let mut counts = self.counts();
        counts.operations += 1;
        counts.latency.saturating_record(micros);
    }

    /// A call that failed.
    pub(crate) fn error(&self, reply: &Reply) {
        note(&mut self.counts().errors, describe(reply), 1);
    }

    /// Something a correct server never does.
    pub(crate) fn problem(&self, what: impl Into<String>, times: u64) {
        if times > 0 {
            note(&mut self.counts().problems, what.into(), times);
        }
    }

    /// Samples the processes now and at both ends of the window, on a thread of its own because the
    /// executor is busy.
    pub(crate) fn watch_processes(&self, pids: &[u32]) -> thread::JoinHandle<io::Result<Usage>> {
        let (from, until, pids) = (self.from, self.until, pids.to_vec());
        thread::spawn(move || {
            let unloaded = Usage::start(&pids)?.rss_kib();
            thread::sleep(from.saturating_duration_since(Instant::now()));
            let mut start = Usage::start(&pids)?;
            start.rss_unloaded_kib = unloaded;
            thread::sleep(until.saturating_duration_since(Instant::now()));
            start.end()
        })
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that puts ids into its messages must not fill the memory with kinds.
fn note(kinds: &mut BTreeMap<String, u64>, what: String, times: u64) {
    let full = kinds.len() >= KINDS_MAX && !kinds.contains_key(&what);
    let kind = if full { "other".into() } else { what };
    *kinds.entry(kind).or_default() += times;
}

/// A reply that is not OK, in one line.
pub(crate) fn describe(reply: &Reply) -> String {
    let mut text = match (&reply.error, reply.reset, reply.code()) {
        (Some(error), ..) => error.clone(),
        (None, Some(reset), _) => format!("reset with HTTP/2 code {reset}"),
        (None, None, Some(code)) => {
            format!("grpc-status {code}: {}", reply.message().unwrap_or_default())
        }
        (None, None, None) => format!("HTTP status {} without grpc-status", reply.http_status),
    };
    if let Some((cut, _)) = text.char_indices().nth(KIND_CHARS_MAX) {
        text.truncate(cut);
    }
    text
}

/// What processes spent, this one included.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    started: Instant,
    /// Between start and end; zero before the end.
    pub(crate) elapsed: Duration,
    pub(crate) processes: Vec<(u32, ProcStat)>,
    /// Memory of the processes when everything was prepared and the load was about to begin, in KiB; what the start
    /// found if that is the same moment.
    pub(crate) rss_unloaded_kib: Vec<u64>,
    /// The load generator itself.
    pub(crate) own: ProcStat,
}

impl Usage {
    pub(crate) fn start(pids: &[u32]) -> io::Result<Self> {
        let processes = pids
            .iter()
            .map(|&pid| Ok((pid, ProcStat::of(pid)?)))
            .collect::<io::Result<_>>()?;
        let mut usage = Self {
            started: Instant::now(),
            elapsed: Duration::ZERO,
            processes,
            rss_unloaded_kib: Vec::new(),
            own: ProcStat::of(std::process::id())?,
        };
        usage.rss_unloaded_kib = usage.rss_kib();
        Ok(usage)
    }

    /// Memory of the processes.
    fn rss_kib(&self) -> Vec<u64> {
        self.processes.iter().map(|(_, stat)| stat.rss_kib).collect()
    }

    /// CPU time since the start, memory as it is now.
    pub(crate) fn end(self) -> io::Result<Self> {
        let elapsed = self.started.elapsed();
        let since = |pid, start: ProcStat| {
            let mut now = ProcStat::of(pid)?;
            now.cpu = now.cpu.saturating_sub(start.cpu);
            Ok::<_, io::Error>(now)
        };
        let processes = self
            .processes
            .iter()
            .map(|&(pid, start)| Ok((pid, since(pid, start)?)))
            .collect::<io::Result<_>>()?;
        let own = since(std::process::id(), self.own)?;
        Ok(Self {
            elapsed,
            processes,
            own,
            ..self
        })
    }
}

/// Latencies above are counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);
const KINDS_MAX: usize = 20;
const KIND_CHARS_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts() {
        let hour = Duration::from_secs(3600);
        let now = Instant::now();
        for (warmup, duration, operations) in [
            (hour, hour, 0),
            (Duration::ZERO, Duration::ZERO, 0),
            (Duration::ZERO, hour, 1),
        ] {
            let recorder = Recorder::new(warmup, duration);
            recorder.done(now);
            assert_eq!(recorder.counts().operations, operations);
            assert_eq!(recorder.counts().latency.len(), operations);
        }
    }

    #[test]
    fn errors_count_by_kind_and_never_as_operations() {
        let recorder = Recorder::new(Duration::ZERO, Duration::from_secs(3600));
        let status = |code: &str| Reply {
            headers: vec![("grpc-status".into(), code.as_bytes().to_vec())],
            ..Reply::default()
        };
        recorder.error(&status("14"));
        recorder.error(&status("14"));
        recorder.error(&Reply {
            reset: Some(7),
            ..status("0")
        });
        for kind in 0..100 {
            recorder.problem(format!("kind {kind}"), 2);
        }
        recorder.problem("nothing", 0);
        let counts = recorder.counts();
        assert_eq!(counts.operations, 0);
        assert_eq!(counts.errors["grpc-status 14: "], 2);
        assert_eq!(counts.errors["reset with HTTP/2 code 7"], 1);
        assert_eq!(counts.problems.len(), KINDS_MAX + 1);
        assert_eq!(counts.problems.values().sum::<u64>(), 200);
        assert!(!counts.problems.contains_key("nothing"));
    }
}
