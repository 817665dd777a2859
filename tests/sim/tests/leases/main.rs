//! What went wrong with heartbeats through the existing proxy, each told in few events. The numbers are those of our
//! list of its defects. What must hold at every moment (who is answered, with what, how long leases live) is held by
//! the world's oracle.

mod crowd;
mod loss;
mod manners;
mod rows;

use std::time::Duration;

use etcd_proxy_sim::{
    ClientConfig, FaultKind, Identity, Key, LeaseTag, Lines, Manner, Op, Settings, Target, World,
};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than a round trip between a client and a member, shorter than two.
const TRIP: Duration = Duration::from_millis(10);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Settings of a world with so many clients of one proxy, which do as they are told.
fn settings(members: usize, clients: usize) -> Settings {
    Settings {
        clients: vec![ClientConfig::scripted(0); clients],
        ..Settings::plain(members)
    }
}

fn settled(settings: Settings) -> World {
    let mut world = World::new(settings, Lines::Off);
    world.settle();
    world
}

fn world(members: usize, clients: usize) -> World {
    settled(settings(members, clients))
}

/// A LeaseKeepAlive call of a client.
fn open(world: &mut World, client: usize) -> LeaseTag {
    world.keep_alive(client, Identity::Anonymous, false)
}

/// A LeaseKeepAlive call of a client that has had an answer, and the lease that it is for.
fn proven(world: &mut World, client: usize, ttl: i64) -> (LeaseTag, i64) {
    let lease = world.grant(client, ttl);
    let call = open(world, client);
    world.beat(call, lease);
    answered(world);
    (call, lease)
}

/// Waits until all heartbeats are answered.
fn answered(world: &mut World) {
    world.run_while(SECOND, |world| !world.is_answered());
}

/// The TTLs that a client was told.
fn ttls(world: &World, call: LeaseTag) -> Vec<i64> {
    let told = world.answers(call).iter();
    told.map(|told| told.response.ttl).collect()
}

/// How a call was ended: the code and the message.
fn ended(world: &World, call: LeaseTag) -> Option<(u8, &str)> {
    let status = world.beats_ended(call)?.as_ref()?;
    Some((status.code, &status.message))
}

/// Waits for the end of a lease, and tells how long that took.
fn gone_after(world: &mut World, lease: i64, within: Duration) -> Duration {
    let began = world.now();
    world.run_while(within, |world| world.leases().contains(&lease));
    world.now() - began
}
