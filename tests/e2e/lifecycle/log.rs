//! What the log says to somebody who looks for the cause of something.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use etcd_proxy_tests::{
    process::{Process, Signal},
    proxy::{Proxy, READY, binary},
    suite::{TempDir, eventually, free_port, trial, within},
    wire::Wire,
};
use libtest_mimic::Trial;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// For what takes a moment on an idle machine.
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("log/outage", outage),
        trial("log/words_of_the_system", words_of_the_system),
        trial("log/ready_line_names_the_member", ready_line_names_the_member),
        trial("log/strangers", strangers),
        trial("log/hangup", hangup),
        trial("log/terminal", terminal),
        trial("log/settings_that_change_nothing", settings_that_change_nothing),
    ]
}

fn lines(log: &str) -> Vec<Value> {
    let parse =
        |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"));
    log.lines().map(parse).collect()
}

fn message(line: &Value) -> &str {
    line["msg"].as_str().unwrap_or_default()
}

fn dead() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// An etcd in memory, once it serves.
async fn etcd(dir: &TempDir, address: &str) -> Process {
    let args = ["in-memory-etcd", "--listen-addr", address].map(str::to_owned);
    let etcd = Process::start("in-memory-etcd", &binary(), &args, &dir.path().join("etcd.log"));
    eventually("the in-memory etcd serves", SOON, async || {
        etcd.log().contains("ready to serve").then_some(())
    })
    .await;
    etcd
}

/// Nobody is there for a while: a line for each endpoint, one for all of them, a word now and then, and one at the end.
async fn outage() {
    let endpoints = [dead(), dead(), dead()];
    let proxy = Proxy::start(&endpoints, &[]).await;
    eventually("a summary", SOON, async || {
        let log = proxy.log();
        log.contains("no endpoint is reachable since ").then_some(())
    })
    .await;
    let log = lines(&proxy.log());
    let warnings: Vec<_> = log.iter().filter(|line| line["level"] == "warn").collect();
    let failed: Vec<_> = warnings
        .iter()
        .filter(|line| message(line).starts_with("endpoint failed"))
        .collect();
    assert_eq!(failed.len(), 3, "{warnings:?}");
    assert!(warnings.len() <= 6, "{warnings:?}");
    let summary = warnings.last().expect("there is one");
    assert!(summary["attempts"].as_u64() > Some(3), "{summary}");

    let dir = TempDir::new("outage");
    let _etcd = etcd(&dir, &endpoints[1]).await;
    let over = eventually("the end", SOON, async || {
        let log = lines(&proxy.log());
        log.into_iter()
            .find(|line| message(line).starts_with("using endpoint; none was reachable for "))
    })
    .await;
    assert_eq!(over["endpoint"], endpoints[1].as_str(), "{over}");
    // What is still down has been told of.
    let tail = lines(&proxy.log()).split_off(log.len());
    let again = tail
        .iter()
        .filter(|line| message(line).starts_with("endpoint failed"));
    assert_eq!(again.count(), 0, "{tail:?}");
}

/// Refused, no such name, no such socket: each in the words of the operating system.
async fn words_of_the_system() {
    let endpoints = [dead(), "a..b:2379".to_owned(), "unix:/no/such/socket".to_owned()];
    let proxy = Proxy::start(&endpoints, &[]).await;
    for (endpoint, words) in endpoints.iter().zip([
        "Connection refused (os error 111)",
        "failed to lookup address information: ",
        "No such file or directory (os error 2)",
    ]) {
        let line = eventually("a line about each endpoint", SOON, async || {
            let log = lines(&proxy.log());
            log.into_iter()
                .find(|line| line["level"] == "warn" && line["endpoint"] == endpoint.as_str())
        })
        .await;
        let error = line["error"].as_str().unwrap_or_default();
        assert!(error.contains(words), "{line}");
    }
}

async fn ready_line_names_the_member() {
    let dir = TempDir::new("ready");
    let address = dead();
    let _etcd = etcd(&dir, &address).await;
    for (endpoint, expected) in [
        (address.as_str(), address.as_str()),
        (&dead(), "none reached yet"),
    ] {
        let proxy = Proxy::start(&[endpoint.to_owned()], &[]).await;
        let log = lines(&proxy.log());
        let ready: Vec<_> = log.iter().filter(|line| message(line) == READY).collect();
        assert_eq!(ready.len(), 1, "{log:?}");
        assert_eq!(ready[0]["endpoint"], expected, "{log:?}");
    }
}

