//! What clients of two proxies see of a few keys while members die and freeze is what one register for each key could
//! have shown them. DEV-19.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_proxy_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse,
    compare::{CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use etcd_proxy_tests::{
    client::{Answer, Client},
    etcd::{Cluster, Options},
    linearizable::{Call, Op, Value, Violation, check},
    proxy::Proxy,
    relay::Mode,
    suite::{eventually, trial},
};
use libtest_mimic::Trial;
use tokio::{sync::watch, task::JoinHandle};

use crate::world::{ANSWER_LIMIT, call, hits, number, one, serializable, serving};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("history_is_linearizable", linearizable),
        trial("history_that_is_not", not_linearizable),
    ]
}

const KEYS: usize = 6;
const CLIENTS_PER_PROXY: u64 = 3;

/// A client gives a call up after this; what became of it isn't known.
const PATIENCE: Duration = Duration::from_secs(5);

/// Calls by key.
type History = BTreeMap<usize, Vec<Call>>;

/// Clients that are at work on the same few keys.
struct Crowd {
    stop: watch::Sender<()>,
    clients: Vec<JoinHandle<History>>,
}

/// What the clients have in common.
struct Shared {
    start: Instant,
    /// Values, none of which is written twice.
    values: AtomicU64,
    /// What cheats: reads are serializable, and are judged as if they weren't.
    cheats: bool,
}

impl Crowd {
    async fn start(proxies: &[&Proxy], cheats: bool) -> Self {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            values: AtomicU64::new(1),
            cheats,
        });
        let (stop, stopped) = watch::channel(());
        let mut clients = Vec::new();
        for proxy in proxies {
            for _ in 0..CLIENTS_PER_PROXY {
                let client = Client::connect(proxy.address()).await.expect("proxy");
                let seed = clients.len() as u64 + 1;
                clients.push(tokio::spawn(work(
                    client,
                    seed,
                    Arc::clone(&shared),
                    stopped.clone(),
                )));
            }
        }
        Self { stop, clients }
    }

    async fn stop(self) -> History {
        drop(self.stop);
        let mut all = History::new();
        for client in self.clients {
            for (key, calls) in client.await.expect("a client") {
                all.entry(key).or_default().extend(calls);
            }
        }
        all
    }
}

async fn work(client: Client, seed: u64, shared: Arc<Shared>, stopped: watch::Receiver<()>) -> History {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut history = History::new();
    let mut last = [None; KEYS];
    let (mut shown, mut monotonic) = (0, [0; KEYS]);
    while stopped.has_changed().is_ok() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = (random >> 32) as usize % KEYS;
        let key = format!("history/{at}");
        let value = shared.values.fetch_add(1, Ordering::Relaxed);
        let called = nanos(shared.start);
        let op = match random % 100 {
            // For the monotony of what one client is shown; it isn't part of the history.
            0..20 if !shared.cheats => {
                let read = serializable(&one(&key));
                if let Some(Ok(answer)) = patient(client.range(&read)).await {
                    let revision = answer.header.as_ref().expect("a header").revision;
                    assert!(
                        revision >= shown,
                        "client {seed}: from {shown} back to {revision}"
                    );
                    shown = revision;
                    let changed = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
                    assert!(changed == 0 || changed >= monotonic[at], "{key} went back");
                    monotonic[at] = monotonic[at].max(changed);
                }
                continue;
            }
            0..70 => {
                let read = if shared.cheats {
                    serializable(&one(&key))
                } else {
                    one(&key)
                };
                match patient(client.range(&read)).await {
                    Some(Ok(answer)) => {
                        shown = shown.max(answer.header.as_ref().expect("a header").revision);
                        Some(Op::Read(seen(&answer)))
                    }
                    // Nobody saw anything.
                    _ => continue,
                }
            }
            70..85 => {
                let put = patient(client.put(key.as_bytes(), value.to_string().as_bytes())).await;
                answered(&put).map(|()| Op::Write(value))
            }
            85..90 => {
                let request = DeleteRangeRequest {
                    key: key.clone().into(),
                    ..Default::default()
                };
                let answer = patient(call::<_, DeleteRangeResponse>(
                    &client,
                    "KV/DeleteRange",
                    &request,
                ))
                .await;
                answered(&answer).map(|()| {
                    let deleted = answer.expect("answered").expect("answered").deleted;
                    Op::Delete(Some(deleted == 1))
                })
            }
            _ => {
                let request = swap(&key, last[at], value);
                let answer = patient(call::<_, TxnResponse>(&client, "KV/Txn", &request)).await;
                answered(&answer).map(|()| {
                    let answer = answer.expect("answered").expect("answered");
                    let outcome = if answer.succeeded {
                        Ok(())
                    } else {
                        Err(found(&answer))
                    };
                    Op::Swap {
                        from: last[at],
                        to: value,
                        outcome: Some(outcome),
                    }
                })
            }
        };
        let unknown = match random % 100 {
            70..85 => Op::Write(value),
            85..90 => Op::Delete(None),
            _ => Op::Swap {
                from: last[at],
                to: value,
                outcome: None,
            },
        };
        let returned = op.map(|_| nanos(shared.start));
        let op = op.unwrap_or(unknown);
        last[at] = match op {
            Op::Read(value) => value,
            Op::Write(value)
            | Op::Swap {
                to: value,
                outcome: Some(Ok(())),
                ..
            } => Some(value),
            Op::Swap {
                outcome: Some(Err(found)),
                ..
            } => found,
            Op::Delete(_) | Op::Swap { .. } => None,
        };
        history.entry(at).or_default().push(Call { called, returned, op });
        if returned.is_none() {
            // A proxy without a member refuses at once; there is no use in a thousand refusals.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    history
}

fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).expect("a short test")
}

