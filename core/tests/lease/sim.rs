//! Random programs against the world, and what holds in the end.

use std::time::Duration;

use etcd_proxy_core::lease::{ClientId, Config, Event, Stats, Status};

use crate::client::Client;
use crate::counts::Counts;
use crate::server::Token;
use crate::world::{What, World};

const SECOND: Duration = Duration::from_secs(1);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Keeps its leases alive, as clients do.
    Keeper,
    /// One heartbeat on a stream of its own, half-closed at once.
    Once,
    /// Many heartbeats at a time.
    Flood,
    /// Heartbeats that come just after the end of their lease.
    Late,
    /// Leases that nobody knows.
    Stranger,
    /// Very many of them.
    Crowd,
    /// It dies with its requests on the way.
    Mortal,
    /// A lease that it may not renew.
    Denied,
    /// What isn't protobuf.
    Nonsense,
    /// It doesn't read its answers for a while.
    Slow,
}

#[derive(Debug)]
struct Actor {
    kind: Kind,
    token: Token,
    require_leader: bool,
    ttl: u64,
    leases: Vec<i64>,
    /// When the next heartbeat of each is due.
    due: Vec<etcd_proxy_core::time::Instant>,
    client: Option<ClientId>,
}

struct Sim {
    world: World,
    actors: Vec<Actor>,
    has_faults: bool,
    is_over: bool,
    next_lease: i64,
    /// Leases that have expired before everybody went.
    expired: usize,
}

fn config(rng: &mut fastrand::Rng) -> Config {
    let mut one = |choices: &[usize]| rng.choice(choices.iter().copied()).expect("not empty");
    Config {
        requests_max: one(&[8, 512]),
        connection_requests_max: one(&[1, 12, 2048]),
        all_requests_max: one(&[20, 128 << 10]),
        outbox_bytes_max: one(&[50, 64 << 10]),
        in_flight_max: one(&[1, 3, 1024]),
        streams_max: one(&[1, 3]),
        alone_max: one(&[1, 3, 16]),
        leases_max: one(&[1, 1 << 20, 1 << 20]),
        stall: ms(one(&[300, 600]) as u64),
        careful: ms(one(&[1000, 60_000]) as u64),
        answer_timeout: ms(one(&[2000, 7000]) as u64),
        wait_max: ms(one(&[9000, 600_000]) as u64),
        linger: ms(one(&[200, 3000]) as u64),
        share_within: [None, None, Some(ms(200))][one(&[0, 1, 2])],
        ..Config::default()
    }
}

/// One random program. Answers its trace and what happened in it.
pub(crate) fn run(seed: u64, is_told: bool) -> (u64, Counts) {
    let mut rng = fastrand::Rng::with_seed(!seed);
    let has_faults = rng.u8(..4) > 0;
    let config = if has_faults || rng.bool() {
        config(&mut rng)
    } else {
        Config::default()
    };
    let mut world = World::new(seed, config);
    world.is_told = is_told;
    world.latency = rng.choice([200, 3000, 20_000]).expect("not empty");
    world.service = Duration::from_micros(rng.choice([5, 500, 3000]).expect("not empty"));
    world.cluster.is_proxy = has_faults && rng.u8(..4) == 0;
    let mut sim = Sim {
        world,
        actors: Vec::new(),
        has_faults,
        is_over: false,
        next_lease: 1,
        expired: 0,
    };
    sim.cast();
    sim.play();
    sim.finish()
}

