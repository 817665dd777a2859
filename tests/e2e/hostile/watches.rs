//! What one client watches, and what the watches of others notice of it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use etcd_proxy_proto::etcdserverpb::{
    PutRequest, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, request_op::Request,
};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    procstat::ProcStat,
    proxy::Proxy,
    suite::{trial, within},
    watching::{ANSWER_LIMIT, Watching, on_key, on_prefix, since},
    wire::Wire,
};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("watches_on_large_keys", large_keys),
        trial("watches_of_much_history", much_history),
    ]
}

fn on_large_key(bytes: usize) -> WatchCreateRequest {
    WatchCreateRequest {
        key: vec![b'k'; bytes].into(),
        ..WatchCreateRequest::default()
    }
}

/// How many watchers of large keys are there at a time.
const LARGE: usize = 20;

/// What becomes of a create request: whether it was created and cancelled, or how the stream ended.
async fn outcome(wire: &Wire, create: WatchCreateRequest) -> String {
    let mut watching = Watching::open(wire, &[]).await;
    watching.try_create(create).await;
    match within("an answer to a create", ANSWER_LIMIT, watching.answer()).await {
        Ok(answer) => format!("created {}, canceled {}", answer.created, answer.canceled),
        Err(end) => end.in_short(),
    }
}

/// Creates of a client with keys of 70,000 bytes, again and again: they are created as by a server, and so are all others.
async fn large_keys() {
    let cluster = Cluster::start(Options::default()).await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let address = proxy.address().to_owned();
    let attacker = tokio::spawn(async move {
        let wire = Wire::connect(&address).await.expect("proxy");
        let mut kept = VecDeque::new();
        loop {
            let mut watching = Watching::open(&wire, &[]).await;
            watching.try_create(on_large_key(70_000)).await;
            kept.push_back(watching);
            if kept.len() > LARGE {
                kept.pop_front();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let client = Client::connect(proxy.address()).await.expect("proxy");
    let mut latest = Duration::ZERO;
    for number in 0..30 {
        let key = format!("large/{number}");
        let clock = Instant::now();
        let (mut watching, _) = Watching::one(&client.wire, on_key(&key)).await;
        client.put(key.as_bytes(), b"").await.expect("put");
        assert_eq!(watching.next().await.events.len(), 1);
        latest = latest.max(clock.elapsed());
    }
    println!("watches_on_large_keys: another's created answer, put and event took {latest:.1?} at most");
    assert!(!attacker.is_finished(), "the attacker goes on");
    attacker.abort();
    let direct = Wire::connect(&cluster.address(0)).await.expect("member");
    for bytes in [70 << 10, 1 << 20, 2 << 20] {
        let told = outcome(&direct, on_large_key(bytes)).await;
        let through = outcome(&client.wire, on_large_key(bytes)).await;
        println!("watches_on_large_keys: a key of {bytes} bytes: {told}; through the proxy: {through}");
        assert_eq!(through, told, "a key of {bytes} bytes");
    }
    proxy.assert_sound();
}

/// Transactions of 100 small puts each: more than 2 MiB of events.
const TXNS: usize = 240;

async fn write_history(wire: &Wire) -> i64 {
    let mut last = 0;
    for txn in 0..TXNS {
        let put = |number: usize| PutRequest {
            key: format!("history/{:05}", txn % 7 * 100 + number).into(),
            value: vec![b'v'; 80].into(),
            ..PutRequest::default()
        };
        let puts = (0..100).map(|number| RequestOp {
            request: Some(Request::RequestPut(put(number))),
        });
        let request = TxnRequest {
            success: puts.collect(),
            ..TxnRequest::default()
        };
        let answer: TxnResponse = wire
            .unary("/etcdserverpb.KV/Txn", &[], &request)
            .await
            .expect("a transaction");
        last = answer.header.expect("a header").revision;
    }
    last
}

/// Reads a watch from the past to its end.
async fn read_history(address: &str, from: i64, last: i64) -> usize {
    let wire = Wire::connect(address).await.expect("connection");
    let (mut watching, _) = Watching::one(&wire, since(from, on_prefix("history/"))).await;
    let mut events = 0;
    loop {
        let answer = watching.next().await;
        events += answer.events.len();
        let reached = answer.events.last().and_then(|event| event.kv.as_ref());
        if reached.is_some_and(|kv| kv.mod_revision == last) && !answer.fragment {
            return events;
        }
    }
}

/// A watch over much history costs the member what it costs directly, and another one gets its events meanwhile.
async fn much_history() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let member = cluster.address(0);
    let direct = Client::connect(&member).await.expect("member");
    let first = direct.put(b"elsewhere", b"").await.expect("put");
    let first = first.header.expect("a header").revision;
    let last = write_history(&direct.wire).await;
    let pid = cluster.process(0).pid();
    let cpu = || ProcStat::of(pid).expect("the member runs").cpu;
    let before = cpu();
    assert_eq!(read_history(&member, first + 1, last).await, TXNS * 100);
    let directly = cpu() - before;

    let wire = Wire::connect(proxy.address()).await.expect("proxy");
    let (mut neighbour, _) = Watching::one(&wire, on_key("elsewhere")).await;
    let before = cpu();
    let address = proxy.address().to_owned();
    let history = tokio::spawn(async move { read_history(&address, first + 1, last).await });
    let mut latest = Duration::ZERO;
    while !history.is_finished() {
        let clock = Instant::now();
        direct.put(b"elsewhere", b"").await.expect("put");
        assert_eq!(neighbour.next().await.events.len(), 1);
        latest = latest.max(clock.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(history.await.expect("a watch"), TXNS * 100);
    let through = cpu() - before;
    println!(
        "watches_of_much_history: the member's CPU {directly:.2?} directly, {through:.2?} through the proxy; \
         a neighbour's put and event took {latest:.1?} at most"
    );
    assert!(
        through <= 4 * directly + Duration::from_millis(500),
        "{directly:.2?} directly, {through:.2?} through the proxy"
    );
    proxy.assert_sound();
}
