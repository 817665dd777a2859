//! Random programs against the world, and what holds in the end.

use std::time::Duration;

use etcd_proxy_core::watch::{Config, Event, Stats, Status, UpstreamKind};
use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;

use crate::client::Client;
use crate::store::Store;
use crate::world::World;

const KEYS: [&str; 6] = ["a", "b", "b1", "b2", "c", "d"];

const RANGES: [(&str, &str); 8] = [
    ("a", ""),
    ("b", ""),
    ("b1", ""),
    ("b", "c"),
    ("b", "b2"),
    ("a", "\0"),
    ("", "\0"),
    ("d", ""),
];

const TOKENS: [Option<&str>; 4] = [None, None, Some("one"), Some("two")];

/// How often things happened, over all runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) events: usize,
    pub(crate) lagged: u64,
    pub(crate) catch_ups: u64,
    pub(crate) resumes: u64,
    pub(crate) compacted: usize,
    pub(crate) refused: usize,
    pub(crate) progress: usize,
    pub(crate) notified: usize,
    pub(crate) fragments: usize,
    pub(crate) ended: usize,
    /// Stores that went back, and how often that was noticed.
    pub(crate) restored: usize,
    pub(crate) histories: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.lagged += other.lagged;
        self.catch_ups += other.catch_ups;
        self.resumes += other.resumes;
        self.compacted += other.compacted;
        self.refused += other.refused;
        self.progress += other.progress;
        self.notified += other.notified;
        self.fragments += other.fragments;
        self.ended += other.ended;
        self.restored += other.restored;
        self.histories += other.histories;
    }

    fn client(&mut self, client: &Client) {
        self.events += client.events;
        self.compacted += client.compacted;
        self.refused += client.refused.len();
        self.progress += client.manual_progress.len();
        self.notified += client.notified;
        self.fragments += client.frames.iter().filter(|frame| frame.fragment).count();
    }
}

fn config(world: &mut fastrand::Rng) -> Config {
    let ms = Duration::from_millis;
    Config {
        // Of the generator for others, so that what those are stays the same.
        unsent_revisions_max: world.clone().choice([0, 1, 2, 8]).expect("not empty"),
        outbox_bytes_max: world.choice([150, 400, 100_000]).expect("not empty"),
        outbox_bytes_total_max: world.choice([600, 1_000_000]).expect("not empty"),
        requests_max: world.choice([2, 100]).expect("not empty"),
        history_bytes_max: world.choice([1, 600, 3000, 100_000]).expect("not empty"),
        history_bytes_total_max: world.choice([1500, 1_000_000]).expect("not empty"),
        live_streams_max: world.usize(1..4),
        catch_up_streams_max: world.usize(1..4),
        catch_ups_per_client_max: world.usize(1..4),
        creates_in_flight_max: world.choice([1, 2, 100]).expect("not empty"),
        narrow_ranges_max: world.usize(..3),
        batch_revisions_max: 4,
        batch_bytes_max: world.choice([1, 200, 100_000]).expect("not empty"),
        fragment_bytes: world.choice([60, 100_000]).expect("not empty"),
        inline_bytes_max: world.choice([0, 60, 2048]).expect("not empty"),
        create_timeout: ms(world.choice([900, 10_000]).expect("not empty")),
        linger: ms(200),
        steps_max: world.choice([1, 2, 5, 64]).expect("not empty"),
        position_interval: ms(700),
        progress_notify_interval: ms(500),
        trusts_progress: world.u8(..8) > 0,
        ..Config::default()
    }
}

/// One random program. Answers its trace and what happened in it.
pub(crate) fn run(seed: u64, is_told: bool) -> (u64, Counts) {
    let config = config(&mut fastrand::Rng::with_seed(!seed));
    let mut world = World::new(seed, config, 2);
    world.is_told = is_told;
    let steps = world.rng.usize(100..1500);
    let faults = world.rng.u8(..4) > 0;
    // Of its own, so that what other seeds do stays the same.
    let mut backwards = Backwards::new(seed);
    for _ in 0..steps {
        step(&mut world, faults);
        backwards.step(&mut world);
        check_bounds(&world);
    }
    finish(world)
}

/// The store goes back now and then, in half of the programs.
struct Backwards {
    rng: fastrand::Rng,
    is_on: bool,
    kept: Option<Store>,
}

impl Backwards {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x4157_0247);
        let is_on = rng.bool();
        Self {
            rng,
            is_on,
            kept: None,
        }
    }

    fn step(&mut self, world: &mut World) {
        if !self.is_on || self.rng.u8(..100) > 0 {
            return;
        }
        if self.rng.bool() {
            self.kept = Some(world.store.clone());
            return;
        }
        let seen = world.history.known().revision;
        let mut store = self.kept.clone().unwrap_or_else(Store::new);
        let is_other = self.rng.bool();
        if is_other {
            store.cluster = 100 + world.former.len() as u64;
            // Its revisions may be higher.
            for _ in 0..self.rng.u32(..20) {
                store.write(&[("a", Some("other"))]);
            }
        }
        // What nobody has seen is missed by nobody.
        if is_other || store.revision < seen {
            // Whoever takes a snapshot of another cluster gets one of that.
            self.kept = None;
            world.restore(store);
        }
    }
}

