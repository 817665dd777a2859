//! Progress, as Kubernetes' watch cache uses it: it reads the store's revision and then asks its watch until that
//! has got there. Row 15.

use std::time::{Duration, Instant};

use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    suite::trial,
    tap::Cut,
    watching::{ANSWER_LIMIT, Watching, on_key, on_prefix, since},
};
use libtest_mimic::Trial;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{
    lockstep::Lockstep,
    world::{Between, Follower, World},
    writers::Writers,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("progress_idle", idle),
        trial("progress_busy", busy),
        trial("progress_with_some_behind", some_behind),
        trial("progress_with_new_ranges", new_ranges),
        trial("progress_notify", notify),
        trial("progress_notify_beside_others", notify_beside_others),
        trial("progress_unanswered", unanswered),
    ]
}

/// How often Kubernetes asks while somebody waits.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// A member that tells progress by itself every so often.
async fn cluster() -> Cluster {
    let flag = "--experimental-watch-progress-notify-interval=200ms";
    Cluster::start(Options::default().flag(flag)).await
}

/// Linearizable read of the store's revision, through the proxy.
async fn store_revision(world: &World) -> i64 {
    let answer = world.proxied.get(b"no such key").await.expect("read");
    answer.header.expect("a header").revision
}

/// Asks until an answer says that the stream's progress has reached `revision`; gives how long that took.
async fn reached(follower: &mut Follower, revision: i64) -> Duration {
    follower.account.progress = 0;
    let clock = Instant::now();
    let mut ticks = interval(ASK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asking = async {
        while follower.account.progress < revision {
            tokio::select! {
                _ = ticks.tick() => follower.watching.ask_progress().await,
                answer = follower.watching.answer() => {
                    let answer = answer.unwrap_or_else(|end| panic!("the stream ended: {}", end.in_short()));
                    follower.account.take(&answer).expect("a fine answer");
                }
            }
        }
    };
    let done = timeout(ANSWER_LIMIT, asking).await;
    assert!(
        done.is_ok(),
        "no progress to {revision}, at {}",
        follower.account.progress
    );
    clock.elapsed()
}

fn told(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{name}: {} consistent reads, median {median:.1?}, slowest {slowest:.1?}",
        times.len()
    );
}

/// Nothing is written to what is watched, and for a while nothing at all.
async fn idle() {
    let cluster = cluster().await;
    let mut world = World::start("idle", &cluster, Between::Nothing).await;
    let mut follower = world.follow(on_prefix(&world.prefix)).await;
    let mut times = Vec::new();
    for round in 0..30 {
        if round % 3 == 0 {
            world.put("elsewhere", "").await;
        }
        let revision = store_revision(&world).await;
        times.push(reached(&mut follower, revision).await);
        assert!(follower.account.only().marks.is_empty());
    }
    told("progress_idle", times);
    world.proxy.assert_sound();
}

/// Writers on what is watched, and streams that break upstream.
async fn busy() {
    let cluster = cluster().await;
    let mut world = World::start("busy", &cluster, Between::Tap(Duration::ZERO)).await;
    let create = WatchCreateRequest {
        progress_notify: true,
        ..on_prefix(&world.prefix)
    };
    let before = world.put(&world.key("before"), "").await;
    let mut follower = world.follow(create).await;
    let writers = Writers::start(std::slice::from_ref(&world.member), &world.prefix, 3);
    let mut times = Vec::new();
    for round in 0..40 {
        writers.wrote(20).await;
        let revision = store_revision(&world).await;
        times.push(reached(&mut follower, revision).await);
        if round % 10 == 5 {
            world.tap().cut(Cut::Status(14, "broken"));
        }
    }
    let log = writers.stop(&world.member).await;
    follower.until(log.last_revision()).await;
    log.is(&follower.account.only().marks, before + 1)
        .expect("its events");
    told("progress_busy", times);
    world.proxy.assert_sound();
}

/// Watchers that are thousands of revisions behind on the same stream: progress waits for them, and is never ahead
/// of an event. The account refuses an event at or below a progress that was told.
async fn some_behind() {
    let cluster = cluster().await;
    let mut world = World::start("behind", &cluster, Between::Nothing).await;
    let first = world.put(&world.key("first"), "").await;
    let writers = Writers::start(std::slice::from_ref(&world.member), &world.prefix, 3);
    let mut follower = world.follow(on_prefix(&world.prefix)).await;
    let mut starts = vec![follower.account.only().created + 1];
    let mut times = Vec::new();
    for round in 1..=12 {
        let start = first + round;
        follower
            .watching
            .create(since(start, on_prefix(&world.prefix)))
            .await;
        follower.watching.ask_progress().await;
        starts.push(start);
        writers.wrote(40).await;
        let revision = store_revision(&world).await;
        times.push(reached(&mut follower, revision).await);
    }
    let log = writers.stop(&world.member).await;
    follower.until(log.last_revision()).await;
    assert_eq!(follower.account.watchers.len(), starts.len());
    for ((_, watcher), start) in follower.account.watchers.iter().zip(starts).skip(1) {
        log.is(&watcher.marks, start).expect("its events");
    }
    told("progress_with_some_behind", times);
    world.proxy.assert_sound();
}

