//! A client with very many heartbeats: the others have their turns.

use super::*;

/// Leases that there aren't, as many at a time as may be: the lease of a neighbour lives, whether the router knows it or
/// not, and its heartbeats don't wait behind them.
#[test]
fn heartbeats_of_leases_that_there_are_not() {
    let mut settings = settings(3, 3);
    // The member is asked so little at a time that heartbeats wait for each other.
    settings.proxy.lease.in_flight_max = 4;
    settings.proxy.lease.streams_max = 1;
    settings.clients[0].lease.window = 4_000;
    let mut world = settled(settings);
    let (old, kept) = proven(&mut world, 1, 5);
    let flood: Vec<LeaseTag> = (0..6).map(|_| open(&mut world, 0)).collect();
    for (at, call) in (0..).zip(&flood) {
        for lease in 0..500 {
            world.beat(*call, 1_000_000 + at * 1_000 + lease);
        }
    }
    world.run_for(ms(200));
    let lease = world.grant(2, 5);
    let new = open(&mut world, 2);
    for _ in 0..4 {
        world.beat(new, lease);
        world.beat(old, kept);
        world.run_for(ms(400));
    }
    assert_eq!(ttls(&world, new), [5; 4]);
    assert_eq!(ttls(&world, old), [5; 5]);
    for call in [new, old] {
        let slowest = world.answers(call).iter().map(|told| told.took).max();
        assert!(slowest < Some(20 * TRIP), "{slowest:?}");
    }
    assert!(!world.is_answered(), "the flood is over before its time");
}
