//! Rows 16 and 19 to 21, and DEV-18, which sums them up.

use super::*;

/// A client that is silent but connected loses its lease as it would without a proxy.
#[test]
fn row_16_silent_but_connected() {
    let mut world = world(3, 1);
    world.promise_leases(true);
    let (call, lease) = proven(&mut world, 0, 6);
    let took = gone_after(&mut world, lease, 10 * SECOND);
    assert!(took > 6 * SECOND - TRIP && took < 7 * SECOND, "{took:?}");
    assert_eq!(world.lease_cost().0.sent, 1);
    assert_eq!(world.beats_ended(call), None);
}

/// So does one that has kept it for long.
#[test]
fn row_16_silent_after_a_while() {
    let mut world = world(3, 2);
    world.promise_leases(true);
    let (call, lease) = proven(&mut world, 0, 6);
    let (other, kept) = proven(&mut world, 1, 6);
    world.keep(call, lease);
    world.keep(other, kept);
    world.run_for(25 * SECOND);
    assert_eq!(world.leases(), [lease, kept]);
    world.keep_none(0);
    let took = gone_after(&mut world, lease, 10 * SECOND);
    assert!(took > 4 * SECOND - TRIP && took < 7 * SECOND, "{took:?}");
    world.run_for(10 * SECOND);
    assert_eq!(world.leases(), [kept]);
}

/// And one that is gone, whether it says so or not.
#[test]
fn row_16_gone() {
    for says_so in [true, false] {
        let mut world = world(3, 1);
        let (call, lease) = proven(&mut world, 0, 6);
        world.beat(call, lease);
        if says_so {
            world.close_beats(call);
        } else {
            world.fault(FaultKind::ClientLost, 0, SECOND);
        }
        let took = gone_after(&mut world, lease, 10 * SECOND);
        assert!(took > 6 * SECOND - TRIP && took < 7 * SECOND, "{took:?}");
    }
}

/// One request, half-close, and the answer comes before the end.
#[test]
fn row_19_half_close() {
    let mut world = world(3, 1);
    world.promise_leases(true);
    let lease = world.grant(0, 30);
    for times in [1, 3, 0] {
        let call = open(&mut world, 0);
        for _ in 0..times {
            world.beat(call, lease);
        }
        world.half_close_beats(call);
        world.run_for(4 * TRIP);
        assert_eq!(ttls(&world, call), vec![30; times]);
        assert_eq!(ended(&world, call), Some((0, "")));
    }
}

/// Also while others use the same stream to the member, and when the answer takes time.
#[test]
fn row_19_half_close_and_a_new_member() {
    let mut world = world(3, 2);
    let (other, kept) = proven(&mut world, 1, 30);
    world.keep(other, kept);
    let lease = world.grant(0, 30);
    let member = world.in_use(0).expect("it has settled");
    world.fault(FaultKind::Kill, member, 2 * SECOND);
    let call = open(&mut world, 0);
    world.beat(call, lease);
    world.half_close_beats(call);
    world.run_while(6 * SECOND, |world| world.beats_ended(call).is_none());
    assert_eq!(ttls(&world, call), [30]);
    assert_eq!(ended(&world, call), Some((0, "")));
    assert_eq!(world.beats_ended(other), None);
}

/// Each request is answered in one round trip, also the second, also on another stream.
#[test]
fn row_20_answers_do_not_wait_for_timers() {
    let mut world = world(3, 2);
    world.promise_leases(true);
    let (first, lease) = proven(&mut world, 0, 30);
    let second = open(&mut world, 1);
    for _ in 0..5 {
        for call in [first, second] {
            world.beat(call, lease);
            world.run_for(TRIP);
        }
    }
    for call in [first, second] {
        let answers = world.answers(call);
        assert!(answers.len() >= 5, "{answers:?}");
        assert!(answers.iter().all(|told| told.took < TRIP), "{answers:?}");
    }
    let (heartbeats, calls) = world.lease_cost();
    assert_eq!((heartbeats.sent, calls), (11, 1));
}

