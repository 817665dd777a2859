//! Real etcd clusters of one or three members, with the faults that the tests need.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    client::Client,
    everywhere::everywhere,
    pki::Pair,
    process::{Process, Signal},
    relay::{Identify, Link, Mode, Relay},
    sockets::owner_of_local_port,
    suite::{TempDir, eventually, free_port},
};

/// How long a cluster may take to start or to recover. Elections take one to two seconds.
pub const START_LIMIT: Duration = Duration::from_secs(30);

/// The folder with `etcd`, `etcdctl` and `etcdutl`.
///
/// # Panics
/// If there is none; the message says what to run. A test without an etcd must fail, not be skipped.
#[must_use]
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("ETCD_BIN_DIR") {
        let dir = PathBuf::from(dir);
        assert!(
            dir.join("etcd").exists() && dir.join("etcdctl").exists(),
            "ETCD_BIN_DIR={} holds no etcd and etcdctl; run scripts/get-etcd and use the folder it prints",
            dir.display()
        );
        return dir;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent");
    let dir = root.join("target/etcd/usr/bin");
    assert!(
        dir.join("etcd").exists() && dir.join("etcdctl").exists(),
        "no etcd in {}; run scripts/get-etcd, or set ETCD_BIN_DIR to a folder with etcd, etcdctl and etcdutl",
        dir.display()
    );
    dir
}

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// 1 or 3.
    pub members: usize,
    /// Flags added to every member's command line.
    pub flags: Vec<String>,
    /// Puts a relay in front of every member's client port.
    pub client_relays: bool,
    /// Peer URL to advertise instead of the real one (a single member only). Member and cluster ids
    /// are hashes of it, so two clusters with the same one have the same ids.
    pub peer_url: Option<String>,
    /// How long a byte takes from one member to another.
    pub peer_delay: Duration,
    /// Files for one more client port of every member, with TLS.
    pub tls: Option<MemberTls>,
}

/// What a member has for clients with TLS.
#[derive(Clone, Debug)]
pub struct MemberTls {
    /// Its certificate; `None` for one that it makes itself (`--auto-tls`).
    pub pair: Option<Pair>,
    /// Who signs the certificates that clients must show; `None` if they needn't.
    pub client_ca: Option<PathBuf>,
}

impl MemberTls {
    fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        match &self.pair {
            Some(pair) => {
                flags.push(format!("--cert-file={}", pair.cert.display()));
                flags.push(format!("--key-file={}", pair.key.display()));
            }
            None => flags.push("--auto-tls".to_owned()),
        }
        if let Some(ca) = &self.client_ca {
            flags.push(format!("--trusted-ca-file={}", ca.display()));
            flags.push("--client-cert-auth".to_owned());
        }
        flags
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            members: 1,
            flags: Vec::new(),
            client_relays: false,
            peer_url: None,
            peer_delay: Duration::ZERO,
            tls: None,
        }
    }
}

impl Options {
    /// Three members.
    #[must_use]
    pub fn three() -> Self {
        Self {
            members: 3,
            ..Self::default()
        }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }
}

/// One member of a cluster.
#[derive(Debug)]
struct Member {
    args: Vec<String>,
    log: PathBuf,
    client_port: u16,
    tls_port: Option<u16>,
    client_relay: Option<Relay>,
    peer_relay: Option<Relay>,
    process: Option<Process>,
}

