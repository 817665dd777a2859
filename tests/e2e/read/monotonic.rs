//! No client is shown something older than what it has seen, in whatever it was shown: an answer, an event of a watch,
//! a heartbeat. And what is shown was true at the revision that comes with it.

use std::{collections::BTreeMap, sync::Arc};

use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, RangeRequest,
    RangeResponse,
};
use etcd_proxy_tests::{
    client::Client,
    suite::within,
    watching::{Watching, on_prefix},
};
use libtest_mimic::Trial;
use prost::Message as _;
use tokio::sync::{Mutex, watch};

use crate::world::{
    ANSWER_LIMIT, Upstream, World, call, number, one, prefix, put, revision, scenario, serializable,
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "watch_then_read", &[], watch_then_read),
        scenario(upstream, "progress_then_read", &[], progress_then_read),
        scenario(upstream, "reply_then_read", &[], reply_then_read),
        scenario(
            upstream,
            "headers_never_go_back",
            &["--workers=6"],
            headers_never_go_back,
        ),
    ]
}

/// A client that an event of another's write was shown to reads no older state.
async fn watch_then_read(world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    let (mut watching, _) = Watching::one(&world.client().await.wire, on_prefix(&world.prefix)).await;
    let before = world.hits().await;
    for round in 0..500 {
        for _ in 0..2 {
            world.proxied.range(&read).await.expect("a read");
        }
        let written = put(&world.direct, &key, &round.to_string()).await;
        let mut shown = 0;
        while shown < written {
            let answer = watching.next().await;
            let event = answer.events.last().and_then(|event| event.kv.as_ref());
            shown = event.map_or(shown, |kv| kv.mod_revision);
        }
        let answer = world.proxied.range(&read).await.expect("a read");
        assert_eq!(number(&answer), Some(round), "older than the event");
        assert!(revision(&answer) >= written, "round {round}: an old revision");
    }
    assert!(world.hits().await > before, "nothing came from the cache");
    world
}

/// An answer to a progress request shows a revision as well.
async fn progress_then_read(world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    // What is watched doesn't change, so only progress is shown.
    let (mut watching, _) = Watching::one(&world.client().await.wire, on_prefix("progress_elsewhere/")).await;
    for round in 0..100 {
        for _ in 0..2 {
            world.proxied.range(&read).await.expect("a read");
        }
        put(&world.direct, &key, &round.to_string()).await;
        watching.ask_progress().await;
        let progress = watching.next().await;
        let shown = progress.header.expect("a header").revision;
        let answer = world.proxied.range(&read).await.expect("a read");
        assert!(revision(&answer) >= shown, "{} after {shown}", revision(&answer));
    }
    world
}

/// What a client has seen in an answer, to another call, on another connection.
async fn reply_then_read(world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    let other = world.client().await;
    for round in 0..200 {
        for _ in 0..2 {
            world.proxied.range(&read).await.expect("a read");
        }
        let written = put(&world.direct, &key, &round.to_string()).await;
        let shown = match round % 3 {
            0 => put(&other, &world.key("else"), "v").await,
            1 => revision(&other.get(world.key("else").as_bytes()).await.expect("a read")),
            _ => {
                other
                    .status()
                    .await
                    .expect("status")
                    .header
                    .expect("a header")
                    .revision
            }
        };
        assert!(shown >= written);
        let answer = world.proxied.range(&read).await.expect("a read");
        assert_eq!(
            number(&answer),
            Some(round),
            "older than the answer that was shown"
        );
        assert!(revision(&answer) >= shown, "round {round}: an old revision");
    }
    world
}

/// What clients were answered to reads that are described by number, by number and revision.
type Shown = Arc<Mutex<BTreeMap<(usize, i64), RangeResponse>>>;

