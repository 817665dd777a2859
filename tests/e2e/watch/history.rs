//! Watchers that start in the past while others of the same range are live: rows 1 and 2 of the existing proxy's
//! faults.

use etcd_proxy_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, PutRequest, RequestOp, TxnRequest, TxnResponse,
    WatchCreateRequest, request_op::Request,
};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    suite::trial,
    watching::{Watching, on_key, on_prefix, since},
};
use libtest_mimic::Trial;
use tokio::task::JoinSet;

use crate::{
    lockstep::Lockstep,
    world::{Between, Follower, Upstream, World, scenario},
    writers::{Log, Writers},
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "far_back", Between::Nothing, far_back),
        scenario(
            upstream,
            "far_back_under_load",
            Between::Nothing,
            far_back_under_load,
        ),
        trial("compacted", compacted),
        trial("compacted_while_catching_up", compacted_while_catching_up),
    ]
}

/// Writes `count` revisions under the prefix, quickly; every hundredth has three events, and so do those at the
/// borders of a server's catch-up batches (1,000 revisions each). Gives the first and the last revision.
async fn fill(client: &Client, prefix: &str, count: usize) -> (i64, i64) {
    let mut tasks = JoinSet::new();
    const AT_A_TIME: usize = 32;
    for lane in 0..AT_A_TIME {
        let (client, prefix) = (client.clone(), prefix.to_owned());
        tasks.spawn(async move {
            let mut revisions = Vec::new();
            for number in (lane..count).step_by(AT_A_TIME) {
                let events = if number % 100 == 0 || number % 1000 >= 960 {
                    3
                } else {
                    1
                };
                let put = |index: usize| RequestOp {
                    request: Some(Request::RequestPut(PutRequest {
                        key: format!("{prefix}k{}", (number + index) % 7).into(),
                        value: number.to_string().into(),
                        ..Default::default()
                    })),
                };
                let txn = TxnRequest {
                    success: (0..events).map(put).collect(),
                    ..Default::default()
                };
                let path = "/etcdserverpb.KV/Txn";
                let answer: TxnResponse = client.wire.unary(path, &[], &txn).await.expect("txn");
                revisions.push(answer.header.expect("a header").revision);
            }
            revisions
        });
    }
    let revisions = tasks.join_all().await.concat();
    let (first, last) = (revisions.iter().min(), revisions.iter().max());
    (*first.expect("revisions"), *last.expect("revisions"))
}

/// Starts at and around the borders of a server's catch-up batches.
async fn far_back(world: World) -> World {
    const COUNT: i64 = 5000;
    let (first, last) = fill(&world.direct, &world.prefix, COUNT as usize).await;
    // Live watchers of the same ranges, so that there is something to be merged with too early.
    let mut live = world.follow(on_prefix(&world.prefix)).await;
    let mut live_key = world.follow(on_key(&world.key("k1"))).await;
    let mut followers = Vec::new();
    for back in [
        1,
        999,
        1000,
        1001,
        1002,
        1999,
        2000,
        2001,
        2500,
        3001,
        COUNT - 1,
        COUNT,
    ] {
        let start = last + 1 - back;
        let follower = world.follow(since(start, on_prefix(&world.prefix))).await;
        followers.push((start, follower));
    }
    let mut on_one_key = world.follow(since(first, on_key(&world.key("k1")))).await;
    // What comes while they catch up.
    let (_, _) = fill(&world.direct, &world.prefix, 300).await;
    let last_of_key = world.put(&world.key("k1"), "last").await;
    let log = Log::read(&world.member, &world.prefix).await;
    for (start, follower) in &mut followers {
        follower.until(log.last_revision()).await;
        log.is(&follower.account.only().marks, *start)
            .expect("its events");
    }
    live.until(log.last_revision()).await;
    log.is(&live.account.only().marks, last + 1)
        .expect("the live one's events");
    on_one_key.until(last_of_key).await;
    live_key.until(last_of_key).await;
    let key =
        etcd_proxy_tests::watching::history(&world.member, since(1, on_key(&world.key("k1"))), last_of_key)
            .await;
    let key = Log { marks: key };
    key.is(&on_one_key.account.only().marks, first)
        .expect("the key's events");
    key.is(&live_key.account.only().marks, last + 1)
        .expect("the key's live events");
    world
}

