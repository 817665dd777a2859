//! Thousands of leases on hundreds of streams, which cost the cluster one, while members die.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_proxy_proto::etcdserverpb::{LeaseLeasesRequest, LeaseLeasesResponse};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial},
    wire::Wire,
};
use libtest_mimic::Trial;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::world::{ANSWER_LIMIT, Beats, Counts, grant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("one_stream", one_stream), trial("crowd", crowd)]
}

const CONNECTIONS: usize = 20;
const LEASES_EACH: usize = 10;

/// Seconds.
const TTL: u64 = 10;

/// The whole time of heartbeats, in TTLs.
const TTLS: u32 = 5;

/// What all clients saw.
#[derive(Debug, Default)]
struct Seen {
    stop: AtomicBool,
    answers: AtomicU64,
    /// All that were granted.
    leases: Mutex<Vec<i64>>,
    /// Milliseconds.
    slowest: AtomicU64,
}

/// One stream: all its leases every third of a TTL, as the official client does.
async fn client(mut stream: Beats, leases: Vec<i64>, phase: Duration, seen: Arc<Seen>) -> Result<(), String> {
    let first = tokio::time::Instant::now() + phase;
    let mut rhythm = tokio::time::interval_at(first, Duration::from_secs(TTL) / 3);
    while !seen.stop.load(Ordering::Relaxed) {
        rhythm.tick().await;
        let clock = Instant::now();
        for lease in &leases {
            stream.ask(*lease).await;
        }
        let mut waiting = leases.clone();
        while !waiting.is_empty() {
            let answer = stream.answer().await.map_err(|end| end.in_short())?;
            let at = waiting.iter().position(|lease| *lease == answer.id);
            let at = at.ok_or_else(|| format!("an answer too much for {}", answer.id))?;
            waiting.swap_remove(at);
            if answer.ttl != TTL as i64 {
                return Err(format!("TTL {} after {:?}", answer.ttl, clock.elapsed()));
            }
            seen.answers.fetch_add(1, Ordering::Relaxed);
        }
        seen.slowest
            .fetch_max(clock.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Clients that send heartbeats until they are told to stop.
struct Crowd {
    seen: Arc<Seen>,
    clients: JoinSet<Result<(), String>>,
}

impl Crowd {
    /// Starts clients with [`LEASES_EACH`] leases on a stream each, and waits until all leases are granted.
    async fn start(proxy: &Proxy, streams: usize) -> Self {
        let clock = Instant::now();
        let seen = Arc::new(Seen::default());
        let mut wires = Vec::new();
        for _ in 0..CONNECTIONS {
            wires.push(Wire::connect(proxy.address()).await.expect("proxy"));
        }
        let granting = Arc::new(Semaphore::new(2 * CONNECTIONS));
        let mut clients = JoinSet::new();
        for number in 0..streams {
            let wire = wires[number % CONNECTIONS].clone();
            let (granting, seen) = (Arc::clone(&granting), Arc::clone(&seen));
            // Each begins with its heartbeats as soon as it has its leases: granting all may take longer than a TTL.
            clients.spawn(async move {
                let granted = granting.acquire().await.expect("never closed");
                let mut leases = Vec::new();
                for _ in 0..LEASES_EACH {
                    leases.push(grant(&wire, &[], TTL as i64).await);
                }
                drop(granted);
                seen.leases.lock().expect("no panic").extend(&leases);
                let phase = Duration::from_secs(TTL) / 3 * number as u32 / streams as u32;
                client(Beats::open(&wire, &[]).await, leases, phase, seen).await
            });
        }
        let mut crowd = Self { seen, clients };
        eventually("all leases are granted", ANSWER_LIMIT * 2, async || {
            crowd.assert_well();
            let granted = crowd.seen.leases.lock().expect("no panic").len();
            (granted == streams * LEASES_EACH).then_some(())
        })
        .await;
        println!(
            "{} leases on {streams} streams after {:?}",
            streams * LEASES_EACH,
            clock.elapsed()
        );
        crowd
    }

    /// No client has ended.
    fn assert_well(&mut self) {
        if let Some(end) = self.clients.try_join_next() {
            panic!("a client ended: {:?}", end.expect("no panic"));
        }
    }

    /// Asserts that the member has all leases, and that all clients were answered to the end.
    async fn finish(mut self, member: &str) {
        self.assert_well();
        let direct = Client::connect(member).await.expect("member");
        let kept: LeaseLeasesResponse = direct
            .wire
            .unary("/etcdserverpb.Lease/LeaseLeases", &[], &LeaseLeasesRequest {})
            .await
            .expect("the leases");
        self.seen.stop.store(true, Ordering::Relaxed);
        while let Some(end) = self.clients.join_next().await {
            assert_eq!(end.expect("no panic"), Ok(()));
        }
        println!(
            "{} answers, a round took at most {} ms",
            self.seen.answers.load(Ordering::Relaxed),
            self.seen.slowest.load(Ordering::Relaxed),
        );
        let kept: BTreeSet<i64> = kept.leases.iter().map(|lease| lease.id).collect();
        let granted = self.seen.leases.lock().expect("no panic");
        let lost = granted.iter().filter(|lease| !kept.contains(lease)).count();
        assert_eq!(lost, 0, "leases lost");
    }
}

/// Streams that clients with the same credentials have at most when a member is slow: as many for heartbeats that
/// nothing speaks against as for those of leases that may have ended, and twice as many for such as are kept apart.
const STREAMS_MAX: u64 = 8 + 8 + 16;

/// Waits until one member has all heartbeat streams, at most `most`; gives the member. `without` can't be asked.
async fn in_use(cluster: &Cluster, without: Option<usize>, most: u64) -> usize {
    let mut last = Vec::new();
    let what = format!("at most {most} upstream streams, at one member");
    // As long as leases are watched with care after a fault, and longer than streams without use are kept.
    eventually(&what, ANSWER_LIMIT * 2, async || {
        let mut open = Vec::new();
        for member in 0..cluster.size() {
            open.push(match without {
                Some(without) if without == member => 0,
                _ => Counts::of(&cluster.address(member)).await?.open,
            });
        }
        if open != last {
            println!("open streams by member: {open:?}");
            last.clone_from(&open);
        }
        let mut used = (0..open.len()).filter(|member| open[*member] > 0);
        let member = used.next()?;
        (used.next().is_none() && open[member] <= most).then_some(member)
    })
    .await
}

/// What a member can serve at once, leader or not, takes one stream; and one again some time after it was frozen.
async fn one_stream() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let crowd = Crowd::start(&proxy, 200).await;
    let used = in_use(&cluster, None, 1).await;
    cluster.freeze(used);
    in_use(&cluster, Some(used), STREAMS_MAX).await;
    cluster.thaw(used);
    cluster.all_serve().await;
    let rounds = crowd.seen.answers.load(Ordering::Relaxed) + 2_000;
    eventually("another round", ANSWER_LIMIT, async || {
        (crowd.seen.answers.load(Ordering::Relaxed) >= rounds).then_some(())
    })
    .await;
    let used = in_use(&cluster, None, 1).await;
    crowd.finish(&cluster.address(used)).await;
    proxy.assert_sound();
}

/// 10,000 leases on 1,000 streams for five TTLs, while the member in use is killed and another frozen. One upstream stream is
/// enough where the machine is: a busy follower that only just keeps up has a few for a while.
async fn crowd() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let clock = Instant::now();
    let mut crowd = Crowd::start(&proxy, 1_000).await;
    let first = in_use(&cluster, None, STREAMS_MAX).await;
    let killed_at = Instant::now();
    cluster.kill(first);
    let second = in_use(&cluster, Some(first), STREAMS_MAX).await;
    println!(
        "member {first} killed, now {second} after {:?}",
        killed_at.elapsed()
    );
    cluster.restart(first);
    cluster.all_serve().await;
    let used = in_use(&cluster, None, STREAMS_MAX).await;
    let frozen_at = Instant::now();
    cluster.freeze(used);
    let third = in_use(&cluster, Some(used), STREAMS_MAX).await;
    println!(
        "member {used} frozen, now {third} after {:?}",
        frozen_at.elapsed()
    );
    cluster.thaw(used);
    cluster.all_serve().await;
    let whole = Duration::from_secs(TTL) * TTLS;
    eventually("five TTLs have passed", whole * 2, async || {
        crowd.assert_well();
        (clock.elapsed() >= whole).then_some(())
    })
    .await;
    let last = in_use(&cluster, None, STREAMS_MAX).await;
    crowd.finish(&cluster.address(last)).await;
    proxy.assert_sound();
}
