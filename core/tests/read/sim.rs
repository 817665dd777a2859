//! Random programs against the world, and what holds in the end.

use std::time::Duration;

use etcd_proxy_core::range::KeyRange;
use etcd_proxy_core::read::{Config, Event, Scope};
use etcd_proxy_proto::etcdserverpb::RangeRequest;
use fastrand::Rng;
use prost::Message as _;

use crate::cluster::Change;
use crate::counts::Counts;
use crate::world::{Faults, ReaderState, What, World, ms};

const SECOND: Duration = Duration::from_secs(1);

/// Keys that are read and written; the first two are `\0`-ish on purpose.
const KEYS: [&[u8]; 9] = [b"\0", b"\0\0", b"a", b"a\0", b"b", b"ba", b"c", b"d", b"\xff"];

/// Ends of ranges besides keys.
const ENDS: [&[u8]; 3] = [b"\0", b"b\xff", b"\xff\xff"];

struct Sim {
    world: World,
    has_faults: bool,
    is_over: bool,
    goes_back: bool,
    /// What is read mostly.
    hot: Vec<RangeRequest>,
    /// How often somebody reads, in microseconds, and how many at a time.
    pace: u64,
    crowd: usize,
    /// Of a hundred steps, so many write.
    writes: u64,
    values: u64,
    queued: u64,
}

fn one<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

fn config(rng: &mut Rng) -> Config {
    let scope = match rng.u8(..20) {
        0 => Scope::Nothing,
        1..8 => Scope::Ranges(vec![
            KeyRange::new(b"a"[..].into(), b"b"[..].into()),
            KeyRange::new(b"b"[..].into(), b""[..].into()),
            KeyRange::new(b"c"[..].into(), b"\0"[..].into()),
        ]),
        _ => Scope::Everything,
    };
    Config {
        scope,
        bytes_max: one(rng, &[0, 18 << 10, 20 << 10, 1 << 20]),
        staleness_max: ms(one(rng, &[0, 100, 100, 1000, 1000])),
        linearizable: rng.u8(..5) > 0,
        wait_max: ms(one(rng, &[5, 20, 100])),
        fallbacks_max: one(rng, &[1, 3, 64]),
        queue_max: one(rng, &[0, 4, 1 << 16]),
        waiters_max: one(rng, &[3, 1 << 17, 1 << 17]),
        idle: one(rng, &[ms(30), SECOND * 2, SECOND * 300]),
        check_timeout: ms(one(rng, &[300, 5000])),
        trusts_progress: rng.u8(..8) > 0,
        ..Config::default()
    }
}

fn faults(rng: &mut Rng) -> Faults {
    Faults {
        latency: one(rng, &[200, 1000, 10_000]),
        watch_latency: one(rng, &[200, 2000, 50_000, 300_000]),
        lag: one(rng, &[0, 0, 3000, 100_000]),
        slow: one(rng, &[0, 0, 10, 100]),
        checks_failing: one(rng, &[0, 0, 100]),
        checks_lost: one(rng, &[0, 0, 30]),
        writes_lost: one(rng, &[0, 100, 300]),
        ..Faults::default()
    }
}

fn random_read(rng: &mut Rng) -> RangeRequest {
    let key = one(rng, &KEYS);
    let end: &[u8] = match rng.u8(..8) {
        0..4 => b"",
        4 => one(rng, &ENDS),
        _ => one(rng, &KEYS),
    };
    RangeRequest {
        key: key.into(),
        range_end: end.into(),
        limit: one(rng, &[0, 0, 1, 2]),
        keys_only: rng.u8(..5) == 0,
        count_only: rng.u8(..5) == 0,
        ..RangeRequest::default()
    }
}

/// One random program. Answers its trace and what happened in it.
pub(crate) fn run(seed: u64, is_loud: bool) -> (u64, Counts) {
    let mut rng = Rng::with_seed(!seed);
    let has_faults = rng.u8(..5) > 0;
    let config = if has_faults {
        config(&mut rng)
    } else {
        Config::default()
    };
    let mut world = World::new(seed, config);
    world.is_loud = is_loud;
    world.is_floor_told = !has_faults || rng.u8(..4) > 0;
    if has_faults {
        world.faults = faults(&mut rng);
    }
    let goes_back = has_faults && world.back_rng.u8(..3) == 0;
    let hot = (0..rng.usize(1..6)).map(|_| random_read(&mut rng)).collect();
    let sim = Sim {
        world,
        has_faults,
        is_over: false,
        goes_back,
        hot,
        pace: one(&mut rng, &[100, 1000, 20_000]),
        crowd: one(&mut rng, &[1, 5, 20]),
        writes: if has_faults { one(&mut rng, &[1, 5, 30]) } else { 1 },
        values: 0,
        queued: 0,
    };
    sim.play()
}

