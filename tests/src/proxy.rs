//! The proxy under test, as a process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    everywhere::everywhere,
    process::{Output, Process, run},
    relay::Relay,
    suite::{TempDir, eventually, free_port},
};

/// How long the proxy may take to print its readiness line. It does not wait for its upstream.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The readiness marker, as the existing proxy prints it.
pub const READY: &str = "started gRPC proxy";

/// A running proxy. Dropping it kills it.
///
/// With `ETCD_PROXY_BIN=relay` a plain TCP copy to the first endpoint takes its place. So the suite
/// can be checked against itself: what fails then is a wrong test (or one that needs a proxy).
pub struct Proxy {
    address: String,
    process: Option<Process>,
    _relay: Option<Relay>,
    _dir: TempDir,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The binary under test: `ETCD_PROXY_BIN`, or `etcd-proxy` of the profile that this test has.
///
/// # Panics
/// If there is none; the message says what to build.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ETCD_PROXY_BIN") {
        let path = PathBuf::from(path);
        assert!(path.exists(), "ETCD_PROXY_BIN={} does not exist", path.display());
        return path;
    }
    // target/PROFILE/deps/TEST-HASH
    let test = std::env::current_exe().expect("path of this test");
    let path = test
        .parent()
        .and_then(Path::parent)
        .expect("a test lies two folders below target")
        .join("etcd-proxy");
    assert!(
        path.exists(),
        "no {}; build it with the profile of this test (cargo build --profile ci -p etcd-proxy-tokio) \
         or set ETCD_PROXY_BIN",
        path.display()
    );
    path
}

/// Runs the binary to its end, for tests of its command line.
///
/// # Panics
/// If it can't be started.
pub async fn run_binary(args: &[&str], limit: Duration) -> Output {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    tokio::task::spawn_blocking(move || run(&binary(), &args, &[], "", limit))
        .await
        .expect("the binary runs")
}

impl Proxy {
    /// Starts a proxy in front of `endpoints` and waits for its readiness line.
    ///
    /// # Panics
    /// If it is not ready in time.
    pub async fn start(endpoints: &[String], flags: &[&str]) -> Self {
        let mut proxy = Self::start_unready(endpoints, flags).await;
        if let Some(process) = &mut proxy.process {
            eventually("the proxy prints its readiness line", START_LIMIT, async || {
                let ended = process.exit_status();
                assert!(ended.is_none(), "the proxy ended: {ended:?}\n{}", process.log());
                process.log().contains(READY).then_some(())
            })
            .await;
        }
        proxy
    }

    /// Starts a proxy and does not wait.
    pub async fn start_unready(endpoints: &[String], flags: &[&str]) -> Self {
        let dir = TempDir::new("proxy");
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        if std::env::var_os("ETCD_PROXY_BIN").is_some_and(|value| value == "relay") {
            let target: SocketAddr = endpoints[0].parse().expect("host:port of a member");
            let relay = Relay::start(port, target, None).await;
            return Self {
                address,
                process: None,
                _relay: Some(relay),
                _dir: dir,
            };
        }
        let mut args = vec![
            "start".to_owned(),
            "--listen-addr".to_owned(),
            address.clone(),
            "--endpoints".to_owned(),
            endpoints.join(","),
        ];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let speaks_of_tls = flags
            .iter()
            .any(|flag| flag.starts_with("--c") && !flag.starts_with("--cache"));
        if let Some(everywhere) = everywhere().filter(|_| !speaks_of_tls) {
            if let Some(members) = everywhere.members(endpoints) {
                args[4] = members.join(",");
                args.extend(everywhere.to_members());
            }
            args.extend(everywhere.to_clients());
            everywhere.serves(&address);
        }
        let log = dir.path().join("proxy.log");
        let process = Process::start("etcd-proxy", &binary(), &args, &log);
        Self {
            address,
            process: Some(process),
            _relay: None,
            _dir: dir,
        }
    }

    /// `host:port` on which it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process, for signals and measurements.
    ///
    /// # Panics
    /// If a plain relay takes the proxy's place.
    pub fn process(&mut self) -> &mut Process {
        self.process
            .as_mut()
            .expect("this test needs a proxy, not ETCD_PROXY_BIN=relay")
    }

    /// What it has printed. Empty for a plain relay.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Asserts that the process lives and that no line of its log tells of a panic.
    ///
    /// # Panics
    /// If that is not so.
    pub fn assert_sound(&mut self) {
        if let Some(process) = &mut self.process {
            let status = process.exit_status();
            let log = process.log();
            assert!(status.is_none(), "the proxy ended with {status:?}:\n{log}");
            let panicked = log.lines().find(|line| line.contains("panicked"));
            assert!(panicked.is_none(), "the proxy panicked: {panicked:?}");
        }
    }
}
