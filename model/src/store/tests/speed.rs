//! Nothing here may take time that grows with the square of the number of keys: at these sizes that would be noticed.

use super::*;

const KEYS: usize = 100_000;

#[test]
fn many_keys() {
    let mut world = World::default();
    for n in 0..KEYS {
        world.put(&alloc::format!("key{n:06}"), "value");
    }
    let response = world.store.range(&all()).unwrap();
    assert_eq!(response.kvs.len(), KEYS);
    let request = RangeRequest {
        limit: 10,
        sort_order: 2,
        sort_target: 3,
        ..all()
    };
    let response = world.store.range(&request).unwrap();
    assert_eq!(response.kvs[0].key, "key099999");
    // A watcher that follows closely reads the end of the log only.
    for n in 0..KEYS {
        let revision = 2 + n as i64;
        assert_eq!(
            world.store.log_from(revision).next().unwrap().revision(),
            revision
        );
    }
    assert_eq!(world.delete("key", "kez"), KEYS as i64);
    world.store.compact(world.store.revision()).unwrap();
    assert_eq!(world.store.log_from(0).count(), KEYS);
    world.put("a", "");
    world.store.compact(world.store.revision()).unwrap();
    assert_eq!(world.store.size(), 1);
}

#[test]
fn many_revisions_of_one_key() {
    let mut world = World::default();
    for n in 0..KEYS {
        world.put("key", &alloc::format!("{n}"));
    }
    for n in 0..KEYS {
        assert_eq!(
            world.store.at(b"key", 2 + n as i64).unwrap().version,
            1 + n as i64
        );
    }
}
