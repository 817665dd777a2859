//! A client that is stopped, and neither reads nor goes away: nobody else notices, the proxy's memory is bounded, and
//! it gets everything when it goes on. Row 35.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    process::{Process, Signal},
    suite::{eventually, trial},
    watching::{ANSWER_LIMIT, Mark, history, on_prefix, since},
};
use libtest_mimic::Trial;

use crate::{
    child,
    world::{Between, Follower, World},
    writers::Log,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("stopped_client", stopped_client)]
}

/// Streams of the client that is stopped, each on a connection of its own.
const STREAMS: usize = 12;

/// What is written while it is stopped: 16 MB a stream. The values are small enough to be copied for each watcher,
/// where larger ones are shared, so that keeping them would show.
const PUTS: usize = 8000;
const VALUE: usize = 2000;

/// More than this the proxy may not take: half of what it would take to keep everything.
const GROWTH_KIB: u64 = 90 * 1024;

async fn stopped_client() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("stopped", &cluster, Between::Nothing).await;
    let first = world.put(&world.key("first"), "").await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(world.follow(on_prefix(&world.prefix)).await);
    }
    let mut client = child::start(
        world.proxy.address(),
        &world.prefix,
        first,
        STREAMS,
        &cluster.dir().join("client.log"),
    );
    eventually("the client has its watchers", ANSWER_LIMIT, async || {
        client.log().contains("created").then_some(())
    })
    .await;
    let usual = writes(&world, &mut others, PUTS / 4).await;

    let before = world.proxy.process().memory_kib("VmRSS");
    client.signal(Signal::STOP);
    let meanwhile = writes(&world, &mut others, PUTS).await;
    let grown = world.proxy.process().memory_kib("VmHWM").saturating_sub(before);
    println!(
        "stopped_client: put to event at 5 others: {usual}; with a client stopped: {meanwhile}; the proxy grew by \
         {grown} KiB for {STREAMS} streams of {} KiB",
        PUTS * VALUE / 1024
    );
    assert!(grown < GROWTH_KIB, "the proxy grew by {grown} KiB");

    client.signal(Signal::CONT);
    let log = Log::read(&world.member, &world.prefix).await;
    for follower in &mut others {
        follower.until(log.last_revision()).await;
        log.is(&follower.account.only().marks, first + 1)
            .expect("another client's events");
    }
    let whole = history(
        &world.member,
        since(first, on_prefix(&world.prefix)),
        log.last_revision(),
    )
    .await;
    eventually("the client has everything", ANSWER_LIMIT, async || {
        let seen = told(&client);
        seen.iter().all(|marks| marks.len() >= whole.len()).then_some(())
    })
    .await;
    for (number, seen) in told(&client).into_iter().enumerate() {
        assert!(
            seen == whole,
            "stream {number}: {:?}",
            etcd_proxy_tests::watching::compare(&seen, &whole)
        );
    }
    world.proxy.assert_sound();
}

/// Writes and waits for the event of each tenth at all others; gives how long that took in short.
async fn writes(world: &World, others: &mut [Follower], count: usize) -> String {
    let value = "v".repeat(VALUE);
    let mut delays: Vec<Duration> = Vec::new();
    for number in 0..count {
        let clock = Instant::now();
        let revision = world.put(&world.key(&(number % 50).to_string()), &value).await;
        if number % 10 == 9 {
            for follower in &mut *others {
                follower.until(revision).await;
            }
            delays.push(clock.elapsed());
        }
    }
    delays.sort_unstable();
    let at = |part: usize| delays[(delays.len() - 1) * part / 100];
    format!("p50 {:.1?}, p99 {:.1?}", at(50), at(99))
}

/// What each stream of the client has seen.
///
/// # Panics
/// If a stream has ended or was told something wrong.
fn told(client: &Process) -> Vec<Vec<Mark>> {
    let mut seen = vec![Vec::new(); STREAMS];
    let log = client.log();
    // The last line may be half written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    for line in whole.lines().filter(|line| *line != "created") {
        let fields: Vec<&str> = line.split(' ').collect();
        let parsed = match fields[..] {
            [stream, revision, digest] => stream
                .parse::<usize>()
                .ok()
                .zip(revision.parse().ok().zip(digest.parse().ok())),
            _ => None,
        };
        let Some((stream, (revision, digest))) = parsed else {
            panic!("the client says: {line}");
        };
        seen[stream].push(Mark { revision, digest });
    }
    seen
}
