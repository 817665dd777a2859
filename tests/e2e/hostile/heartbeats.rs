//! Heartbeats that are very many, or very long: leases of other clients live.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
};
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    metrics,
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::{Call, Wire, frame},
};
use libtest_mimic::Trial;
use prost::Message as _;
use tokio::task::JoinSet;

use crate::{ANSWER_LIMIT, Upstream, attack, unharmed};

const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// Of the neighbour's leases, in seconds.
const TTL: i64 = 5;

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        trial("heartbeats_of_unknown_leases", unknown_leases),
        attack(upstream, "long_heartbeats", &[], long_heartbeats),
        attack(upstream, "requests_of_one_connection", &[], one_connection),
        attack(upstream, "unfinished_messages", &[], unfinished_messages),
    ]
}

fn heartbeat(id: i64) -> Bytes {
    LeaseKeepAliveRequest { id }.encode_to_vec().into()
}

/// What attackers were answered.
type Answers = Arc<AtomicU64>;

/// Streams on as many connections, on each of which so many heartbeats of unknown leases wait for their answers all
/// the time.
async fn flood(
    proxy: &Proxy,
    connections: usize,
    streams: usize,
    depth: usize,
    answers: &Answers,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for connection in 0..connections {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        for stream in 0..streams {
            let mut call = wire.open(KEEP_ALIVE, &[]).await.expect("call");
            let answers = answers.clone();
            let mut next = 1_000_000_000 * (1 + connection * streams + stream) as i64;
            tasks.spawn(async move {
                let mut waiting = 0;
                loop {
                    let mut batch = BytesMut::new();
                    while waiting < depth {
                        batch.put(frame(&heartbeat(next)));
                        next += 1;
                        waiting += 1;
                    }
                    // The rest waits for the proxy to read on.
                    if call.send_raw(batch.freeze(), false).await.is_err() {
                        return;
                    }
                    for _ in 0..depth / 4 {
                        if call.message().await.is_none() {
                            return;
                        }
                        waiting -= 1;
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    }
    tasks
}

/// A client that behaves, with a connection of its own.
struct Neighbour {
    call: Call,
    lease: i64,
}

impl Neighbour {
    async fn new(proxy: &Proxy) -> Self {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        let grant = LeaseGrantRequest { ttl: TTL, id: 0 };
        let granted = wire.unary("/etcdserverpb.Lease/LeaseGrant", &[], &grant);
        let granted: LeaseGrantResponse = within("a lease", ANSWER_LIMIT, granted).await.expect("a lease");
        let call = wire.open(KEEP_ALIVE, &[]).await.expect("call");
        Self {
            call,
            lease: granted.id,
        }
    }

    /// One heartbeat. How long its answer takes; the lease lives.
    async fn beat(&mut self) -> Duration {
        let clock = Instant::now();
        self.call.send(heartbeat(self.lease)).await.expect("send");
        let answer = within("an answer", ANSWER_LIMIT, self.call.message()).await;
        let took = clock.elapsed();
        let answer = LeaseKeepAliveResponse::decode(answer.expect("the stream goes on")).expect("an answer");
        assert_eq!(answer.id, self.lease);
        assert_eq!(answer.ttl, TTL, "the lease is lost: the answer took {took:?}");
        took
    }
}

/// Random leases on 60 streams: others' heartbeats don't wait behind them, neither those of a lease that is new nor of
/// one that is known. The member is a follower, which asks the leader for each.
async fn unknown_leases() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let ids = cluster.ids().await;
    let leader = cluster.leader_seen_by(0, &ids).await;
    let follower = cluster.address((leader + 1) % 3);
    let proxy = Proxy::start(&[follower], &[]).await;
    const CONNECTIONS: usize = 6;
    const STREAMS: usize = 10;
    const DEPTH: usize = 500;
    let mut old = Neighbour::new(&proxy).await;
    old.beat().await;
    let answers = Answers::default();
    let flood = flood(&proxy, CONNECTIONS, STREAMS, DEPTH, &answers).await;
    eventually("the flood has come", ANSWER_LIMIT, async || {
        (answers.load(Ordering::Relaxed) > 2_000).then_some(())
    })
    .await;
    let (clock, before) = (Instant::now(), answers.load(Ordering::Relaxed));
    let mut new = Neighbour::new(&proxy).await;
    let mut waited = Vec::new();
    for _ in 0..3 {
        waited.push(new.beat().await);
        waited.push(old.beat().await);
    }
    eventually("the flood goes on", ANSWER_LIMIT, async || {
        (answers.load(Ordering::Relaxed) > before + 5_000).then_some(())
    })
    .await;
    let answered = answers.load(Ordering::Relaxed) - before;
    // As many as wait, over as many as are answered in a time.
    let theirs = clock.elapsed().as_secs_f64() * (CONNECTIONS * STREAMS * DEPTH) as f64 / answered as f64;
    waited.sort();
    let ours = waited[waited.len() / 2].as_secs_f64();
    eprintln!("a heartbeat takes {ours:.3} s, {theirs:.3} s among the flood; all: {waited:?}");
    assert!(
        ours < theirs / 4.0,
        "a heartbeat takes {ours:.3} s, and {theirs:.3} s among the flood"
    );
    drop(flood);
    unharmed(proxy).await;
}

/// All streams of one connection share what the proxy keeps of them.
async fn one_connection(proxy: Proxy) {
    let mut neighbour = Neighbour::new(&proxy).await;
    neighbour.beat().await;
    let answers = Answers::default();
    let flood = flood(&proxy, 1, 400, 400, &answers).await;
    let leases = async || {
        let text = metrics::text(proxy.address(), metrics::PROXY)
            .await
            .expect("metrics");
        metrics::sum_where(&text, "etcd_proxy_lease_leases", |_| true).expect("the metric")
    };
    let clock = Instant::now();
    let mut most = 0.0_f64;
    while clock.elapsed() < Duration::from_secs(3) {
        most = most.max(leases().await);
        neighbour.beat().await;
    }
    // 160,000 want to wait. Each stream that is read from again may add one.
    eprintln!("the proxy keeps up to {most} leases");
    assert!(most < 4_000.0, "the proxy keeps {most} leases of one connection");
    drop(flood);
    unharmed(proxy).await;
}

/// Heartbeats with nearly 2 MB of what no server knows, in one piece and in very many.
async fn long_heartbeats(proxy: Proxy) {
    const PADDING: usize = 1_900_000;
    let mut neighbour = Neighbour::new(&proxy).await;
    neighbour.beat().await;
    let answers = Answers::default();
    let mut flood = JoinSet::new();
    let one = {
        let mut field = BytesMut::new();
        field.put_u8(0x52);
        prost::encoding::encode_varint(PADDING as u64, &mut field);
        field.resize(field.len() + PADDING, b'x');
        field.freeze()
    };
    let many = Bytes::from([0x50, 1].repeat(PADDING / 2));
    for number in 0..12_i64 {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        let mut call = wire.open(KEEP_ALIVE, &[]).await.expect("call");
        let field = if number % 2 == 0 {
            one.clone()
        } else {
            many.clone()
        };
        let answers = answers.clone();
        flood.spawn(async move {
            for next in 0.. {
                let id = heartbeat(1_000_000_000 * (number + 1) + next);
                let mut head = BytesMut::new();
                head.put_u8(0);
                head.put_u32((id.len() + field.len()) as u32);
                head.put(id);
                if call.send_raw(head.freeze(), false).await.is_err()
                    || call.send_raw(field.clone(), false).await.is_err()
                {
                    return;
                }
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let clock = Instant::now();
    let mut slowest = Duration::ZERO;
    while clock.elapsed() < Duration::from_secs(5) || answers.load(Ordering::Relaxed) < 400 {
        assert!(clock.elapsed() < ANSWER_LIMIT, "the flood is stuck");
        slowest = slowest.max(neighbour.beat().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let sent = answers.load(Ordering::Relaxed);
    eprintln!("{sent} long heartbeats, the neighbour's slowest took {slowest:?}");
    drop(flood);
    unharmed(proxy).await;
}

/// Hundreds of messages of one connection that never come to their end.
async fn unfinished_messages(proxy: Proxy) {
    const STREAMS: usize = 400;
    let mut neighbour = Neighbour::new(&proxy).await;
    let mut flood = JoinSet::new();
    for path in [KEEP_ALIVE, "/etcdserverpb.Watch/Watch"] {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        for _ in 0..STREAMS / 2 {
            let mut call = wire.open(path, &[]).await.expect("call");
            flood.spawn(async move {
                let mut head = BytesMut::new();
                head.put_u8(0);
                head.put_u32(2_000_000);
                head.put_u8(0x52);
                prost::encoding::encode_varint(1_999_000, &mut head);
                let _ = call.send_raw(head.freeze(), false).await;
                // As much of it as the proxy reads.
                let sent = call.send_raw(Bytes::from(vec![b'x'; 1_900_000]), false).await;
                if sent.is_ok() {
                    call.message().await;
                }
            });
        }
    }
    let clock = Instant::now();
    while clock.elapsed() < Duration::from_secs(4) {
        neighbour.beat().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(flood.len(), STREAMS);
    drop(flood);
    unharmed(proxy).await;
}
