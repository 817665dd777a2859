//! What went wrong with the existing proxy, one scenario each. The numbers are those of our list of its defects.

mod batches;
mod cost;
mod crowd;
mod crowd_ends;
mod history;
mod leaderless;
mod loss;
mod lost_questions;
mod manners;
mod neighbours;
mod notify;
mod revoked;

use std::time::Duration;

use etcd_proxy_core::watch::{Config, UpstreamKind};
use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;

use crate::store::revision_of;
use crate::world::World;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn world() -> World {
    World::new(1, Config::default(), 1)
}

pub(super) fn watch(key: &'static str, end: &'static str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.as_bytes().into(),
        range_end: end.as_bytes().into(),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

pub(super) fn put(world: &mut World, key: &str) -> i64 {
    world.store.write(&[(key, Some("value"))])
}

/// The revisions of the events that a client was sent.
pub(super) fn revisions(world: &World, client: usize) -> Vec<i64> {
    let frames = world.clients[client].frames.iter();
    frames.flat_map(|frame| &frame.events).map(revision_of).collect()
}

pub(super) fn live(world: &World) -> usize {
    world.server_watchers(UpstreamKind::Live)
}
