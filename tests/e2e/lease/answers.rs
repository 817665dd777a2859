//! Every request is answered, once, at once, and after a renewal that was later than it. Rows 19, 20 and 21.

use std::time::{Duration, Instant};

use etcd_proxy_proto::etcdserverpb::LeaseKeepAliveResponse;
use etcd_proxy_tests::{
    proxy::Proxy,
    suite::{eventually, within},
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::world::{
    ANSWER_LIMIT, AT_ONCE, Beats, Counts, KEEP_ALIVE, Upstream, World, decoded, grant, heartbeat, left, put,
    revoke, scenario,
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "answered_at_once", answered_at_once),
        scenario(upstream, "half_close", half_close),
        scenario(upstream, "answers_are_not_old", answers_are_not_old),
        scenario(upstream, "leases_that_are_gone", leases_that_are_gone),
        scenario(upstream, "heartbeats_in_a_loop", heartbeats_in_a_loop),
        scenario(upstream, "shared_within", shared_within),
    ]
}

/// The second heartbeat doesn't wait for a third of the TTL, neither on the same stream nor on another.
async fn answered_at_once(world: World) -> World {
    let other = world.wire().await;
    let before = Counts::of(&world.member).await.expect("metrics");
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let id = grant(&world.proxied.wire, &[], 30).await;
        let mut first = Beats::open(&world.proxied.wire, &[]).await;
        let mut second = Beats::open(&other, &[]).await;
        assert_eq!(first.beat(id).await, 30);
        for stream in [&mut first, &mut second] {
            let clock = Instant::now();
            assert_eq!(stream.beat(id).await, 30);
            let took = clock.elapsed();
            assert!(took < AT_ONCE, "answered after {took:?}");
            slowest = slowest.max(took);
        }
    }
    // Each waited for its answer, so none was shared, and none is to be made up.
    let after = Counts::of(&world.member).await.expect("metrics");
    assert_eq!(after.heartbeats - before.heartbeats, 600);
    println!("answered_at_once: the slowest of 400 after {slowest:?}");
    world
}

/// One request and an immediate half-close, as some clients refresh a lease: the answer, then OK.
async fn half_close(world: World) -> World {
    let wire = &world.proxied.wire;
    let (a, b) = (grant(wire, &[], 60).await, grant(wire, &[], 90).await);
    let gone = grant(wire, &[], 60).await;
    revoke(wire, gone).await;
    for round in 0..100 {
        let once = wire.call(KEEP_ALIVE, &[], &[heartbeat(a)]).await;
        assert!(once.is_ok(), "round {round}: {}", once.in_short());
        let answers = decoded(&once.messages);
        let [answer] = answers.as_slice() else {
            panic!("round {round}: {} answers", answers.len());
        };
        assert_eq!((answer.id, answer.ttl), (a, 60));
        assert!(answer.header.as_ref().is_some_and(|header| header.revision > 0));
    }

    let asked = [a, b, a, gone, b, a, a, gone, b];
    for (name, wire) in world.sides() {
        let reply = wire.call(KEEP_ALIVE, &[], &asked.map(heartbeat)).await;
        assert!(reply.is_ok(), "{name}: {}", reply.in_short());
        let answers = decoded(&reply.messages);
        assert_eq!(answers.len(), asked.len(), "{name}");
        for (id, ttl) in [(a, 60), (b, 90), (gone, 0)] {
            let of_lease: Vec<_> = answers.iter().filter(|answer| answer.id == id).collect();
            let requests = asked.iter().filter(|asked| **asked == id).count();
            assert_eq!(of_lease.len(), requests, "{name}: answers for {id}");
            for answer in of_lease {
                assert_eq!(answer.ttl, ttl, "{name}: TTL of {id}");
            }
        }
        let nothing = wire.call(KEEP_ALIVE, &[], &[]).await;
        assert!(
            nothing.is_ok() && nothing.messages.is_empty(),
            "{name}: {}",
            nothing.in_short()
        );
    }

    // Not at once, but after an answer.
    let mut later = Beats::open(wire, &[]).await;
    assert_eq!(later.beat(a).await, 60);
    later.half_close();
    let end = later.end().await;
    assert!(end.is_ok() && end.messages.is_empty(), "{}", end.in_short());
    world
}

/// A server reads the revision of an answer's header when it renews: it shows that each answer is of a renewal later
/// than its request, in order, also when answers are shared.
async fn answers_are_not_old(world: World) -> World {
    const STREAMS: usize = 8;
    const ROUNDS: usize = 200;
    let wire = &world.proxied.wire;
    let lease = grant(wire, &[], 60).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push((Beats::open(&world.wire().await, &[]).await, Vec::new()));
    }
    for _ in 0..ROUNDS {
        // Nobody waits for answers here, so requests pile up behind those that are on their way.
        let revision = put(&world.direct.wire, &[], "answers_are_not_old", 0).await;
        for (stream, asked) in &mut streams {
            stream.ask(lease).await;
            asked.push(revision);
        }
    }
    for (mut stream, asked) in streams {
        stream.half_close();
        let end = stream.end().await;
        assert!(end.is_ok(), "{}", end.in_short());
        let answers = decoded(&end.messages);
        assert_eq!(answers.len(), ROUNDS);
        let revision = |answer: &LeaseKeepAliveResponse| answer.header.as_ref().expect("a header").revision;
        for (answer, asked) in answers.iter().zip(asked) {
            let of = revision(answer);
            assert!(
                of >= asked,
                "asked at revision {asked}, answered with one of {of}"
            );
            assert_eq!((answer.id, answer.ttl), (lease, 60));
        }
        assert!(answers.is_sorted_by_key(revision), "answers out of order");
    }
    world
}

