//! What clients see of a server, and what members see of clients.

use super::*;

/// A client that doesn't read touches nobody else, and has all its answers when it reads again.
#[test]
fn a_slow_client() {
    let mut settings = settings(3, 2);
    settings.proxy.lease.outbox_bytes_max = 200;
    settings.clients[0].lease.window = 2;
    let mut world = settled(settings);
    let (slow, lease) = proven(&mut world, 0, 30);
    let (other, kept) = proven(&mut world, 1, 30);
    world.reads_beats(slow, false);
    for _ in 0..100 {
        world.beat(slow, lease);
        world.beat(other, kept);
        world.run_for(TRIP);
    }
    assert_eq!(ttls(&world, other).len(), 101);
    assert!(world.answers(other).iter().all(|told| told.took < 2 * TRIP));
    let (heartbeats, _) = world.lease_cost();
    assert!(
        heartbeats.sent < 120,
        "most of its heartbeats aren't read: {heartbeats:?}"
    );
    world.reads_beats(slow, true);
    answered(&mut world);
    assert_eq!(ttls(&world, slow), [30; 101]);
}

/// What isn't a heartbeat ends the call, and nothing else.
#[test]
fn nonsense_ends_the_call() {
    let mut world = world(1, 2);
    let (good, lease) = proven(&mut world, 0, 30);
    let (bad, _) = proven(&mut world, 1, 30);
    world.beat_nonsense(bad);
    world.run_for(TRIP);
    let (code, message) = ended(&world, bad).expect("it has ended");
    assert_eq!(code, 13);
    assert!(message.starts_with("grpc: failed to unmarshal the received message: "));
    world.beat(good, lease);
    answered(&mut world);
    assert_eq!(ttls(&world, good), [30, 30]);
}

/// Hundreds of leases of many clients, and one call to a member.
#[test]
fn one_call_to_the_member() {
    let mut world = world(3, 20);
    world.promise_leases(true);
    for client in 0..20 {
        let call = open(&mut world, client);
        for _ in 0..10 {
            let lease = world.grant(client, 5);
            world.keep(call, lease);
        }
    }
    world.run_for(26 * SECOND);
    assert_eq!(world.leases().len(), 200);
    let (heartbeats, calls) = world.lease_cost();
    assert_eq!((calls, heartbeats.lost), (1, 0));
    assert_eq!(heartbeats.sent, heartbeats.heard);
}

/// With the flag, a client in a loop costs one heartbeat in so much time; its lease ends as it should all the same.
#[test]
fn answers_may_be_shared_for_a_while() {
    let mut settings = settings(3, 2);
    settings.proxy.lease.share_within = Some(ms(300));
    let mut world = settled(settings);
    let (call, lease) = proven(&mut world, 0, 6);
    world.beat_in_loop(call, lease, 400);
    world.run_while(10 * SECOND, |world| !world.is_answered());
    let (heartbeats, _) = world.lease_cost();
    assert_eq!(heartbeats.heard, 401);
    assert!(heartbeats.sent < 12, "{heartbeats:?}");
    world.promise_leases(true);
    let took = gone_after(&mut world, lease, 10 * SECOND);
    assert!(took > 5_700 * ms(1) - TRIP && took < 7 * SECOND, "{took:?}");
}

/// What goes through the proxy is what a member itself would be told: a lease that a client of a member is granted is
/// renewed through the proxy.
#[test]
fn leases_of_others() {
    let mut settings = settings(3, 2);
    settings.clients[1].target = Target::Member(2);
    let mut world = settled(settings);
    world.promise_leases(true);
    let lease = world.grant(1, 5);
    let call = open(&mut world, 0);
    for _ in 0..10 {
        world.beat(call, lease);
        world.run_for(2 * SECOND);
    }
    assert_eq!(ttls(&world, call), [5; 10]);
    let took = gone_after(&mut world, lease, 10 * SECOND);
    assert!(took < 4 * SECOND, "{took:?}");
}
