//! Members and streams are lost, and leases live on.

use super::*;

/// A heartbeat that was sent so long ago hasn't reached its member.
const BEFORE_IT_ARRIVES: Duration = ms(2);

/// Streams may end with any code that says nothing of who sent what, and clients don't notice.
#[test]
fn streams_end_with_every_code() {
    for code in [0, 1, 13, 14] {
        let mut world = world(3, 2);
        let (call, lease) = proven(&mut world, 0, 30);
        let (silent, _) = proven(&mut world, 1, 30);
        for _ in 0..5 {
            let member = world.in_use(0).expect("it has settled");
            world.beat(call, lease);
            world.run_for(BEFORE_IT_ARRIVES);
            assert_eq!(world.end_keep_alives(member, code, "whatever"), 1, "code {code}");
            world.run_while(2 * SECOND, |world| !world.is_answered());
        }
        assert_eq!(ttls(&world, call), [30; 6], "code {code}");
        assert_eq!(world.beats_ended(call), None, "code {code}");
        assert_eq!(world.beats_ended(silent), None, "code {code}");
    }
}

/// The others say something of what was sent: it is told to who sent it, if it is said of that alone.
#[test]
fn what_is_said_of_a_lease_is_told_to_its_client() {
    for code in [2, 5, 7, 9, 15] {
        let mut world = world(3, 2);
        let (call, lease) = proven(&mut world, 0, 30);
        let (other, kept) = proven(&mut world, 1, 30);
        let member = world.in_use(0).expect("it has settled");
        world.beat(call, lease);
        world.beat(other, kept);
        world.run_for(BEFORE_IT_ARRIVES);
        assert_eq!(world.end_keep_alives(member, code, "whatever"), 1);
        answered(&mut world);
        // It was of one of two, and is true of neither.
        assert_eq!((ended(&world, call), ended(&world, other)), (None, None));
        world.beat(call, lease);
        world.run_for(BEFORE_IT_ARRIVES);
        assert!(world.end_keep_alives(member, code, "whatever") > 0);
        answered(&mut world);
        assert_eq!(ended(&world, call), Some((code, "whatever")));
        assert_eq!(ended(&world, other), None);
    }
}

/// The member in use fails, in any way: leases that are kept live on, calls stay open, and nothing is sent that nobody
/// waits for.
#[test]
fn the_member_in_use_fails() {
    for kind in [
        FaultKind::BlackHole,
        FaultKind::Cut,
        FaultKind::Freeze,
        FaultKind::GoAway,
        FaultKind::Goodbye,
        FaultKind::Isolate,
        FaultKind::Kill,
        FaultKind::PowerOff,
    ] {
        let mut world = world(3, 4);
        let mut calls = Vec::new();
        for client in 0..4 {
            let (call, lease) = proven(&mut world, client, 15);
            world.keep(call, lease);
            calls.push(call);
        }
        let leases = world.leases();
        for _ in 0..3 {
            let member = world.in_use(0).expect("there is one");
            world.fault(kind, member, 3 * SECOND);
            world.run_for(20 * SECOND);
            assert_eq!(world.leases(), leases, "{kind:?}");
        }
        world.promise_leases(true);
        world.run_for(20 * SECOND);
        for call in calls {
            assert_eq!(world.beats_ended(call), None, "{kind:?}");
        }
        let (heartbeats, _) = world.lease_cost();
        assert!(
            heartbeats.sent <= heartbeats.heard + heartbeats.lost,
            "{heartbeats:?}"
        );
    }
}

/// Nobody can be reached: a heartbeat is given up when its answer can't be in time any more, not earlier, and no TTL is
/// made up.
#[test]
fn nobody_can_be_reached() {
    let mut world = world(3, 1);
    let (call, lease) = proven(&mut world, 0, 15);
    for member in 0..3 {
        world.fault(FaultKind::Kill, member, 60 * SECOND);
    }
    world.run_for(5 * SECOND);
    let began = world.now();
    world.beat(call, lease);
    world.run_while(20 * SECOND, |world| world.beats_ended(call).is_none());
    let took = world.now() - began;
    assert!(took > 9 * SECOND && took < 11 * SECOND, "{took:?}");
    assert_eq!(ended(&world, call), Some((14, "etcdserver: request timed out")));
    assert_eq!(ttls(&world, call), [15]);
}

/// Who dies with a heartbeat that couldn't be sent yet takes it along.
#[test]
fn heartbeats_of_the_dead_are_not_sent() {
    let mut world = world(3, 2);
    let (call, lease) = proven(&mut world, 0, 30);
    let (other, kept) = proven(&mut world, 1, 30);
    for member in 0..3 {
        world.fault(FaultKind::Kill, member, 3 * SECOND);
    }
    world.run_for(SECOND);
    world.beat(call, lease);
    world.beat(other, kept);
    world.run_for(SECOND);
    world.close_beats(call);
    let before = world.lease_cost().0;
    world.run_while(20 * SECOND, |world| !world.is_answered());
    let after = world.lease_cost().0;
    assert_eq!(ttls(&world, other), [30, 30]);
    assert_eq!(after.answered - before.answered, 1);
}

/// Without leader: those who want one are told, by the server's own judgement; the others wait, and are told when the server
/// has waited for one as long as it does.
#[test]
fn no_leader() {
    let mut world = world(3, 2);
    let wants = world.keep_alive(0, Identity::Anonymous, true);
    let (waits, lease) = proven(&mut world, 1, 30);
    for member in 0..3 {
        world.fault(FaultKind::Isolate, member, 12 * SECOND);
    }
    world.run_for(2 * SECOND);
    world.beat(waits, lease);
    world.run_while(10 * SECOND, |world| world.beats_ended(wants).is_none());
    assert_eq!(ended(&world, wants), Some((14, "etcdserver: no leader")));
    assert_eq!(ended(&world, waits), None);
    world.run_while(10 * SECOND, |world| world.beats_ended(waits).is_none());
    assert_eq!(ended(&world, waits), Some((14, "etcdserver: no leader")));
    assert_eq!(ttls(&world, waits), [30]);
    // Members are asked again and again, but not in a loop.
    let (_, calls) = world.lease_cost();
    assert!(calls < 40, "{calls} calls");
}

/// A leader that is replaced soon isn't missed.
#[test]
fn another_leader() {
    let mut world = world(3, 1);
    let call = world.keep_alive(0, Identity::Anonymous, true);
    let lease = world.grant(0, 10);
    world.keep(call, lease);
    for _ in 0..5 {
        world.run_for(4 * SECOND);
        world.fault(FaultKind::LoseLeader, 0, SECOND);
    }
    world.run_for(8 * SECOND);
    assert_eq!(ended(&world, call), None);
    assert_eq!(world.leases(), [lease]);
}

/// A server refuses a stream at once when it has no leader, ends one that it has served only after a while, and so does
/// the proxy, whatever it asked in the meantime.
#[test]
fn a_short_time_without_leader() {
    let mut world = world(3, 1);
    let call = world.keep_alive(0, Identity::Anonymous, true);
    let lease = world.grant(0, 30);
    world.beat(call, lease);
    answered(&mut world);
    for answers in 2..5 {
        let member = world.in_use(0).expect("it has settled");
        // The one on which a server waits for a leader stays for a while.
        let ended = world.end_keep_alives(member, 14, "etcdserver: no leader");
        assert!((1..=2).contains(&ended), "{ended}");
        world.run_for(ms(100));
        world.beat(call, lease);
        answered(&mut world);
        assert_eq!(ttls(&world, call), vec![30; answers]);
    }
    assert_eq!(world.beats_ended(call), None);
}
