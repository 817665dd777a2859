//! Single situations in the simulated world.

use std::time::Duration;

use etcd_proxy_core::endpoints::{Config, Event};
use fastrand::Rng;

use crate::oracle::SLACK;
use crate::sim::{LATENCY_MAX, Sim};
use crate::trace::Trace;
use crate::world::Mood;

/// The number of members and the one that is chosen first when all are well and equally near.
pub(crate) fn first_choice(seed: u64) -> (usize, usize) {
    let mut rng = Rng::with_seed(seed);
    let members = rng.usize(1..=5);
    let mut sim = Sim::new(
        rng,
        Config::default(),
        members,
        (0..members).collect(),
        Trace::new(false),
    );
    sim.deliver(Event::Start);
    sim.run_for(Duration::from_secs(1));
    (members, sim.first_choice.expect("all are well"))
}

/// One of five members is well; nothing comes from the others.
pub(crate) fn search_among_silent_members(seed: u64) {
    let config = Config::default();
    let mut sim = Sim::new(
        Rng::with_seed(seed),
        config,
        5,
        (0..5).collect(),
        Trace::new(false),
    );
    let fit = sim.rng.usize(..5);
    for member in (0..5).filter(|member| *member != fit) {
        let mood = if sim.rng.bool() {
            Mood::Frozen
        } else {
            Mood::BlackHole
        };
        sim.set_mood(member, mood);
    }
    sim.deliver(Event::Start);
    sim.run_for(config.stagger * 4 + LATENCY_MAX * 4);
    assert!(
        sim.served_by(fit),
        "seed {seed}: {:?} in use, not {fit}",
        sim.in_use()
    );
}

/// The member in use freezes, and others are well: they take over before the time of its probes is over.
pub(crate) fn one_is_frozen(seed: u64) {
    let config = Config {
        lanes: 3,
        ..Config::default()
    };
    let mut sim = Sim::new(
        Rng::with_seed(seed),
        config,
        3,
        (0..3).collect(),
        Trace::new(false),
    );
    sim.deliver(Event::Start);
    let time = sim.rng_ms(5_000..20_000);
    sim.run_for(time);
    let frozen = sim.in_use().expect("all are well");
    sim.set_mood(frozen, Mood::Frozen);
    let interval = config.probe_interval.expect("they are on by default");
    // What was read just before is known at the first look.
    let noticed = interval + config.probe_timeout * 5 / 8 + SLACK * 5;
    sim.run_for(noticed + LATENCY_MAX * 6);
    let other = sim.in_use().expect("others are well");
    assert!(other != frozen && sim.served_by(other), "seed {seed}");
}

/// Members that answer late, but not too late, are kept, whether or not anything else comes from them; and those that are often
/// too late aren't left in turn.
pub(crate) fn all_are_slow(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let config = Config {
        lanes: rng.u32(1..=3),
        ..Config::default()
    };
    let mut sim = Sim::new(rng, config, 3, (0..3).collect(), Trace::new(false));
    sim.deliver(Event::Start);
    sim.run_for(Duration::from_secs(5));
    let patience = config.probe_timeout / 8 * 3;
    let in_time = (patience - LATENCY_MAX * 3).as_millis() as u64;
    sim.set_late(in_time);
    let moves = sim.moves;
    sim.run_for(Duration::from_secs(100));
    assert_eq!(sim.moves, moves, "seed {seed}: moved although all answer");
    sim.set_late(config.probe_timeout.as_millis() as u64 - 200);
    let begun = sim.now;
    let mut members = 0;
    let mut in_use = sim.in_use();
    while sim.now < begun + Duration::from_secs(100) {
        sim.run_for(Duration::from_millis(20));
        let now_in_use = sim.in_use().or(in_use);
        members += u32::from(now_in_use != in_use);
        in_use = now_in_use;
    }
    assert!(members <= 10, "seed {seed}: {members} changes in 100 s");
}