impl Sim {
    fn cast(&mut self) {
        use Kind::{Crowd, Denied, Flood, Keeper, Late, Mortal, Nonsense, Once, Slow, Stranger};
        let kinds: &[Kind] = if self.has_faults {
            &[
                Keeper, Keeper, Once, Flood, Late, Stranger, Crowd, Mortal, Denied, Nonsense, Slow,
            ]
        } else {
            &[Keeper, Keeper, Keeper, Once, Stranger, Mortal]
        };
        for _ in 0..self.world.rng.usize(2..9) {
            let rng = &mut self.world.rng;
            let kind = rng.choice(kinds.iter().copied()).expect("not empty");
            let token = match kind {
                Keeper => rng.choice([None, None, Some("one")]),
                _ => rng.choice([None, Some("one"), Some("two")]),
            };
            let ttls = if kind == Keeper || self.has_faults {
                [5, 10, 30]
            } else {
                // In peace nothing ends.
                [60; 3]
            };
            let (token, ttl) = (token.expect("not empty"), rng.choice(ttls));
            let (require_leader, count) = (rng.bool(), rng.usize(1..4));
            let mut actor = Actor {
                kind,
                token,
                require_leader,
                ttl: ttl.expect("not empty"),
                leases: Vec::new(),
                due: Vec::new(),
                client: None,
            };
            for _ in 0..count {
                let lease = self.new_lease(actor.ttl);
                match kind {
                    Keeper => {
                        self.world.kept.insert(lease, self.world.now);
                    }
                    Denied => {
                        self.world.cluster.denied.insert((token, lease));
                    }
                    _ => {}
                }
                actor.leases.push(lease);
                actor.due.push(self.world.now);
            }
            let index = self.actors.len();
            self.actors.push(actor);
            let wait = ms(self.world.rng.u64(..500));
            self.world.later(wait, What::Act(index));
        }
        if self.has_faults {
            self.world.later(SECOND, What::Fault);
        }
    }

    fn new_lease(&mut self, ttl: u64) -> i64 {
        let id = self.next_lease;
        self.next_lease += 1;
        self.world.grant(id, ttl);
        id
    }

    fn play(&mut self) {
        let until = self.world.now + SECOND * self.world.rng.u32(10..50);
        while let Some(what) = self.world.next(until) {
            match what {
                What::Act(index) => self.act(index),
                What::Fault => self.fault(),
                _ => self.undo(),
            }
            self.check_bounds();
        }
    }

    fn client(&mut self, index: usize) -> ClientId {
        let actor = &self.actors[index];
        match actor.client.filter(|id| self.world.clients.contains_key(id)) {
            Some(id) => id,
            None => {
                // Whoever shares a connection shares what it may ask for.
                let id = if actor.kind == Kind::Keeper {
                    self.world.open(actor.token, actor.require_leader)
                } else {
                    let (token, require_leader) = (actor.token, actor.require_leader);
                    let connection = 1_000_000 + self.world.rng.u64(..4);
                    self.world.open_on(connection, token, require_leader)
                };
                self.actors[index].client = Some(id);
                id
            }
        }
    }

    fn act(&mut self, index: usize) {
        let kind = self.actors[index].kind;
        if self.is_over && kind != Kind::Keeper {
            return;
        }
        let again = match kind {
            Kind::Keeper => self.keep(index),
            Kind::Once => {
                self.actors[index].client = None;
                let id = self.client(index);
                self.world.beat(id, self.actors[index].leases[0]);
                self.world.half_close(id);
                self.world.rng.u64(100..4000)
            }
            Kind::Flood => {
                let id = self.client(index);
                let lease = self.lease(index);
                for _ in 0..self.world.rng.u8(1..20) {
                    self.world.beat(id, lease);
                }
                self.world.rng.u64(10..1000)
            }
            Kind::Late => {
                let ttl = self.actors[index].ttl.min(5);
                let lease = self.actors[index].leases[0];
                let id = self.client(index);
                self.world.beat(id, lease);
                self.actors[index].leases[0] = self.new_lease(ttl);
                ttl * 1000 + self.world.rng.u64(..600)
            }
            Kind::Stranger => {
                let id = self.client(index);
                let lease = -self.world.rng.i64(..5);
                self.world.beat(id, lease);
                self.world.rng.u64(100..3000)
            }
            Kind::Crowd => {
                let id = self.client(index);
                for _ in 0..self.world.rng.u8(1..60) {
                    let lease = -self.world.rng.i64(..1000);
                    self.world.beat(id, lease);
                }
                self.world.rng.u64(100..3000)
            }
            Kind::Mortal => {
                let id = self.client(index);
                self.world.close(id);
                let id = self.client(index);
                let lease = self.lease(index);
                self.world.beat(id, lease);
                self.world.rng.u64(..500)
            }
            Kind::Denied => {
                let id = self.client(index);
                let lease = self.lease(index);
                self.world.beat(id, lease);
                self.world.rng.u64(300..5000)
            }
            Kind::Nonsense => {
                let id = self.client(index);
                let lease = self.lease(index);
                self.world.beat(id, lease);
                self.world.send(id, b"\xff"[..].into());
                self.world.rng.u64(300..9000)
            }
            Kind::Slow => {
                let id = self.client(index);
                let lease = self.lease(index);
                let client = self.world.clients.get_mut(&id).expect("it is open");
                client.is_stopped = !client.is_stopped;
                if !client.is_stopped {
                    self.world.take_all(id);
                }
                for _ in 0..3 {
                    self.world.beat(id, lease);
                }
                self.world.rng.u64(300..3000)
            }
        };
        self.world.later(ms(again), What::Act(index));
    }

