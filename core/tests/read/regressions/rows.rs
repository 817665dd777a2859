//! Rows 6 to 10, 45 and 46, and DEV-19, which sums some of them up.

use etcd_proxy_core::read::{Actions, Admission, Event, ReadOutcome, Reason, Write, written};
use etcd_proxy_proto::etcdserverpb::{RangeResponse, ResponseHeader};
use prost::Message as _;

use super::{SECOND, TRIP, cached, delete, forwarded, linearizable, put, serializable, world};
use crate::world::ms;

/// Auth is switched on by somebody else. Who asks without credentials is refused, by members and so by the cache.
#[test]
fn row_6_auth_elsewhere() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "secret")]);
    world.warm(&serializable("a", ""));
    world.cluster.push(|state| state.auth = true);
    world.change_cluster();
    // A linearizable read asks, and so finds out at once.
    let reader = world.read(linearizable("a", ""));
    world.run(TRIP * 2);
    assert_eq!(
        world.readers[reader]
            .response
            .as_ref()
            .expect("there is one")
            .as_ref()
            .unwrap_err()
            .code,
        3
    );
    assert_eq!(world.cache.stats().entries, 0);
    for _ in 0..3 {
        let reader = world.read(serializable("a", ""));
        world.run(TRIP * 2);
        assert!(
            world.readers[reader]
                .response
                .as_ref()
                .expect("there is one")
                .is_err()
        );
    }
    assert!(world.cache.stats().bypasses[Reason::Auth as usize] >= 3);
    // Serializable reads alone don't show that it is off again, but they are the reason to find out.
    world.cluster.push(|state| state.auth = false);
    world.change_cluster();
    assert_eq!(world.value(serializable("a", "")), forwarded("secret"));
    world.warm(&serializable("a", ""));
}

/// The same, if nobody reads linearizably: the bound on staleness is the bound on this as well.
#[test]
fn row_6_serializable_reads_only() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "secret")]);
    world.warm(&serializable("a", ""));
    world.cluster.push(|state| state.auth = true);
    world.change_cluster();
    let switched = world.now;
    let mut last = switched;
    for _ in 0..2000 {
        let reader = world.read(serializable("a", ""));
        world.run(ms(2));
        if matches!(&world.readers[reader].response, Some(Ok(_))) {
            last = world.now;
        }
    }
    assert!(
        last - switched <= world.config.staleness_max + TRIP,
        "{:?}",
        last - switched
    );
}

/// Auth is switched on through this proxy: nothing is served from then on.
#[test]
fn row_6_auth_through_this_proxy() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "secret")]);
    world.warm(&serializable("a", ""));
    world.tell(Event::AuthMayHaveChanged);
    assert_eq!(world.cache.stats().entries, 0);
    // It isn't there yet. What is read now is right now, and proves nothing for later.
    world.warm(&serializable("a", ""));
    world.cluster.push(|state| state.auth = true);
    world.change_cluster();
    world.tell(Event::AuthMayHaveChanged);
    let reader = world.read(serializable("a", ""));
    world.run(TRIP);
    assert!(
        world.readers[reader]
            .response
            .as_ref()
            .expect("there is one")
            .is_err()
    );
}

/// Writes and deletes by others, as of a lease that ends, are seen as soon as the watch tells of them.
#[test]
fn row_7_writes_elsewhere() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    world.write_elsewhere(&[put("a", "2")]);
    world.run(ms(1));
    assert_eq!(world.value(serializable("a", "")), forwarded("2"));
    assert_eq!(world.value(serializable("a", "")), cached("2"));
    world.write_elsewhere(&[delete("a", "")]);
    world.run(ms(1));
    assert_eq!(world.value(serializable("a", "")), forwarded(""));
    assert_eq!(world.value(serializable("a", "")), cached(""));
    // Another key: the revision in the header is that of the store.
    let before = world.cluster.last().revision;
    world.write_elsewhere(&[put("b", "3")]);
    world.run(ms(1));
    let reader = world.read(serializable("a", ""));
    let response = world.readers[reader]
        .response
        .clone()
        .expect("at once")
        .expect("it is allowed");
    assert_eq!(response.header.expect("there is one").revision, before + 1);
}

