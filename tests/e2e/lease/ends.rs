//! A lease ends when it would end without the proxy. Row 16.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    suite::trial,
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::world::{ANSWER_LIMIT, Beats, Counts, UNAVAILABLE, Upstream, World, grant, left, put, scenario};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "clients_that_stop", clients_that_stop),
        trial("member_lost", member_lost),
    ]
}

/// Seconds.
const TTL: i64 = 6;

/// How a client stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stop {
    /// Stays connected and says nothing more.
    Silent,
    /// Its connection is gone, without a word.
    Dead,
    /// Half-closes.
    Closed,
}

/// How long the lease of a client lives after its last heartbeat.
async fn lifetime(observer: Client, wire: Wire, key: String, stop: Stop) -> Duration {
    let lease = grant(&wire, &[], TTL).await;
    put(&wire, &[], &key, lease).await;
    let mut stream = Beats::open(&wire, &[]).await;
    // The client's own rhythm, not a wait for anything.
    let mut rhythm = tokio::time::interval(Duration::from_millis(700));
    for _ in 0..4 {
        rhythm.tick().await;
        assert_eq!(stream.beat(lease).await, TTL);
    }
    let last = Instant::now();
    match stop {
        Stop::Silent => {}
        Stop::Dead => {
            // The last one may still be renewed, but no answer can be waited for.
            stream.ask(lease).await;
            wire.kill();
        }
        Stop::Closed => stream.half_close(),
    }
    // Not `eventually`, whose future a task can't hold.
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let lived = loop {
        looks.tick().await;
        let answer = observer.get(key.as_bytes()).await.expect("a read");
        let lived = last.elapsed();
        if answer.kvs.is_empty() {
            break lived;
        }
        assert!(lived < ANSWER_LIMIT, "{key} is there after {lived:?}");
    };
    if stop == Stop::Silent {
        // It stayed, and is told.
        assert_eq!(stream.beat(lease).await, 0);
    }
    lived
}

/// Silent but connected, disconnected, half-closed: the same pattern directly and through the proxy, side by side.
async fn clients_that_stop(world: World) -> World {
    // A look at expired leases every 500 ms, the rest is for a machine that is busy.
    const SLACK: Duration = Duration::from_millis(1500);
    let before = Counts::of(&world.member).await.expect("metrics");
    let mut running = Vec::new();
    for stop in [Stop::Silent, Stop::Dead, Stop::Closed] {
        for number in 0..3 {
            let mut sides = Vec::new();
            for (name, address) in [
                ("direct", world.member.as_str()),
                ("proxied", world.proxy.address()),
            ] {
                let wire = Wire::connect(address).await.expect("a connection");
                let key = format!("stop/{stop:?}/{number}/{name}");
                sides.push(tokio::spawn(lifetime(world.direct.clone(), wire, key, stop)));
            }
            running.push((stop, sides));
        }
    }
    // Somebody else's lease goes on, on the same upstream stream.
    let lasting = grant(&world.direct.wire, &[], TTL).await;
    let mut stream = Beats::open(&world.proxied.wire, &[]).await;
    let mut rhythm = tokio::time::interval(Duration::from_secs(1));
    let mut beats = 0;
    while running
        .iter()
        .flat_map(|(_, sides)| sides)
        .any(|side| !side.is_finished())
    {
        rhythm.tick().await;
        assert_eq!(stream.beat(lasting).await, TTL);
        beats += 1;
    }
    for (stop, sides) in running {
        let mut lived = Vec::new();
        for side in sides {
            lived.push(side.await.expect("a lease that ends"));
        }
        let (direct, proxied) = (lived[0], lived[1]);
        println!(
            "clients_that_stop: {stop:?}: gone after {direct:?} directly, {proxied:?} through the proxy"
        );
        let least = Duration::from_secs(TTL as u64) - Duration::from_millis(100);
        assert!(
            direct > least && proxied > least,
            "{stop:?}: too early, {lived:?}"
        );
        assert!(direct.abs_diff(proxied) <= SLACK, "{stop:?}: {lived:?}");
    }
    // 18 clients with four each; those that died one more, if it arrived; the silent ones one more at the end.
    let after = Counts::of(&world.member).await.expect("metrics");
    let cost = after.heartbeats - before.heartbeats - beats;
    assert!((18 * 4 + 6..=18 * 4 + 6 + 6).contains(&cost), "{cost} heartbeats");
    world
}

/// The only member is lost: a stream ends with UNAVAILABLE when its answer can't be in time any more, never with a TTL
/// that nobody gave. A lease with more time is answered by the member that comes back, on the same stream.
async fn member_lost() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut world = World::start(&cluster).await;
    let short = grant(&world.direct.wire, &[], 2).await;
    let long = grant(&world.direct.wire, &[], 120).await;
    let mut hurried = Beats::open(&world.proxied.wire, &[]).await;
    let mut patient = Beats::open(&world.proxied.wire, &[]).await;
    assert_eq!(hurried.beat(short).await, 2);
    assert_eq!(patient.beat(long).await, 120);
    cluster.kill(0);
    hurried.ask(short).await;
    patient.ask(long).await;
    let end = hurried.answer().await.expect_err("nobody could answer");
    assert_eq!(end.code(), Some(UNAVAILABLE), "{}", end.in_short());
    cluster.restart(0);
    let answer = patient.answer().await.expect("an answer that is in time");
    assert_eq!((answer.id, answer.ttl), (long, 120));
    let direct = Client::connect(&world.member).await.expect("member");
    // Restarting renews; so this says only that it is there.
    assert!(left(&direct.wire, long).await > 60);
    world.proxy.assert_sound();
}
