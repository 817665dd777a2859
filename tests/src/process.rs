//! Child processes that never outlive the test process, with their output in a log file.
//!
//! A guard kills its process when dropped. For the paths on which no guard runs (the test process is
//! killed, or leaves through `exit`) every child is started under `setpriv --pdeathsig KILL`, so the
//! kernel ends it together with the thread that started it; that thread lives as long as the process.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::suite::eventually;

/// Log files of the processes that are alive, by a number that is never used twice.
static LIVE: Mutex<BTreeMap<u64, (String, PathBuf)>> = Mutex::new(BTreeMap::new());
/// Ends of the logs of processes that were dropped by a panic.
static DEAD: Mutex<String> = Mutex::new(String::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// How much of each log a failure report shows.
const TAIL_LINES: usize = 8;

/// Longer lines are cut there.
const TAIL_LINE_CHARS: usize = 300;

type Spawned = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The thread that starts every child (see the module documentation).
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Spawned>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<Spawned>();
    thread::spawn(move || {
        for (mut command, answer) in receiver {
            let child = {
                let _forking = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
                command.spawn()
            };
            // A caller that is gone drops the result; the child then dies with this thread.
            let _ = answer.send(child);
        }
    });
    Mutex::new(sender)
});

/// Held while a child is forked. Between its fork and its exec it has a copy of every socket of this process; a
/// listener that is closed meanwhile goes on to hold its port. Who relies on a port being free again after a close
/// holds this from the bind to the close.
pub(crate) static FORKING: Mutex<()> = Mutex::new(());

/// A running child process. Dropping it kills it (SIGKILL) and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    number: u64,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with `args`; standard output and error are appended to `log`.
    ///
    /// # Panics
    /// If the program can't be started; the message names it.
    #[must_use]
    pub fn start(name: &str, program: &Path, args: &[String], log: &Path) -> Self {
        Self::start_with_env(name, program, args, &[], log)
    }

    /// As [`start`](Self::start), with environment variables added.
    ///
    /// # Panics
    /// If the program can't be started; the message names it.
    #[must_use]
    pub fn start_with_env(
        name: &str,
        program: &Path,
        args: &[String],
        env: &[(&str, &str)],
        log: &Path,
    ) -> Self {
        assert!(program.exists(), "{} does not exist", program.display());
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("log file");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            // The variable is the tests' own.
            .env_remove("ETCD_PROXY_BIN")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("log file handle"))
            .stderr(out);
        let child = spawn(command)
            .unwrap_or_else(|error| panic!("cannot start setpriv (package util-linux): {error}"));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        live().insert(number, (name.to_owned(), log.to_owned()));
        Self {
            name: name.to_owned(),
            number,
            child,
            log: log.to_owned(),
            status: None,
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. Nothing happens if the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a child's pid is not 0");
            kill_process(pid, signal).expect("signal to own child");
        }
    }

    /// The exit status, or `None` while the process runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for own child");
        }
        self.status
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// If it runs longer than `limit`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, limit, async || self.exit_status()).await
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        if self.exit_status().is_none() {
            // Errors mean that it ended in between, which is what is wanted.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }

    /// Everything the process has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The value in KiB of a line of `/proc/PID/status`, for example `VmRSS` or `VmHWM`.
    /// 0 when the process has ended.
    #[must_use]
    pub fn memory_kib(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        status
            .lines()
            .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))
            .and_then(|value| value.trim().trim_end_matches("kB").trim().parse().ok())
            .unwrap_or(0)
    }

    /// User and system time spent by all threads, in clock ticks (100 per second on Linux).
    #[must_use]
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The second field is the name in parentheses and may hold spaces; utime and stime are
        // fields 14 and 15, the 12th and 13th after it.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        live().remove(&self.number);
        if thread::panicking() {
            dead().push_str(&log_tail(&self.name, &self.log));
        }
    }
}

/// Starts a command on the thread that never ends.
fn spawn(command: Command) -> io::Result<Child> {
    let (sender, receiver) = mpsc::sync_channel(1);
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, sender))
        .expect("the spawner thread never ends");
    receiver.recv().expect("the spawner answers every command")
}

/// What a command that ran to its end printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; `None` if a signal or the time limit ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with exit code 0.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a program to its end with `stdin` as its input. After `limit` it is killed.
///
/// # Panics
/// If it can't be started.
#[must_use]
pub fn run(program: &Path, args: &[String], env: &[(&str, &str)], stdin: &str, limit: Duration) -> Output {
    use io::Write as _;

    assert!(program.exists(), "{} does not exist", program.display());
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(args)
        .env_remove("ETCD_PROXY_BIN")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child =
        spawn(command).unwrap_or_else(|error| panic!("cannot start setpriv (package util-linux): {error}"));
    let input = stdin.to_owned();
    let mut to_child = child.stdin.take().expect("stdin is piped");
    let feeder = thread::spawn(move || {
        // A program that does not read its input closes it: not an error.
        let _ = to_child.write_all(input.as_bytes());
    });
    let stdout = drain(child.stdout.take().expect("stdout is piped"));
    let stderr = drain(child.stderr.take().expect("stderr is piped"));
    let deadline = Instant::now() + limit;
    let code = loop {
        if let Some(status) = child.try_wait().expect("wait for own child") {
            break status.code();
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    feeder.join().expect("feeder thread");
    Output {
        code,
        stdout: stdout.join().expect("reader thread"),
        stderr: stderr.join().expect("reader thread"),
    }
}

fn drain(mut from: impl io::Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The ends of the logs of every living process, and of those that a failing test has just dropped,
/// for a failure report. Tells of each only once it is dead.
#[must_use]
pub fn log_tails() -> String {
    let mut report = std::mem::take(&mut *dead());
    for (name, path) in live().values() {
        report.push_str(&log_tail(name, path));
    }
    report
}

fn log_tail(name: &str, path: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let mut report = format!("--- {name}: {}\n", path.display());
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        report.extend(line.chars().take(TAIL_LINE_CHARS));
        report.push('\n');
    }
    report
}

fn live() -> MutexGuard<'static, BTreeMap<u64, (String, PathBuf)>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dead() -> MutexGuard<'static, String> {
    DEAD.lock().unwrap_or_else(PoisonError::into_inner)
}
