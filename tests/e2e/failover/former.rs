//! Connections that are no longer used for new calls, but still carry some.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use etcd_proxy_proto::v3electionpb::LeaderRequest;
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    relay::{Mode, Relay},
    suite::{eventually, free_port, trial, within},
    wire::Call,
};
use libtest_mimic::Trial;
use prost::Message as _;

const SOON: Duration = Duration::from_secs(20);

/// Probes are made faster than by default, so that there are enough of them in a short test.
const FLAGS: [&str; 3] = [
    "--workers=2",
    "--endpoint-probe-interval=200ms",
    "--endpoint-probe-timeout=1s",
];

/// Much longer than it takes to find out that a connection is silent.
const VERDICT_LIMIT: Duration = Duration::from_secs(6);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("frozen_connection_of_former_calls", frozen),
        trial("closed_connection_of_status_calls", closed),
    ]
}

/// One member behind a relay that numbers its connections from 0, and a proxy with two workers.
struct World {
    cluster: Cluster,
    relay: Relay,
    connections: Arc<AtomicUsize>,
    proxy: Proxy,
}

impl World {
    async fn start() -> Self {
        let cluster = Cluster::start(Options::default()).await;
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let number = Arc::new(move |_| Some(counter.fetch_add(1, Ordering::Relaxed)));
        let target = cluster.address(0).parse().expect("host:port");
        let relay = Relay::start(free_port(), target, Some(number)).await;
        let proxy = Proxy::start(&[relay.address()], &FLAGS).await;
        Self {
            cluster,
            relay,
            connections,
            proxy,
        }
    }

    /// How many connections there were so far.
    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Directly, so that it takes no connection of the proxy.
    async fn put(&self) {
        let client = Client::connect(&self.cluster.address(0)).await.expect("member");
        client.put(b"k/1", b"v").await.expect("put");
    }

    /// A stream that goes through as it is, and says something whenever [`World::put`] is called.
    async fn observe(&self) -> Call {
        let client = Client::connect(self.proxy.address()).await.expect("proxy");
        let path = "/v3electionpb.Election/Observe";
        let mut call = client.wire.open(path, &[]).await.expect("call");
        let request = LeaderRequest { name: "k".into() };
        call.send(request.encode_to_vec().into()).await.expect("send");
        call.half_close().expect("half-close");
        next(&mut call).await.expect("the leader");
        call
    }
}

async fn next(stream: &mut Call) -> Option<Bytes> {
    within("a message of a stream", SOON, stream.message()).await
}

/// The connections of two workers are withdrawn since one of them broke. The call that is still
/// open on the other learns all the same when that one falls silent.
async fn frozen() {
    let mut world = World::start().await;
    world.put().await;
    let mut streams = vec![world.observe().await, world.observe().await];
    world.put().await;
    for stream in &mut streams {
        next(stream).await.expect("an event");
    }

    let before = world.connections();
    let mut ended = None;
    for number in 0..before {
        world.relay.set_from(number, Mode::Close);
        let [first, second] = &mut streams[..] else {
            unreachable!("two streams");
        };
        let end = async {
            tokio::select! {
                message = first.message() => (0, message),
                message = second.message() => (1, message),
            }
        };
        // A connection that carries no stream says nothing about one.
        if let Ok((index, message)) = tokio::time::timeout(Duration::from_secs(2), end).await {
            assert_eq!(message, None, "an event that nobody wrote");
            ended = Some(index);
            break;
        }
    }
    let ended = ended.expect("a stream ends with its connection");
    let reply = streams.remove(ended).finish().await;
    assert_eq!(reply.code(), Some(14), "{reply:?}");
    let mut former = streams.remove(0);

    // The proxy is on new connections.
    eventually("calls are answered again", SOON, async || {
        for _ in 0..2 {
            let client = Client::connect(world.proxy.address()).await.ok()?;
            client.get(b"k").await.ok()?;
        }
        (world.connections() > before).then_some(())
    })
    .await;
    for number in 0..before {
        world.relay.set_from(number, Mode::BlackHole);
    }
    world.put().await;
    let message = within(
        "an event, or the end, of a stream on a frozen connection",
        VERDICT_LIMIT,
        former.message(),
    )
    .await;
    if message.is_none() {
        let reply = former.finish().await;
        assert_eq!(reply.code(), Some(14), "{reply:?}");
    }
    world.proxy.assert_sound();
}

/// Status calls pin their clients to a connection. When it closes, probes do not go on and on to find
/// that there is no leader.
async fn closed() {
    let mut world = World::start().await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let client = Client::connect(world.proxy.address()).await.expect("proxy");
        client.status().await.expect("status");
        clients.push(client);
    }
    for number in 0..world.connections() {
        world.relay.set_from(number, Mode::Close);
        let start = Instant::now();
        // Many probes, and no call that would replace the connection.
        while start.elapsed() < Duration::from_secs(2) {
            let log = world.proxy.log();
            assert!(!log.contains("has no leader"), "connection {number}: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for client in &clients {
        within("a status", SOON, client.status()).await.expect("status");
    }
    world.proxy.assert_sound();
}
