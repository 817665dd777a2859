//! What a watcher is told when it shares its range with others: the same as if it were alone.
//!
//! Rows of the existing proxy's faults: half-close, forged headers, ids, fragments, cancel reasons, a start in the
//! past.

use std::time::Duration;

use etcd_proxy_proto::etcdserverpb::{
    PutRequest, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, request_op::Request,
};
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    suite::trial,
    watching::{on_key, on_prefix, since},
};
use libtest_mimic::Trial;

use crate::{
    lockstep::Lockstep,
    world::{Between, Upstream, World, put, scenario},
    writers::Writers,
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    let late = Between::Tap(Duration::from_millis(30));
    vec![
        scenario(upstream, "half_close", Between::Nothing, half_close),
        scenario(upstream, "headers", Between::Nothing, headers),
        scenario(upstream, "ids", Between::Nothing, ids),
        scenario(upstream, "order", Between::Nothing, order),
        scenario(upstream, "refusals", Between::Nothing, refusals),
        scenario(upstream, "filters_and_previous_values", Between::Nothing, filters),
        trial("fragments", fragments),
        scenario(upstream, "starts_now", late, starts_now),
        scenario(
            upstream,
            "starts_now_under_load",
            Between::Nothing,
            starts_now_under_load,
        ),
    ]
}

async fn lockstep(world: &World) -> Lockstep {
    Lockstep::open(&world.direct.wire, &world.wire().await, &[]).await
}

/// Row 22. A gateway sends an empty request first and half-closes after the create.
async fn half_close(world: World) -> World {
    let key = world.key("k");
    let (_companion, _) = world.watch(on_key(&key)).await;
    let mut both = lockstep(&world).await;
    both.send_message(b"").await;
    both.create(on_key(&key)).await;
    both.half_close();
    assert!(both.next().await.created);
    for value in ["1", "2", "3"] {
        world.put(&key, value).await;
        assert_eq!(both.next().await.events.len(), 1);
    }
    world
}

/// Row 25. Answers to creates and cancels of watchers that join a range which is watched already, whatever their
/// start.
async fn headers(world: World) -> World {
    let key = world.key("k");
    let first = world.put(&key, "1").await;
    let (_companion, _) = world.watch(on_prefix(&world.prefix)).await;
    let (_companion, _) = world.watch(on_key(&key)).await;
    for value in ["2", "3"] {
        world.put(&key, value).await;
    }
    let mut both = lockstep(&world).await;
    let now = world.put(&world.key("other"), "").await;
    for (name, start, events) in [
        ("now", 0, 0),
        ("the past", first, 3),
        ("part of the past", first + 1, 2),
        ("the present", now, 0),
        ("the next revision", now + 1, 0),
        ("the future", now + 1000, 0),
    ] {
        let created = both.created(since(start, on_key(&key))).await;
        assert!(created.created && !created.canceled, "{name}: {created:?}");
        assert_eq!(created.header.expect("a header").revision, now, "{name}");
        if events > 0 {
            assert_eq!(both.past(events).await.len(), events, "{name}");
        }
        both.cancel(created.watch_id).await;
        let cancelled = both.next().await;
        assert!(
            cancelled.canceled && cancelled.header.is_some(),
            "{name}: {cancelled:?}"
        );
    }
    world
}

/// Requests are carried out in their order: a cancel request doesn't overtake a create request that is refused for what it
/// cancels, and leave a watcher behind.
async fn order(world: World) -> World {
    let key = world.key("k");
    let seven = WatchCreateRequest {
        watch_id: 7,
        ..on_key(&key)
    };
    for round in 0..30 {
        let mut both = lockstep(&world).await;
        both.created(seven.clone()).await;
        both.create(seven.clone()).await;
        both.cancel(7).await;
        assert_eq!(both.next().await.watch_id, -1, "round {round}");
        let cancelled = both.next().await;
        assert!(
            cancelled.watch_id == 7 && cancelled.canceled,
            "{round}: {cancelled:?}"
        );
    }
    world
}