/// The watch is silent, and doesn't even break: no answer is older than the bound.
#[test]
fn row_7_bounded() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    world.faults.watch_latency = 60_000_000;
    world.write_elsewhere(&[put("a", "2")]);
    let written = world.now;
    let first = world.readers.len();
    for _ in 0..1000 {
        world.read(serializable("a", ""));
        world.run(ms(3));
    }
    world.run(SECOND);
    let mut last = written;
    for reader in &world.readers[first..] {
        let response = reader.response.clone().expect("by now").expect("it is allowed");
        if response.kvs[0].value == b"1"[..] {
            last = reader.came_at + reader.took;
        }
    }
    assert!(last > written, "it may be old");
    // Not older than the bound, and how long it takes to ask.
    assert!(
        last - written <= world.config.staleness_max + TRIP,
        "{:?}",
        last - written
    );
}

/// Who has seen a newer state in a watch isn't shown an older one.
#[test]
fn row_7_watch_then_read() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    world.faults.watch_latency = 60_000_000;
    let revision = world.write_elsewhere(&[put("a", "2")]);
    // Another watch is quicker.
    world.show(revision);
    let reader = world.read(serializable("a", ""));
    world.run(world.config.wait_max + TRIP);
    let response = world.readers[reader]
        .response
        .clone()
        .expect("by now")
        .expect("it is allowed");
    assert_eq!(&response.kvs[0].value[..], b"2");
    assert!(world.readers[reader].took >= world.config.wait_max);
    // From now on it is known that waiting doesn't help.
    let reader = world.read(serializable("a", ""));
    world.run(TRIP);
    assert!(world.readers[reader].took < TRIP);
}

/// Readers all the time, and each write is read after it: 300 of 300.
#[test]
fn row_8_own_writes_are_visible() {
    let mut world = world();
    for number in 0..300 {
        let value = number.to_string();
        let own = world.write(vec![put("a", &value)]);
        for _ in 0..6 {
            world.read(serializable("a", ""));
            world.run(ms(1) / 2);
        }
        world.run(TRIP);
        if world.own[own].revision.is_some() {
            assert_eq!(world.value(serializable("a", "")).0, value);
        }
    }
    assert!(world.cache.stats().hits_serializable > 50);
}

/// What a transaction would do in a branch that it doesn't take, or that is refused, costs nobody an entry; nor does a
/// transaction inside it.
#[test]
fn row_9_branches_not_taken() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    // If nothing is compared, delete everything, or else put "b"; and the other way round.
    let branches = [
        &b"\x12\x0a\x1a\x08\x0a\x01\0\x12\x01\0\x18\x00\x1a\x07\x12\x05\x0a\x01b\x12\x00"[..],
        b"\x1a\x0b\x22\x09\x12\x07\x12\x05\x0a\x01a\x12\x00",
    ];
    for request in branches {
        let revision = world.cluster.last().revision;
        world
            .cache
            .written(&written(Write::Txn, &request.into(), b""), revision + 1);
        assert_eq!(world.cache.stats().entries, 1);
    }
    assert_eq!(world.value(serializable("a", "")), cached("1"));
    // Over the network, with everything that a client can do to it.
    world.faults.writes_lost = 500;
    for _ in 0..200 {
        world.write(vec![put("b", "2"), put("c", "2")]);
        world.run(ms(1));
    }
    world.run(SECOND);
    assert_eq!(world.cache.stats().invalidated, 0, "nothing has touched it");
    assert_eq!(world.value(serializable("a", "")), cached("1"));
}

/// Ranges without end, of reads and of writes.
#[test]
fn row_10_no_end() {
    let mut world = world();
    world.write_elsewhere(&[put("m", "1")]);
    world.warm(&serializable("b", "\0"));
    world.warm(&serializable("\0", "\0"));
    world.write_elsewhere(&[put("x", "2")]);
    world.run(ms(1));
    assert_eq!(world.value(serializable("b", "\0")), forwarded("2"));
    assert_eq!(world.value(serializable("\0", "\0")), forwarded("2"));
    world.warm(&serializable("x", ""));
    world.write(vec![delete("c", "\0")]);
    world.run(TRIP);
    assert_eq!(world.value(serializable("x", "")).0, "");
}

