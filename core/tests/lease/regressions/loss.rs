//! Streams, members and leaders that are lost, and answers that are still in time.

use etcd_proxy_core::lease::{ClientId, Config, Status};

use super::{SECOND, TRIP, ms, proven, seen, took, ttls, world};
use crate::client::heartbeat;
use crate::world::World;

/// What wasn't answered is sent again on the next stream, whatever ended the last, and answered once.
#[test]
fn heartbeats_are_sent_again() {
    for code in [0, 1, 13, 14] {
        let mut world = world();
        let ids: Vec<ClientId> = (1..=10).map(|lease| proven(&mut world, lease, 30)).collect();
        for (lease, id) in (1..).zip(&ids) {
            world.beat(*id, lease);
            world.beat(*id, lease);
        }
        let stream = *world.streams.keys().next().expect("there is one");
        world.end(stream, Status::new(code, "somehow"));
        world.run(SECOND);
        for id in &ids {
            assert_eq!(ttls(&world, *id), [30, 30, 30]);
            assert!(seen(&world, *id).iter().all(|seen| took(seen) < TRIP * 2));
        }
        // Those that waited go with it.
        assert!(world.sent.values().all(|sent| *sent == 3), "{:?}", world.sent);
        assert!(world.ended.is_empty());
    }
}

/// A stream whose connection isn't the one in use any more is left at once, whatever it carries, and nobody notices.
#[test]
fn a_stream_goes_where_calls_go() {
    let mut world = world();
    let ids: Vec<ClientId> = (1..=10).map(|lease| proven(&mut world, lease, 30)).collect();
    for (lease, id) in (1..).zip(&ids) {
        world.beat(*id, lease);
    }
    let stream = *world.streams.keys().next().expect("there is one");
    world.supersede(stream);
    world.run(SECOND);
    for id in &ids {
        assert_eq!(ttls(&world, *id), [30, 30]);
        assert!(seen(&world, *id).iter().all(|seen| took(seen) < TRIP * 2));
    }
    assert_eq!(world.streams.len(), 1);
    assert!(world.ended.is_empty());
}

/// How long a stream stays when no answer comes.
fn patience(world: &mut World, id: ClientId) -> std::time::Duration {
    let start = world.now;
    while world.clients.contains_key(&id) {
        world.run(ms(10));
        assert!(world.now < start + SECOND * 1000, "it stays forever");
    }
    let (client, status) = world.ended.pop().expect("it has ended");
    assert_eq!(
        (status.code, status.message.as_ref()),
        (14, "etcdserver: request timed out")
    );
    assert!(!client.asked.is_empty());
    world.now - start
}

/// Streams stay up as long as an answer can be in time: until the end of the lease, but at least for one TTL, or the
/// 7 s of a server.
#[test]
fn streams_stay_as_long_as_an_answer_can_be_in_time() {
    for (ttl, passes, least, most) in [
        // The end of the lease.
        (60, 20, 39_900, 40_100),
        (30, 1, 28_900, 29_100),
        // A TTL, from the heartbeat on.
        (3, 1, 2_990, 3_100),
        (5, 4, 4_990, 5_100),
        // As long as a server would try.
        (30, 28, 6_990, 7_100),
    ] {
        let mut world = world();
        let id = proven(&mut world, 1, ttl);
        world.run(SECOND * passes);
        world.is_down = true;
        world.end_all("the connection is lost");
        world.beat(id, 1);
        let waited = patience(&mut world, id);
        assert!(
            waited > ms(least) && waited < ms(most),
            "{ttl} {passes}: {waited:?}"
        );
    }
    let mut world = world();
    world.is_down = true;
    let id = world.open(None, false);
    world.beat(id, 1);
    let waited = patience(&mut world, id);
    assert!(waited > ms(6_990) && waited < ms(7_100), "{waited:?}");
    // Who waits for nothing stays.
    let id = world.open(None, true);
    world.run(SECOND * 100);
    assert!(world.clients.contains_key(&id));
}

/// Never longer than the bound, whatever the TTL.
#[test]
fn long_leases_do_not_wait_forever() {
    let mut world = world();
    let id = proven(&mut world, 1, 86_400);
    world.is_down = true;
    world.end_all("the connection is lost");
    world.beat(id, 1);
    let waited = patience(&mut world, id);
    assert!(waited >= SECOND * 600 && waited < SECOND * 601, "{waited:?}");
}