    fn lease(&mut self, index: usize) -> i64 {
        let leases = self.actors[index].leases.iter().copied();
        self.world.rng.choice(leases).expect("there are some")
    }

    /// Every half a second it heartbeats what is due, on a new stream if the old one has ended.
    fn keep(&mut self, index: usize) -> u64 {
        let was_open = self.actors[index]
            .client
            .is_some_and(|id| self.world.clients.contains_key(&id));
        let id = self.client(index);
        let now = self.world.now;
        let interval = ms(self.actors[index].ttl * 1000 / 3);
        for at in 0..self.actors[index].leases.len() {
            let actor = &mut self.actors[index];
            if !was_open || actor.due[at] <= now {
                actor.due[at] = now + interval;
                let lease = actor.leases[at];
                self.world.beat(id, lease);
            }
        }
        500
    }

    fn fault(&mut self) {
        if self.is_over {
            return;
        }
        let next = ms(self.world.rng.u64(500..8000));
        self.world.later(next, What::Fault);
        let world = &mut self.world;
        let last = ms(world.rng.u64(1..6000));
        let busy = !world.frozen.is_empty() || world.is_down || world.cluster.is_leaderless;
        match world.rng.u8(..10) {
            0 | 1 => {
                let ids: Vec<_> = world.streams.keys().copied().collect();
                if let Some(id) = world.rng.choice(ids) {
                    let code = world.rng.choice([0, 1, 13, 14]).expect("not empty");
                    world.impair(Duration::ZERO);
                    if world.rng.u8(..4) == 0 {
                        world.supersede(id);
                    } else {
                        world.end(id, Status::new(code, "somehow"));
                    }
                }
            }
            2 if !busy => {
                world.impair(last.min(ms(3500)));
                world.frozen.insert(world.member);
                self.undo_later(last.min(ms(3500)));
            }
            3 if !busy => {
                world.impair(last);
                world.is_down = true;
                world.end_all("the connection is lost");
                self.undo_later(last);
            }
            4 if !busy => {
                world.impair(last);
                world.lose_leader();
                self.undo_later(last);
            }
            5 => world.speak_nonsense(),
            6 => {
                let lease = world.rng.i64(1..self.next_lease);
                if !world.kept.contains_key(&lease) {
                    world.cluster.stuck.insert(lease);
                    self.undo_later(last);
                }
            }
            9 => {
                let ids: Vec<_> = world.streams.keys().copied().collect();
                if let Some(id) = world.rng.choice(ids) {
                    // Silent, from now on.
                    world.impair(world.config.stall * 8);
                    world.streams.get_mut(&id).expect("just chosen").is_silent = true;
                }
            }
            7 if world.rng.u8(..4) == 0 => {
                world.cluster.expired.insert("two");
            }
            8 => {
                let lease = world.rng.i64(1..self.next_lease);
                world.revoke(lease);
            }
            _ => {}
        }
    }

    fn undo_later(&mut self, after: Duration) {
        self.world.later(after, What::Undo);
    }

    /// All faults end, not just one.
    fn undo(&mut self) {
        let world = &mut self.world;
        if !world.frozen.is_empty() {
            world.frozen.clear();
            if world.rng.bool() {
                world.member += 1;
                world.end_all("the member is silent");
            }
        }
        world.is_down = false;
        world.end_silent();
        world.cluster.stuck.clear();
        world.find_leader();
        world.start_all();
    }

