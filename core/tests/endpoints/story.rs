//! What happens in a run: a time of faults, a calm in which all must come to rest, single faults one at
//! a time, and an end at which nothing may be left over.

use std::time::Duration;

use etcd_proxy_core::endpoints::{Config, Event};
use fastrand::Rng;

use crate::count::Counts;
use crate::oracle::SLACK;
use crate::sim::{LATE_MAX, LATENCY_MAX, Sim};
use crate::trace::Trace;
use crate::world::Mood;

/// What a run leaves behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) counts: Counts,
    /// The longest wait for the calm, as a part of its bound.
    pub(crate) slowest: f64,
}

/// Tells the story of this seed.
///
/// # Panics
/// When a rule is broken.
pub(crate) fn run(seed: u64, print: bool) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let config = config(&mut rng);
    let members = rng.usize(1..=5);
    let mut listed: Vec<usize> = (0..members).collect();
    if rng.u8(..4) == 0 {
        rng.shuffle(&mut listed);
        listed.truncate(rng.usize(1..=members));
    }
    let trace = Trace::new(print);
    let mut story = Story {
        sim: Sim::new(rng, config, members, listed, trace),
        slowest: 0.0,
    };
    story.tell();
    Outcome {
        hash: story.sim.trace.hash(),
        counts: story.sim.counts,
        slowest: story.slowest,
    }
}

fn config(rng: &mut Rng) -> Config {
    let lanes = rng.u32(1..=3);
    let mut config = Config {
        lanes,
        ..Config::default()
    };
    if rng.bool() {
        config.connect_timeout = Duration::from_millis(rng.u64(300..3_000));
        config.stagger = Duration::from_millis(rng.u64(0..500));
        config.probe_interval = Some(Duration::from_millis(rng.u64(100..2_000)));
        config.probe_timeout = Duration::from_millis(rng.u64(300..3_000));
        config.challenge_interval = Duration::from_millis(rng.u64(100..2_000));
        config.backoff_min = Duration::from_millis(rng.u64(10..300));
        config.backoff_max = Duration::from_millis(rng.u64(500..6_000));
        config.graceful_age_min = Duration::from_millis(rng.u64(250..2_000));
    }
    if rng.u8(..8) == 0 {
        config.probe_interval = None;
    }
    config
}

struct Story {
    sim: Sim,
    slowest: f64,
}

impl Story {
    fn tell(&mut self) {
        match self.sim.config.lanes {
            1 => self.sim.counts.add("one lane"),
            3 => self.sim.counts.add("three lanes"),
            _ => {}
        }
        if self.sim.config.probe_interval.is_none() {
            self.sim.counts.add("probes off");
        }
        if self.sim.members.len() == 1 {
            self.sim.counts.add("single member");
        }
        if self.sim.rng.bool() {
            self.any_moods();
        }
        self.sim.deliver(Event::Start);
        if self.sim.rng.u8(..4) > 0 {
            self.faults();
        }
        self.calm();
        for _ in 0..self.sim.rng.u8(..3) {
            self.episode();
        }
        self.end();
    }

    fn any_moods(&mut self) {
        for member in 0..self.sim.members.len() {
            let mood = self.any_mood();
            self.sim.set_mood(member, mood);
            let leader = self.sim.rng.u8(..4) > 0;
            self.sim.set_leader(member, leader);
        }
    }

    fn any_mood(&mut self) -> Mood {
        match self.sim.rng.u8(..10) {
            0 => Mood::Dead,
            1 => Mood::Frozen,
            2 => Mood::BlackHole,
            3 => Mood::Goodbye,
            _ => Mood::Up,
        }
    }

    fn faults(&mut self) {
        let pace = self.sim.rng.u64(50..4_000);
        for _ in 0..self.sim.rng.u32(1..25) {
            let pause = self.sim.rng_ms(0..pace);
            self.sim.run_for(pause);
            self.fault();
        }
    }

    fn fault(&mut self) {
        let member = self.sim.rng.usize(..self.sim.members.len());
        let member = self
            .sim
            .in_use()
            .filter(|_| self.sim.rng.bool())
            .unwrap_or(member);
        if self.sim.rng.u8(..3) == 0 {
            self.sim.want();
        }
        match self.sim.rng.u8(..14) {
            13 => self.sim.loses_probes = !self.sim.loses_probes,
            12 => self.sim.members[member].slow = true,
            0..4 => {
                let mood = self.any_mood();
                self.sim.set_mood(member, mood);
            }
            4 | 5 => {
                let leader = !self.sim.members[member].leader;
                self.sim.set_leader(member, leader);
            }
            6 => {
                let leader = self.sim.rng.bool();
                for member in 0..self.sim.members.len() {
                    self.sim.set_leader(member, leader);
                }
            }
            7 => {
                let mut listed: Vec<usize> = (0..self.sim.members.len()).collect();
                self.sim.rng.shuffle(&mut listed);
                listed.truncate(self.sim.rng.usize(..=self.sim.members.len()));
                self.sim.replace(listed);
            }
            kind => {
                let ids: Vec<_> = self.sim.links.keys().copied().collect();
                let Some(id) = self.sim.rng.choice(ids) else {
                    return;
                };
                match kind {
                    8 => self.sim.break_link(id),
                    9 => self.sim.drain_link(id),
                    10 => self.sim.silence_link(id),
                    _ => self.sim.doubt(id),
                }
            }
        }
    }

