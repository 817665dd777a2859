//! Thousands of watchers at the same moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_proxy_tests::{
    metrics::{metric, watchers},
    suite::eventually,
    watching::{ANSWER_LIMIT, Account, Watching, on_key, on_prefix, since},
    wire::Wire,
};
use libtest_mimic::Trial;
use tokio::task::{JoinHandle, JoinSet};

use crate::world::{Between, Upstream, World, scenario};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(
            upstream,
            "two_thousand_at_once",
            Between::Nothing,
            two_thousand_at_once,
        ),
        scenario(upstream, "distinct_keys", Between::Nothing, distinct_keys),
    ]
}

/// Looks at the member's number of watchers as often as it can, and keeps the highest.
struct Peak {
    stop: Arc<AtomicBool>,
    highest: Arc<AtomicU64>,
    looks: JoinHandle<usize>,
}

impl Peak {
    fn watch(member: &str) -> Self {
        let (stop, highest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (member, stopped, kept) = (member.to_owned(), Arc::clone(&stop), Arc::clone(&highest));
        let looks = tokio::spawn(async move {
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                let now = watchers(&member).await.expect("the member's metrics");
                kept.fetch_max(now, Ordering::Relaxed);
                looks += 1;
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            looks
        });
        Self { stop, highest, looks }
    }

    async fn end(self) -> (u64, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let looks = self.looks.await.expect("who looks");
        (self.highest.load(Ordering::Relaxed), looks)
    }
}

/// Nobody watches on the member: those of the test before are gone.
async fn nobody_left(member: &str) {
    eventually("the member has no watchers", ANSWER_LIMIT, async || {
        (watchers(member).await.ok()? == 0).then_some(())
    })
    .await;
}

/// Row 43. Streams of their own, all at once, from now on and from the past: one watcher upstream, two while one
/// catches up.
async fn two_thousand_at_once(world: World) -> World {
    const STREAMS: usize = 2000;
    const CONNECTIONS: usize = 40;
    nobody_left(&world.member).await;
    let first = world.put(&world.key("k"), "first").await;
    for (name, start, most) in [("now", 0, 1), ("the past", first, 2)] {
        let before = world.put(&world.key("k"), name).await;
        let peak = Peak::watch(&world.member);
        let mut wires = Vec::new();
        for _ in 0..CONNECTIONS {
            wires.push(world.wire().await);
        }
        let clock = Instant::now();
        let mut opening = JoinSet::new();
        for number in 0..STREAMS {
            let (wire, prefix) = (wires[number % CONNECTIONS].clone(), world.prefix.clone());
            opening.spawn(async move {
                let (watching, created) = Watching::one(&wire, since(start, on_prefix(&prefix))).await;
                let mut account = Account::default();
                account.take(&created).expect("created");
                (watching, account)
            });
        }
        let mut streams = opening.join_all().await;
        let created = clock.elapsed();
        let last = world.put(&world.key("k"), "last").await;
        for (watching, account) in &mut streams {
            account.follow(watching, last).await.expect("its events");
            let seen = account.only().marks.first().expect("an event").revision;
            assert!(
                if start == 0 { seen > before } else { seen == start },
                "the first event is {seen}"
            );
        }
        let (highest, looks) = peak.end().await;
        let now = watchers(&world.member).await.expect("metrics");
        println!(
            "two_thousand_at_once: {name}: created in {created:.0?}, at most {highest} upstream ({looks} looks)"
        );
        assert!(
            (1..=most).contains(&highest),
            "{name}: {highest} watchers upstream"
        );
        assert_eq!(now, 1, "{name}: watchers upstream in the end");
        drop(streams);
        drop(wires);
        nobody_left(&world.member).await;
    }
    world
}

/// What distinct keys take through the proxy and directly, a connection at a time.
async fn distinct_keys(world: World) -> World {
    const KEYS: usize = 3000;
    const CONNECTIONS: usize = 10;
    nobody_left(&world.member).await;
    let mut times = Vec::new();
    for (name, address) in [
        ("direct", world.member.as_str()),
        ("proxied", world.proxy.address()),
        ("direct again", world.member.as_str()),
        ("proxied again", world.proxy.address()),
    ] {
        let streams_before = metric(&world.member, "grpc_server_started_total")
            .await
            .expect("metric");
        let mut wires = Vec::new();
        for _ in 0..CONNECTIONS {
            wires.push(Wire::connect(address).await.expect("connection"));
        }
        let clock = Instant::now();
        let mut creating = JoinSet::new();
        for (connection, wire) in wires.into_iter().enumerate() {
            let prefix = world.key(&format!("{connection}/"));
            creating.spawn(async move {
                let mut watching = Watching::open(&wire, &[]).await;
                let mut account = Account::default();
                for number in 0..KEYS / CONNECTIONS {
                    watching.create(on_key(&format!("{prefix}{number}"))).await;
                }
                for _ in 0..KEYS / CONNECTIONS {
                    account.take(&watching.next().await).expect("created");
                }
                (watching, account)
            });
        }
        let mut streams = creating.join_all().await;
        times.push((name, clock.elapsed()));
        let started = metric(&world.member, "grpc_server_started_total")
            .await
            .expect("metric")
            - streams_before;
        // A client is answered when its revision is known, which may be before the member has the watcher.
        eventually("all watchers upstream", ANSWER_LIMIT, async || {
            (watchers(&world.member).await.ok()? == KEYS as u64).then_some(())
        })
        .await;
        // Calls of any kind: watches, revision reads, and looks at the member's health.
        assert!(started <= 300.0, "{name}: {started} calls for {KEYS} creates");

        let mut putting = JoinSet::new();
        for connection in 0..CONNECTIONS {
            let (direct, prefix) = (world.direct.clone(), world.key(&format!("{connection}/")));
            putting.spawn(async move {
                for number in 0..KEYS / CONNECTIONS {
                    let key = format!("{prefix}{number}");
                    direct.put(key.as_bytes(), b"x").await.expect("put");
                }
            });
        }
        putting.join_all().await;
        for (watching, account) in &mut streams {
            while account.watchers.values().any(|watcher| watcher.marks.is_empty()) {
                account.take(&watching.next().await).expect("an event");
            }
            assert!(account.watchers.values().all(|watcher| watcher.marks.len() == 1));
        }
        drop(streams);
        nobody_left(&world.member).await;
    }
    println!("distinct_keys: {KEYS} on {CONNECTIONS} connections: {times:.0?}");
    world
}