    fn check_bounds(&self) {
        let (world, stats) = (&self.world, self.world.router.stats());
        let queued: usize = world.clients.values().flat_map(|client| &client.outbox).sum();
        assert_eq!(stats.outbox_bytes, queued);
        assert_eq!(stats.clients, world.clients.len());
        let per_group = 2 * world.config.streams_max + world.config.alone_max;
        assert!(stats.upstreams <= 3 * per_group, "{stats:?}");
        assert!(world.streams.len() <= stats.upstreams);
        for client in world.clients.values() {
            assert!(client.waits() <= world.config.requests_max, "{client:?}");
            let others = || world.clients.values();
            let same = || others().filter(|other| other.connection == client.connection);
            // Each that is read from again may send one more.
            let most = world.config.connection_requests_max + same().count();
            let waits: usize = same().map(Client::waits).sum();
            assert!(waits <= most, "{waits} wait on one connection");
        }
        for stream in world.streams.values() {
            assert!(stream.inbox.len() <= world.config.in_flight_max);
        }
    }

    /// The faults end, and everybody has all answers; then everybody goes, and nothing stays.
    fn finish(mut self) -> (u64, Counts) {
        self.is_over = true;
        self.undo();
        for id in self.world.clients.keys().copied().collect::<Vec<_>>() {
            self.world.clients.get_mut(&id).expect("it is there").is_stopped = false;
            self.world.take_all(id);
        }
        let asked_before = self.world.now + SECOND * 9;
        let until = self.world.now + SECOND * 12;
        while let Some(what) = self.world.next(until) {
            if let What::Act(index) = what {
                self.act(index);
            }
        }
        for client in self.world.clients.values() {
            let oldest = client.oldest();
            assert!(
                oldest.is_none_or(|at| at > asked_before),
                "unanswered: {client:?}\n{:#?}",
                self.world.router
            );
        }
        let gone = self.close_all();
        let World { router, now, .. } = &mut self.world;
        let stats = router.stats();
        let left = Stats {
            clients: stats.clients,
            upstreams: stats.upstreams,
            leases: stats.leases,
            outbox_bytes: stats.outbox_bytes,
            ..Stats::default()
        };
        assert_eq!(left, Stats::default(), "something stays: {router:#?}");
        assert_eq!(
            router.next_timeout(),
            None,
            "a timer stays at {now:?}: {router:#?}"
        );
        assert!(self.world.streams.is_empty());
        self.world.tell(Event::Timeout);
        self.check_cost(&stats);
        let counts = Counts {
            stats,
            expired: self.world.expired,
            ended: self.world.ended.len(),
            gone,
            peaceful: usize::from(!self.has_faults && self.expired == 0),
        };
        (self.world.trace, counts)
    }

    fn close_all(&mut self) -> usize {
        self.expired = self.world.expired;
        self.world.kept.clear();
        let ids: Vec<ClientId> = self.world.clients.keys().copied().collect();
        for id in &ids {
            self.world.close(*id);
        }
        // For as long as a lease is remembered.
        self.world.run(SECOND * 75);
        ids.len()
    }

    fn check_cost(&self, stats: &Stats) {
        let world = &self.world;
        assert!(stats.answers <= stats.heartbeats_in);
        assert_eq!(stats.latency.iter().sum::<u64>(), stats.answers);
        // One for each request that isn't shared, and one each time that a stream was lost.
        assert!(
            stats.heartbeats_out <= stats.heartbeats_in - stats.shared + stats.resent,
            "{stats:?}"
        );
        // A lease that ends holds up its stream.
        if self.has_faults || self.expired > 0 {
            return;
        }
        assert_eq!(
            (stats.resent, stats.stalls, stats.refused, stats.timed_out),
            (0, 0, 0, 0)
        );
        if world.config == Config::default() {
            // There, at the server, and back; once more for the one that was on its way; and to open the stream.
            let trip = Duration::from_micros(2 * world.latency) + world.service * 60;
            for client in world.ended.iter().map(|(client, _)| client) {
                for seen in &client.seen {
                    assert!(seen.at - seen.asked <= trip * 3, "an answer came late: {seen:?}");
                }
            }
        }
    }
}
