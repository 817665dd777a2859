//! The in-memory etcd: inside the proxy (`start --embedded`), and by itself (`in-memory-etcd`) with a proxy in front.
//! What it answers is held against a real etcd.

mod commands;
mod crowds;
mod leases;
mod process;
mod watches;
mod wire;

use std::time::Duration;

use etcd_proxy_tests::{
    etcdctl::Etcdctl,
    process::{Output, Process, Signal},
    proxy::{READY, binary},
    suite::{self, TempDir, eventually, free_port, trial},
};
use libtest_mimic::Trial;

/// How long something that needs no waiting may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Far longer than [`SOON`]: what waits for its end doesn't end in time.
const PATIENT: &str = "--shutdown-timeout=10m";

/// What the in-memory etcd logs when it serves.
const ETCD_READY: &str = "ready to serve client requests";

/// How the in-memory etcd is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `start --embedded`.
    Embedded,
    /// `in-memory-etcd`, and a proxy in front of it.
    Alone,
}

/// The in-memory etcd, and a proxy to reach it by.
struct World {
    address: String,
    proxy: Process,
    /// A process of its own, and where it listens.
    etcd: Option<(Process, String)>,
    dir: TempDir,
}

impl World {
    async fn start(way: Way) -> Self {
        let dir = TempDir::new("embedded");
        let etcd = match way {
            Way::Embedded => None,
            Way::Alone => {
                let address = format!("127.0.0.1:{}", free_port());
                let args = ["in-memory-etcd", PATIENT, "--listen-addr", &address];
                let mut etcd = start(&dir, "etcd", &args);
                printed(&mut etcd, ETCD_READY).await;
                Some((etcd, address))
            }
        };
        let address = format!("127.0.0.1:{}", free_port());
        let mut args = vec!["start", PATIENT, "--listen-addr", &address];
        match &etcd {
            None => args.push("--embedded"),
            Some((_, endpoint)) => args.extend(["--endpoints", endpoint]),
        }
        let mut proxy = start(&dir, "proxy", &args);
        printed(&mut proxy, READY).await;
        Self {
            address,
            proxy,
            etcd,
            dir,
        }
    }

    fn ctl(&self) -> Etcdctl {
        Etcdctl::new(&self.address)
    }

    /// The process that holds the data.
    fn etcd(&mut self) -> &mut Process {
        match &mut self.etcd {
            Some((etcd, _)) => etcd,
            None => &mut self.proxy,
        }
    }

    /// Runs `etcdctl` in the background.
    fn background(&self, name: &str, args: &[&str]) -> Process {
        self.ctl()
            .start(args, &self.dir.path().join(format!("{name}.log")))
    }

    /// Asserts that all processes live and that none has panicked.
    fn assert_sound(&mut self) {
        let etcd = self.etcd.as_mut().map(|(etcd, _)| etcd);
        for process in std::iter::once(&mut self.proxy).chain(etcd) {
            let (status, log) = (process.exit_status(), process.log());
            assert!(status.is_none(), "ended with {status:?}:\n{log}");
            assert!(!log.contains("panic"), "{log}");
        }
    }
}

/// Starts the binary under test, its log in `dir`.
fn start(dir: &TempDir, name: &str, args: &[&str]) -> Process {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    Process::start(name, &binary(), &args, &dir.path().join(format!("{name}.log")))
}

/// Waits until a process has printed something.
async fn printed(process: &mut Process, text: &str) {
    eventually(&format!("{text:?} is printed"), SOON, async || {
        let (ended, log) = (process.exit_status(), process.log());
        assert!(
            ended.is_none() || log.contains(text),
            "it ended: {ended:?}\n{log}"
        );
        log.contains(text).then_some(())
    })
    .await;
}

/// A test of the in-memory etcd either way, in a world of its own.
fn both<F, Fut>(name: &str, test: F) -> [Trial; 2]
where
    F: Fn(World) -> Fut + Send + Copy + 'static,
    Fut: Future<Output = ()>,
{
    [("embedded", Way::Embedded), ("alone", Way::Alone)].map(|(prefix, way)| {
        trial(&format!("{prefix}/{name}"), async move || {
            test(World::start(way).await).await;
        })
    })
}

/// The error that etcdctl ends with. The lines before it are logs with addresses and times.
fn last_line(output: &Output) -> &str {
    output.stderr.lines().last().unwrap_or_default()
}

/// Ends a process with SIGTERM and gives its exit code.
async fn terminate(process: &mut Process) -> Option<i32> {
    process.signal(Signal::TERM);
    process.ended(SOON).await.code()
}

fn main() {
    let mut trials = Vec::new();
    trials.extend(commands::trials());
    trials.extend(watches::trials());
    trials.extend(leases::trials());
    trials.extend(crowds::trials());
    trials.extend(wire::trials());
    trials.extend(process::trials());
    suite::main(2, trials, || ());
}
