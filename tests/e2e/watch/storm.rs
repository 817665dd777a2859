//! Hundreds of watchers that start anywhere, writers that never rest, and members that die and freeze meanwhile.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial},
    watching::{ANSWER_LIMIT, Account, Mark, Watching, on_prefix, since},
    wire::Wire,
};
use libtest_mimic::Trial;
use tokio::task::JoinHandle;

use crate::{members::serving, world::put, writers::Writers};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("storm", storm)]
}

const WATCHERS: usize = 300;
const STREAMS: usize = 100;
const CONNECTIONS: usize = 30;

/// How far back the watchers start, in revisions.
const BACK: i64 = 5000;

/// A bound on the writes before the faults begin and after the last one.
const SETTLE: i64 = 200;

/// What a watcher saw and where it was to begin: at `start`, or, when that is 0, above a revision `known` to it
/// before.
struct Seen {
    start: i64,
    known: i64,
    created: i64,
    marks: Vec<Mark>,
}

async fn storm() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let addresses: Vec<String> = (0..3).map(|index| cluster.address(index)).collect();
    // Nobody but the proxy may watch: the faults look for the member with watchers.
    let client = Client::connect(&addresses[0]).await.expect("member");
    let first = put(&client, "w/first", "").await;
    fill(&client, BACK).await;
    let writers = Writers::start(&addresses, "w/", 3);

    let clock = Instant::now();
    let (stop, stopped) = tokio::sync::watch::channel(i64::MAX);
    let mut streams: Vec<JoinHandle<Result<Vec<Seen>, String>>> = Vec::new();
    let mut wires = Vec::new();
    for _ in 0..CONNECTIONS {
        wires.push(Wire::connect(proxy.address()).await.expect("proxy"));
    }
    let per_stream = WATCHERS / STREAMS;
    let mut open = 0;
    // A third of the watchers before the first fault, a third between each two of them.
    for fault in [
        Fault::Killed,
        Fault::Frozen,
        Fault::Killed,
        Fault::Frozen,
        Fault::Killed,
    ] {
        let more = STREAMS / 5;
        for _ in 0..more {
            let wire = wires[open % CONNECTIONS].clone();
            let number = open;
            let until = stopped.clone();
            streams.push(tokio::spawn(watch(wire, number, per_stream, first, until)));
            open += 1;
        }
        strike(&mut cluster, fault).await;
    }
    let log = writers.stop(&addresses[0]).await;
    stop.send_replace(log.last_revision());
    let written = log.marks.len();
    println!(
        "storm: {written} events in {:.1?}, {} revisions from the first to the last",
        clock.elapsed(),
        log.last_revision() - first
    );
    let (mut delivered, mut wrong) = (0, Vec::new());
    let mut starts = [0; 2];
    for (number, stream) in streams.into_iter().enumerate() {
        let seen = match stream.await.expect("a stream") {
            Ok(seen) => seen,
            Err(error) => {
                wrong.push(format!("stream {number}: {error}"));
                continue;
            }
        };
        for seen in seen {
            delivered += seen.marks.len();
            starts[usize::from(seen.start > 0)] += 1;
            let same = match seen.start {
                0 if seen.created < seen.known => {
                    Err(format!("created at {} after {}", seen.created, seen.known))
                }
                0 => log.is_suffix(&seen.marks, seen.known + 1, seen.created + 1),
                start => log.is(&seen.marks, start),
            };
            wrong.extend(same.err().map(|error| format!("stream {number}: {error}")));
        }
    }
    println!(
        "storm: {delivered} events delivered to {} watchers from the past and {} from now on",
        starts[1], starts[0]
    );
    assert!(
        wrong.is_empty(),
        "{} are wrong: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    assert_eq!(starts.iter().sum::<usize>(), WATCHERS);
    proxy.assert_sound();
}

/// Writes so much history that the first watchers have something to start in.
async fn fill(client: &Client, count: i64) {
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..32 {
        let client = client.clone();
        tasks.spawn(async move {
            for number in 0..count / 32 {
                put(&client, &format!("w/{lane}/{}", number % 20), "history").await;
            }
        });
    }
    tasks.join_all().await;
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Frozen,
    Killed,
}

