//! What went wrong with the existing proxy, one scenario each, and what must not go wrong with this one. The numbers
//! are those of our list of its defects.

mod crowd;
mod harm;
mod load;
mod loss;
mod rows;

use std::time::Duration;

use etcd_proxy_core::lease::{ClientId, Config};

use crate::client::Seen;
use crate::world::World;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// There, at the server, and back, with time to spare.
pub(super) const TRIP: Duration = Duration::from_millis(3);

pub(super) fn world() -> World {
    World::new(1, Config::default())
}

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a client saw, also if it has ended since.
pub(super) fn seen(world: &World, id: ClientId) -> Vec<Seen> {
    world.clients[&id].seen.clone()
}

pub(super) fn ttls(world: &World, id: ClientId) -> Vec<i64> {
    world.clients[&id].seen.iter().map(|seen| seen.ttl).collect()
}

pub(super) fn took(seen: &Seen) -> Duration {
    seen.at - seen.asked
}

/// A client whose lease is renewed and known.
pub(super) fn proven(world: &mut World, lease: i64, ttl: u64) -> ClientId {
    world.grant(lease, ttl);
    let id = world.open(None, false);
    world.beat(id, lease);
    world.run(ms(50));
    assert_eq!(ttls(world, id), [ttl.cast_signed()]);
    id
}
