//! Writers that the proxy doesn't see: directly at the member, and through another proxy. Row 7.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    process::Signal,
    proxy::Proxy,
    relay::Mode,
    suite::{eventually, trial},
};
use libtest_mimic::Trial;

use crate::world::{
    ANSWER_LIMIT, STALENESS, Upstream, World, number, one, put, revision, scenario, serializable, warm,
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(
            upstream,
            "external_writer_serializable",
            &[],
            external_serializable,
        ),
        scenario(
            upstream,
            "external_writer_linearizable",
            &[],
            external_linearizable,
        ),
        scenario(upstream, "second_proxy_writes", &[], second_proxy),
        scenario(upstream, "stopped_proxy", &[], stopped_proxy),
        trial("stale_without_a_member", stale_without_a_member),
    ]
}

/// What another writer wrote is there within the bound, for good, and with a revision that tells the truth.
async fn external_serializable(world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    let before = world.hits().await;
    for round in 0..40 {
        let first = world.proxied.range(&read).await.expect("a read");
        let again = world.proxied.range(&read).await.expect("a read");
        assert!(revision(&again) >= revision(&first));
        let written = put(&world.direct, &key, &round.to_string()).await;
        let acknowledged = Instant::now();
        loop {
            let asked = Instant::now();
            let answer = world.proxied.range(&read).await.expect("a read");
            if number(&answer) == Some(round) {
                assert!(revision(&answer) >= written, "round {round}: an old revision");
                break;
            }
            assert!(revision(&answer) < written, "round {round}: the revision lies");
            let age = asked.saturating_duration_since(acknowledged);
            assert!(age <= STALENESS, "round {round}: stale by {age:?}");
        }
    }
    assert!(world.hits().await > before, "nothing came from the cache");
    world
}

/// What another writer wrote is there at once for a linearizable read, however warm the entry is.
async fn external_linearizable(world: World) -> World {
    let key = world.key("k");
    let before = world.hits().await;
    for round in 0..300 {
        for _ in 0..2 {
            world.proxied.range(&one(&key)).await.expect("a read");
        }
        let written = put(&world.direct, &key, &round.to_string()).await;
        let answer = world.proxied.range(&one(&key)).await.expect("a read");
        assert_eq!(number(&answer), Some(round), "an old value");
        assert!(revision(&answer) >= written, "round {round}: an old revision");
    }
    assert!(world.hits().await > before, "nothing came from the cache");
    world
}

/// Each proxy is an external writer to the other.
async fn second_proxy(world: World) -> World {
    let mut other = Proxy::start(std::slice::from_ref(&world.member), &[]).await;
    let there = Client::connect(other.address()).await.expect("proxy");
    let key = world.key("k");
    for round in 0..300 {
        let (writer, reader) = match round % 2 {
            0 => (&there, &world.proxied),
            _ => (&world.proxied, &there),
        };
        for client in [writer, reader] {
            client.range(&serializable(&one(&key))).await.expect("a read");
        }
        let written = put(writer, &key, &round.to_string()).await;
        let answer = reader.get(key.as_bytes()).await.expect("a read");
        assert_eq!(number(&answer), Some(round), "linearizable");
        assert!(revision(&answer) >= written);
        // The reader was shown it, so no later read of the same proxy may be older.
        for client in [writer, reader] {
            let answer = client.range(&serializable(&one(&key))).await.expect("a read");
            assert_eq!(number(&answer), Some(round), "serializable");
            assert!(revision(&answer) >= written);
        }
    }
    other.assert_sound();
    world
}

/// A proxy that was stopped for longer than the bound finds reads, and what has changed, at the same time.
async fn stopped_proxy(mut world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    put(&world.direct, &key, "0").await;
    let others = [world.client().await, world.client().await, world.client().await];
    for round in 1..=5 {
        world.warm(&read).await;
        world.warm(&one(&key)).await;
        world.proxy.process().signal(Signal::STOP);
        let written = put(&world.direct, &key, &round.to_string()).await;
        // It is this time that the test is about: so much later, nobody may be shown what was before.
        tokio::time::sleep(STALENESS + Duration::from_millis(50)).await;
        let reads = others.clone().map(|client| {
            let reads = [read.clone(), one(&key), read.clone()];
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for read in reads {
                    answers.push(client.range(&read).await.expect("a read"));
                }
                answers
            })
        });
        // They are in its sockets by then, or they aren't: both are fine.
        tokio::task::yield_now().await;
        world.proxy.process().signal(Signal::CONT);
        for answers in reads {
            for answer in answers.await.expect("a reader") {
                assert_eq!(number(&answer), Some(round), "an old value");
                assert!(revision(&answer) >= written);
            }
        }
    }
    world
}

/// When the proxy doesn't hear from any member, it can't know what has changed: nothing is answered from the cache after
/// the bound.
async fn stale_without_a_member() {
    let options = Options {
        client_relays: true,
        ..Options::default()
    };
    let cluster = Cluster::start(options).await;
    let mut world = World::start("stale", &cluster, &[]).await;
    let key = world.key("k");
    let read = serializable(&one(&key));
    put(&world.direct, &key, "0").await;
    warm(&world.proxy, &world.proxied, &read).await;
    cluster.client_relay(0).set(Mode::BlackHole);
    put(&world.direct, &key, "1").await;
    let acknowledged = Instant::now();
    let (mut old, mut asked_late) = (0, 0);
    // Reads that are given up tell nothing, so there must be some that began after the bound.
    while asked_late < 20 {
        let asked = Instant::now();
        let late = asked.saturating_duration_since(acknowledged) > STALENESS;
        asked_late += u32::from(late);
        let answer = tokio::time::timeout(Duration::from_millis(100), world.proxied.range(&read)).await;
        if let Ok(Ok(answer)) = answer {
            assert_eq!(number(&answer), Some(0), "it can't know better");
            assert!(!late, "stale by {:?}", asked - acknowledged);
            old += 1;
        }
    }
    println!("stale_without_a_member: {old} old answers within the bound");
    cluster.client_relay(0).set(Mode::Forward);
    eventually("the new value", ANSWER_LIMIT, async || {
        let answer = world.proxied.range(&read).await.ok()?;
        let value = number(&answer);
        assert_eq!(value, Some(1), "old after all");
        Some(())
    })
    .await;
    world.proxy.assert_sound();
}