/// Row 26.
async fn ids(world: World) -> World {
    let (a, b) = (world.key("a"), world.key("b"));
    let (_companion, _) = world.watch(on_key(&a)).await;
    let mut both = lockstep(&world).await;
    let with_id = |watch_id, key: &str| WatchCreateRequest {
        watch_id,
        ..on_key(key)
    };
    let mut seen = Vec::new();
    for create in [
        with_id(77, &a),
        on_key(&a),
        with_id(1, &b),
        on_key(&b),
        with_id(77, &b),
        with_id(-5, &a),
        on_key(&a),
    ] {
        seen.push(both.created(create).await.watch_id);
    }
    assert_eq!(seen, [77, 0, 1, 2, -1, -5, 3]);
    // Freed by a cancel, and the unknown one is passed over.
    both.cancel(1234).await;
    both.cancel(77).await;
    assert!(both.next().await.canceled);
    assert_eq!(both.created(with_id(77, &b)).await.watch_id, 77);
    world
}

/// Row 28. Reasons to the letter.
async fn refusals(world: World) -> World {
    let key = world.key("k");
    let (_companion, _) = world.watch(on_key(&key)).await;
    let mut both = lockstep(&world).await;
    let range = |key: &str, end: &str| WatchCreateRequest {
        range_end: end.to_owned().into(),
        ..on_key(key)
    };
    for (create, reason) in [
        (range(&key, &world.prefix), "mvcc: watcher range is empty"),
        (range(&key, &key), "mvcc: watcher range is empty"),
        (
            since(-1, on_key(&key)),
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ] {
        let refused = both.created(create).await;
        assert!(refused.created && refused.canceled, "{refused:?}");
        assert_eq!((refused.watch_id, refused.cancel_reason.as_str()), (-1, reason));
    }
    let taken = WatchCreateRequest {
        watch_id: 9,
        ..on_key(&key)
    };
    assert!(!both.created(taken.clone()).await.canceled);
    let refused = both.created(taken).await;
    assert_eq!(
        refused.cancel_reason,
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    world
}

/// Watchers of one range that want different things of the same events.
async fn filters(world: World) -> World {
    let key = world.key("k");
    world.put(&key, "before").await;
    let variants = [(vec![], false), (vec![], true), (vec![0], true), (vec![1], false)];
    let mut streams = Vec::new();
    for (filters, prev_kv) in variants {
        let mut both = lockstep(&world).await;
        let create = WatchCreateRequest {
            prev_kv,
            filters: filters.clone(),
            ..on_key(&key)
        };
        assert!(both.created(create).await.created);
        streams.push((filters, prev_kv, both));
    }
    for round in ["1", "2"] {
        world.put(&key, round).await;
        world.direct.delete(key.as_bytes()).await.expect("delete");
        for (filters, prev_kv, both) in &mut streams {
            for kind in [0, 1] {
                if filters.contains(&kind) {
                    continue;
                }
                let answer = both.next().await;
                assert_eq!(answer.events.len(), 1, "{answer:?}");
                assert_eq!(answer.events[0].r#type, kind, "{answer:?}");
                // The first put of the second round creates the key.
                let expected = *prev_kv && (kind == 1 || round == "1");
                assert_eq!(answer.events[0].prev_kv.is_some(), expected, "{answer:?}");
            }
        }
    }
    world
}

/// Row 27. Split for those who ask, whole for the others, live and from the past, and never the message of one
/// revision for those who don't.
async fn fragments() {
    // Room for one revision of more than a server sends in one piece.
    let cluster = Cluster::start(Options::default().flag("--max-request-bytes=12000000")).await;
    let mut world = World::start("fragments", &cluster, Between::Nothing).await;
    let (_companion, _) = world.watch(on_prefix(&world.prefix)).await;
    let first = large_revision(&world, 5).await;
    let mut streams = Vec::new();
    for (fragment, start) in [(true, 0), (false, 0), (true, first), (false, first)] {
        let create = WatchCreateRequest {
            fragment,
            ..since(start, on_prefix(&world.prefix))
        };
        streams.push((fragment, start, world.follow(create).await));
    }
    large_revision(&world, 4).await;
    large_revision(&world, 1).await;
    for (fragment, start, follower) in &mut streams {
        let mut unfinished = 0;
        let all = if *start == 0 { 5 } else { 10 };
        while follower.account.only().marks.len() < all {
            let answer = follower.watching.next().await;
            follower.account.take(&answer).expect("events");
            assert!(
                *fragment || !answer.fragment,
                "in pieces, without having asked for it"
            );
            unfinished += usize::from(answer.fragment);
            if *fragment {
                // Two of them are below 2 MiB, three are above it.
                assert!(
                    answer.events.len() <= 2,
                    "{} events in a piece",
                    answer.events.len()
                );
            }
        }
        let revisions = follower.revisions();
        let of = |revision: i64| revisions.iter().filter(|other| **other == revision).count();
        assert_eq!((of(first + 1), of(first + 2)), (4, 1));
        // Four events are two pieces, five are three, and the last of them doesn't say that more comes. The last
        // revision may be in one answer with the one before.
        let expected = match (*fragment, *start) {
            (false, _) => 0..=0,
            (true, 0) => 1..=2,
            (true, _) => 3..=4,
        };
        assert!(
            expected.contains(&unfinished),
            "{unfinished} pieces with more to come, from {start}"
        );
    }
    world.proxy.assert_sound();
}

/// Writes a revision of so many events of 900 kB.
async fn large_revision(world: &World, events: usize) -> i64 {
    let put = |number: usize| RequestOp {
        request: Some(Request::RequestPut(PutRequest {
            key: world.key(&number.to_string()).into(),
            value: vec![b'x'; 900_000].into(),
            ..Default::default()
        })),
    };
    let txn = TxnRequest {
        success: (0..events).map(put).collect(),
        ..Default::default()
    };
    let path = "/etcdserverpb.KV/Txn";
    let answer: TxnResponse = world.direct.wire.unary(path, &[], &txn).await.expect("txn");
    answer.header.expect("a header").revision
}

/// Row 37. The shared stream is late by 30 ms: a watcher that is created now must not be told of what was before.
async fn starts_now(world: World) -> World {
    let key = world.key("k");
    let mut companion = world.follow(on_key(&key)).await;
    let mut last = 0;
    for _ in 0..8 {
        let before = world.put(&key, "before").await;
        let mut follower = world.follow(on_key(&key)).await;
        let created = follower.account.only().created;
        assert!(
            created >= before,
            "created at {created}, after a write at {before}"
        );
        last = put(&world.proxied, &key, "after").await;
        follower.until(last).await;
        assert_eq!(
            follower.revisions(),
            [last],
            "a write at {before} was acknowledged before"
        );
    }
    companion.until(last).await;
    assert_eq!(companion.revisions().len(), 16);
    world
}

/// Row 37 again, with writers that never rest: nothing from before, and all from after.
async fn starts_now_under_load(world: World) -> World {
    let writers = Writers::start(std::slice::from_ref(&world.member), &world.prefix, 3);
    let mut followers = Vec::new();
    for _ in 0..60 {
        let before = world.put(&world.key("mine"), "").await;
        let follower = world.follow(on_prefix(&world.prefix)).await;
        followers.push((before, follower));
        writers.wrote(7).await;
    }
    let log = writers.stop(&world.member).await;
    for (before, mut follower) in followers {
        follower.until(log.last_revision()).await;
        let watcher = follower.account.only();
        assert!(
            watcher.created >= before,
            "created at {} after {before}",
            watcher.created
        );
        log.is_suffix(&watcher.marks, before + 1, watcher.created + 1)
            .expect("its events");
    }
    world
}
