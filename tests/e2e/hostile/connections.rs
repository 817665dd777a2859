//! Calls that stay open, and calls with large answers: neither keeps others from their member.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use etcd_proxy_proto::{
    etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, RangeRequest,
    },
    v3electionpb::LeaderRequest,
    v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse},
};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    relay::{Link, Mode, Relay},
    suite::{eventually, free_port, trial, within},
    watching::{Watching, on_key},
    wire::{Call, Wire, WireOptions},
};
use libtest_mimic::Trial;
use prost::Message as _;
use tokio::task::JoinSet;

use crate::{ANSWER_LIMIT, healthy};

const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";
const OBSERVE: &str = "/v3electionpb.Election/Observe";

/// What the member allows on each connection.
const STREAMS: &str = "--max-concurrent-streams=40";

/// As many calls as that, and then some.
const WAITING: usize = 45;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("blocking_calls_are_in_nobodys_way", blocking_calls),
        trial("one_client_leaves_blocking_calls_to_others", shares),
        trial("a_black_hole_in_a_further_connection", black_hole),
        trial("lists_are_not_in_the_way_of_writes", bulk),
    ]
}

async fn limited() -> Cluster {
    Cluster::start(Options::default().flag(STREAMS)).await
}

async fn lock(wire: &Wire, name: &str) -> Result<LockResponse, String> {
    let request = LockRequest {
        name: name.to_owned().into(),
        lease: 0,
    };
    let answer = wire.unary(LOCK, &[], &request).await;
    answer.map_err(|reply| reply.in_short())
}

async fn unlock(wire: &Wire, key: &Bytes) {
    let request = UnlockRequest { key: key.clone() };
    let answer = wire.unary::<_, UnlockResponse>(UNLOCK, &[], &request);
    within("an unlock", ANSWER_LIMIT, answer).await.expect("unlocked");
}

/// What a client that behaves does, each with an answer soon.
async fn neighbour(proxy: &Proxy) {
    healthy(proxy).await;
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let watched = async {
        let (mut watching, _) = Watching::one(&wire, on_key("beside")).await;
        let client = Client { wire: wire.clone() };
        client.put(b"beside", b"1").await.expect("put");
        assert_eq!(watching.next().await.events.len(), 1);
    };
    within("a watch and its event", ANSWER_LIMIT, watched).await;
    let heartbeat = async {
        let request = LeaseGrantRequest { ttl: 60, id: 0 };
        let path = "/etcdserverpb.Lease/LeaseGrant";
        let lease: LeaseGrantResponse = wire.unary(path, &[], &request).await.expect("lease");
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let mut call = wire.open(path, &[]).await.expect("call");
        let request = LeaseKeepAliveRequest { id: lease.id };
        call.send(request.encode_to_vec().into()).await.expect("send");
        let answer = call.message().await.expect("an answer");
        let answer = LeaseKeepAliveResponse::decode(answer).expect("valid");
        assert_eq!(answer.ttl, 60);
    };
    within("a heartbeat", ANSWER_LIMIT, heartbeat).await;
}

/// Opens calls that see nothing until the test ends.
async fn observers(wire: &Wire, count: usize) -> Vec<Call> {
    let mut calls = Vec::new();
    for number in 0..count {
        let mut call = wire.open(OBSERVE, &[]).await.expect("call");
        let request = LeaderRequest {
            name: format!("nobody/{number}").into(),
        };
        call.send(request.encode_to_vec().into()).await.expect("send");
        call.half_close().expect("half-close");
        calls.push(call);
    }
    calls
}

async fn blocking_calls() {
    let cluster = limited().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &["--workers=1"]).await;
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let first = lock(&wire, "queue").await.expect("the first lock");
    let mut waiting = JoinSet::new();
    for number in 0..WAITING {
        let wire = wire.clone();
        waiting.spawn(async move { (number, lock(&wire, "queue").await) });
    }
    let other = Wire::connect(proxy.address()).await.expect("connection");
    let observers = observers(&other, WAITING).await;
    // All of them have come to the member, or to wherever they wait.
    let direct = Client::connect(&cluster.address(0)).await.expect("member");
    let queue = RangeRequest {
        key: "queue/".into(),
        range_end: "queue0".into(),
        count_only: true,
        ..Default::default()
    };
    eventually("the locks wait", ANSWER_LIMIT, async || {
        let count = direct.range(&queue).await.expect("range").count;
        (count >= 39).then_some(())
    })
    .await;
    neighbour(&proxy).await;
    unlock(&wire, &first.key).await;
    let mut granted = Vec::new();
    while let Some(next) = within("the next lock", ANSWER_LIMIT, waiting.join_next()).await {
        let (number, lock) = next.expect("no panic");
        granted.push(number);
        unlock(&wire, &lock.expect("a lock").key).await;
    }
    assert_eq!(granted.len(), WAITING);
    drop(observers);
    neighbour(&proxy).await;
    proxy.assert_sound();
}