/// The case that was found in practice: three writers, and watchers that start anywhere behind them.
async fn far_back_under_load(world: World) -> World {
    let (first, last) = fill(&world.direct, &world.prefix, 4000).await;
    let writers = Writers::start(std::slice::from_ref(&world.member), &world.prefix, 3);
    let mut followers = Vec::new();
    for number in 0..60 {
        // Spread by a step that has no divisor in common with the number of revisions.
        let start = first + (number * 2647) % (last - first);
        let create = WatchCreateRequest {
            prev_kv: number % 3 == 0,
            ..since(start, on_prefix(&world.prefix))
        };
        followers.push((start, world.follow(create).await));
        writers.wrote(10).await;
    }
    let log = writers.stop(&world.member).await;
    for (start, follower) in &mut followers {
        follower.until(log.last_revision()).await;
        log.is(&follower.account.only().marks, *start)
            .expect("its events");
    }
    world
}

async fn compact(client: &Client, revision: i64) {
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    let path = "/etcdserverpb.KV/Compact";
    let _: CompactionResponse = client.wire.unary(path, &[], &request).await.expect("compact");
}

/// Row 2. Who starts in what is compacted is told so, as by a server, and it is nobody else's business.
async fn compacted() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("compacted", &cluster, Between::Nothing).await;
    let key = world.key("k");
    for live_before in [false, true] {
        let mut revision = 0;
        for number in 0..20 {
            revision = world.put(&key, &number.to_string()).await;
        }
        let mut companion = None;
        if live_before {
            companion = Some(world.follow(on_key(&key)).await);
        }
        compact(&world.direct, revision - 5).await;

        // Their streams stay open, and nobody cancels what is cancelled already.
        let mut refused = Lockstep::open(&world.direct.wire, &world.wire().await, &[]).await;
        let created = refused.created(since(revision - 10, on_key(&key))).await;
        assert!(created.created && !created.canceled, "{created:?}");
        let cancelled = refused.next().await;
        assert!(cancelled.canceled, "{cancelled:?}");
        assert_eq!(cancelled.compact_revision, revision - 5);

        let mut starts = Vec::new();
        for start in [0, revision - 5, revision - 4, revision] {
            starts.push((start, world.follow(since(start, on_key(&key))).await));
        }
        let last = world.put(&key, "after").await;
        for (start, follower) in &mut starts {
            follower.until(last).await;
            let expected: Vec<i64> = if *start == 0 {
                vec![last]
            } else {
                (*start..=last).collect()
            };
            assert_eq!(follower.revisions(), expected, "from {start}");
        }
        if let Some(companion) = &mut companion {
            companion.until(last).await;
            assert_eq!(companion.revisions(), [last]);
        }
        // The same stream is good for another watcher.
        assert!(!refused.created(on_key(&key)).await.canceled);
        world.put(&key, "again").await;
        assert_eq!(refused.next().await.events.len(), 1);
    }
    world.proxy.assert_sound();
}

/// A compaction that overtakes watchers ends those that still need what it took, with a reason, and no other.
async fn compacted_while_catching_up() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("overtaken", &cluster, Between::Nothing).await;
    let (first, last) = fill(&world.direct, &world.prefix, 3000).await;
    let mut live = world.follow(on_prefix(&world.prefix)).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut watching = Watching::open(&world.wire().await, &[]).await;
        watching.create(since(first, on_prefix(&world.prefix))).await;
        streams.push(watching);
    }
    compact(&world.direct, last).await;
    let log = {
        let after = world.put(&world.key("after"), "").await;
        live.until(after).await;
        after
    };
    for mut watching in streams {
        let created = watching.next().await;
        let mut follower = Follower::new(watching, &created);
        // Either it got through in time, without a gap, or it is told that it did not.
        loop {
            let answer = follower.watching.next().await;
            if answer.canceled {
                assert_eq!(answer.compact_revision, last, "{answer:?}");
                assert!(answer.events.is_empty());
                break;
            }
            follower.account.take(&answer).expect("events");
            let marks = &follower.account.only().marks;
            if marks.last().is_some_and(|mark| mark.revision == log) {
                let mut revisions: Vec<i64> = marks.iter().map(|mark| mark.revision).collect();
                revisions.dedup();
                assert_eq!(revisions, (first..=log).collect::<Vec<_>>());
                break;
            }
        }
    }
    world.proxy.assert_sound();
}
