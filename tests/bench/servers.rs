//! One etcd, real or in memory, and the proxies in front of it, as processes.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::etcdserverpb::{CompactionRequest, CompactionResponse, RangeRequest, RangeResponse};
use etcd_proxy_tests::{
    everywhere::everywhere,
    process::Process,
    suite::{TempDir, free_port},
    wire::Wire,
};
use tokio::time::{sleep, timeout};

use crate::{args::Upstream, load::Failure, measure::describe};

/// A running etcd with an empty store, and proxies. Dropping it kills all and removes the data.
#[derive(Debug)]
pub(crate) struct Servers {
    /// etcd itself comes first.
    pub(crate) targets: Vec<Target>,
    etcd: Process,
    _dir: TempDir,
}

/// Something to put load on.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: String,
    /// None: etcd itself.
    proxy: Option<Process>,
}

/// How to start a proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProxyBinary {
    pub(crate) name: String,
    path: PathBuf,
}

impl ProxyBinary {
    /// Reads `[NAME=]PATH`; without a name the file's name is used.
    pub(crate) fn parse(text: &str) -> Self {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name.to_owned(), path),
            None => {
                let name = Path::new(text).file_name().unwrap_or_else(|| text.as_ref());
                (name.to_string_lossy().into_owned(), text)
            }
        };
        Self {
            name,
            path: path.into(),
        }
    }
}

impl Servers {
    /// Starts everything and waits until a linearizable read works through each.
    pub(crate) async fn start(
        etcd_bin: &Path,
        upstream: Upstream,
        proxies: &[ProxyBinary],
    ) -> Result<Self, Failure> {
        let dir = TempDir::new("bench");
        let etcd_path = etcd_bin.join("etcd");
        let address = || format!("127.0.0.1:{}", free_port());
        let client = address();
        let (from_etcd, url) = match (everywhere(), upstream) {
            (None, _) => (Vec::new(), client.clone()),
            (Some(_), Upstream::InMemory) => {
                return Err(Failure::new(
                    "the in-memory etcd has no TLS; leave out --tls or --upstream",
                ));
            }
            (Some(everywhere), Upstream::Etcd) => {
                everywhere.serves(&client);
                let mut flags = everywhere.to_clients();
                flags.push("--client-cert-auth".to_owned());
                (flags, format!("https://{client}"))
            }
        };
        // As for `listen`, so for all proxies.
        let proxied = |listen: &str| match everywhere() {
            Some(everywhere) => {
                everywhere.serves(listen);
                [everywhere.to_members(), everywhere.to_clients()].concat()
            }
            None => Vec::new(),
        };
        let (name, mut etcd) = match upstream {
            Upstream::Etcd => (
                "etcd",
                start_etcd(&etcd_path, &client, &address(), from_etcd, dir.path())?,
            ),
            Upstream::InMemory => {
                let proxy = proxies.first().ok_or_else(|| {
                    Failure::new("--upstream in-memory needs a --proxy: it is that one's in-memory etcd")
                })?;
                let args = ["in-memory-etcd".into(), format!("--listen-addr={client}")];
                let name = "in-memory etcd";
                (name, start(name, &proxy.path, &args, dir.path())?)
            }
        };
        ready(name, &mut etcd, &client).await?;
        let mut targets = vec![Target {
            name: format!("{name}, direct"),
            address: client.clone(),
            proxy: None,
        }];

        let listen = address();
        let mut existing = vec![
            "grpc-proxy".into(),
            "start".into(),
            format!("--endpoints={url}"),
            format!("--listen-addr={listen}"),
            // It dials this address at start and exits when nobody answers.
            match everywhere() {
                Some(_) => format!("--advertise-client-url=https://{listen}"),
                None => format!("--advertise-client-url={listen}"),
            },
        ];
        existing.extend(proxied(&listen));
        let process = start(GRPC_PROXY, &etcd_path, &existing, dir.path())?;
        targets.push(Target {
            name: GRPC_PROXY.into(),
            address: listen,
            proxy: Some(process),
        });
        for proxy in proxies {
            let listen = address();
            let mut args = vec![
                "start".into(),
                format!("--listen-addr={listen}"),
                format!("--endpoints={url}"),
            ];
            args.extend(proxied(&listen));
            let process = start(&proxy.name, &proxy.path, &args, dir.path())?;
            let name = proxy.name.clone();
            targets.push(Target {
                name,
                address: listen,
                proxy: Some(process),
            });
        }
        for target in &mut targets {
            if let Some(proxy) = &mut target.proxy {
                ready(&target.name, proxy, &target.address).await?;
            }
        }
        Ok(Self {
            targets,
            etcd,
            _dir: dir,
        })
    }