/// Something happens to the member that has the watchers; it is mended when the cluster has gone on without it.
async fn strike(cluster: &mut Cluster, fault: Fault) {
    let member = serving(cluster, None).await;
    let revision = revision(cluster, member).await;
    grown(cluster, member, revision + SETTLE).await;
    match fault {
        Fault::Frozen => cluster.freeze(member),
        Fault::Killed => cluster.kill(member),
    }
    // The proxy has found another one; the frozen one still has its watchers.
    let other = serving(cluster, Some(member)).await;
    let revision = self::revision(cluster, other).await;
    grown(cluster, other, revision + SETTLE).await;
    match fault {
        Fault::Frozen => cluster.thaw(member),
        Fault::Killed => cluster.restart(member),
    }
    cluster.all_serve().await;
    let other = serving_alone(cluster, member).await;
    grown(cluster, other, revision + 2 * SETTLE).await;
}

/// Waits until a thawed member has noticed that nobody listens to its watchers any more.
async fn serving_alone(cluster: &mut Cluster, member: usize) -> usize {
    let address = cluster.address(member);
    eventually("the former member has no watchers", ANSWER_LIMIT, async || {
        (etcd_proxy_tests::metrics::watchers(&address).await.ok()? == 0).then_some(())
    })
    .await;
    serving(cluster, Some(member)).await
}

/// The store's revision as a member has it.
async fn revision(cluster: &Cluster, member: usize) -> i64 {
    let address = cluster.address(member);
    eventually("a member's revision", ANSWER_LIMIT, async || {
        let status = Client::connect(&address).await.ok()?.status().await.ok()?;
        Some(status.header?.revision)
    })
    .await
}

/// Waits until a member's store has grown to a revision.
async fn grown(cluster: &Cluster, member: usize, to: i64) {
    eventually("the writers write", ANSWER_LIMIT, async || {
        (revision(cluster, member).await >= to).then_some(())
    })
    .await;
}

/// One stream: its watchers are created one after the other, from different revisions, and read until the last event.
async fn watch(
    wire: Wire,
    number: usize,
    watchers: usize,
    first: i64,
    mut until: tokio::sync::watch::Receiver<i64>,
) -> Result<Vec<Seen>, String> {
    let mut watching = Watching::open(&wire, &[]).await;
    let mut account = Account::default();
    let mut starts: Vec<(i64, i64)> = Vec::new();
    let known = latest(&wire).await;
    for index in 0..watchers {
        // Every fourth one starts now, the others anywhere in the past, by a step that is prime.
        let place = (number * watchers + index) as i64;
        let start = if place % 4 == 0 {
            0
        } else {
            first.max(known - (place * 3571) % BACK)
        };
        watching.create(since(start, on_prefix("w/"))).await;
        starts.push((start, known));
    }
    let patience = ANSWER_LIMIT;
    loop {
        let last = *until.borrow();
        let seen = |account: &Account| {
            account.watchers.len() == watchers
                && account
                    .watchers
                    .values()
                    .all(|watcher| watcher.marks.last().is_some_and(|mark| mark.revision >= last))
        };
        if seen(&account) {
            break;
        }
        tokio::select! {
            answer = tokio::time::timeout(patience, watching.answer()) => match answer {
                Ok(Ok(answer)) => account.take(&answer)?,
                Ok(Err(end)) => return Err(format!("ended: {}", end.in_short())),
                Err(_) => {
                    let at: Vec<i64> = account.watchers.values().map(|watcher| watcher.position).collect();
                    return Err(format!("nothing for {patience:?}, waiting for {last}, at {at:?}"));
                }
            },
            changed = until.changed() => changed.map_err(|_| "the test has failed".to_owned())?,
        }
    }
    let watchers = account.watchers.into_values().zip(starts);
    Ok(watchers
        .map(|(watcher, (start, known))| Seen {
            start,
            known,
            created: watcher.created,
            marks: watcher.marks,
        })
        .collect())
}

/// A revision that the store had reached when this was called, at the least: what a read through the proxy says.
async fn latest(wire: &Wire) -> i64 {
    let client = Client { wire: wire.clone() };
    loop {
        let read = tokio::time::timeout(ANSWER_LIMIT, client.get(b"w/first"));
        if let Ok(Ok(answer)) = read.await {
            return answer.header.expect("a header").revision;
        }
        // The member in use is gone. The limit of the test bounds this.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