/// Clients with a mixed load of their own, and a writer at the member: what each of them is shown never goes back.
async fn headers_never_go_back(world: World) -> World {
    const CLIENTS: u64 = 8;
    const STEPS: u64 = 400;
    let lease: LeaseGrantResponse = call(
        &world.direct,
        "Lease/LeaseGrant",
        &LeaseGrantRequest { ttl: 600, id: 0 },
    )
    .await
    .expect("a lease");
    let keys: Vec<String> = (0..4).map(|number| world.key(&number.to_string())).collect();
    let mut reads: Vec<RangeRequest> = keys.iter().map(|key| one(key)).collect();
    reads.push(prefix(&world.prefix));
    let reads = Arc::new(reads);
    let first = put(&world.direct, &keys[0], "0").await;
    let (stop, mut stopped) = watch::channel(());
    let writer = {
        let (direct, keys) = (world.direct.clone(), keys.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while stopped.has_changed().is_ok() {
                number += 1;
                put(&direct, &keys[number % 4], &number.to_string()).await;
                // As fast as the readers let it: they are to find entries, too.
                let _ = tokio::time::timeout(std::time::Duration::from_millis(3), stopped.changed()).await;
            }
        })
    };
    let shown: Shown = Arc::default();
    let before = world.hits().await;
    let mut clients = Vec::new();
    for seed in 0..CLIENTS {
        let client = world.client().await;
        let (keys, reads, shown) = (keys.clone(), Arc::clone(&reads), Arc::clone(&shown));
        clients.push(tokio::spawn(async move {
            let mut last = first;
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for step in 0..STEPS {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let pick = random % 100;
                let now = match pick {
                    0..5 => put(&client, &keys[(random >> 8) as usize % 4], "1").await,
                    5..10 => heartbeat(&client, lease.id).await,
                    10..14 => {
                        let (_, created) = Watching::one(&client.wire, on_prefix("nothing/")).await;
                        created.header.expect("a header").revision
                    }
                    _ => {
                        let which = (random >> 8) as usize % reads.len();
                        let read = match pick {
                            10..35 => reads[which].clone(),
                            _ => serializable(&reads[which]),
                        };
                        let answer = client.range(&read).await.expect("a read");
                        let now = revision(&answer);
                        let mut shown = shown.lock().await;
                        if let Some(other) = shown.insert((which, now), answer.clone()) {
                            assert_eq!(other, answer, "two states at revision {now}");
                        }
                        now
                    }
                };
                assert!(
                    now >= last,
                    "client {seed}, step {step} ({pick}): from {last} back to {now}"
                );
                last = now;
            }
            last
        }));
    }
    let mut last = first;
    for client in clients {
        last = last.max(client.await.expect("a client"));
    }
    let hits = world.hits().await - before;
    drop(stop);
    writer.await.expect("the writer");
    let end = revision(&world.direct.get(b"k").await.expect("a read"));
    assert!(last <= end, "{last} was shown at revision {end}");
    // Each answer is what the member had at that revision.
    let shown = std::mem::take(&mut *shown.lock().await);
    println!("headers_never_go_back: {hits} hits, {} states", shown.len());
    assert!(hits > 0.0, "nothing came from the cache");
    for ((which, at), answer) in shown {
        let then = RangeRequest {
            revision: at,
            ..reads[which].clone()
        };
        let then = world.direct.range(&then).await.expect("a read");
        assert_eq!(
            (answer.kvs, answer.count),
            (then.kvs, then.count),
            "read {which} at {at}"
        );
    }
    world
}

/// A heartbeat; gives the revision that its answer shows.
async fn heartbeat(client: &Client, id: i64) -> i64 {
    let path = "/etcdserverpb.Lease/LeaseKeepAlive";
    let message = LeaseKeepAliveRequest { id }.encode_to_vec().into();
    let messages = [message];
    let beat = client.wire.call(path, &[], &messages);
    let reply = within("a heartbeat", ANSWER_LIMIT, beat).await;
    let answer = reply.messages.first().expect("an answer");
    let answer = LeaseKeepAliveResponse::decode(answer.clone()).expect("a heartbeat's answer");
    answer.header.expect("a header").revision
}