/// A running cluster. Dropping it kills the members and removes their data.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    /// Process ids by member, for the relays between the members; 0 while a member is down.
    pids: Arc<[AtomicU32]>,
    dir: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until it takes writes.
    ///
    /// # Panics
    /// If it does not come up within [`START_LIMIT`].
    pub async fn start(mut options: Options) -> Self {
        if options.tls.is_none() {
            options.tls = everywhere().map(|everywhere| MemberTls {
                pair: Some(everywhere.server().clone()),
                client_ca: Some(everywhere.ca()),
            });
        }
        assert!(matches!(options.members, 1 | 3), "1 or 3 members");
        let dir = TempDir::new("etcd");
        let count = options.members;
        let pids: Arc<[AtomicU32]> = (0..count).map(|_| AtomicU32::new(0)).collect();
        let peer_ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let relay_ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let peer_url = |index: usize| match &options.peer_url {
            Some(url) => url.clone(),
            None => format!("http://127.0.0.1:{}", relay_ports[index]),
        };
        let initial: Vec<String> = (0..count)
            .map(|index| format!("m{index}={}", peer_url(index)))
            .collect();

        let mut members = Vec::with_capacity(count);
        for index in 0..count {
            let client_port = free_port();
            let tls_port = options.tls.as_ref().map(|_| free_port());
            let client_urls: Vec<String> = [
                Some(format!("http://127.0.0.1:{client_port}")),
                tls_port.map(|port| format!("https://127.0.0.1:{port}")),
            ]
            .into_iter()
            .flatten()
            .collect();
            let mut args = vec![
                format!("--name=m{index}"),
                format!("--data-dir={}", dir.path().join(format!("m{index}")).display()),
                format!("--listen-client-urls={}", client_urls.join(",")),
                format!("--advertise-client-urls=http://127.0.0.1:{client_port}"),
                format!("--listen-peer-urls=http://127.0.0.1:{}", peer_ports[index]),
                format!("--initial-advertise-peer-urls={}", peer_url(index)),
                format!("--initial-cluster={}", initial.join(",")),
                "--heartbeat-interval=100".to_owned(),
                "--election-timeout=1000".to_owned(),
                // The processes are killed, never the machine: the page cache is durable enough.
                "--unsafe-no-fsync".to_owned(),
                "--log-level=info".to_owned(),
            ];
            args.extend(options.flags.iter().cloned());
            args.extend(options.tls.iter().flat_map(MemberTls::flags));
            let peer_relay = if count > 1 {
                let watched = Arc::clone(&pids);
                let identify: Identify = Arc::new(move |from: SocketAddr| {
                    let pids: Vec<u32> = watched.iter().map(|pid| pid.load(Ordering::Relaxed)).collect();
                    owner_of_local_port(from, &pids)
                });
                let target = SocketAddr::from(([127, 0, 0, 1], peer_ports[index]));
                let link = Link {
                    delay: options.peer_delay,
                    ..Link::default()
                };
                Some(Relay::start_on(relay_ports[index], target, Some(identify), link).await)
            } else {
                None
            };
            let client_relay = if options.client_relays {
                let behind = everywhere().and(tls_port).unwrap_or(client_port);
                let target = SocketAddr::from(([127, 0, 0, 1], behind));
                Some(Relay::start(free_port(), target, None).await)
            } else {
                None
            };
            if let (Some(everywhere), Some(port)) = (everywhere(), tls_port) {
                everywhere.serves(&format!("127.0.0.1:{port}"));
                everywhere.is_member(
                    &format!("127.0.0.1:{client_port}"),
                    &format!("https://127.0.0.1:{port}"),
                );
                if let Some(relay) = &client_relay {
                    everywhere.is_member(&relay.address(), &format!("https://{}", relay.address()));
                }
            }
            members.push(Member {
                args,
                log: dir.path().join(format!("m{index}.log")),
                client_port,
                tls_port,
                client_relay,
                peer_relay,
                process: None,
            });
        }
        let mut cluster = Self { members, pids, dir };
        for index in 0..count {
            cluster.restart(index);
        }
        cluster.writable().await;
        cluster
    }

    /// Number of members.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// A folder for files of the test, removed with the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `host:port` of a member's own client port.
    #[must_use]
    pub fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.members[index].client_port)
    }

    /// Where a member serves clients as it serves proxies: with TLS if that is everywhere. It answers there with more headers.
    #[must_use]
    pub fn proxied_address(&self, index: usize) -> String {
        let port = everywhere().and(self.members[index].tls_port);
        format!("127.0.0.1:{}", port.unwrap_or(self.members[index].client_port))
    }

    /// What a proxy is given: every member's client relay if there is one, else the member itself.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.size())
            .map(|index| match &self.members[index].client_relay {
                Some(relay) => relay.address(),
                None => self.address(index),
            })
            .collect()
    }

    /// What a proxy is given for TLS: every member's port of its own for that, as a URL.
    ///
    /// # Panics
    /// If the cluster was started without.
    #[must_use]
    pub fn tls_endpoints(&self) -> Vec<String> {
        let ports = self
            .members
            .iter()
            .map(|member| member.tls_port.expect("started with TLS"));
        ports.map(|port| format!("https://127.0.0.1:{port}")).collect()
    }

    /// Starts a member that is down. Does not wait until it serves.
    pub fn restart(&mut self, index: usize) {
        let program = bin_dir().join("etcd");
        let member = &mut self.members[index];
        assert!(member.process.is_none(), "member {index} runs");
        let process = Process::start(&format!("etcd m{index}"), &program, &member.args, &member.log);
        self.pids[index].store(process.pid(), Ordering::Relaxed);
        member.process = Some(process);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self, index: usize) {
        self.pids[index].store(0, Ordering::Relaxed);
        self.members[index].process = None;
    }

    /// SIGSTOP: the member's sockets stay open and nothing answers.
    pub fn freeze(&mut self, index: usize) {
        self.process(index).signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&mut self, index: usize) {
        self.process(index).signal(Signal::CONT);
    }

    /// Cuts a member off from the other members, in both directions. Clients still reach it.
    ///
    /// # Panics
    /// In a cluster of one.
    pub fn isolate(&self, index: usize, mode: Mode) {
        for (target, member) in self.members.iter().enumerate() {
            let relay = member.peer_relay.as_ref().expect("a cluster of three");
            if target == index {
                relay.set(mode);
            } else {
                relay.set_from(index, mode);
            }
        }
    }

    /// Cuts off what a member says to the others: it hears them, and clients still reach it. [`heal`](Self::heal) undoes it.
    ///
    /// A member sends to another one on a stream that the other one has opened.
    ///
    /// # Panics
    /// In a cluster of one.
    pub fn mute(&self, index: usize) {
        let relay = self.members[index].peer_relay.as_ref();
        relay.expect("a cluster of three").set(Mode::BlackHole);
    }

    /// Undoes [`isolate`](Self::isolate) and [`mute`](Self::mute).
    pub fn heal(&self, index: usize) {
        self.isolate(index, Mode::Forward);
    }

    /// The relay in front of a member's client port.
    ///
    /// # Panics
    /// If the cluster was started without client relays.
    #[must_use]
    pub fn client_relay(&self, index: usize) -> &Relay {
        let relay = self.members[index].client_relay.as_ref();
        relay.expect("started with client_relays")
    }

    /// The members whose process runs, however it does.
    pub fn running(&mut self) -> Vec<usize> {
        let members = self.members.iter_mut().enumerate();
        members
            .filter_map(|(index, member)| {
                let process = member.process.as_mut()?;
                process.exit_status().is_none().then_some(index)
            })
            .collect()
    }

    /// Forgets processes that ended by themselves, so that [`restart`](Self::restart) works.
    pub fn reap(&mut self) {
        let running = self.running();
        for index in 0..self.size() {
            if !running.contains(&index) {
                self.kill(index);
            }
        }
    }

    /// A member's process.
    ///
    /// # Panics
    /// If the member is down.
    pub fn process(&mut self, index: usize) -> &mut Process {
        let process = self.members[index].process.as_mut();
        process.expect("the member was started")
    }

    /// The folder that a member keeps its data in.
    #[must_use]
    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("m{index}"))
    }

    /// Puts a snapshot in the place of the data of every member, all of which are down. `token` goes into the ids: members
    /// start with `etcd-cluster`.
    ///
    /// # Panics
    /// When `etcdutl` fails.
    pub async fn restore(&mut self, snapshot: &Path, token: &str, flags: &[&str]) {
        for index in 0..self.size() {
            let dir = self.data_dir(index);
            std::fs::remove_dir_all(&dir).expect("the member has a folder");
            let snapshot = snapshot.display().to_string();
            let mut args = vec!["snapshot".to_owned(), "restore".to_owned(), snapshot];
            args.push(format!("--data-dir={}", dir.display()));
            args.push(format!("--initial-cluster-token={token}"));
            let is_kept = |arg: &&String| {
                let kept = ["--name=", "--initial-cluster=", "--initial-advertise-peer-urls="];
                kept.iter().any(|prefix| arg.starts_with(prefix))
            };
            args.extend(self.members[index].args.iter().filter(is_kept).cloned());
            args.extend(flags.iter().map(|flag| (*flag).to_owned()));
            let program = bin_dir().join("etcdutl");
            let run = move || crate::process::run(&program, &args, &[], "", START_LIMIT);
            let output = tokio::task::spawn_blocking(run)
                .await
                .expect("it runs to its end");
            assert!(output.is_ok(), "etcdutl: {output:?}");
        }
    }

    /// Waits until a write through some running member is acknowledged.
    ///
    /// # Panics
    /// After [`START_LIMIT`].
    pub async fn writable(&mut self) {
        eventually("the cluster takes writes", START_LIMIT, async || {
            for index in self.running() {
                if let Ok(client) = Client::connect(&self.address(index)).await {
                    // A delete of a key that is not there leaves the revision alone, and is still a
                    // write that needs a quorum.
                    let attempt = client.delete(b"\0e2e-ready");
                    if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), attempt).await {
                        return Some(());
                    }
                }
            }
            None
        })
        .await;
    }

    /// Waits until every running member answers a linearizable read.
    ///
    /// # Panics
    /// After [`START_LIMIT`].
    pub async fn all_serve(&mut self) {
        for index in self.running() {
            let address = self.address(index);
            let what = format!("member {index} serves");
            eventually(&what, START_LIMIT, async || {
                let client = Client::connect(&address).await.ok()?;
                let read = tokio::time::timeout(Duration::from_secs(2), client.get(b"\0e2e-ready"));
                read.await.ok()?.ok().map(|_| ())
            })
            .await;
        }
    }

    /// The member id of each member, by index.
    ///
    /// # Panics
    /// If a member does not answer within [`START_LIMIT`].
    pub async fn ids(&self) -> Vec<u64> {
        let mut ids = Vec::with_capacity(self.size());
        for index in 0..self.size() {
            let address = self.address(index);
            ids.push(
                eventually(&format!("status of member {index}"), START_LIMIT, async || {
                    let client = Client::connect(&address).await.ok()?;
                    let status = client.status().await.ok()?;
                    Some(status.header?.member_id)
                })
                .await,
            );
        }
        ids
    }

    /// The index of the leader, as the running member `ask` sees it.
    ///
    /// # Panics
    /// If it sees none within [`START_LIMIT`].
    pub async fn leader_seen_by(&self, ask: usize, ids: &[u64]) -> usize {
        let address = self.address(ask);
        eventually("a leader", START_LIMIT, async || {
            let client = Client::connect(&address).await.ok()?;
            let status = client.status().await.ok()?;
            ids.iter().position(|id| *id == status.leader)
        })
        .await
    }
}