    /// Faults stop: within [`Story::rest_max`] all workers must be served by the best that there is, and
    /// stay there.
    fn calm(&mut self) {
        self.sim.loses_probes = false;
        for member in 0..self.sim.members.len() {
            if std::mem::take(&mut self.sim.members[member].slow) {
                // Its last late answers come first.
                self.sim.run_for(LATE_MAX);
            }
        }
        match self.sim.rng.u8(..8) {
            0 => {
                self.sim.counts.add("nobody reachable");
                for member in 0..self.sim.members.len() {
                    let moods = [Mood::Dead, Mood::Frozen, Mood::BlackHole];
                    let mood = self.sim.rng.choice(moods).expect("there are three");
                    self.sim.set_mood(member, mood);
                }
                let time = self.sim.rng_ms(0..30_000);
                self.sim.run_for(time);
            }
            1 => {
                self.sim.counts.add("nobody with leader");
                for member in 0..self.sim.members.len() {
                    self.sim.set_leader(member, false);
                }
                let chosen = self.any_listed();
                self.sim.set_mood(chosen, Mood::Up);
                self.rests();
            }
            _ => {}
        }
        let fit = self.any_listed();
        self.sim.set_leader(fit, true);
        self.sim.set_mood(fit, Mood::Up);
        self.rests();
    }

    fn any_listed(&mut self) -> usize {
        self.sim
            .rng
            .choice(self.sim.listed.clone())
            .expect("the list is never empty")
    }

    /// A bound on the time to come to rest once nothing changes, from these parts:
    /// the one in use turns out to be silent or leaderless; an attempt that began before may have to run
    /// into its limits; its endpoint, hidden then, waits at its cap and is tried again; every other one may
    /// be tried before it; and each member that answers only to say goodbye may win the race for a few
    /// growing waits.
    fn rest_max(&self) -> Duration {
        let config = &self.sim.config;
        let notice = self.sim.silence_max().unwrap_or_default() + config.challenge_interval;
        let attempt = config.connect_timeout + config.probe_timeout * 5 / 4;
        let wait = config.backoff_max * 12 / 10;
        let members = u32::try_from(self.sim.members.len()).expect("few");
        let polite = |mood: Mood| mood == Mood::Goodbye;
        let goodbyes = self
            .sim
            .members
            .iter()
            .filter(|member| polite(member.mood))
            .count();
        let goodbyes = u32::try_from(goodbyes).expect("few") * Duration::from_secs(3);
        notice + attempt + wait + config.stagger * members + goodbyes + LATENCY_MAX * 8 + SLACK * 4
    }

    /// Runs until all workers are served by a member that is as good as any, and checks that they are left
    /// alone from then on.
    fn rests(&mut self) {
        if self.sim.config.probe_interval.is_none() {
            // Nobody looks, so only TCP finds out, and only calls find a lost leader.
            self.sim.break_silent();
            self.sim.run_for(LATENCY_MAX * 4);
            self.sim.break_silent();
        }
        let begun = self.sim.now;
        let rest_max = self.rest_max();
        let mut rested = None;
        while rested.is_none() {
            if self.sim.config.probe_interval.is_none()
                && let Some(id) = self.sim.any_serving()
            {
                self.sim.doubt(id);
            }
            self.sim.run_for(Duration::from_millis(20));
            rested = self.at_rest();
            let took = self.sim.now - begun;
            assert!(
                rested.is_some() || took <= rest_max,
                "not at rest after {took:?}: {:?}, in use {:?}, known {:#?}",
                self.sim.members,
                self.sim.in_use(),
                self.sim.oracle.known
            );
            self.slowest = self.slowest.max(took.as_secs_f64() / rest_max.as_secs_f64());
        }
        // What was said before the calm may still be on its way.
        self.sim.run_for(LATENCY_MAX * 4);
        if self.at_rest() != rested {
            return self.rests();
        }
        self.sim.counts.add("settled");
        let moves = self.sim.moves;
        self.a_further_connection_fails();
        let time = self.sim.rng_ms(2_000..12_000);
        self.sim.run_for(time);
        assert_eq!(self.sim.moves, moves, "moved although nothing failed");
        let others = (0..self.sim.members.len())
            .filter(|member| self.sim.members[*member].fit())
            .count();
        if others > 1 {
            self.sim.counts.add("stayed although others are well");
        }
    }

    /// Whatever becomes of a further connection is its own affair, and its silence is noticed as any other.
    fn a_further_connection_fails(&mut self) {
        for _ in 0..3 {
            self.sim.want();
        }
        self.sim.run_for(LATENCY_MAX * 4);
        let Some(id) = self.sim.any_joined() else {
            return;
        };
        match self.sim.rng.u8(..4) {
            0 => self.sim.break_link(id),
            1 => self.sim.drain_link(id),
            2 if self.sim.config.probe_interval.is_some() => {
                self.sim.counts.add("further connection silenced");
                self.sim.silence_link(id);
            }
            _ => {}
        }
    }