async fn patient<T>(call: impl Future<Output = Answer<T>>) -> Option<Answer<T>> {
    tokio::time::timeout(PATIENCE, call).await.ok()
}

/// None: nobody knows what became of it.
fn answered<T>(answer: &Option<Answer<T>>) -> Option<()> {
    matches!(answer, Some(Ok(_))).then_some(())
}

fn seen(answer: &RangeResponse) -> Value {
    number(answer)
}

/// A put if the key has this value; else a read.
fn swap(key: &str, from: Value, to: u64) -> TxnRequest {
    let (target, union) = match from {
        Some(value) => (CompareTarget::Value, TargetUnion::Value(value.to_string().into())),
        None => (CompareTarget::Version, TargetUnion::Version(0)),
    };
    let op = |request| {
        vec![RequestOp {
            request: Some(request),
        }]
    };
    TxnRequest {
        compare: vec![Compare {
            key: key.to_owned().into(),
            target: target.into(),
            target_union: Some(union),
            ..Default::default()
        }],
        success: op(Request::RequestPut(PutRequest {
            key: key.to_owned().into(),
            value: to.to_string().into(),
            ..Default::default()
        })),
        failure: op(Request::RequestRange(one(key))),
    }
}

fn found(answer: &TxnResponse) -> Value {
    match answer.responses.first().and_then(|op| op.response.as_ref()) {
        Some(Response::ResponseRange(answer)) => seen(answer),
        other => panic!("a read was asked for, not {other:?}"),
    }
}

/// The first key whose history no register has.
fn judge(history: &History) -> Result<(), (usize, Violation)> {
    for (key, calls) in history {
        check(calls).map_err(|violation| (*key, violation))?;
    }
    Ok(())
}

/// What becomes of a member.
#[derive(Debug)]
enum Fault {
    /// The other members don't hear from it, nor it from them; clients reach it.
    CutOff,
    Frozen,
    Killed,
}

async fn linearizable() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let endpoints = cluster.endpoints();
    // The two begin at different members, and all are tried.
    let mut proxies = [
        Proxy::start(&endpoints, &[]).await,
        Proxy::start(&endpoints, &[]).await,
    ];
    let crowd = Crowd::start(&[&proxies[0], &proxies[1]], false).await;
    let goes_on = async |what: &str| {
        for proxy in &proxies {
            let client = Client::connect(proxy.address()).await.expect("proxy");
            let mut count = 0;
            eventually(what, ANSWER_LIMIT, async || {
                let answer = tokio::time::timeout(PATIENCE, client.get(b"history/0")).await;
                count += u32::from(matches!(answer, Ok(Ok(_))));
                (count > 20).then_some(())
            })
            .await;
        }
    };
    goes_on("reads").await;
    for fault in [Fault::Killed, Fault::Frozen, Fault::CutOff] {
        let member = serving(&cluster).await;
        match fault {
            Fault::CutOff => cluster.isolate(member, Mode::BlackHole),
            Fault::Frozen => cluster.freeze(member),
            Fault::Killed => cluster.kill(member),
        }
        goes_on(&format!("reads while a member is {fault:?}")).await;
        match fault {
            Fault::CutOff => cluster.heal(member),
            Fault::Frozen => cluster.thaw(member),
            Fault::Killed => cluster.restart(member),
        }
        cluster.all_serve().await;
        goes_on("reads with all members").await;
    }
    let history = crowd.stop().await;
    let count = |fits: fn(&Call) -> bool| history.values().flatten().filter(|call| fits(call)).count();
    let reads = count(|call| matches!(call.op, Op::Read(_)));
    let unknown = count(|call| call.returned.is_none());
    let cached = hits(&proxies[0]).await + hits(&proxies[1]).await;
    println!(
        "history_is_linearizable: {} calls, {reads} reads, {unknown} of unknown outcome, {cached} from the cache",
        count(|_| true)
    );
    assert!(reads > 1000 && cached > 100.0, "too little for a judgement");
    if let Err((key, violation)) = judge(&history) {
        panic!("key {key}: {violation}");
    }
    for proxy in &mut proxies {
        proxy.assert_sound();
    }
}

/// The same with serializable reads, which may be old: that the judgement above is one.
async fn not_linearizable() {
    let cluster = Cluster::start(Options::default()).await;
    let proxies = [
        Proxy::start(&cluster.endpoints(), &[]).await,
        Proxy::start(&cluster.endpoints(), &[]).await,
    ];
    let clock = Instant::now();
    let violation = loop {
        let crowd = Crowd::start(&[&proxies[0], &proxies[1]], true).await;
        let client = Client::connect(proxies[0].address()).await.expect("proxy");
        for _ in 0..500 {
            client.get(b"k").await.expect("a read");
        }
        let history = crowd.stop().await;
        if let Err((_, violation)) = judge(&history) {
            break violation;
        }
        assert!(clock.elapsed() < ANSWER_LIMIT, "no serializable read was old");
        // The next history begins with nothing again.
        let request = DeleteRangeRequest {
            key: "history/".into(),
            range_end: "history0".into(),
            ..Default::default()
        };
        let _: DeleteRangeResponse = call(&client, "KV/DeleteRange", &request).await.expect("delete");
    };
    println!("history_that_is_not: {violation}");
}
