//! Row 17: watchers that come and go by the thousand stall nobody.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    suite::eventually,
    watching::{ANSWER_LIMIT, Watching, on_key, on_prefix},
};
use libtest_mimic::Trial;
use tokio::task::JoinSet;

use crate::world::{Between, Upstream, World, scenario};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "churn", Between::Nothing, churn),
        scenario(
            upstream,
            "streams_without_goodbye",
            Between::Tap(Duration::ZERO),
            without_goodbye,
        ),
    ]
}

/// Creates and cancels, every one of them answered, while a watcher that stays gets every event.
async fn churn(world: World) -> World {
    const CONNECTIONS: usize = 10;
    const ROUNDS: usize = 500;
    let mut stays = world.follow(on_prefix(&world.prefix)).await;
    let mut churning = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let wire = world.wire().await;
        let keys = [
            world.key("k"),
            world.key(&format!("{connection}")),
            format!("elsewhere/{connection}"),
        ];
        churning.spawn(async move {
            let mut watching = Watching::open(&wire, &[]).await;
            for round in 0..ROUNDS {
                let create = match round % 4 {
                    3 => on_prefix(&keys[round / 4 % 3]),
                    kind => on_key(&keys[kind]),
                };
                watching.create(create).await;
                // Every second one is cancelled before its created answer is there; its id is known in advance.
                let early = round % 2 == 0;
                if early {
                    watching.cancel(round as i64).await;
                }
                let (mut created, mut cancelled) = (false, false);
                while !cancelled {
                    let answer = watching.next().await;
                    assert_eq!(answer.watch_id, round as i64, "{answer:?}");
                    created |= answer.created;
                    cancelled |= answer.canceled;
                    assert!(created, "the created answer comes first: {answer:?}");
                    if answer.created && !early {
                        watching.cancel(round as i64).await;
                    }
                }
            }
        });
    }
    let mut delays = Vec::new();
    let mut last = 0;
    while !churning.is_empty() {
        let clock = Instant::now();
        last = world.put(&world.key("k"), "x").await;
        stays.until(last).await;
        delays.push(clock.elapsed());
        while let Some(done) = churning.try_join_next() {
            done.expect("a churning client");
        }
    }
    stays.until(last).await;
    assert_eq!(
        stays.revisions().len(),
        delays.len(),
        "events of the watcher that stays"
    );
    delays.sort_unstable();
    println!(
        "churn: {} watchers came and went; put to event: median {:.1?}, slowest of {} {:.1?}",
        CONNECTIONS * ROUNDS,
        delays[delays.len() / 2],
        delays.len(),
        delays[delays.len() - 1]
    );
    world
}

/// Streams that end in any way leave nothing behind: connections killed, calls dropped, in the middle of creating.
async fn without_goodbye(world: World) -> World {
    for round in 0..20 {
        let wire = world.wire().await;
        let mut streams = Vec::new();
        for number in 0..20 {
            let mut watching = Watching::open(&wire, &[]).await;
            watching
                .create(on_key(&world.key(&format!("{round}/{number}"))))
                .await;
            watching.create(on_prefix(&world.prefix)).await;
            if number % 2 == 0 {
                assert!(watching.next().await.created);
            }
            streams.push(watching);
        }
        if round % 2 == 0 {
            wire.kill();
        }
    }
    eventually("the member has no watchers", ANSWER_LIMIT, async || {
        let left = etcd_proxy_tests::metrics::watchers(&world.member).await.ok()?;
        (left == 0).then_some(())
    })
    .await;
    let mut after = world.follow(on_prefix(&world.prefix)).await;
    let revision = world.put(&world.key("after"), "").await;
    after.until(revision).await;
    assert_eq!(after.revisions(), [revision]);
    world
}