/// A frozen member: nothing is lost when another takes over.
#[test]
fn a_frozen_member() {
    let mut world = world();
    let ids: Vec<ClientId> = (1..=10).map(|lease| proven(&mut world, lease, 30)).collect();
    world.frozen.insert(world.member);
    for (lease, id) in (1..).zip(&ids) {
        world.send(*id, heartbeat(lease));
    }
    world.run(ms(3500));
    assert!(ids.iter().all(|id| seen(&world, *id).len() == 1));
    // It is tried less and less often.
    assert!((2..=5).contains(&world.router.stats().stalls));
    world.member += 1;
    world.end_all("the member is silent");
    world.run(ms(50));
    for id in &ids {
        assert_eq!(ttls(&world, *id), [30, 30]);
    }
    // Back to one stream when all is well.
    world.run(SECOND * 20);
    for (lease, id) in (1..).zip(&ids) {
        world.send(*id, heartbeat(lease));
    }
    world.run(ms(50));
    assert_eq!(world.streams.len(), 1);
    assert!(ids.iter().all(|id| ttls(&world, *id) == [30, 30, 30]));
}

/// Streams aren't opened in a loop at a server that ends them.
#[test]
fn failures_are_spaced() {
    let mut world = world();
    world.is_down = true;
    world.open(None, true);
    let id = world.open(None, false);
    world.beat(id, 1);
    for _ in 0..1000 {
        world.end_all("no");
        world.run(ms(10));
    }
    assert!((8..40).contains(&world.opened), "{}", world.opened);
}

/// As a server does: who asked for a leader is told when there is none for three election timeouts, or at once if
/// there was none when it came. Others wait.
#[test]
fn no_leader() {
    let mut world = world();
    let plain = proven(&mut world, 1, 60);
    let demanding = world.open(None, true);
    let silent = world.open(None, true);
    world.beat(demanding, 1);
    world.run(ms(50));
    world.lose_leader();
    world.beat(plain, 1);
    world.beat(demanding, 1);
    world.run(ms(2900));
    assert!(world.ended.is_empty());
    world.run(SECOND * 3);
    assert_eq!(world.ended.len(), 2);
    for (client, status) in &world.ended {
        assert!(client.require_leader);
        assert_eq!(
            (status.code, status.message.as_ref()),
            (14, "etcdserver: no leader")
        );
    }
    assert!(!world.clients.contains_key(&silent) && !world.clients.contains_key(&demanding));
    let late = world.open(None, true);
    world.beat(late, 1);
    world.run(SECOND);
    assert!(!world.clients.contains_key(&late));
    assert_eq!(world.ended.len(), 3);
    assert!(world.clients.contains_key(&plain));
    world.find_leader();
    world.run(SECOND * 2);
    assert_eq!(ttls(&world, plain), [60, 60]);
}

/// When a member dies, the next one may be without leader for a moment. Nobody is told of that.
#[test]
fn a_short_time_without_leader() {
    let mut world = world();
    let demanding = world.open(None, true);
    world.grant(1, 60);
    world.beat(demanding, 1);
    world.run(SECOND);
    world.lose_leader();
    world.end_all("the connection is lost");
    world.beat(demanding, 1);
    world.run(SECOND * 2);
    world.find_leader();
    world.run(SECOND * 2);
    assert_eq!(ttls(&world, demanding), [60, 60]);
    // If it stays so, they are.
    world.lose_leader();
    world.end_all("the connection is lost");
    let lost = world.now;
    while world.clients.contains_key(&demanding) {
        world.run(ms(10));
        assert!(world.now < lost + SECOND * 10, "it isn't told");
    }
    let waited = world.now - lost;
    assert!(waited >= SECOND * 3 && waited < SECOND * 5, "{waited:?}");
    assert_eq!(world.ended[0].1.message, "etcdserver: no leader");
}

/// Those who don't ask for a leader learn why no answer came.
#[test]
fn no_leader_until_the_end() {
    let mut world = world();
    let plain = world.open(None, false);
    world.lose_leader();
    world.beat(plain, 1);
    world.run(ms(6900));
    assert!(world.ended.is_empty());
    world.run(ms(200));
    assert_eq!(world.ended[0].1.message, "etcdserver: no leader");
    assert_eq!(world.ended[0].1.code, 14);
}

