//! What every end-to-end test file shares: the runtime, deadlines, temporary folders, ports, reports.

use std::{
    fs, mem,
    net::TcpListener,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    pin::pin,
    process,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

use crate::everywhere::{WITHOUT_TLS, everywhere};
use crate::process::{FORKING, log_tails};

/// No test may run longer than this; a hang is a failure with a report, not a stuck CI job.
const TEST_LIMIT: Duration = Duration::from_secs(180);

/// How often a condition is looked at while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Set when a test failed: temporary folders are then kept for a look at them.
static FAILED: AtomicBool = AtomicBool::new(false);

/// How long each test took, in seconds.
static TOOK: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

/// Where and with what the last panics happened, for the reports.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
});

/// The runtime that all tests of a process share.
#[must_use]
pub fn runtime() -> &'static Runtime {
    &RUNTIME
}

/// One test: an asynchronous function that panics to fail. A failure prints the ends of all logs.
pub fn trial<F, Fut>(name: &str, test: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let shown = name.to_owned();
    Trial::test(name, move || {
        let run = AssertUnwindSafe(|| {
            runtime().block_on(async {
                let mut running = pin!(test());
                match tokio::time::timeout(TEST_LIMIT, &mut running).await {
                    Ok(()) => Ok(()),
                    // While the processes are still there.
                    Err(_) => Err(format!("still running after {TEST_LIMIT:?}\n{}", log_tails())),
                }
            })
        });
        let started = Instant::now();
        let outcome = panic::catch_unwind(run).unwrap_or_else(|_| {
            let panics = mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
            Err(format!("{}\n{}", panics.join("\n"), log_tails()))
        });
        let mut took = TOOK.lock().unwrap_or_else(PoisonError::into_inner);
        took.push((started.elapsed().as_secs(), shown.clone()));
        drop(took);
        outcome.map_err(|text| {
            FAILED.store(true, Ordering::Relaxed);
            Failed::from(format!("{shown}: {text}"))
        })
    })
}

/// Runs the tests as `cargo test` would, and ends the process with the right code.
///
/// `threads` tests run at a time, unless `--test-threads` is given. Tests that look at delays want
/// 1: clusters that fight for two cores tell nothing about the proxy.
///
/// `teardown` runs after the last test: it drops what the tests shared.
pub fn main(threads: usize, mut trials: Vec<Trial>, teardown: impl FnOnce()) -> ! {
    leave_out(&mut trials);
    // The report of a test has its panics; printed at once they would tear the list of tests apart.
    panic::set_hook(Box::new(|info| {
        PANICS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(info.to_string());
    }));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(threads);
    let conclusion = libtest_mimic::run(&arguments, trials);
    teardown();
    report_slowest();
    conclusion.exit()
}

/// Leaves out what can't be the same with TLS, if TLS is to be everywhere, and says so.
fn leave_out(trials: &mut Vec<Trial>) {
    if everywhere().is_none() {
        return;
    }
    let is_plain = |trial: &Trial| WITHOUT_TLS.contains(&trial.name());
    for left_out in trials.iter().filter(|trial| is_plain(trial)) {
        println!("left out with TLS everywhere: {}", left_out.name());
    }
    trials.retain(|trial| !is_plain(trial));
}

/// Prints which tests a suite's time went to.
fn report_slowest() {
    let mut took = TOOK.lock().unwrap_or_else(PoisonError::into_inner);
    took.sort_unstable();
    let slow = took.iter().rev().take_while(|(seconds, _)| *seconds >= 3);
    let slow: Vec<String> = slow.map(|(seconds, name)| format!("{name} {seconds}")).collect();
    if !slow.is_empty() {
        println!("seconds: {}\n", slow.join(", "));
    }
}

/// Waits until `probe` gives a value, looking every 20 ms.
///
/// # Panics
/// If that takes longer than `limit`; the message says `what` was waited for.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Bounds a future.
///
/// # Panics
/// If it takes longer than `limit`; the message says `what` was waited for.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}

/// A folder that is removed when dropped. If a test of this process failed, the files in it are kept, which are logs, but
/// not the folders in it, which are a member's data and large.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes an empty folder with `label` in its name.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn new(label: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = process::id();
        let path = std::env::temp_dir().join(format!("etcd-proxy-e2e-{id}-{number}-{label}"));
        fs::create_dir_all(&path).expect("temporary folder");
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if FAILED.load(Ordering::Relaxed) || std::thread::panicking() {
            eprintln!("kept: {}", self.path.display());
            let folders = fs::read_dir(&self.path).into_iter().flatten().flatten();
            for folder in folders.map(|entry| entry.path()).filter(|path| path.is_dir()) {
                let _ = fs::remove_dir_all(folder);
            }
        } else {
            // Left-overs in a temporary folder are no reason to fail.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A TCP port of 127.0.0.1 that nothing listens on.
///
/// Taken from below the range that the kernel gives to outgoing connections (32768 and up), so that
/// a member that is restarted finds its port free; never given out twice by one process.
///
/// # Panics
/// If no port is free.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.subsec_nanos());
        AtomicU16::new(((nanos / 1000 + process::id() * 131) % 20_000) as u16)
    });
    for _ in 0..20_000 {
        let port = 10_500 + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000;
        let _not_inherited = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 10500 and 30500");
}