    /// The member by which all workers are served, if there is no better one.
    fn at_rest(&self) -> Option<usize> {
        let member = self.sim.in_use()?;
        let state = &self.sim.members[member];
        let fit = |member: &&usize| self.sim.members[**member].fit();
        let good = state.fit() || state.mood == Mood::Up && !self.sim.listed.iter().any(|other| fit(&other));
        let told = self.sim.oracle.current.map(|(_, fit)| fit) == Some(state.leader);
        (good && told && self.sim.served_by(member)).then_some(member)
    }

    /// One fault of the member in use, while all else stays as it is.
    fn episode(&mut self) {
        let member = self.sim.in_use().expect("it came to rest before");
        let probes = self.sim.config.probe_interval.is_some();
        let serving = self.sim.any_serving().expect("it came to rest before");
        let kind = self.sim.rng.u8(..10);
        match kind {
            0 | 1 => self.leader_lost(member),
            2 => self.all_lose_leader(member),
            3 => {
                self.sim.counts.add("episode: kill");
                self.sim.set_mood(member, Mood::Dead);
            }
            4 if probes => {
                self.sim.counts.add("episode: freeze");
                self.sim.set_mood(member, Mood::Frozen);
            }
            5 if probes => {
                self.sim.counts.add("episode: black hole");
                self.sim.set_mood(member, Mood::BlackHole);
            }
            6 => {
                self.sim.counts.add("episode: goodbye");
                self.sim.set_mood(member, Mood::Goodbye);
            }
            7 => {
                self.sim.counts.add("episode: break");
                self.sim.break_link(serving);
            }
            8 => self.drain(member, serving),
            9 if self.sim.listed.len() > 1 => {
                self.sim.counts.add("episode: removed");
                let mut listed = self.sim.listed.clone();
                listed.retain(|other| *other != member);
                self.sim.replace(listed);
            }
            _ if probes => {
                self.sim.counts.add("episode: silence");
                self.sim.silence_link(serving);
            }
            _ => {}
        }
        if !self
            .sim
            .listed
            .iter()
            .any(|member| self.sim.members[*member].fit())
        {
            let time = self.sim.rng_ms(0..20_000);
            self.sim.run_for(time);
            let member = self.any_listed();
            self.sim.set_leader(member, true);
            self.sim.set_mood(member, Mood::Up);
        }
        self.sim.run_for(LATENCY_MAX);
        self.rests();
    }

    fn leader_lost(&mut self, member: usize) {
        self.sim.counts.add("episode: leader lost");
        self.sim.set_leader(member, false);
        let others = self.sim.listed.iter().any(|other| self.sim.members[*other].fit());
        if others {
            let open: Vec<_> = self.sim.links_of(member);
            self.rests();
            assert_ne!(self.sim.in_use(), Some(member));
            for id in open {
                assert!(
                    !self.sim.links.contains_key(&id),
                    "{id:?} to a leaderless member is still open"
                );
            }
        }
    }

    /// The one in use is kept when no other is better.
    fn all_lose_leader(&mut self, member: usize) {
        self.sim.counts.add("episode: all lose leader");
        for member in 0..self.sim.members.len() {
            self.sim.set_leader(member, false);
        }
        let moves = self.sim.moves;
        let time = self.sim.rng_ms(1_000..15_000);
        self.sim.run_for(time);
        assert_eq!(self.sim.moves, moves, "moved although nobody is better");
        let leader = self.sim.rng.bool();
        self.sim.set_leader(member, leader);
    }

    /// An announced end of a connection that is old enough moves its worker and nobody else.
    fn drain(&mut self, member: usize, serving: etcd_proxy_core::endpoints::ConnectionId) {
        self.sim.counts.add("episode: drain");
        self.sim.run_for(self.sim.config.graceful_age_min);
        let before = self.sim.oracle.serving.clone();
        self.sim.drain_link(serving);
        self.sim.run_for(LATENCY_MAX * 5);
        assert_eq!(self.sim.in_use(), Some(member), "the endpoint isn't to blame");
        for (before, after) in before.iter().zip(&self.sim.oracle.serving) {
            assert!(after.is_some() && (before == after) == (*before != Some(serving)));
        }
    }

    /// All is well again: nothing may be left over.
    fn end(&mut self) {
        for member in 0..self.sim.members.len() {
            self.sim.set_leader(member, true);
            self.sim.set_mood(member, Mood::Up);
        }
        self.rests();
        // Hidden ones come back, and the last calls on former connections end.
        self.sim.run_for(self.rest_max() + Duration::from_secs(30));
        let lanes = self.sim.config.lanes as usize;
        assert_eq!(self.sim.machine.connections(), lanes, "connections are left over");
        assert!(
            self.sim
                .oracle
                .known
                .values()
                .all(|known| known.hidden_until.is_none())
        );
        if self.sim.config.probe_interval.is_none() {
            self.sim.counts.add("quiet at the end");
            assert_eq!(self.sim.machine.next_timeout(), None, "a timer is left over");
        }
    }
}
