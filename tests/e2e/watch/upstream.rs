//! What watchers cost the cluster, counted between the proxy and a member: rows 40 to 44.

use std::time::{Duration, Instant};

use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;
use etcd_proxy_tests::{
    suite::eventually,
    tap::Cut,
    watching::{ANSWER_LIMIT, Account, Watching, on_key, on_prefix},
};
use libtest_mimic::Trial;

use crate::world::{Between, Upstream, World, scenario};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    let far = Between::Tap(Duration::from_millis(20));
    let near = Between::Tap(Duration::ZERO);
    vec![
        scenario(upstream, "far_away", far, far_away),
        scenario(upstream, "no_range_is_read", near, no_range_is_read),
        scenario(upstream, "previous_values_on_demand", near, previous_values),
        scenario(upstream, "covered_keys", near, covered_keys),
    ]
}

/// Rows 40 and 42: a thousand keys on a member that is 40 ms away are registered in a few round trips, on a few
/// streams, also after these break.
async fn far_away(world: World) -> World {
    const KEYS: usize = 1000;
    let key = |number: usize| world.key(&format!("{number:04}"));
    let mut watching = Watching::open(&world.wire().await, &[]).await;
    let mut account = Account::default();
    let start = Instant::now();
    for number in 0..KEYS {
        watching.create(on_key(&key(number))).await;
    }
    for _ in 0..KEYS {
        account.take(&watching.next().await).expect("created");
    }
    let created = start.elapsed();
    // A client may have its answer before the member has the request: the watcher starts where the answer says.
    let record = eventually("all watchers upstream", ANSWER_LIMIT, async || {
        let record = world.tap().record();
        (record.creates.len() >= KEYS).then_some(record)
    })
    .await;
    assert_eq!(record.creates.len(), KEYS, "watchers upstream");
    assert!(
        record.rounds <= KEYS / 10,
        "{} round trips for {KEYS} keys",
        record.rounds
    );
    assert!(
        (2..=16).contains(&record.used_watches),
        "{KEYS} watchers on {} streams",
        record.used_watches
    );
    let reads = record.ranges.len();
    assert!(reads <= KEYS / 10, "{reads} reads for {KEYS} creates");

    world.tap().cut(Cut::Status(14, "broken"));
    let start = Instant::now();
    for number in 0..KEYS {
        world.put(&key(number), "after").await;
    }
    let mut seen = 0;
    while seen < KEYS {
        let answer = watching.next().await;
        account.take(&answer).expect("an event");
        seen += answer.events.len();
    }
    let resumed = start.elapsed();
    for watcher in account.watchers.values() {
        assert_eq!(watcher.marks.len(), 1, "events of a key that was put once");
    }
    let again = world.tap().record();
    let (creates, cancels) = (again.creates.len() - KEYS, again.cancels);
    // Once where it was, and once more when what was written meanwhile turns out to be missing.
    assert!(creates <= 2 * KEYS, "{creates} creates to resume {KEYS} keys");
    let rounds = again.rounds - record.rounds;
    assert!(rounds <= KEYS / 10, "{rounds} round trips to resume {KEYS} keys");
    println!(
        "far_away: {KEYS} keys over 40 ms: created in {created:.0?}, {} round trips, {} streams, {reads} reads; \
         after a break all events within {resumed:.0?}, {rounds} round trips, {creates} creates, {cancels} cancels",
        record.rounds, record.used_watches
    );
    world
}

/// Row 41: no create reads or counts a range.
async fn no_range_is_read(world: World) -> World {
    for number in 0..20 {
        world.put(&world.key(&number.to_string()), "").await;
    }
    let mut followers = Vec::new();
    for number in 0..100 {
        let create = if number % 2 == 0 {
            on_prefix(&world.prefix)
        } else {
            on_prefix(&world.key(&(number % 10).to_string()))
        };
        followers.push(world.follow(create).await);
    }
    let record = world.tap().record();
    let ranges: Vec<_> = record
        .ranges
        .iter()
        .filter(|range| !range.range_end.is_empty())
        .collect();
    assert!(ranges.is_empty(), "ranges were read: {:?}", ranges[0]);
    assert!(
        record.ranges.len() <= 100,
        "{} reads for 100 creates",
        record.ranges.len()
    );
    world
}

/// Row 44: previous values are asked for when somebody wants them, and only then are on the wire.
async fn previous_values(world: World) -> World {
    const ROUNDS: usize = 20;
    const VALUE: usize = 100_000;
    let key = world.key("k");
    let large = "x".repeat(VALUE);
    world.put(&key, &large).await;
    let mut plain = world.follow(on_key(&key)).await;
    let before = world.tap().record().watch_bytes;
    let mut last = 0;
    for _ in 0..ROUNDS {
        last = world.put(&key, &large).await;
    }
    plain.until(last).await;
    let bytes = world.tap().record().watch_bytes - before;
    let wanted = ROUNDS * VALUE;
    assert!(
        bytes < wanted + wanted / 2,
        "{bytes} bytes for {wanted} bytes of values"
    );
    assert!(
        world.tap().record().creates.iter().all(|create| !create.prev_kv),
        "nobody wants previous values"
    );

    let create = WatchCreateRequest {
        prev_kv: true,
        ..on_key(&key)
    };
    let (mut wanting, _) = world.watch(create).await;
    for number in 0..3 {
        last = world.put(&key, &number.to_string()).await;
        let answer = wanting.next().await;
        let previous = answer.events[0].prev_kv.as_ref().expect("a previous value");
        assert_eq!(previous.mod_revision, last - 1);
        let size = if number == 0 { VALUE } else { 1 };
        assert_eq!(previous.value.len(), size);
        let answer = plain.watching.next().await;
        assert!(answer.events[0].prev_kv.is_none(), "not asked for");
        plain.account.take(&answer).expect("an event");
    }
    world
}

/// Keys inside a range that is watched already cost the cluster nothing more, and go on when the wide watcher leaves.
async fn covered_keys(world: World) -> World {
    let mut wide = world.follow(on_prefix(&world.prefix)).await;
    // Upstream it must be live before it can cover anybody.
    let revision = world.put(&world.key("start"), "").await;
    wide.until(revision).await;
    let mut narrow = Vec::new();
    for number in 0..50 {
        let key = world.key(&number.to_string());
        narrow.push((key.clone(), world.follow(on_key(&key)).await));
    }
    let creates = world.tap().record().creates.len();
    assert!(
        creates <= 2,
        "{creates} watchers upstream for a prefix and keys in it"
    );
    let mut wide = Some(wide);
    for round in ["covered", "the wide one leaves", "on their own"] {
        if round == "the wide one leaves" {
            wide = None;
        }
        for (key, follower) in &mut narrow {
            let revision = world.put(key, round).await;
            follower.until(revision).await;
            assert_eq!(follower.revisions().last(), Some(&revision), "{round}");
        }
    }
    assert!(wide.is_none());
    for (key, follower) in &narrow {
        assert_eq!(follower.revisions().len(), 3, "{key}");
    }
    world
}