    /// The process ids to measure for a target: etcd's, and the proxy's if there is one.
    pub(crate) fn pids(&self, target: &Target) -> Vec<u32> {
        let proxy = target.proxy.as_ref().map(Process::pid);
        std::iter::once(self.etcd.pid()).chain(proxy).collect()
    }

    /// Compacts etcd's history, so that a round does not carry the rounds before it along.
    pub(crate) async fn compact(&self) -> Result<(), Failure> {
        let wire = Wire::connect(&self.targets[0].address).await?;
        let failed = |reply| Failure::new(format!("compaction: {}", describe(&reply)));
        let read: RangeResponse = wire.unary(RANGE, &[], &probe()).await.map_err(failed)?;
        let revision = read.header.map_or(0, |header| header.revision);
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        let compacted = wire
            .unary::<_, CompactionResponse>(Rpc::Compact.path(), &[], &request)
            .await;
        match compacted {
            Ok(_) => Ok(()),
            // Nothing was written since the last one.
            Err(reply) if reply.code() == Some(OUT_OF_RANGE) => Ok(()),
            Err(reply) => Err(failed(reply)),
        }
    }
}

/// With these flags for TLS, if there are any.
fn start_etcd(
    program: &Path,
    client: &str,
    peer: &str,
    tls: Vec<String>,
    dir: &Path,
) -> Result<Process, Failure> {
    let scheme = if tls.is_empty() { "http" } else { "https" };
    let mut args = vec![
        format!("--data-dir={}", dir.join("data").display()),
        format!("--listen-client-urls={scheme}://{client}"),
        format!("--advertise-client-urls={scheme}://{client}"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
        // Proxies are compared, not disks.
        "--unsafe-no-fsync".into(),
        // No stop in the middle of a round, however long rounds are.
        format!("--quota-backend-bytes={}", 8u64 << 30),
        "--log-level=error".into(),
    ];
    args.extend(tls);
    start("etcd", program, &args, dir)
}

fn start(name: &str, program: &Path, args: &[String], dir: &Path) -> Result<Process, Failure> {
    if !program.exists() {
        return Err(Failure::new(format!("{} does not exist", program.display())));
    }
    Ok(Process::start(
        name,
        program,
        args,
        &dir.join(format!("{}.log", name.replace('/', "_"))),
    ))
}

/// Waits until a linearizable read works.
async fn ready(name: &str, process: &mut Process, address: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + START_MAX;
    loop {
        let read = async {
            let wire = Wire::connect(address).await.ok()?;
            wire.unary::<_, RangeResponse>(RANGE, &[], &probe()).await.ok()
        };
        if matches!(timeout(Duration::from_secs(1), read).await, Ok(Some(_))) {
            return Ok(());
        }
        if process.exit_status().is_some() || Instant::now() > deadline {
            let log = process.log();
            let tail: Vec<_> = log.lines().rev().take(10).collect();
            let tail: String = tail.iter().rev().flat_map(|line| [line, "\n"]).collect();
            return Err(Failure::new(format!(
                "{name} does not serve; its log ends with\n{tail}"
            )));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn probe() -> RangeRequest {
    RangeRequest {
        key: "bench/ready".into(),
        ..Default::default()
    }
}

pub(crate) const GRPC_PROXY: &str = "etcd grpc-proxy";
const RANGE: &str = Rpc::Range.path();
const OUT_OF_RANGE: u32 = 11;
const START_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_may_be_named() {
        let parsed = |text| {
            let ProxyBinary { name, path } = ProxyBinary::parse(text);
            (name, path.to_string_lossy().into_owned())
        };
        assert_eq!(
            parsed("/a/etcd-proxy"),
            ("etcd-proxy".into(), "/a/etcd-proxy".into())
        );
        assert_eq!(
            parsed("new=/a/etcd-proxy"),
            ("new".into(), "/a/etcd-proxy".into())
        );
    }
}
