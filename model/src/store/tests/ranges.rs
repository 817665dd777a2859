use super::*;

fn keys(store: &Store, request: &RangeRequest) -> alloc::string::String {
    let response = store.range(request).unwrap();
    let keys: Vec<_> = response
        .kvs
        .iter()
        .map(|kv| core::str::from_utf8(&kv.key).unwrap())
        .collect();
    let more = if response.more { "+" } else { "" };
    alloc::format!("{}{more} of {}", keys.join(" "), response.count)
}

/// Revisions: a 2, b 3, c 4, b 5, d 6. Values: a 3, b 1, c 2, d 1.
fn world() -> World {
    let mut world = World::default();
    for (key, value) in [("a", "3"), ("b", "9"), ("c", "2"), ("b", "1"), ("d", "1")] {
        world.put(key, value);
    }
    world
}

#[test]
fn key_ranges() {
    let store = world().store;
    let range = |key: &'static str, end: &'static str| {
        let request = RangeRequest {
            key: key.into(),
            range_end: end.into(),
            ..Default::default()
        };
        keys(&store, &request)
    };
    assert_eq!(range("b", ""), "b of 1");
    assert_eq!(range("x", ""), " of 0");
    assert_eq!(range("b", "d"), "b c of 2");
    assert_eq!(range("b", "\0"), "b c d of 3");
    assert_eq!(range("b", "\0\0"), " of 0");
    assert_eq!(range("c", "b"), " of 0");
    assert_eq!(range("c", "c"), " of 0");
}

#[test]
fn revisions() {
    let store = world().store;
    let at = |revision| RangeRequest { revision, ..all() };
    assert_eq!(keys(&store, &at(0)), "a b c d of 4");
    assert_eq!(keys(&store, &at(-5)), "a b c d of 4");
    assert_eq!(keys(&store, &at(i64::MIN)), "a b c d of 4");
    assert_eq!(keys(&store, &at(1)), " of 0");
    assert_eq!(keys(&store, &at(3)), "a b of 2");
    assert_eq!(store.range(&at(7)), Err(Error::FutureRevision));
    assert_eq!(store.range(&at(3)).unwrap().header.unwrap().revision, 6);
}

#[test]
fn orders() {
    let store = world().store;
    let sorted = |sort_order, sort_target, limit| {
        let request = RangeRequest {
            sort_order,
            sort_target,
            limit,
            ..all()
        };
        keys(&store, &request)
    };
    assert_eq!(sorted(2, 0, 0), "d c b a of 4");
    assert_eq!(sorted(1, 1, 0), "a c d b of 4");
    assert_eq!(sorted(2, 1, 0), "b a c d of 4");
    assert_eq!(sorted(2, 2, 0), "d c b a of 4");
    assert_eq!(sorted(1, 3, 0), "a c b d of 4");
    assert_eq!(sorted(1, 4, 0), "b d c a of 4");
    assert_eq!(sorted(2, 4, 3), "a c b+ of 4");
    // Without an order, what is sorted is one key more than asked for.
    assert_eq!(sorted(0, 4, 2), "b c+ of 4");
    assert_eq!(sorted(0, 4, 0), "b d c a of 4");
    // An unknown order sorts nothing.
    assert_eq!(sorted(7, 4, 0), "a b c d of 4");
    assert_eq!(sorted(7, 9, 1), "a+ of 4");
}

#[test]
fn limits_and_filters() {
    let store = world().store;
    let request = RangeRequest { limit: 2, ..all() };
    assert_eq!(keys(&store, &request), "a b+ of 4");
    let request = RangeRequest {
        limit: i64::MAX,
        ..all()
    };
    assert_eq!(keys(&store, &request), "a b c d of 4");
    let request = RangeRequest { limit: -1, ..all() };
    assert_eq!(keys(&store, &request), "a b c d of 4");
    let request = RangeRequest {
        min_mod_revision: 4,
        max_mod_revision: 5,
        ..all()
    };
    assert_eq!(keys(&store, &request), "b c of 4");
    let request = RangeRequest {
        min_create_revision: 3,
        max_create_revision: 4,
        limit: 1,
        ..all()
    };
    assert_eq!(keys(&store, &request), "b+ of 4");
    let request = RangeRequest {
        count_only: true,
        max_mod_revision: 2,
        limit: 1,
        ..all()
    };
    assert_eq!(keys(&store, &request), " of 4");
}

#[test]
fn keys_only() {
    let store = world().store;
    let request = RangeRequest {
        keys_only: true,
        sort_target: 4,
        ..all()
    };
    let response = store.range(&request).unwrap();
    assert!(
        response
            .kvs
            .iter()
            .all(|kv| kv.value.is_empty() && kv.version > 0)
    );
    assert_eq!(response.kvs[0].key, "b");
}