/// Very many keys, each read once: what is kept is bounded, and nothing else is.
#[test]
fn row_45_memory() {
    let mut world = world();
    let mut actions = Actions::new();
    world.warm(&serializable("a", ""));
    let body = RangeResponse {
        header: Some(ResponseHeader {
            cluster_id: crate::cluster::CLUSTER_ID,
            member_id: 1,
            revision: world.cluster.last().revision,
            raft_term: crate::cluster::TERM,
        }),
        count: 0,
        ..RangeResponse::default()
    };
    let response: bytes::Bytes = body.encode_to_vec().into();
    let mut most = 0;
    for number in 0..1_000_000 {
        let request = serializable(&format!("key-{number}"), "").encode_to_vec().into();
        let Admission::Forward(ticket) = world.cache.admit_read(world.now, &request, 0, &mut actions) else {
            panic!("it is new");
        };
        let outcome = ReadOutcome::Answered(response.clone());
        world
            .cache
            .complete_read(world.now, ticket, outcome, &mut actions);
        let stats = world.cache.stats();
        most = most.max(stats.bytes + stats.index_bytes);
    }
    let stats = world.cache.stats();
    assert!(actions.is_empty(), "{actions:?}");
    assert!(most <= world.config.bytes_max && most > world.config.bytes_max * 9 / 10);
    assert_eq!((stats.flights, stats.waiters), (0, 0));
    assert_eq!(
        stats.admitted - stats.evicted - stats.invalidated,
        stats.entries as u64
    );
    assert!(stats.entries > 100_000, "{stats:?}");
}

/// After a compaction reads are cached as before, but those of what is gone.
#[test]
fn row_46_compaction() {
    let mut world = world();
    for value in ["1", "2", "3"] {
        world.write_elsewhere(&[put("a", value)]);
    }
    let mut old = serializable("a", "");
    old.revision = 3;
    let mut older = old.clone();
    older.revision = 2;
    world.warm(&serializable("a", ""));
    world.warm(&old);
    assert_eq!(world.value(old.clone()), cached("2"));
    world.cluster.push(|state| state.compacted = 3);
    world.change_cluster();
    world.told.compacted = 2;
    world.cache.compacted(2);
    assert_eq!(world.value(old.clone()), cached("2"), "it is still there");
    let reader = world.read(older);
    world.run(TRIP);
    let status = world.readers[reader]
        .response
        .clone()
        .expect("there is one")
        .unwrap_err();
    assert_eq!(
        (status.code, &*status.message),
        (11, "etcdserver: mvcc: required revision has been compacted")
    );
    // Somebody else compacts: it is noticed in time, and at once when it is said.
    world.cluster.push(|state| state.compacted = 4);
    world.change_cluster();
    world.run(SECOND);
    assert!(world.read(old.clone()) > 0);
    world.run(TRIP);
    assert!(
        world.readers[world.readers.len() - 1]
            .response
            .as_ref()
            .expect("there is one")
            .is_err()
    );
    world.value(serializable("a", ""));
    assert_eq!(world.value(serializable("a", "")), cached("3"));
}

/// A reply that says so drops all that is older.
#[test]
fn row_46_compacted_reply() {
    let mut world = world();
    for value in ["1", "2", "3"] {
        world.write_elsewhere(&[put("a", value)]);
    }
    for revision in [2, 3, 4] {
        let mut request = serializable("a", "");
        request.revision = revision;
        world.warm(&request);
    }
    assert_eq!(world.cache.stats().entries, 3);
    world.cluster.push(|state| state.compacted = 4);
    world.change_cluster();
    let mut request = serializable("b", "");
    request.revision = 3;
    world.read(request);
    world.run(TRIP);
    assert_eq!(world.cache.stats().entries, 1);
}