/// A line for each kind of client that has come to the wrong port, however many of them there are.
async fn strangers() {
    const TLS: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut proxy = Proxy::start(&[dead()], &[]).await;
    for (begins, says) in [
        (TLS, "a client speaks TLS"),
        (b"\0\x01\x02\"\n\xff", "a client speaks neither HTTP/2"),
        (b"HELLO\r\n\r\n", "a client doesn't keep to HTTP/1"),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "a client doesn't keep to HTTP/2",
        ),
    ] {
        for _ in 0..30 {
            let mut stream = TcpStream::connect(proxy.address()).await.expect("connection");
            stream.write_all(begins).await.expect("write");
            // It ends by our end or, at the latest, by the proxy's.
            stream.shutdown().await.expect("shutdown");
            let mut rest = Vec::new();
            let _ = within("the end", SOON, stream.read_to_end(&mut rest)).await;
        }
        eventually(says, SOON, async || proxy.log().contains(says).then_some(())).await;
    }
    // Who says nothing, as the health checks of load balancers do, is nobody.
    for _ in 0..5 {
        drop(TcpStream::connect(proxy.address()).await.expect("connection"));
    }
    let log = lines(&proxy.log());
    let about: Vec<_> = log
        .iter()
        .filter(|line| message(line).starts_with("a client "))
        .collect();
    // One each, unless the machine is so busy that this took as long as a line is held back.
    assert!((4..=8).contains(&about.len()), "{about:?}");
    for line in about {
        assert_eq!(line["level"], "warn", "{line}");
        assert!(
            line["peer"]
                .as_str()
                .is_some_and(|peer| peer.starts_with("127.0.0.1:")),
            "{line}"
        );
    }
    proxy.assert_sound();
}

/// Somebody rotates logs, or reloads what can't be reloaded.
async fn hangup() {
    let mut proxy = Proxy::start(&[dead()], &["--dial-timeout=1s"]).await;
    for _ in 0..3 {
        proxy.process().signal(Signal::HUP);
    }
    eventually("a line", SOON, async || {
        let log = proxy.log();
        assert!(proxy.process().exit_status().is_none(), "it ended:\n{log}");
        log.contains("SIGHUP").then_some(())
    })
    .await;
    let wire = Wire::connect(proxy.address()).await.expect("it serves");
    let message = [Bytes::from_static(b"\x0a\x01k")];
    let call = wire.call("/etcdserverpb.KV/Put", &[], &message);
    let reply = within("an answer", SOON, call).await;
    assert_eq!(reply.code(), Some(14), "{reply:?}");
    proxy.process().signal(Signal::TERM);
    assert_eq!(proxy.process().ended(SOON).await.code(), Some(0));
}

/// On a terminal the log is for people, unless it is asked for as JSON; then nothing else comes between. The process goes
/// away with its terminal.
async fn terminal() {
    let dir = TempDir::new("terminal");
    for (name, flags, hint) in [
        ("console", "", "  etcdctl put greeting hello\r\n"),
        ("json", "--log-format=json", "what to try next"),
    ] {
        let address = dead();
        let command = format!(
            "exec {} start --embedded --listen-addr {address} {flags}",
            binary().display()
        );
        let args = ["-q", "-e", "-f", "-c", &command, "/dev/null"].map(str::to_owned);
        let log = dir.path().join(format!("{name}.log"));
        let mut script = Process::start("script", Path::new("/usr/bin/script"), &args, &log);
        eventually("what to try next", SOON, async || {
            let log = script.log();
            assert!(script.exit_status().is_none(), "it ended:\n{log}");
            log.contains(hint).then_some(())
        })
        .await;
        let log = script.log();
        let json = log.lines().filter(|line| line.trim().starts_with('{')).count();
        if name == "console" {
            assert_eq!(json, 0, "{log}");
            assert!(
                log.contains(&format!("  export ETCDCTL_ENDPOINTS={address}\r\n")),
                "{log}"
            );
        } else {
            assert_eq!(json, log.lines().count(), "{log}");
            assert!(log.contains(&format!("ETCDCTL_ENDPOINTS={address}\"")), "{log}");
        }
        script.kill();
        eventually("the process has ended with its terminal", SOON, async || {
            TcpStream::connect(&address).await.is_err().then_some(())
        })
        .await;
    }
}

/// A line for each setting that is not done as it was written.
async fn settings_that_change_nothing() {
    let dir = TempDir::new("settings");
    let address = dead();
    let args = [
        "start",
        "--listen-addr",
        &address,
        "--endpoints",
        &dead(),
        "--workers=1",
        "--workers=2",
        "--permit-without-stream",
        "--data-dir=/nowhere",
        "--grpc-keepalive-interval=1ms",
    ]
    .map(str::to_owned);
    let log = dir.path().join("proxy.log");
    let env = [("ETCD_PROXY_ENDPOINT", "x")];
    let proxy = Process::start_with_env("etcd-proxy", &binary(), &args, &env, &log);
    eventually("it is ready", SOON, async || {
        proxy.log().contains(READY).then_some(())
    })
    .await;
    let log = lines(&proxy.log());
    for text in [
        "--workers was given more than once",
        "--permit-without-stream changes nothing",
        "--data-dir changes nothing",
        "--grpc-keepalive-interval is below the least there is",
        "unknown environment variable",
    ] {
        let found: Vec<_> = log
            .iter()
            .filter(|line| line["level"] == "warn" && message(line).starts_with(text))
            .collect();
        assert_eq!(found.len(), 1, "{text}: {log:?}");
        if let Some(meant) = found[0].get("did_you_mean") {
            assert_eq!(meant, "ETCD_PROXY_ENDPOINTS");
        }
    }
}