/// Many heartbeats for one lease cost one at a time: those that come while one is on its way share the next.
#[test]
fn row_20_loops_cost_one_heartbeat_a_round_trip() {
    let mut world = world(3, 3);
    world.promise_leases(true);
    let lease = world.grant(0, 30);
    let calls: Vec<LeaseTag> = (0..3).map(|client| open(&mut world, client)).collect();
    for call in &calls {
        world.beat_in_loop(*call, lease, 50);
    }
    world.run_for(2 * SECOND);
    assert!(world.is_answered());
    for call in &calls {
        assert_eq!(ttls(&world, *call), [30; 50]);
        // At most two round trips to the member, and one to the client.
        assert!(world.answers(*call).iter().all(|told| told.took < 2 * TRIP));
    }
    let (heartbeats, _) = world.lease_cost();
    assert_eq!(heartbeats.heard, 150);
    assert!(heartbeats.sent <= 130, "{heartbeats:?}");
    // As many as one likes at once cost two.
    for _ in 0..40 {
        world.beat(calls[0], lease);
    }
    answered(&mut world);
    assert!(world.lease_cost().0.sent <= heartbeats.sent + 2);
}

/// Unknown and revoked leases: TTL 0 at once, as the server says it; the stream and its other leases go on.
#[test]
fn row_21_unknown_and_revoked() {
    let mut world = world(3, 1);
    world.promise_leases(true);
    let (call, lease) = proven(&mut world, 0, 30);
    let other = world.grant(0, 30);
    for lease in [4_711, other, 0, -5] {
        world.beat(call, lease);
        answered(&mut world);
    }
    assert_eq!(ttls(&world, call), [30, 0, 30, 0, 0]);
    let revoke = world.call(0, Op::LeaseRevoke { lease: other }, Manner::default());
    assert!(world.answer(revoke, SECOND).is_ok());
    for lease in [other, lease] {
        world.beat(call, lease);
        answered(&mut world);
    }
    assert_eq!(ttls(&world, call)[5..], [0, 30]);
    assert!(world.answers(call).iter().all(|told| told.took < TRIP));
    assert_eq!(world.beats_ended(call), None);
}

/// A lease that ends while its heartbeat is on its way, or has ended and isn't revoked yet: the server answers late.
/// Others on the same stream don't wait for that.
#[test]
fn row_21_a_lease_that_ends() {
    let mut world = world(1, 2);
    world.promise_leases(true);
    let (call, lease) = proven(&mut world, 0, 30);
    // A server looks for leases that have ended twice a second.
    run_until(&mut world, ms(500), ms(20));
    let ending = world.grant(1, 2);
    world.run_for(2 * SECOND);
    assert_eq!(world.leases(), [lease, ending]);
    let other = open(&mut world, 1);
    world.beat(other, ending);
    world.run_for(ms(1));
    world.beat(call, lease);
    answered(&mut world);
    assert_eq!(ttls(&world, other), [0]);
    let late = world.answers(other)[0].took;
    let took = world.answers(call)[1].took;
    assert!(late > ms(400), "{late:?}");
    assert!(took < ms(250), "{took:?}");
}

/// If it is known that a heartbeat comes too late, nobody waits behind it at all.
#[test]
fn row_21_a_late_heartbeat() {
    let mut world = world(1, 2);
    world.promise_leases(true);
    let (call, lease) = proven(&mut world, 0, 30);
    run_until(&mut world, ms(500), ms(20));
    let (late, ending) = proven(&mut world, 1, 2);
    world.run_for(2 * SECOND + TRIP);
    assert_eq!(world.leases(), [lease, ending]);
    world.beat(late, ending);
    world.run_for(ms(1));
    for _ in 0..5 {
        world.beat(call, lease);
        world.run_for(TRIP);
    }
    assert_eq!(ttls(&world, call), [30; 6]);
    answered(&mut world);
    assert_eq!(ttls(&world, late), [2, 0]);
}