impl Sim {
    fn play(mut self) -> (u64, Counts) {
        self.world.later(Duration::ZERO, What::Act);
        if self.has_faults {
            self.world.later(ms(200), What::Fault);
        }
        let steps = self.world.rng.u32(50..400);
        let until = self.world.now + Duration::from_micros(self.pace) * steps + ms(100);
        while let Some(what) = self.world.next(until) {
            match what {
                What::Act => {
                    self.go_back();
                    self.act();
                }
                What::Fault => self.fault(),
                _ => self.undo(),
            }
            self.world.check_bounds();
            self.queued += self.world.cache.stats().queued as u64;
        }
        self.finish()
    }

    fn act(&mut self) {
        if self.is_over {
            return;
        }
        let pace = self.world.rng.u64(self.pace / 2..=self.pace * 3 / 2);
        self.world.later(Duration::from_micros(pace), What::Act);
        if self.world.rng.u64(..100) < self.writes {
            self.write();
            return;
        }
        if self.has_faults && self.world.rng.u8(..50) == 0 {
            // A compressed answer, say, of the member in use.
            let revision = self.world.cluster.state_of(self.world.cluster.member()).revision;
            self.world.show_unread(revision);
        }
        let crowd = self.world.rng.usize(1..=self.crowd);
        for _ in 0..crowd {
            self.read();
        }
    }

    /// The store goes back now and then, in a third of the programs.
    fn go_back(&mut self) {
        let world = &mut self.world;
        if !self.goes_back || self.is_over || world.is_unnoticed() || world.back_rng.u8(..100) > 0 {
            return;
        }
        let states = &world.cluster.states;
        let index = world.back_rng.usize(..states.len());
        // Whether credentials are asked for is told by what comes, not by what was.
        if states[index..].iter().all(|state| !state.auth) {
            world.go_back(index);
        }
    }

    fn read(&mut self) {
        let world = &mut self.world;
        let rng = &mut world.rng;
        let mut request = if rng.u8(..10) > 0 {
            self.hot[rng.usize(..self.hot.len())].clone()
        } else {
            random_read(rng)
        };
        request.serializable = rng.bool();
        if rng.u8(..20) == 0 {
            let newest = world.cluster.last().revision;
            request.revision = rng.i64(newest.saturating_sub(5)..=newest + 1).max(0);
        }
        let mut encoded = request.encode_to_vec();
        if self.has_faults && rng.u8(..100) == 0 {
            // A field that nobody knows; or no request at all, which members refuse in their own way.
            let odd: [&[u8]; 2] = [b"\x70\x01", b"\x18"];
            encoded.extend_from_slice(one(rng, &odd));
        }
        let leaves = (rng.u8(..20) == 0).then(|| Duration::from_micros(rng.u64(..20_000)));
        let reader = world.read_encoded(request, encoded.into());
        if let Some(after) = leaves {
            world.later(after, What::Cancel(reader));
        }
    }

    fn change(&mut self) -> Change {
        self.values += 1;
        let rng = &mut self.world.rng;
        let key = one(rng, &KEYS).to_vec();
        match rng.u8(..4) {
            0 => {
                let end: &[u8] = match rng.u8(..3) {
                    0 => b"",
                    1 => one(rng, &ENDS),
                    _ => one(rng, &KEYS),
                };
                Change::Delete(key, end.to_vec())
            }
            _ => {
                let length = rng.usize(1..80);
                let mut value = self.values.to_string().into_bytes();
                value.resize(length.max(value.len()), b'.');
                Change::Put(key, value)
            }
        }
    }

    fn write(&mut self) {
        if self.world.is_unnoticed() {
            // Nobody can tell a store that has gone back and has come as far again.
            return;
        }
        let count = one(&mut self.world.rng, &[1, 1, 1, 3]);
        let changes: Vec<Change> = (0..count).map(|_| self.change()).collect();
        if self.world.rng.bool() {
            self.world.write(changes);
        } else {
            self.world.write_elsewhere(&changes);
        }
    }

