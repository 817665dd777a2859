//! What went wrong with watches through the existing proxy, each told in few events. The numbers are those of our list
//! of its defects. What must hold at every moment (which events, in which order, which headers, how many watchers of
//! the members') is held by the world's oracle.

mod cost;
mod history;
mod loss;
mod manners;
mod trouble;

use std::time::Duration;

use etcd_proxy_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, watch_request::RequestUnion,
};
use etcd_proxy_sim::{
    ClientConfig, FaultKind, Identity, Key, Lines, Manner, Op, Settings, Target, WatchTag, World,
};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than a run.
const FOR_GOOD: Duration = Duration::from_secs(3_600);

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

/// A world whose last client writes to a member itself, another one than the proxy uses.
fn with_direct_writer(seed: u64) -> (World, usize) {
    let mut settings = settings(3, 2);
    settings.seed = seed;
    let in_use = settled(settings.clone()).in_use(0).expect("it has settled");
    settings.clients[1].target = Target::Member((in_use + 1) % 3);
    let world = settled(settings);
    assert_eq!(
        world.in_use(0),
        Some(in_use),
        "the same seed gives the same world"
    );
    (world, in_use)
}

fn call(world: &mut World, client: usize, op: Op) -> i64 {
    let call = world.call(client, op, Manner::default());
    world.answer(call, SECOND).expect("it is carried out");
    world.revision()
}

/// Writes a key, and answers the revision that this makes.
fn put(world: &mut World, key: u8) -> i64 {
    call(world, 0, Op::Put { key: Key(key) })
}

fn bytes(key: u8) -> bytes::Bytes {
    format!("key-{key:03}").into()
}

fn key(key: u8, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: bytes(key),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

fn range(first: u8, end: u8, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        range_end: bytes(end),
        ..key(first, start_revision)
    }
}

/// A Watch call of a client.
fn open(world: &mut World, client: usize) -> WatchTag {
    world.watch(client, Identity::Anonymous, false)
}

fn create(world: &mut World, watch: WatchTag, request: WatchCreateRequest) {
    world.ask(watch, Some(RequestUnion::CreateRequest(request)));
}

/// A Watch call of a client with one watcher.
fn watch(world: &mut World, client: usize, request: WatchCreateRequest) -> WatchTag {
    let watch = open(world, client);
    create(world, watch, request);
    watch
}

fn cancel(world: &mut World, watch: WatchTag, watch_id: i64) {
    world.ask(
        watch,
        Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })),
    );
}

fn ask_progress(world: &mut World, watch: WatchTag) {
    world.ask(
        watch,
        Some(RequestUnion::ProgressRequest(WatchProgressRequest {})),
    );
}

/// The revisions of all events that a Watch call was told of.
fn revisions(world: &World, watch: WatchTag) -> Vec<i64> {
    let events = world.told(watch).iter().flat_map(|response| &response.events);
    events
        .map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
        .collect()
}

/// The ids in all that a Watch call was told.
fn ids(world: &World, watch: WatchTag) -> Vec<i64> {
    world
        .told(watch)
        .iter()
        .map(|response| response.watch_id)
        .collect()
}

/// Why the watchers of a Watch call were refused or cancelled.
fn reasons(world: &World, watch: WatchTag) -> Vec<&str> {
    let cancelled = world.told(watch).iter().filter(|response| response.canceled);
    cancelled.map(|response| &*response.cancel_reason).collect()
}

/// Progress that a Watch call was told of as it asked for it.
fn progress(world: &World, watch: WatchTag) -> Vec<i64> {
    let told = world.told(watch).iter();
    let progress = told.filter(|response| response.watch_id == -1 && !response.created);
    progress
        .map(|response| response.header.map_or(0, |header| header.revision))
        .collect()
}

/// The member in use dies, or whatever, and stays so.
fn fault(world: &mut World, kind: FaultKind) -> usize {
    let member = world.in_use(0).expect("there is one");
    world.fault(kind, member, FOR_GOOD);
    member
}
