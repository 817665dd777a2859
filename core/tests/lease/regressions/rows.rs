//! Rows 16 and 19 to 21, and DEV-18, which sums them up.

use etcd_proxy_core::lease::{Event, Heartbeat};

use super::{SECOND, TRIP, ms, proven, seen, took, ttls, world};

/// A client that is silent but connected loses its lease as it would without a proxy.
#[test]
fn row_16_no_heartbeat_without_a_client() {
    let mut world = world();
    world.grant(1, 6);
    let id = world.open(None, true);
    world.run(SECOND);
    world.beat(id, 1);
    world.run(ms(10));
    let end = world.cluster.leases[&1].end;
    assert!(end > world.now + ms(5980) && end < world.now + ms(6000));
    world.run(SECOND * 20);
    assert_eq!(world.sent[&1], 1);
    assert_eq!(world.expired, 1);
    assert!(world.cluster.leases.is_empty());
    assert!(world.clients.contains_key(&id), "its stream stays");
}

/// One request, half-close, and the answer comes before the end.
#[test]
fn row_19_half_close() {
    let mut world = world();
    world.grant(1, 30);
    let id = world.open(None, false);
    for _ in 0..3 {
        world.beat(id, 1);
    }
    world.beat(id, 2);
    world.half_close(id);
    world.run(ms(50));
    let (client, status) = world.ended.pop().expect("it has ended");
    assert_eq!((status.code, status.message.as_ref()), (0, ""));
    let ttls: Vec<(i64, i64)> = client.seen.iter().map(|seen| (seen.lease, seen.ttl)).collect();
    assert_eq!(ttls.iter().filter(|seen| **seen == (1, 30)).count(), 3);
    assert_eq!(ttls.iter().filter(|seen| **seen == (2, 0)).count(), 1);
    assert!(client.seen.iter().all(|seen| took(seen) < TRIP * 2));
    let id = world.open(None, false);
    world.half_close(id);
    assert_eq!(world.ended.pop().expect("there is nothing to wait for").1.code, 0);
    assert!(!world.clients.contains_key(&id));
}

/// Each request is answered in one round trip, also the second, also on another stream.
#[test]
fn row_20_answers_do_not_wait_for_timers() {
    let mut world = world();
    let first = proven(&mut world, 1, 30);
    let second = world.open(None, false);
    for _ in 0..5 {
        world.beat(first, 1);
        world.run(ms(10));
        world.beat(second, 1);
        world.run(ms(10));
    }
    for id in [first, second] {
        assert!(
            seen(&world, id).iter().all(|seen| took(seen) < TRIP * 2),
            "{:?}",
            seen(&world, id)
        );
        assert!(ttls(&world, id).iter().all(|ttl| *ttl == 30));
    }
    assert_eq!((world.sent[&1], world.opened), (11, 1));
    // Two round trips at most, if one is under way.
    world.beat(first, 1);
    world.run(ms(1));
    world.beat(second, 1);
    world.run(ms(10));
    let last = *seen(&world, second).last().expect("there are some");
    assert!(took(&last) < TRIP * 2);
    assert_eq!(world.sent[&1], 13);
}

/// Unknown and revoked leases: TTL 0 at once, as the server says it; the stream and its other leases go on.
#[test]
fn row_21_unknown_and_revoked() {
    let mut world = world();
    let id = proven(&mut world, 1, 30);
    world.grant(2, 30);
    for lease in [4711, 2, 0, -5] {
        world.beat(id, lease);
    }
    world.run(ms(10));
    assert_eq!(ttls(&world, id), [30, 0, 30, 0, 0]);
    world.revoke(2);
    world.beat(id, 2);
    world.beat(id, 1);
    world.run(ms(10));
    assert_eq!(ttls(&world, id)[5..], [0, 30]);
    assert!(seen(&world, id).iter().all(|seen| took(seen) < TRIP * 2));
    // What there isn't, isn't remembered.
    assert_eq!(world.router.stats().leases, 1);
}

/// Everybody's heartbeats travel with their own right, and errors keep their code.
#[test]
fn dev_18_credentials() {
    let mut world = world();
    for lease in 1..=3 {
        world.grant(lease, 30);
    }
    world.cluster.denied.insert((None, 1));
    let anonymous = world.open(None, false);
    let one = world.open(Some("one"), false);
    let two = world.open(Some("two"), false);
    for id in [anonymous, one, two] {
        world.beat(id, 2);
    }
    world.run(ms(10));
    assert_eq!(world.opened, 3);
    assert_eq!(world.sent[&2], 3);
    world.beat(anonymous, 1);
    world.beat(one, 1);
    world.cluster.expired.insert("two");
    world.beat(two, 2);
    world.run(ms(20));
    let mut ended: Vec<_> = world
        .ended
        .iter()
        .map(|(client, status)| (client.token, status))
        .collect();
    ended.sort_by_key(|(token, _)| *token);
    assert_eq!(ended[0].1.code, 7);
    assert_eq!(ended[0].1.message, "etcdserver: permission denied");
    assert_eq!((ended[1].0, ended[1].1.code), (Some("two"), 16));
    assert_eq!(ended[1].1.message, "etcdserver: invalid auth token");
    assert_eq!(ttls(&world, one), [30, 30]);
}

/// What isn't a request ends the stream that it comes on, and no other.
#[test]
fn malformed_requests() {
    let mut world = world();
    let other = proven(&mut world, 1, 30);
    let id = world.open(None, false);
    world.beat(other, 1);
    world.beat(id, 1);
    world.send(id, b"\x0a\x01\x05"[..].into());
    let (_, status) = world.ended.pop().expect("at once");
    assert_eq!(status.code, 13);
    assert_eq!(
        status.message,
        "grpc: failed to unmarshal the received message: proto: wrong wireType = 2 for field ID"
    );
    world.run(ms(10));
    assert_eq!(ttls(&world, other), [30, 30]);
    assert_eq!(world.opened, 1);
}

/// Requests pass as they are, also with what the router doesn't know.
#[test]
fn unknown_fields_are_passed_on() {
    let mut world = world();
    world.grant(5, 30);
    let id = world.open(None, false);
    world.run(ms(10));
    world.send(id, b"\x08\x05\x50\x01"[..].into());
    world.run(ms(10));
    assert_eq!(world.last_sent, b"\x08\x05\x50\x01"[..]);
    world.beat(id, 5);
    world.run(ms(10));
    assert_eq!(world.last_sent, b"\x08\x05"[..]);
}

/// What is gone stays gone, and changes nothing.
#[test]
fn stale_ids() {
    let mut world = world();
    let id = proven(&mut world, 1, 30);
    let stream = *world.streams.keys().next().expect("there is one");
    world.close(id);
    let before = world.router.stats();
    for event in [
        Event::ClientSent(id, Heartbeat::read(b"\x08\x01"[..].into())),
        Event::ClientHalfClosed(id),
        Event::ClientTook(id, 100),
        Event::ClientGone(id),
    ] {
        world.tell(event);
    }
    assert_eq!(world.router.stats(), before);
    world.run(SECOND * 10);
    assert!(world.streams.is_empty(), "it lingers, no longer");
    let before = world.router.stats();
    for event in [
        Event::UpstreamOpened(stream),
        Event::UpstreamSent(stream, world.cluster.answered[0].message.clone()),
        Event::UpstreamEnded(stream, etcd_proxy_core::lease::Status::new(7, "no")),
    ] {
        world.tell(event);
    }
    assert_eq!(world.router.stats(), before);
    world.run(SECOND * 40);
    assert_eq!(
        (world.router.stats().leases, world.router.next_timeout()),
        (0, None)
    );
}