async fn shares() {
    let cluster = limited().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &["--workers=1", "--dial-timeout=2s"]).await;
    let greedy = Wire::connect(proxy.address()).await.expect("connection");
    // What it may not have is refused when the time to wait for a connection is over. Which of its calls that befalls is open: whoever
    // looks first takes a place on a further connection.
    let mut all = JoinSet::new();
    for call in observers(&greedy, 1_500).await {
        all.spawn(call.finish());
    }
    let refused = within("a call too many", ANSWER_LIMIT, all.join_next()).await;
    let refused = refused.expect("some were opened").expect("no panic");
    drop(all);
    assert_eq!(refused.code(), Some(8), "{}", refused.in_short());
    let again = observers(&greedy, 1_500).await;
    for number in 0..3 {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        let name = format!("of-its-own/{number}");
        let granted = within("another client's first lock", ANSWER_LIMIT, lock(&wire, &name)).await;
        unlock(&wire, &granted.expect("a lock").key).await;
    }
    neighbour(&proxy).await;
    drop(again);
    proxy.assert_sound();
}

/// The proxy's connections of one class alone fall silent: what waits there is repeated or fails, and goes on elsewhere.
async fn black_hole() {
    let cluster = limited().await;
    let target: SocketAddr = cluster.address(0).parse().expect("an address");
    let numbered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&numbered);
    let identify = move |_| Some(count.fetch_add(1, Ordering::SeqCst));
    let relay = Relay::start(free_port(), target, Some(Arc::new(identify))).await;
    let flags = ["--workers=1", "--cache=off"];
    let mut proxy = Proxy::start(&[relay.address()], &flags).await;
    healthy(&proxy).await;
    let known = numbered.load(Ordering::SeqCst);
    let client = Client::connect(proxy.address()).await.expect("connection");
    let list = RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        ..Default::default()
    };
    within("a list", ANSWER_LIMIT, client.range(&list))
        .await
        .expect("answer");
    let with_bulk = numbered.load(Ordering::SeqCst);
    assert!(with_bulk > known, "lists have a connection of their own");
    for source in known..with_bulk {
        relay.set_from(source, Mode::BlackHole);
    }
    let since = Instant::now();
    within("a list that is repeated", ANSWER_LIMIT, client.range(&list))
        .await
        .expect("answer");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    healthy(&proxy).await;
    proxy.assert_sound();
}

/// 100 Mbit/s.
const BANDWIDTH: u32 = 12_500_000;

const LISTERS: usize = 4;

async fn bulk() {
    let cluster = Cluster::start(Options::default()).await;
    let direct = Client::connect(&cluster.address(0)).await.expect("member");
    for number in 0..8 {
        let key = format!("big/{number}");
        direct
            .put(key.as_bytes(), &vec![b'v'; 1_000_000])
            .await
            .expect("put");
    }
    let target: SocketAddr = cluster.address(0).parse().expect("an address");
    let link = Link {
        bytes_per_second: Some(BANDWIDTH),
        ..Link::default()
    };
    let relay = Relay::start_on(free_port(), target, None, link).await;
    let mut proxy = Proxy::start(&[relay.address()], &["--workers=1", "--cache=off"]).await;
    healthy(&proxy).await;
    let without = puts_beside_lists(&relay.address()).await;
    let with = puts_beside_lists(proxy.address()).await;
    println!("a put beside {LISTERS} lists of 8 MB: directly {without:?}, through the proxy {with:?}");
    assert!(
        with < without * 5 / 2 + Duration::from_millis(5),
        "{with:?} through the proxy, {without:?} directly"
    );
    proxy.assert_sound();
}

/// The median of puts beside lists that follow each other.
async fn puts_beside_lists(address: &str) -> Duration {
    let mut lists = JoinSet::new();
    let (begun, mut all_begun) = tokio::sync::mpsc::channel::<()>(LISTERS);
    for _ in 0..LISTERS {
        let options = WireOptions {
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
        };
        let wire = Wire::connect_with(address, &options).await.expect("connection");
        let begun = begun.clone();
        lists.spawn(async move {
            let list = RangeRequest {
                key: "big/".into(),
                range_end: "big0".into(),
                ..Default::default()
            };
            loop {
                let mut call = wire.open("/etcdserverpb.KV/Range", &[]).await.expect("call");
                call.send(list.encode_to_vec().into()).await.expect("send");
                call.half_close().expect("half-close");
                call.headers().await.expect("an answer");
                let _ = begun.try_send(());
                let reply = call.finish().await;
                assert!(reply.is_ok(), "{}", reply.in_short());
            }
        });
    }
    for _ in 0..LISTERS {
        within("a list's beginning", ANSWER_LIMIT, all_begun.recv()).await;
    }
    let client = Client::connect(address).await.expect("connection");
    let mut times = Vec::new();
    for _ in 0..41 {
        let since = Instant::now();
        let put = client.put(b"beside", b"v");
        within("a put", ANSWER_LIMIT, put).await.expect("put");
        times.push(since.elapsed());
    }
    lists.abort_all();
    times.sort_unstable();
    times[times.len() / 2]
}
