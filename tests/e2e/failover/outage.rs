//! Nobody is there: at the start, for a while, or again and again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    fake::{Fake, Step},
    proxy::Proxy,
    relay::{Mode, Relay},
    suite::{eventually, free_port, trial, within},
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::load::{Load, Reads};

/// For what takes about a second on an idle machine.
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("no_endpoint_refusing", || no_endpoint(Mode::Refuse)),
        trial("no_endpoint_black_holed", || no_endpoint(Mode::BlackHole)),
        trial("no_endpoint_closing", || no_endpoint(Mode::Close)),
        trial("proxy_before_etcd", proxy_before_etcd),
        trial("whole_cluster_restart", whole_cluster_restart),
        trial("only_endpoint_black_holed", only_endpoint_black_holed),
        trial("twenty_restarts_then_idle", twenty_restarts_then_idle),
        trial(
            "the_only_member_is_dialled_again",
            the_only_member_is_dialled_again,
        ),
        trial(
            "a_lost_connection_is_dialled_at_once",
            a_lost_connection_is_dialled_at_once,
        ),
    ]
}

/// A watch of the key `k`.
const CREATE: &[u8] = b"\x0a\x03\x0a\x01k";

/// Calls of every kind fail with UNAVAILABLE, about `--dial-timeout` after they came at the latest.
async fn no_endpoint(mode: Mode) {
    let dead = Relay::start(free_port(), "127.0.0.1:9".parse().expect("address"), None).await;
    dead.set(mode);
    let mut proxy = Proxy::start(&[dead.address()], &["--dial-timeout=2s"]).await;
    let wire = Wire::connect(proxy.address())
        .await
        .expect("the proxy listens without an upstream");
    for path in [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.Watch/Watch",
        "/etcdserverpb.Lease/LeaseKeepAlive",
        "/etcdserverpb.Maintenance/Status",
        "/no.such.Service/Method",
    ] {
        let start = Instant::now();
        // For most an empty message; for a watch, something to watch.
        let message = if path.ends_with("/Watch") { CREATE } else { b"" };
        let reply = within(path, SOON, wire.call(path, &[], &[Bytes::from_static(message)])).await;
        assert_eq!(reply.code(), Some(14), "{path}: {reply:?}");
        assert!(
            !reply.message().unwrap_or_default().is_empty(),
            "{path}: says nothing: {reply:?}"
        );
        // Not a matter of speed: without the bound it would hang, or take TCP's two minutes.
        assert!(
            start.elapsed() < Duration::from_secs(6),
            "{path} took {:?}",
            start.elapsed()
        );
    }
    // A caller who wants to wait less, waits less.
    let metadata = [("grpc-timeout", "200m")];
    let reply = wire
        .call("/etcdserverpb.KV/Range", &metadata, &[Bytes::new()])
        .await;
    assert!(matches!(reply.code(), Some(4 | 14)), "{reply:?}");
    proxy.assert_sound();
}

async fn answers(proxy: &Proxy) {
    eventually("the proxy answers", SOON, async || {
        let client = Client::connect(proxy.address()).await.ok()?;
        let put = tokio::time::timeout(Duration::from_secs(8), client.put(b"k", b"v"));
        put.await.ok()?.ok()
    })
    .await;
}

async fn proxy_before_etcd() {
    let mut cluster = Cluster::start(Options::default()).await;
    cluster.kill(0);
    let mut proxy = Proxy::start(&cluster.endpoints(), &["--dial-timeout=1s"]).await;
    let client = Client::connect(proxy.address()).await.expect("proxy");
    let early = within("an answer", SOON, client.get(b"k"))
        .await
        .expect_err("nobody is there");
    assert_eq!(early.code(), Some(14), "{early:?}");
    cluster.restart(0);
    answers(&proxy).await;
    // The connection that saw the failure works as well.
    assert!(client.get(b"k").await.is_ok());
    proxy.assert_sound();
}

async fn whole_cluster_restart() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &["--dial-timeout=1s"]).await;
    let load = Load::start(proxy.address(), Reads::MayBeUnavailable).await;
    for _ in 0..2 {
        for member in 0..3 {
            cluster.kill(member);
        }
        eventually("the outage is seen", SOON, async || {
            let client = Client::connect(proxy.address()).await.ok()?;
            client.get(b"seed").await.err()
        })
        .await;
        for member in 0..3 {
            cluster.restart(member);
        }
        cluster.writable().await;
        load.goes_on(proxy.address(), 100).await;
    }
    load.check(&cluster.address(0)).await;
    proxy.assert_sound();
}

