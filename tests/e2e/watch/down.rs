//! No member at all, for a while and again and again. Rows 36 and 60.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    suite::{eventually, trial, within},
    watching::{ANSWER_LIMIT, Watching, on_key, on_prefix},
};
use libtest_mimic::Trial;

use crate::{
    world::{Between, World, put},
    writers::Log,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("no_member", no_member),
        trial("restarted_often", restarted_often),
    ]
}

/// A create without a member ends in bounded time, control messages are answered, and when the member is back
/// everything goes on.
async fn no_member() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("down", &cluster, Between::Nothing).await;
    let first = world.put(&world.key("first"), "").await;
    let mut stays = world.follow(on_prefix(&world.prefix)).await;
    let mut other = Watching::open(&world.wire().await, &[]).await;
    let created = [
        other.created(on_key(&world.key("a"))).await,
        other.created(on_key(&world.key("b"))).await,
    ];

    cluster.kill(0);
    // A watcher that is asked for now is in nobody's way: neither on its own stream nor on another one.
    let clock = Instant::now();
    let mut waiting = Watching::open(&world.wire().await, &[]).await;
    waiting.create(on_key(&world.key("late"))).await;
    other.cancel(created[0].watch_id).await;
    let cancelled = other.next().await;
    assert!(
        cancelled.canceled && cancelled.watch_id == created[0].watch_id,
        "{cancelled:?}"
    );
    let end = waiting.end().await;
    println!(
        "no_member: a create without a member ended after {:.1?}: {}",
        clock.elapsed(),
        end.in_short()
    );
    assert_eq!(end.code(), Some(14), "{}", end.in_short());
    assert!(
        end.messages.is_empty(),
        "an answer without a member: {:?}",
        end.messages
    );

    // One that is asked for while the member comes back is created then.
    let mut patient = Watching::open(&world.wire().await, &[]).await;
    patient.create(on_prefix(&world.prefix)).await;
    cluster.restart(0);
    let answer = within("the created answer", ANSWER_LIMIT, patient.answer()).await;
    if let Err(end) = answer {
        assert_eq!(end.code(), Some(14), "{}", end.in_short());
    }
    cluster.writable().await;
    world.direct = Client::connect(&world.member).await.expect("member");
    let log = Log::read(&world.member, &world.prefix).await;
    stays.until(log.last_revision()).await;
    log.is(&stays.account.only().marks, first + 1)
        .expect("its events");
    let revision = world.put(&world.key("b"), "").await;
    let event = other.next().await;
    assert_eq!((event.watch_id, event.events.len()), (created[1].watch_id, 1));
    stays.until(revision).await;
    world.proxy.assert_sound();
}

/// How much of the time the proxy may be busy when nothing happens, of a hundred.
const IDLE_PERCENT: u64 = 20;

/// Restarts leave no loop behind that eats CPU, and no watcher forgotten.
async fn restarted_often() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("often", &cluster, Between::Nothing).await;
    let first = world.put(&world.key("first"), "").await;
    let mut followers = Vec::new();
    for create in [on_prefix(&world.prefix), on_key(&world.key("k"))] {
        followers.push(world.follow(create).await);
    }
    for _ in 0..8 {
        cluster.kill(0);
        cluster.restart(0);
        cluster.writable().await;
        let client = Client::connect(&world.member).await.expect("member");
        let revision = put(&client, &world.key("k"), "").await;
        for follower in &mut followers {
            follower.until(revision).await;
        }
    }
    let log = Log::read(&world.member, &world.prefix).await;
    followers[0].until(log.last_revision()).await;
    log.is(&followers[0].account.only().marks, first + 1)
        .expect("its events");
    assert_eq!(followers[1].revisions().len(), 8);

    // What is to be shown is that it becomes quiet; what is left over from the restarts may take its time.
    eventually("the proxy is idle", ANSWER_LIMIT, async || {
        const LOOK: Duration = Duration::from_secs(1);
        let before = world.proxy.process().cpu_ticks();
        tokio::time::sleep(LOOK).await;
        let spent = world.proxy.process().cpu_ticks() - before;
        (spent <= IDLE_PERCENT).then_some(())
    })
    .await;
    world.proxy.assert_sound();
}