/// New ranges while the streams they come to are being asked all the time: a server's answer may be older than a
/// watcher whose created answer came before it, and says nothing of what that has yet to be sent.
async fn new_ranges() {
    const ROUNDS: usize = 80;
    let cluster = cluster().await;
    let mut world = World::start("ranges", &cluster, Between::Nothing).await;
    let writers = Writers::start(std::slice::from_ref(&world.member), &world.prefix, 4);
    let mut follower = world.follow(on_prefix(&world.prefix)).await;
    let mut known_before = vec![0];
    for round in 0..ROUNDS {
        // Each is a little wider than those before, so none is served by what is there.
        let create = WatchCreateRequest {
            range_end: format!("{}x{round:03}", world.prefix).into(),
            ..on_key(&world.prefix)
        };
        let known = world.put(&world.key("known"), "").await;
        for _ in 0..3 {
            follower.watching.ask_progress().await;
        }
        follower.watching.create(create).await;
        known_before.push(known);
        while follower.account.watchers.len() < known_before.len() {
            follower.watching.ask_progress().await;
            follower.take().await;
        }
        // Until it is upstream, and known to be.
        let revision = world.put(&world.key("known"), "").await;
        follower.until(revision).await;
    }
    let time = reached(&mut follower, store_revision(&world).await).await;
    println!("progress_with_new_ranges: answered after {time:.1?} when there were no more");
    let log = writers.stop(&world.member).await;
    follower.until(log.last_revision()).await;
    for ((id, watcher), known) in follower.account.watchers.iter().zip(&known_before) {
        let seen = log.is_suffix(&watcher.marks, known + 1, watcher.created + 1);
        assert!(seen.is_ok(), "watcher {id}: {seen:?}");
    }
    world.proxy.assert_sound();
}

/// What the server tells by itself reaches those who want it, and nobody else.
async fn notify() {
    let cluster = cluster().await;
    let mut world = World::start("notify", &cluster, Between::Nothing).await;
    let mut without = world.follow(on_prefix(&world.prefix)).await;
    let mut watching = Watching::open(&world.wire().await, &[]).await;
    let mut account = etcd_proxy_tests::watching::Account::default();
    for (progress_notify, key) in [(true, "a"), (false, "a"), (true, "b")] {
        let create = WatchCreateRequest {
            progress_notify,
            ..on_key(&world.key(key))
        };
        account.take(&watching.created(create).await).expect("created");
    }
    for _ in 0..3 {
        // Elsewhere: only progress can tell of it.
        let revision = world.put("elsewhere", "").await;
        while account.watchers[&0].position < revision || account.watchers[&2].position < revision {
            let answer = watching.next().await;
            assert!(
                [0, 2].contains(&answer.watch_id) && answer.events.is_empty(),
                "{answer:?}"
            );
            account.take(&answer).expect("a notification");
        }
    }
    // The one without is told nothing but its event.
    let revision = world.put(&world.key("c"), "").await;
    let answer = without.watching.next().await;
    without.account.take(&answer).expect("an event");
    assert_eq!(without.revisions(), [revision]);
    world.proxy.assert_sound();
}

/// A watcher of an idle key is told of progress as often as by a server, though it shares a range that is never idle, about
/// which a server tells nothing.
async fn notify_beside_others() {
    let cluster = cluster().await;
    let mut world = World::start("beside", &cluster, Between::Nothing).await;
    let _wide = world.follow(on_prefix(&world.prefix)).await;
    let told = |key: &str| WatchCreateRequest {
        progress_notify: true,
        ..on_key(key)
    };
    // From this one it is learned how often that is.
    let _elsewhere = world.follow(told("elsewhere")).await;
    let mut idle = world.follow(told(&world.key("idle"))).await;
    let busy = world.key("busy");
    let writes = async {
        loop {
            world.put(&busy, "").await;
            tokio::task::yield_now().await;
        }
    };
    let notified = async {
        for _ in 0..5 {
            let answer = idle.watching.next().await;
            assert!(answer.events.is_empty() && answer.watch_id == 0, "{answer:?}");
            idle.account.take(&answer).expect("a notification");
        }
    };
    tokio::select! {
        () = notified => {}
        () = writes => unreachable!("it goes on"),
    }
    world.proxy.assert_sound();
}

/// Requests that a server leaves without an answer.
async fn unanswered() {
    // This one tells nothing by itself.
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("unanswered", &cluster, Between::Nothing).await;
    let key = world.key("k");
    let (_companion, _) = world.watch(on_key(&key)).await;
    let mut both = Lockstep::open(&world.direct.wire, &world.wire().await, &[]).await;
    // Without a watcher.
    both.ask_progress().await;
    let created = both.created(on_key(&key)).await;
    assert!(created.created, "{created:?}");
    // With one that begins in the future: some versions answer, some don't.
    let now = world.put(&key, "1").await;
    assert_eq!(both.next().await.events.len(), 1);
    let future = both.created(since(now + 2, on_key(&key))).await;
    both.ask_progress().await;
    world.put(&key, "2").await;
    assert_eq!(both.past(1).await.len(), 1);
    // When that has gone, requests are answered.
    both.cancel(future.watch_id).await;
    assert!(both.next().await.canceled);
    both.ask_progress().await;
    let progress = both.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.expect("a header").revision, now + 1);
    world.proxy.assert_sound();
}