/// There is no other member to go to: calls fail in bounded time, and work again when it is back.
async fn only_endpoint_black_holed() {
    let options = Options {
        client_relays: true,
        ..Options::default()
    };
    let cluster = Cluster::start(options).await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &["--dial-timeout=2s"]).await;
    answers(&proxy).await;
    let wire = Wire::connect(proxy.address()).await.expect("proxy");
    // A watch outlives it. Other streams must not stay open for ever.
    let mut watch = wire.open("/etcdserverpb.Watch/Watch", &[]).await.expect("watch");
    watch.send(Bytes::from_static(CREATE)).await.expect("create");
    assert!(watch.message().await.is_some(), "created");
    let client = Client::connect(proxy.address()).await.expect("proxy");
    client.put(b"e/1", b"elected").await.expect("put");
    let mut stream = wire
        .open("/v3electionpb.Election/Observe", &[])
        .await
        .expect("a stream");
    // A LeaderRequest for the election `e`.
    stream
        .send(Bytes::from_static(b"\x0a\x01e"))
        .await
        .expect("request");
    stream.half_close().expect("half-close");
    assert!(within("an answer", SOON, stream.message()).await.is_some());
    cluster.client_relay(0).set(Mode::BlackHole);
    let ended = within("the open stream ends", SOON, stream.finish()).await;
    assert_eq!(ended.code(), Some(14), "{ended:?}");
    for path in ["/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put"] {
        let message = [Bytes::from_static(b"\x0a\x01k")];
        let reply = within(path, SOON, wire.call(path, &[], &message)).await;
        assert_eq!(reply.code(), Some(14), "{path}: {reply:?}");
    }
    cluster.client_relay(0).set(Mode::Forward);
    answers(&proxy).await;
    let event = within("what happened meanwhile", SOON, watch.message()).await;
    assert!(event.is_some(), "{:?}", watch.finish().await);
    proxy.assert_sound();
}

/// The existing proxy once burned a whole core after its endpoints had been replaced often enough.
async fn twenty_restarts_then_idle() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &["--dial-timeout=1s"]).await;
    answers(&proxy).await;
    let wire = Wire::connect(proxy.address()).await.expect("proxy");
    let mut watches = Vec::new();
    for _ in 0..20 {
        // Something is open on each incarnation, and on all that follow.
        let mut watch = wire.open("/etcdserverpb.Watch/Watch", &[]).await.expect("watch");
        watch.send(Bytes::from_static(CREATE)).await.expect("create");
        assert!(within("created", SOON, watch.message()).await.is_some());
        watches.push(watch);
        cluster.kill(0);
        cluster.restart(0);
        answers(&proxy).await;
        for watch in &mut watches {
            let event = within("an event", SOON, watch.message()).await;
            assert!(event.is_some(), "a watch ended");
        }
    }
    drop((watches, wire));
    let process = proxy.process();
    let before = process.cpu_ticks();
    // Idle means that nothing happens: the one case in which time has to pass.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let ticks = process.cpu_ticks() - before;
    // A busy loop takes 300 ticks; looking after one endpoint once a second takes next to none.
    assert!(ticks < 30, "an idle proxy took {ticks} ticks of 10 ms in 3 s");
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid()))
        .expect("proc")
        .count();
    assert!(open < 100, "{open} open files after 20 restarts");
    proxy.assert_sound();
}

/// The waits between attempts stay shorter than what a call waits for a member: the first read after it is back is answered,
/// however long it was away.
async fn the_only_member_is_dialled_again() {
    let mut cluster = Cluster::start(Options::default()).await;
    let flags = ["--cache=off", "--dial-timeout=2s"];
    let mut proxy = Proxy::start(&cluster.endpoints(), &flags).await;
    let client = Client::connect(proxy.address()).await.expect("proxy");
    client.get(b"k").await.expect("the member is there");
    for refused in [0, 0, 2] {
        cluster.kill(0);
        for _ in 0..refused {
            let early = within("an answer", SOON, client.get(b"k")).await;
            assert_eq!(early.expect_err("nobody is there").code(), Some(14));
        }
        cluster.restart(0);
        cluster.all_serve().await;
        let answer = within("an answer", SOON, client.get(b"k")).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    proxy.assert_sound();
}

/// What breaks a connection may leave its member well: no wait comes before the first attempt to have another one.
async fn a_lost_connection_is_dialled_at_once() {
    let member = Fake::start(|_, request| match &*request.path {
        "/etcdserverpb.KV/Put" => vec![Step::Hangup],
        _ => vec![
            Step::Headers(Vec::new()),
            Step::Trailers(vec![("grpc-status", "0")]),
        ],
    })
    .await;
    let endpoints = [member.address()];
    // A read that waits no longer than half the shortest of the other waits. A machine that is busy may spoil a round.
    eventually("a read in time", SOON, async || {
        let mut proxy = Proxy::start(&endpoints, &["--cache=off"]).await;
        let wire = Wire::connect(proxy.address()).await.expect("proxy");
        let (put, range) = ("/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range");
        let message = [Bytes::from_static(b"\x0a\x01k")];
        let lost = within(put, SOON, wire.call(put, &[], &message)).await;
        assert_eq!(lost.code(), Some(14), "{lost:?}");
        let metadata = [("grpc-timeout", "20m")];
        let reply = within(range, SOON, wire.call(range, &metadata, &message)).await;
        proxy.assert_sound();
        reply.is_ok().then_some(())
    })
    .await;
}
