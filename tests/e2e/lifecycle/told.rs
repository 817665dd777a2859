//! What clients and scrapers are told of a proxy that has nothing to do, or nobody to ask.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_tests::{
    etcdctl::Etcdctl,
    metrics,
    process::Process,
    proxy::{Proxy, READY, binary},
    suite::{TempDir, eventually, free_port, trial, within},
    wire::Wire,
};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const SOON: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("told/clear_message_before_the_deadline", clear_message),
        trial("told/etcdctl_shows_the_clear_message", etcdctl),
        trial("told/head_is_get_without_body", head),
        trial("told/idle_metrics", idle_metrics),
    ]
}

fn dead() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// What every client is to see while no member can be reached.
const CLEAR: &str = "etcd-proxy: no endpoint is reachable";

/// How often a client that was told too late, on a busy machine, may ask again.
const ATTEMPTS: usize = 5;

/// Who waits no longer than the proxy does still learns why there is no answer.
async fn clear_message() {
    let proxy = Proxy::start(&[dead()], &[]).await;
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    for (path, message) in [
        ("/etcdserverpb.KV/Put", &b"\x0a\x01k"[..]),
        ("/etcdserverpb.KV/Range", b"\x0a\x01k"),
        // Serializable.
        ("/etcdserverpb.KV/Range", b"\x0a\x01k\x38\x01"),
        ("/etcdserverpb.KV/Txn", b""),
        ("/etcdserverpb.Lease/LeaseGrant", b"\x08\x05"),
        ("/etcdserverpb.Maintenance/Snapshot", b""),
        ("/v3lockpb.Lock/Lock", b""),
        ("/no.such.Service/Method", b""),
    ] {
        // Less than --dial-timeout, which is what etcdctl waits by default.
        let metadata = [("grpc-timeout", "1S")];
        let message = [Bytes::copy_from_slice(message)];
        let ask = async || within(path, SOON, wire.call(path, &metadata, &message)).await;
        let mut reply = ask().await;
        for _ in 1..ATTEMPTS {
            if reply.code() == Some(14) {
                break;
            }
            reply = ask().await;
        }
        assert_eq!(reply.code(), Some(14), "{path}: {reply:?}");
        assert_eq!(reply.message().as_deref(), Some(CLEAR), "{path}: {reply:?}");
    }
}

/// With the time-outs that both have by default.
async fn etcdctl() {
    let proxy = Proxy::start(&[dead()], &[]).await;
    let ctl = Etcdctl::new(proxy.address());
    let told = async |args: &[&str]| {
        let mut output = ctl.run(args).await;
        for _ in 1..ATTEMPTS {
            assert!(!output.is_ok(), "{output:?}");
            if output.stderr.contains(CLEAR) {
                break;
            }
            output = ctl.run(args).await;
        }
        assert!(output.stderr.contains(CLEAR), "{output:?}");
    };
    tokio::join!(told(&["put", "k", "v"]), told(&["get", "k"]));
}

async fn http(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("connection");
    let request = format!("{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut text = String::new();
    within("an answer", SOON, stream.read_to_string(&mut text))
        .await
        .expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

async fn head() {
    let proxy = Proxy::start(&[dead()], &[]).await;
    for (path, status) in [(metrics::PROXY, "200 OK"), ("/nope", "404 Not Found")] {
        let (get, body) = http(proxy.address(), &format!("GET {path}")).await;
        let (head, none) = http(proxy.address(), &format!("HEAD {path}")).await;
        assert!(get.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{get}");
        assert!(!body.is_empty());
        assert_eq!(none, "", "{head}");
        // The same fields but for the time; and the numbers may have moved on by a digit.
        let names = |head: &str| {
            let fields = head
                .lines()
                .map(|line| line.split(':').next().unwrap_or_default().to_owned());
            fields.collect::<Vec<_>>()
        };
        assert_eq!(names(&head), names(&get));
    }
}

/// No number of a proxy that does nothing says that it is behind or full.
async fn idle_metrics() {
    let dir = TempDir::new("idle");
    let address = dead();
    let args = ["start", "--embedded", "--listen-addr", &address].map(str::to_owned);
    let proxy = Process::start("etcd-proxy", &binary(), &args, &dir.path().join("proxy.log"));
    eventually("it is ready", SOON, async || {
        proxy.log().contains(READY).then_some(())
    })
    .await;
    let metric = async |name: &str| {
        let text = metrics::text(&address, metrics::PROXY).await.expect("metrics");
        metrics::sum_where(&text, name, |_| true).unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(metric("etcd_proxy_read_entries").await, 0.0);
    assert_eq!(metric("etcd_proxy_read_bytes").await, 0.0);
    // Reads bring the cache into step with the cluster, and then nothing happens for longer than the bound.
    let ctl = Etcdctl::new(&address);
    eventually("the cache is in step", SOON, async || {
        ctl.ok(&["get", "k"]).await;
        (metric("etcd_proxy_read_staleness_seconds").await >= 0.0).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let staleness = metric("etcd_proxy_read_staleness_seconds").await;
    assert!(staleness <= 1.0, "{staleness} s under a bound of 1 s");

    let text = metrics::text(&address, metrics::PROXY).await.expect("metrics");
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(!line.ends_with("_total gauge"), "{line}");
    }
}