fn step(world: &mut World, faults: bool) {
    match world.rng.u8(..100) {
        0..15 => {
            write(world);
        }
        15..40 => {
            let Some(id) = world.random_stream() else { return };
            match world.rng.u8(..4) {
                0 => {
                    world.server_step(id);
                }
                1 => world.server_sync(id),
                _ => {
                    world.server_send(id);
                }
            }
        }
        40..50 => {
            let member = world.rng.usize(..world.members.len());
            world.apply(member);
        }
        50..56 => {
            world.answer_check();
        }
        56..62 => {
            world.hear_answer();
        }
        62..64 if world.clients.len() < 6 => {
            let token = world.rng.choice(TOKENS).expect("not empty");
            let require_leader = world.rng.u8(..4) == 0;
            world.open(token, require_leader);
        }
        64..72 => create(world),
        72..74 => cancel(world),
        74..76 => {
            if let Some(client) = random_client(world)
                && !world.clients[client].paused
            {
                world.send(client, Client::ask_progress());
            }
        }
        76..90 => {
            if let Some(client) = random_client(world)
                && !world.clients[client].stopped
            {
                world.take(client);
            }
        }
        90..92 => {
            if let Some(client) = random_client(world) {
                let client = &mut world.clients[client];
                client.stopped = !client.stopped;
            }
        }
        92..95 => {
            let time = world.rng.u64(1..200);
            world.pass(Duration::from_millis(time));
        }
        95 => {
            if world.rng.bool()
                && let Some(client) = random_client(world)
            {
                world.close(client);
            }
        }
        _ if faults => fault(world),
        _ => {}
    }
}

fn fault(world: &mut World) {
    match world.rng.u8(..9) {
        8 => world.end_streams(),
        6 => {
            let kind = UpstreamKind::Leader;
            let leader = world.streams.iter().find(|(_, stream)| stream.kind == kind);
            if let Some(id) = leader.map(|(id, _)| *id) {
                world.end_stream(id, 14, "etcdserver: no leader");
            }
        }
        7 => {
            // For good: a token doesn't come back.
            if world.rng.u8(..4) == 0 {
                world.expired.insert(b"two"[..].into());
            }
        }
        0 | 1 => {
            let code = world.rng.u8(..17);
            if let Some(id) = world.random_stream() {
                if code < 12 {
                    world.end_stream(id, code, "somehow");
                } else {
                    world.supersede_stream(id);
                }
            }
        }
        2 => {
            // Not what a member hasn't applied yet: it would compact that only later.
            let applied = world.members.iter().copied().min().expect("there are members");
            let compacted = world.rng.i64(0..=applied);
            world.store.compacted = world.store.compacted.max(compacted);
        }
        3 => {
            if let Some(id) = world.random_stream() {
                let World {
                    streams,
                    members,
                    rng,
                    ..
                } = world;
                let stream = streams.get_mut(&id).expect("just chosen");
                let applied = members[stream.member];
                if rng.bool() {
                    stream.cancel_one(applied, rng);
                } else {
                    stream.notify(applied, rng);
                }
            }
        }
        4 => {
            let token = world.rng.choice(["", "one", "two"]).expect("not empty");
            if world.denied.contains(token.as_bytes()) {
                world.permit(token.as_bytes());
            } else {
                world.deny(token);
            }
        }
        _ => {
            world.outage = match world.outage {
                Some(_) => None,
                None if world.rng.bool() => Some(Status::new(14, "etcdserver: no leader")),
                None => Some(Status::new(14, "etcdserver: request timed out")),
            }
        }
    }
}

fn write(world: &mut World) {
    let is_unnoticed = world.history.known().revision > world.store.revision;
    if is_unnoticed && world.history.cluster_id() == world.store.cluster {
        // Nobody can tell a store that has gone back and has come as far again.
        return;
    }
    let mut keys = KEYS;
    world.rng.shuffle(&mut keys);
    let count = if world.rng.bool() {
        1
    } else {
        world.rng.usize(1..4)
    };
    let value = "x".repeat(world.rng.usize(..30));
    let changes: Vec<(&str, Option<&str>)> = keys[..count]
        .iter()
        .map(|key| (*key, (world.rng.u8(..4) > 0).then_some(value.as_str())))
        .collect();
    world.store.write(&changes);
}

fn random_client(world: &mut World) -> Option<usize> {
    (!world.clients.is_empty()).then(|| world.rng.usize(..world.clients.len()))
}