/// A stream that stayed without answers for longer and longer has answered again: the next one that doesn't is given up
/// as soon as the first was.
#[test]
fn row_21_patience_is_forgotten() {
    let mut settings = settings(1, 2);
    settings.proxy.endpoints.probe_timeout = 20 * SECOND;
    settings.proxy.lease.careful = ms(1);
    let mut world = settled(settings);
    let call = open(&mut world, 0);
    let leases: Vec<i64> = (0..6).map(|_| world.grant(0, 30)).collect();
    for lease in &leases {
        world.beat(call, *lease);
    }
    answered(&mut world);
    run_until(&mut world, ms(500), ms(20));
    let ending = world.grant(1, 2);
    run_until(&mut world, ms(500), ms(480));
    world.fault(FaultKind::Freeze, 0, ms(1_500));
    for lease in &leases {
        world.beat(call, *lease);
    }
    world.run_for(ms(1_499));
    assert_eq!(world.lease_stats(0).stalls, 3, "after 0.2, 0.6 and 1.4 s");
    answered(&mut world);
    // A round trip is short again.
    world.beat(call, leases[5]);
    answered(&mut world);
    let other = open(&mut world, 1);
    run_until(&mut world, ms(500), ms(50));
    assert!(world.leases().contains(&ending));
    world.beat(other, ending);
    world.run_for(ms(1));
    world.beat(call, leases[5]);
    answered(&mut world);
    let (late, took) = (
        world.answers(other)[0].took,
        world.answers(call).last().expect("there are some").took,
    );
    assert!(late > ms(400), "{late:?}");
    assert!(took < ms(250), "{took:?}");
}

/// Lets the world go on until its time is so much after a multiple of `every`.
fn run_until(world: &mut World, every: Duration, after: Duration) {
    let every = u64::try_from(every.as_nanos()).expect("short");
    let now = world.now().as_nanos() % every;
    let until = u64::try_from(after.as_nanos()).expect("short");
    let wait = if now <= until {
        until - now
    } else {
        every + until - now
    };
    world.run_for(Duration::from_nanos(wait));
}

fn with_auth(clients: usize) -> Settings {
    Settings {
        auth: true,
        ..settings(3, clients)
    }
}

const NOBODY: (u8, &str) = (3, "etcdserver: user name is empty");
const DENIED: (u8, &str) = (7, "etcdserver: permission denied");

/// Everybody's heartbeats travel with their own right, and errors keep their code and touch nobody else.
#[test]
fn dev_18_each_has_its_own_credentials() {
    let mut world = settled(with_auth(3));
    world.promise_leases(true);
    let (plain, leased) = (world.grant(0, 30), world.grant(0, 30));
    let put = Op::PutLeased {
        key: Key(200),
        lease: leased,
    };
    let put = world.call(0, put, Manner::default());
    assert!(world.answer(put, SECOND).is_ok());
    let root = world.keep_alive(0, Identity::Root, false);
    let reader = world.keep_alive(1, Identity::Reader, false);
    let denied = world.keep_alive(2, Identity::Reader, false);
    let nobody = world.keep_alive(2, Identity::Anonymous, false);
    for (call, lease) in [
        (root, plain),
        (root, leased),
        (reader, plain),
        (denied, leased),
        (nobody, plain),
    ] {
        world.beat(call, lease);
    }
    answered(&mut world);
    assert_eq!(ttls(&world, root), [30, 30]);
    assert_eq!(ttls(&world, reader), [30]);
    assert_eq!(ended(&world, denied), Some(DENIED));
    assert_eq!(ended(&world, nobody), Some(NOBODY));
    // Again and again, beside those who may.
    for _ in 0..10 {
        let denied = world.keep_alive(2, Identity::Reader, false);
        world.beat(denied, leased);
        world.beat(reader, plain);
        world.beat(root, leased);
        answered(&mut world);
        assert_eq!(ended(&world, denied), Some(DENIED));
    }
    for call in [root, reader] {
        assert_eq!(world.beats_ended(call), None);
        assert!(ttls(&world, call).iter().all(|ttl| *ttl == 30));
        let slow = world.answers(call).iter().filter(|told| told.took > 4 * TRIP);
        assert_eq!(slow.count(), 0, "{:?}", world.answers(call));
    }
}

/// A token that the members have forgotten is refused as they do it.
#[test]
fn dev_18_tokens_are_forgotten() {
    let mut world = settled(with_auth(1));
    let lease = world.grant(0, 60);
    let call = world.keep_alive(0, Identity::Root, false);
    world.beat(call, lease);
    answered(&mut world);
    world.fault(FaultKind::ClusterGone, 0, SECOND);
    world.run_for(8 * SECOND);
    world.beat(call, lease);
    answered(&mut world);
    assert_eq!(ended(&world, call), Some((16, "etcdserver: invalid auth token")));
}