/// However long the lease lives, they learn it when a server tells; and that costs two streams, the first of which is refused
/// at once. Who comes later waits as long, on another stream, and is answered if there is a leader by then.
#[test]
fn no_leader_costs_few_streams() {
    let mut world = world();
    let ids: Vec<ClientId> = (1..=5).map(|lease| proven(&mut world, lease, 600)).collect();
    world.end_all("the connection is lost");
    world.lose_leader();
    let opened = world.opened;
    for (lease, id) in (1..).zip(&ids) {
        world.beat(*id, lease);
    }
    world.run(SECOND * 5);
    assert!(world.ended.is_empty());
    let late = world.open(None, false);
    world.grant(6, 600);
    world.beat(late, 6);
    world.run(SECOND * 3);
    assert_eq!(world.ended.len(), 5);
    for (_, status) in &world.ended {
        assert_eq!((status.code, &*status.message), (14, "etcdserver: no leader"));
    }
    world.find_leader();
    world.run(SECOND);
    assert_eq!(ttls(&world, late), [600]);
    assert!(world.opened - opened <= 4, "{}", world.opened - opened);
    // And all is as before.
    let again = world.open(None, false);
    world.beat(again, 1);
    world.run(SECOND * 10);
    assert_eq!(ttls(&world, again), [600]);
    assert!(world.streams.values().all(|stream| stream.require_leader));
}

/// A server that speaks nonsense is left.
#[test]
fn nonsense_from_a_server() {
    let mut world = world();
    let id = proven(&mut world, 1, 30);
    world.beat(id, 1);
    let stream = *world.streams.keys().next().expect("there is one");
    world.tell(etcd_proxy_core::lease::Event::UpstreamSent(
        stream,
        b"\x1a"[..].into(),
    ));
    assert!(!world.streams.contains_key(&stream));
    world.run(SECOND);
    assert_eq!(ttls(&world, id), [30, 30]);
}

/// Far away all answers are late, and nothing is wrong with that.
#[test]
fn a_far_member() {
    let mut world = world();
    world.latency = 1_000_000;
    let ids: Vec<ClientId> = (1..=10)
        .map(|lease| {
            world.grant(lease, 60);
            world.open(None, false)
        })
        .collect();
    for _ in 0..10 {
        for (lease, id) in (1..).zip(&ids) {
            world.beat(*id, lease);
        }
        world.run(SECOND * 10);
    }
    for id in &ids {
        assert_eq!(ttls(&world, *id), [60; 10]);
        let late = seen(&world, *id);
        assert!(late[1..].iter().all(|seen| took(seen) < SECOND * 4), "{late:?}");
    }
    // Until that is known, a stall looks the same.
    assert!(world.router.stats().stalls <= 5);
    assert_eq!(world.streams.len(), 1);
}

/// A stream that is silent though its connection lives: its heartbeat is sent again before its lease ends.
#[test]
fn a_silent_stream() {
    let mut world = world();
    let id = proven(&mut world, 1, 5);
    world.run(SECOND);
    let stream = *world.streams.keys().next().expect("there is one");
    world.streams.get_mut(&stream).expect("it is there").is_silent = true;
    world.beat(id, 1);
    world.run(SECOND * 2);
    assert_eq!(ttls(&world, id), [5, 5]);
    assert!(!world.streams.contains_key(&stream));
    assert_eq!((world.expired, world.sent[&1]), (0, 3));
}

/// One answer that took long doesn't make the router patient with the next ones.
#[test]
fn a_slow_answer_is_forgotten() {
    let mut world = world();
    let id = proven(&mut world, 1, 60);
    world.lose_leader();
    world.beat(id, 1);
    world.run(SECOND * 2);
    world.find_leader();
    world.start_all();
    world.run(SECOND * 2);
    assert_eq!(ttls(&world, id), [60, 60]);
    world.beat(id, 1);
    world.run(ms(50));
    let stream = *world.streams.keys().next().expect("there is one");
    world.streams.get_mut(&stream).expect("it is there").is_silent = true;
    world.beat(id, 1);
    world.run(SECOND * 2);
    assert_eq!(ttls(&world, id), [60; 4]);
}

/// What is sent again goes before what came later.
#[test]
fn heartbeats_keep_their_place() {
    let config = Config {
        in_flight_max: 1,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    let id = world.open(None, false);
    for lease in 1..=5 {
        world.grant(lease, 60);
        world.beat(id, lease);
    }
    world.run(ms(1));
    world.end_all("the connection is lost");
    world.run(SECOND);
    let order: Vec<i64> = seen(&world, id).iter().map(|seen| seen.lease).collect();
    assert_eq!(order, [1, 2, 3, 4, 5]);
}
