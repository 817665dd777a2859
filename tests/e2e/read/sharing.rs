//! What many ask for costs the cluster little: reads, checks and the watch are shared.

use std::{sync::Arc, time::Duration};

use etcd_proxy_tests::{
    metrics::watchers,
    suite::eventually,
    watching::{Watching, on_key},
};
use libtest_mimic::Trial;
use tokio::sync::Barrier;

use crate::world::{ANSWER_LIMIT, Upstream, World, one, prefix, put, range, scenario, serializable};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "hot_keys_are_shared", &[], hot_keys),
        scenario(upstream, "slow_misses_are_shared", &[], slow_misses),
        scenario(upstream, "given_up_while_shared", &[], given_up_while_shared),
        scenario(upstream, "one_lazy_watch", &[], one_lazy_watch),
    ]
}

/// A hundred clients read ten keys, linearizably, while they change now and then.
async fn hot_keys(world: World) -> World {
    const CLIENTS: usize = 100;
    const READS: usize = 50;
    let keys: Vec<String> = (0..10).map(|number| world.key(&number.to_string())).collect();
    for key in &keys {
        put(&world.direct, key, "v").await;
    }
    world.warm(&one(&keys[0])).await;
    let before = world.member_reads().await;
    let start = Arc::new(Barrier::new(CLIENTS));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (client, keys, start) = (world.client().await, keys.clone(), Arc::clone(&start));
        clients.push(tokio::spawn(async move {
            start.wait().await;
            for read in 0..READS {
                let key = &keys[(number + read) % keys.len()];
                let answer = client.get(key.as_bytes()).await.expect("a read");
                assert_eq!(answer.kvs.len(), 1);
            }
        }));
    }
    for client in clients {
        client.await.expect("a client");
    }
    let asked = world.member_reads().await - before;
    let reads = (CLIENTS * READS) as u64;
    println!("hot_keys_are_shared: {asked} calls at the member for {reads} reads");
    assert!(asked < reads / 2, "{asked} calls at the member for {reads} reads");
    world
}

/// Many ask the same that isn't cached, and takes the member a while, all at once.
async fn slow_misses(world: World) -> World {
    const CLIENTS: usize = 60;
    let value = "x".repeat(32 * 1024);
    for number in 0..64 {
        put(&world.direct, &world.key(&format!("{number:02}")), &value).await;
    }
    world.warm(&one(&world.key("00"))).await;
    for linearizable in [true, false] {
        let before = world.member_reads().await;
        let read = prefix(&world.prefix);
        let read = if linearizable { read } else { serializable(&read) };
        let start = Arc::new(Barrier::new(CLIENTS));
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let (client, read, start) = (world.client().await, read.clone(), Arc::clone(&start));
            clients.push(tokio::spawn(async move {
                start.wait().await;
                let answer = client.range(&read).await.expect("a read");
                assert_eq!(answer.kvs.len(), 64);
            }));
        }
        for client in clients {
            client.await.expect("a client");
        }
        let asked = world.member_reads().await - before;
        println!(
            "slow_misses_are_shared: {asked} calls at the member for {CLIENTS} reads (linearizable: {linearizable})"
        );
        // Too large to be held for others: each asks for itself, but no more than that and the checks.
        let most = CLIENTS as u64 * 2;
        assert!(asked <= most, "{asked} calls at the member for {CLIENTS} reads");
    }
    // Small enough to be shared.
    let read = range(world.prefix.as_bytes(), world.key("08").as_bytes());
    let before = world.member_reads().await;
    let start = Arc::new(Barrier::new(CLIENTS));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (client, read, start) = (world.client().await, read.clone(), Arc::clone(&start));
        clients.push(tokio::spawn(async move {
            start.wait().await;
            assert_eq!(client.range(&read).await.expect("a read").kvs.len(), 8);
        }));
    }
    for client in clients {
        client.await.expect("a client");
    }
    let asked = world.member_reads().await - before;
    println!("slow_misses_are_shared: {asked} calls at the member for {CLIENTS} smaller reads");
    assert!(
        asked < CLIENTS as u64 / 2,
        "{asked} calls at the member for {CLIENTS} smaller reads"
    );
    world
}