    fn fault(&mut self) {
        if self.is_over {
            return;
        }
        let next = ms(self.world.rng.u64(20..1500));
        self.world.later(next, What::Fault);
        let world = &mut self.world;
        let last = ms(world.rng.u64(1..1500));
        match world.rng.u8(..11) {
            0 | 1 => {
                let notice = ms(world.rng.u64(..300));
                world.break_watch(notice);
            }
            2 => world.faults.is_down = true,
            3 => world.faults.is_leaderless = true,
            4 => {
                let member = world.rng.usize(..3);
                world.cluster.use_member(world.now, member);
            }
            5 => world.faults.is_silent = true,
            6 => {
                // Somebody else switches auth on.
                world.cluster.push(|state| state.auth = true);
                world.change_cluster();
            }
            7 => {
                world.tell(Event::AuthMayHaveChanged);
                let after = ms(world.rng.u64(..5));
                world.later(after, What::AuthArrive);
            }
            8 | 9 => {
                let revision = world.cluster.last().revision;
                world.cluster.push(|state| state.compacted = revision);
                world.change_cluster();
                if world.rng.bool() {
                    world.told.compacted = revision;
                    world.cache.compacted(revision);
                }
            }
            _ => {
                let is_trusted = world.rng.bool();
                world.tell(Event::LinearizableTrusted(is_trusted));
            }
        }
        self.world.later(last, What::Undo);
    }

    /// All faults end, not just one.
    fn undo(&mut self) {
        let world = &mut self.world;
        world.faults.is_down = false;
        world.faults.is_leaderless = false;
        world.faults.is_silent = false;
        if world.cluster.last().auth {
            world.cluster.push(|state| state.auth = false);
            world.change_cluster();
        }
    }

    /// The faults end, and everybody has an answer; then nothing stays.
    fn finish(mut self) -> (u64, Counts) {
        self.is_over = true;
        self.undo();
        let faults = self.world.faults;
        self.world.faults = Faults {
            lag: faults.lag,
            ..Faults::default()
        };
        // Auth may still be switched on by who is on the way.
        for _ in 0..20 {
            let until = self.world.now + SECOND;
            while self.world.next(until).is_some() {
                self.undo();
            }
        }
        let world = &self.world;
        for reader in &world.readers {
            let is_over = matches!(reader.state, ReaderState::Answered | ReaderState::Gone);
            assert!(is_over, "nobody answers {reader:?}");
        }
        assert!(world.own.iter().all(|own| !own.is_open));
        let stats = world.cache.stats();
        assert_eq!((stats.waiters, stats.flights, stats.queued), (0, 0, 0));
        self.check_cost();
        let idle = self.world.config.idle;
        self.world.run(idle * 2);
        assert_eq!(self.world.stream.watch, None, "nobody reads");
        assert_eq!(self.world.cache.next_timeout(), None);
        assert_eq!(self.world.cache.stats().entries, 0);
        let world = &self.world;
        let counts = Counts {
            stats: world.cache.stats(),
            reads: world.readers.len() as u64,
            sent: world.sent,
            gone: world.told.gone,
            opened: world.stream.opened as u64,
            peaceful: u64::from(!self.has_faults),
            queued: self.queued,
        };
        (world.trace, counts)
    }

    fn check_cost(&self) {
        let world = &self.world;
        let stats = world.cache.stats();
        let reads = world.readers.len() as u64;
        assert_eq!(stats.hits_serializable + stats.hits_linearizable, world.told.hits);
        assert_eq!(stats.shared, world.told.shared);
        assert!(world.sent <= reads);
        assert!(stats.evicted + stats.invalidated <= stats.admitted);
        if self.has_faults {
            return;
        }
        assert_eq!((stats.fallbacks, stats.denied, stats.flushes), (0, 0, 1));
        // Some of them ask what nobody else asks; without the cache each of them would cost one.
        assert!(
            world.sent * 3 <= reads + 150,
            "{} of {reads} reads are sent",
            world.sent
        );
        // And when few read at a time there may be a check for each.
        assert!(world.sent + stats.checks <= reads + 10, "{stats:?}");
    }
}
