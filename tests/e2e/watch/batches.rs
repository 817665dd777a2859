//! How what lies in the past is put together, when it comes from the proxy's own history.

use etcd_proxy_proto::etcdserverpb::{CompactionRequest, CompactionResponse, WatchCreateRequest};
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    suite::trial,
    watching::{Account, on_key, on_prefix, since},
};
use libtest_mimic::Trial;

use crate::{
    lockstep::Lockstep,
    world::{Between, Upstream, World, scenario},
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "few_messages", Between::Nothing, few_messages),
        trial("compacted_previous_values", compacted_previous_values),
    ]
}

/// A watcher of what others have watched gets it in a few messages, as from a server, and each header is good to go on
/// behind.
async fn few_messages(world: World) -> World {
    const COUNT: i64 = 2500;
    let mut live = world.follow(on_prefix(&world.prefix)).await;
    let first = world.put(&world.key("0"), "").await;
    let mut last = first;
    for number in 1..COUNT {
        last = world.put(&world.key(&(number % 7).to_string()), "value").await;
    }
    live.until(last).await;
    let (mut watching, created) = world.watch(since(first, on_prefix(&world.prefix))).await;
    let mut account = Account::default();
    account.take(&created).expect("a fine created answer");
    let (mut messages, mut behind) = (0, 0);
    while account.only().position < last {
        let answer = watching.next().await;
        let begins = answer.events[0].kv.as_ref().expect("a pair").mod_revision;
        assert!(behind < begins, "who goes on behind {behind} misses {begins}");
        behind = answer.header.expect("a header").revision;
        account.take(&answer).expect("its events");
        messages += 1;
    }
    assert_eq!(account.only().marks, live.account.only().marks);
    // Others write to the same member, so the source of this range may see less than a thousand revisions in a row.
    assert!(messages <= 10, "{COUNT} events in {messages} messages");
    world
}

/// The previous value of an event is what the store has in the revision before, and nothing if that was compacted.
async fn compacted_previous_values() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("compacted_previous", &cluster, Between::Nothing).await;
    let key = world.key("k");
    let with_previous = |create| WatchCreateRequest {
        prev_kv: true,
        ..create
    };
    world.put(&key, "created").await;
    let mut live = world.follow(with_previous(on_key(&key))).await;
    let mut last = 0;
    for number in 0..10 {
        last = world.put(&key, &number.to_string()).await;
    }
    live.until(last).await;
    let compaction = CompactionRequest {
        revision: last - 5,
        physical: true,
    };
    let path = "/etcdserverpb.KV/Compact";
    let answer = world.proxied.wire.unary(path, &[], &compaction).await;
    let _: CompactionResponse = answer.expect("compact");
    let mut both = Lockstep::open(&world.direct.wire, &world.wire().await, &[]).await;
    for start in [last - 5, last - 4] {
        let created = both.created(with_previous(since(start, on_key(&key)))).await;
        let events = both.past((last - start + 1) as usize).await;
        let has_previous: Vec<bool> = events.iter().map(|event| event.prev_kv.is_some()).collect();
        assert_eq!(has_previous[0], start > last - 5, "from {start}");
        assert!(has_previous[1..].iter().all(|has| *has), "from {start}");
        both.cancel(created.watch_id).await;
        assert!(both.next().await.canceled);
    }
    world.proxy.assert_sound();
}