fn create(world: &mut World) {
    let Some(client) = random_client(world) else {
        return;
    };
    if world.clients[client].paused
        || world.clients[client].creating.len() + world.clients[client].watching.len() > 8
    {
        return;
    }
    let rng = &mut world.rng;
    let (key, end) = rng.choice(RANGES).expect("not empty");
    let revision = world.store.revision;
    let start_revision = match rng.u8(..8) {
        0..4 => 0,
        4..7 => rng.i64(1.max(world.store.compacted - 1)..=revision),
        _ if rng.u8(..8) == 0 => -rng.i64(1..10),
        _ => revision + rng.i64(0..10),
    };
    let mut filters = Vec::new();
    if rng.u8(..5) == 0 {
        filters.push(rng.i32(..2));
    }
    let request = WatchCreateRequest {
        key: key.as_bytes().to_vec().into(),
        range_end: end.as_bytes().to_vec().into(),
        start_revision,
        progress_notify: rng.bool(),
        filters,
        prev_kv: rng.u8(..4) == 0,
        watch_id: 0,
        fragment: rng.bool(),
    };
    world.create(client, request);
}

fn cancel(world: &mut World) {
    let Some(client) = random_client(world) else {
        return;
    };
    let ids: Vec<i64> = world.clients[client].watching.keys().copied().collect();
    if let Some(id) = world.rng.choice(ids)
        && !world.clients[client].paused
    {
        let message = world.clients[client].cancel(id);
        world.send(client, message);
    }
}

fn check_bounds(world: &World) {
    let stats = world.hub.stats();
    assert!(stats.live_sources <= RANGES.len() && stats.catch_up_sources <= RANGES.len());
    assert!(stats.history_bytes <= world.config.history_bytes_total_max);
    let queued: usize = world.clients.iter().map(Client::outbox_bytes).sum();
    assert_eq!(stats.outbox_bytes, queued);
    assert_eq!(stats.clients, world.clients.len());
}

/// The faults end, and everybody gets everything; then everybody goes, and nothing stays.
fn finish(mut world: World) -> (u64, Counts) {
    world.outage = None;
    for token in ["", "one", "two"] {
        world.permit(token.as_bytes());
    }
    for client in &mut world.clients {
        client.stopped = false;
    }
    // A notification's turn comes, too.
    world.run(Duration::from_secs(3));
    for client in &world.clients {
        assert!(client.creating.is_empty(), "unanswered: {:?}", client.creating);
        let is_former = client.era < world.former.len();
        assert!(
            client.watching.is_empty() || !is_former,
            "a watch of a former history stays open: {client:?}"
        );
        for wanted in client.watching.values() {
            assert!(
                wanted.is_complete(&world.store),
                "something is missing: {wanted:?}\n{:?}",
                world.hub
            );
        }
    }
    let stats = world.hub.stats();
    if world.config.trusts_progress {
        assert_eq!((stats.behind, stats.catch_up_sources), (0, 0), "{:#?}", world.hub);
        assert_eq!(world.server_watchers(UpstreamKind::CatchUp), 0);
        for client in 0..world.clients.len() {
            let asker = &world.clients[client];
            if asker.era < world.former.len() {
                continue;
            }
            let reachable = |start: i64| start <= world.store.revision;
            let answers = !asker.watching.is_empty()
                && asker
                    .watching
                    .values()
                    .all(|wanted| reachable(wanted.request.start_revision));
            let before = asker.manual_progress.len();
            world.send(client, Client::ask_progress());
            world.run(Duration::from_millis(500));
            let told = &world.clients[client].manual_progress;
            assert_eq!(
                told.len() > before,
                answers,
                "{:?} {:#?}",
                world.clients[client].watching,
                world.hub
            );
            if answers {
                assert_eq!(told.last(), Some(&world.store.revision));
            }
        }
    }
    assert_eq!(world.server_watchers(UpstreamKind::Live), stats.live_sources);
    let mut counts = Counts {
        lagged: stats.lagged,
        catch_ups: stats.catch_ups,
        resumes: stats.resumes,
        ended: world.ended.len(),
        restored: world.former.len(),
        histories: stats.histories,
        ..Counts::default()
    };
    for client in world
        .clients
        .iter()
        .chain(world.ended.iter().map(|(client, _)| client))
    {
        counts.client(client);
    }
    while !world.clients.is_empty() {
        world.close(0);
    }
    world.run(Duration::from_secs(2));
    let stats = world.hub.stats();
    let left = Stats {
        clients: stats.clients,
        watchers: stats.watchers,
        behind: stats.behind,
        live_sources: stats.live_sources,
        catch_up_sources: stats.catch_up_sources,
        upstreams: stats.upstreams,
        outbox_bytes: stats.outbox_bytes,
        history_bytes: stats.history_bytes,
        ..Stats::default()
    };
    assert_eq!(left, Stats::default(), "something stays");
    assert_eq!(world.hub.next_timeout(), None, "a timer stays: {:#?}", world.hub);
    assert!(world.streams.is_empty());
    world.tell(Event::Timeout);
    (world.trace, counts)
}