/// Whoever's call it is that the others wait for may give up.
async fn given_up_while_shared(world: World) -> World {
    const CLIENTS: u64 = 30;
    let value = "x".repeat(16 * 1024);
    for number in 0..16 {
        put(&world.direct, &world.key(&format!("{number:02}")), &value).await;
    }
    let mut given_up = 0;
    for round in 0..20_u64 {
        // Another question each time, so that nobody has the answer yet; the same for all.
        let read = range(
            world.prefix.as_bytes(),
            format!("{}{round:02}", world.key("z")).as_bytes(),
        );
        let start = Arc::new(Barrier::new(CLIENTS as usize));
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let (client, start) = (world.client().await, Arc::clone(&start));
            let read = if number % 4 == 0 {
                serializable(&read)
            } else {
                read.clone()
            };
            // Those with an even number want the answer.
            let patience = match number % 2 {
                0 => ANSWER_LIMIT,
                _ => Duration::from_micros((round * 1310 + number * 970) % 30_000),
            };
            clients.push(tokio::spawn(async move {
                start.wait().await;
                let answer = tokio::time::timeout(patience, client.range(&read)).await;
                answer.ok().map(|answer| answer.expect("a read").kvs.len())
            }));
        }
        for (number, client) in clients.into_iter().enumerate() {
            let keys = client.await.expect("a client");
            assert!(keys.is_none_or(|keys| keys == 16), "{keys:?} keys");
            assert!(
                keys.is_some() || number % 2 == 1,
                "round {round}: no answer for {number}"
            );
            given_up += u32::from(keys.is_none());
        }
    }
    println!("given_up_while_shared: {given_up} reads given up");
    assert!(given_up > 20, "only {given_up} reads were given up");
    for name in ["waiting", "forwarded"] {
        eventually(&format!("no read is {name}"), ANSWER_LIMIT, async || {
            (world.read_metric(name).await == 0.0).then_some(())
        })
        .await;
    }
    world
}

/// The cache watches when there is something to watch for, once, whoever reads.
async fn one_lazy_watch(world: World) -> World {
    let watching_now = async |count: u64| {
        eventually(&format!("{count} watchers"), ANSWER_LIMIT, async || {
            (watchers(&world.member).await.ok()? == count).then_some(())
        })
        .await;
    };
    // Those of the tests before this one go away.
    watching_now(0).await;
    for round in 0..5 {
        put(&world.proxied, &world.key("k"), &round.to_string()).await;
        world.proxied.status().await.expect("status");
    }
    assert_eq!(
        watchers(&world.member).await.expect("metrics"),
        0,
        "nobody has read"
    );
    world.warm(&serializable(&one(&world.key("k")))).await;
    assert_eq!(watchers(&world.member).await.expect("metrics"), 1);
    let mut clients = Vec::new();
    for number in 0..30 {
        let client = world.client().await;
        let key = world.key(&number.to_string());
        for read in [one(&key), serializable(&one(&key)), one(&key)] {
            client.range(&read).await.expect("a read");
        }
        clients.push(client);
    }
    assert_eq!(watchers(&world.member).await.expect("metrics"), 1);
    // What clients watch is within what the cache watches.
    let mut watches = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let (watching, _) = Watching::one(&client.wire, on_key(&world.key(&number.to_string()))).await;
        watches.push(watching);
    }
    let count = watchers(&world.member).await.expect("metrics");
    println!("one_lazy_watch: {count} watchers at the member for 30 watches of clients and the cache");
    assert!(count <= 31, "{count} watchers");
    for (number, watching) in watches.iter_mut().enumerate() {
        let written = put(&world.direct, &world.key(&number.to_string()), "v").await;
        let answer = watching.next().await;
        assert_eq!(answer.events.len(), 1);
        assert_eq!(answer.events[0].kv.as_ref().expect("a key").mod_revision, written);
    }
    world
}