/// TTL 0, at once, as from a server; others on the same stream and on other streams don't notice.
async fn leases_that_are_gone(world: World) -> World {
    let direct = &world.direct.wire;
    let (own, others) = (grant(direct, &[], 600).await, grant(direct, &[], 300).await);
    let expiring = grant(direct, &[], 1).await;
    let unknown = i64::MAX - 4711;
    let mut neighbour = Beats::open(&world.wire().await, &[]).await;
    let mut alike = Beats::open(&world.proxied.wire, &[]).await;
    eventually("the lease has expired", ANSWER_LIMIT, async || {
        (left(direct, expiring).await == -1).then_some(())
    })
    .await;
    for (name, wire) in world.sides() {
        let mut stream = Beats::open(wire, &[]).await;
        for _ in 0..20 {
            let revoked = grant(direct, &[], 600).await;
            assert_eq!(stream.beat(revoked).await, 600, "{name}");
            assert_eq!(alike.beat(revoked).await, 600, "{name}");
            revoke(direct, revoked).await;
            let clock = Instant::now();
            for (what, id) in [
                ("revoked", revoked),
                ("expired", expiring),
                ("unknown", unknown),
                ("no id", 0),
                ("below 0", -1),
            ] {
                assert_eq!(stream.beat(id).await, 0, "{name}: {what}");
                assert_eq!(stream.beat(own).await, 600, "{name}: after one that is {what}");
            }
            assert_eq!(alike.beat(revoked).await, 0, "{name}: the other stream");
            let took = clock.elapsed();
            assert!(took < AT_ONCE, "{name}: answered after {took:?}");
            assert_eq!(neighbour.beat(others).await, 300, "{name}: a neighbour");
        }
        stream.half_close();
        let end = stream.end().await;
        assert!(end.is_ok(), "{name}: {}", end.in_short());
    }
    world
}

/// Clients that send heartbeats as fast as they can: one answer each, no more for the cluster than what they asked for,
/// and others are answered meanwhile.
async fn heartbeats_in_a_loop(world: World) -> World {
    const CLIENTS: usize = 4;
    const EACH: usize = 5_000;
    let mut wires = Vec::new();
    for _ in 0..CLIENTS {
        wires.push((world.wire().await, grant(&world.direct.wire, &[], 30).await));
    }
    let patient = grant(&world.direct.wire, &[], 60).await;
    let before = Counts::of(&world.member).await.expect("metrics");
    let loops: Vec<_> = wires
        .iter()
        .cloned()
        .map(|(wire, lease)| {
            tokio::spawn(async move {
                let requests = vec![heartbeat(lease); EACH];
                let call = wire.call(KEEP_ALIVE, &[], &requests);
                let reply = within("all answers", ANSWER_LIMIT, call).await;
                assert!(reply.is_ok(), "{}", reply.in_short());
                let answers = decoded(&reply.messages);
                assert_eq!(answers.len(), EACH);
                assert!(
                    answers
                        .iter()
                        .all(|answer| (answer.id, answer.ttl) == (lease, 30))
                );
            })
        })
        .collect();
    let mut calm = Beats::open(&world.proxied.wire, &[]).await;
    let mut calm_beats = 0;
    while calm_beats == 0 || loops.iter().any(|running| !running.is_finished()) {
        let clock = Instant::now();
        assert_eq!(calm.beat(patient).await, 60);
        let took = clock.elapsed();
        assert!(took < AT_ONCE, "the calm one was answered after {took:?}");
        calm_beats += 1;
    }
    for running in loops {
        running.await.expect("one answer for each");
    }
    let after = Counts::of(&world.member).await.expect("metrics");
    let cost = after.heartbeats - before.heartbeats;
    let asked = (CLIENTS * EACH) as u64 + calm_beats;
    println!("heartbeats_in_a_loop: {asked} asked, {cost} at the member, {calm_beats} of the calm one");
    assert!(cost < asked, "{cost} heartbeats for {asked} requests");
    // While one is on its way, one waits: so at least these.
    assert!(
        cost >= calm_beats + 2 * CLIENTS as u64,
        "{cost} heartbeats are too few"
    );
    world
}

/// With `--lease-share-within` an answer serves others for that long, on any stream; but one that tells of a lease's end
/// is told to nobody else.
async fn shared_within(world: World) -> World {
    const FLAG: &str = "--lease-share-within=10m";
    let mut proxy = Proxy::start(core::slice::from_ref(&world.member), &[FLAG]).await;
    let (one, other) = (proxy_wire(&proxy).await, proxy_wire(&proxy).await);
    let lease = grant(&one, &[], 60).await;
    let before = Counts::of(&world.member).await.expect("metrics");
    let (mut first, mut second) = (Beats::open(&one, &[]).await, Beats::open(&other, &[]).await);
    for _ in 0..50 {
        assert_eq!((first.beat(lease).await, second.beat(lease).await), (60, 60));
    }
    let after = Counts::of(&world.member).await.expect("metrics");
    assert_eq!(after.heartbeats - before.heartbeats, 1);

    let gone = grant(&one, &[], 60).await;
    revoke(&one, gone).await;
    assert_eq!((first.beat(gone).await, second.beat(gone).await), (0, 0));
    let last = Counts::of(&world.member).await.expect("metrics");
    assert_eq!(last.heartbeats - after.heartbeats, 2);
    proxy.assert_sound();
    world
}

async fn proxy_wire(proxy: &Proxy) -> Wire {
    Wire::connect(proxy.address()).await.expect("proxy")
}
