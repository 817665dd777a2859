//! Many linearizable readers of what is cached, all the time.

use etcd_proxy_core::read::Config;

use super::{linearizable, put, world};
use crate::world::reads::State;
use crate::world::{World, ms};

/// Reads that are answered while `count` clients ask again a moment after each answer, for one check.
fn reads_for_a_check(world: &mut World, count: usize) -> usize {
    let mut reading: Vec<usize> = Vec::new();
    let checks = world.told.checks;
    let mut answered = 0;
    for step in 0..2_000 {
        // Not all at the same time.
        if step < count {
            reading.push(world.read(linearizable("a", "")));
        }
        world.run(ms(1) / 10);
        for place in &mut reading {
            if world.readers[*place].response.is_some() {
                answered += 1;
                *place = world.read(linearizable("a", ""));
            }
        }
    }
    answered / usize::try_from(world.told.checks - checks).expect("small")
}

/// Checks are held back until nearly all can go with them, but not for a few.
#[test]
fn a_crowd_goes_together() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&linearizable("a", ""));
    let few = reads_for_a_check(&mut world, 4);
    assert!((1..=4).contains(&few), "{few}");
    let many = reads_for_a_check(&mut world, 100);
    assert!(many >= 75, "{many}");

    let config = Config {
        batch_min: usize::MAX,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&linearizable("a", ""));
    let otherwise = reads_for_a_check(&mut world, 100);
    assert!(otherwise < many, "{otherwise}");
}

/// Readers whose leaders leave one after the other take the lead in the order in which they came, whoever comes meanwhile.
#[test]
fn nobody_is_overtaken() {
    let mut world = World::new(1, Config::default());
    let mut readers: Vec<usize> = (0..3).map(|_| world.read(linearizable("a", ""))).collect();
    for round in 0..20 {
        world.run(ms(1) / 10);
        let is_forwarded =
            |world: &World, reader: usize| matches!(world.readers[reader].state, State::Forwarded(_));
        assert!(is_forwarded(&world, readers[round]), "{round}");
        readers.push(world.read(linearizable("a", "")));
        world.cancel(readers[round]);
    }
}
