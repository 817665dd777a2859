//! Scenes; where it says so, played on etcd 3.5.30 first.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use etcd_proxy_proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, request_op::Request as Operation,
    watch_create_request::FilterType, watch_request::RequestUnion,
};
use prost::Message;

use super::{PROGRESS_INTERVAL, World, delete, line, put, txn, watch};
use crate::error::Error;

const DUPLICATE: &str = " (mvcc: duplicate watch ID provided on the WatchStream)";
const EMPTY: &str = " (mvcc: watcher range is empty)";

fn world() -> World {
    World::new(128, 2 << 20)
}

/// Revisions 2 to 13 in turns on k1, k2 and k0, compacted up to 6.
fn with_history() -> World {
    let mut world = world();
    for i in 1..13 {
        world.put(&format!("k{}", i % 3), "v");
    }
    world.compact(6);
    world
}

// As etcd 3.5.30 has it.
#[test]
fn ids_and_revisions() {
    let mut world = with_history();
    world.progress();
    assert_eq!(world.lines(), vec![""; 0]);
    world.create(watch("k1", ""));
    assert_eq!(world.lines(), ["13 #0 created"]);
    world.progress();
    assert_eq!(world.lines(), ["13 #-1"]);

    // What is gone is cancelled, and in the way until the client cancels it too.
    let old = WatchCreateRequest {
        start_revision: 3,
        ..watch("k1", "")
    };
    world.create(old);
    assert_eq!(world.lines(), ["13 #1 created", "0 #1 canceled compacted 6"]);
    world.progress();
    assert_eq!(world.lines(), vec![""; 0]);
    let one = WatchCreateRequest {
        watch_id: 1,
        ..watch("k1", "")
    };
    world.create(one.clone());
    assert_eq!(world.lines(), [format!("13 #-1 created canceled{DUPLICATE}")]);
    world.cancel(1);
    assert_eq!(world.lines(), ["13 #1 canceled"]);
    world.cancel(1);
    assert_eq!(world.lines(), vec![""; 0]);
    world.progress();
    assert_eq!(world.lines(), ["13 #-1"]);
    world.create(one);
    assert_eq!(world.lines(), ["13 #1 created"]);

    let past = WatchCreateRequest {
        start_revision: 6,
        prev_kv: true,
        ..watch("k1", "")
    };
    world.create(past);
    assert_eq!(world.lines(), ["13 #2 created", "13 #2 +k1@8<5 +k1@11<8"]);
    let negative = WatchCreateRequest {
        start_revision: -4,
        ..watch("k1", "")
    };
    world.create(negative);
    let reason = "(etcdserver: mvcc: required revision has been compacted)";
    assert_eq!(world.lines(), [format!("13 #-1 created canceled {reason}")]);
    let future = WatchCreateRequest {
        start_revision: 100,
        ..watch("k1", "")
    };
    world.create(future);
    assert_eq!(world.lines(), ["13 #3 created"]);
    world.progress();
    assert_eq!(world.lines(), vec![""; 0]);
    world.cancel(3);
    world.cancel(77);
    world.progress();
    assert_eq!(world.lines(), ["13 #3 canceled", "13 #-1"]);

    world.create(watch("z", "a"));
    world.create(watch("z", "z"));
    let empty = format!("13 #-1 created canceled{EMPTY}");
    assert_eq!(world.lines(), [empty.clone(), empty]);
    let with_id = |watch_id| WatchCreateRequest {
        watch_id,
        ..watch("k", "")
    };
    world.create(watch("", "\0"));
    world.create(watch("", ""));
    world.create(with_id(-1));
    world.create(with_id(-7));
    world.create(with_id(-1));
    world.create(with_id(7));
    world.create(with_id(6));
    world.create(watch("k", ""));
    let created = [4, 5, -1, -7].map(|id| format!("13 #{id} created"));
    let mut expected: Vec<String> = created.into();
    expected.push(format!("13 #-1 created canceled{DUPLICATE}"));
    expected.extend([7, 6, 8].map(|id| format!("13 #{id} created")));
    assert_eq!(world.lines(), expected);

    world
        .stream
        .handle(world.now, world.state.store(), WatchRequest::default(), |_, _| {
            Ok(())
        });
    assert_eq!(world.lines(), vec![""; 0]);
}

// As etcd 3.5.30 has it.
#[test]
fn one_transaction_is_one_response() {
    let mut world = with_history();
    let both = [FilterType::Noput.into(), FilterType::Nodelete.into()];
    let filtered = |filters: &[i32]| WatchCreateRequest {
        filters: filters.into(),
        ..watch("k", "l")
    };
    world.create(watch("", "\0"));
    world.create(filtered(&both));
    world.create(filtered(&both[..1]));
    world.create(filtered(&both[1..]));
    world.create(filtered(&[9]));
    let previous = WatchCreateRequest {
        prev_kv: true,
        ..watch("k1", "l")
    };
    world.create(previous);
    assert_eq!(world.lines().len(), 6);
    let operations = [
        Operation::RequestPut(put("k1", "x")),
        Operation::RequestDeleteRange(delete("k2")),
        Operation::RequestPut(put("k", "x")),
    ];
    world.apply(txn(operations));
    let expected = [
        "14 #0 +k1@14 -k2@14 +k@14",
        "14 #2 -k2@14",
        "14 #3 +k1@14 +k@14",
        "14 #4 +k1@14 -k2@14 +k@14",
        "14 #5 +k1@14<11 -k2@14<12",
    ];
    assert_eq!(world.lines(), expected);
}

// As etcd 3.5.30 has it, but for the reason of a token that became old, which was not provoked.
#[test]
fn refusals() {
    let mut world = world();
    let refusals = [
        (
            Error::AuthOldRevision,
            "InvalidArgument desc = etcdserver: revision of auth store is old",
        ),
        (
            Error::InvalidAuthToken,
            "Unauthenticated desc = etcdserver: invalid auth token",
        ),
        (
            Error::PermissionDenied,
            "PermissionDenied desc = etcdserver: permission denied",
        ),
        (
            Error::UserEmpty,
            "InvalidArgument desc = etcdserver: user name is empty",
        ),
    ];
    for (error, reason) in refusals {
        // The range is looked at only if the caller may.
        world.handle(RequestUnion::CreateRequest(watch("z", "a")), Err(error));
        let expected = format!("1 #-1 created canceled (rpc error: code = {reason})");
        assert_eq!(world.lines(), [expected]);
    }
    let negative = WatchCreateRequest {
        start_revision: -1,
        ..watch("a", "")
    };
    world.handle(RequestUnion::CreateRequest(negative), Err(Error::UserEmpty));
    let reason = "(etcdserver: mvcc: required revision has been compacted)";
    assert_eq!(world.lines(), [format!("1 #-1 created canceled {reason}")]);
    // Refused ones use up no id.
    world.create(watch("a", ""));
    assert_eq!(world.lines(), ["1 #0 created"]);
}

// As etcd 3.5.30 has it.
#[test]
fn what_permission_is_asked_for() {
    let cases = [
        (watch("a", ""), "a", ""),
        (watch("a", "b"), "a", "b"),
        (watch("", ""), "\0", ""),
        (watch("", "b"), "\0", "b"),
        (watch("a", "\0"), "a", ""),
    ];
    for (request, key, range_end) in cases {
        let mut world = world();
        let mut asked = Vec::new();
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(request)),
        };
        world
            .stream
            .handle(world.now, world.state.store(), request, |key, range_end| {
                asked.push((key.to_vec(), range_end.to_vec()));
                Ok(())
            });
        assert_eq!(asked, [(key.into(), range_end.into())]);
    }
}

#[test]
fn history_comes_in_batches() {
    let mut world = world();
    for i in 0..2500 {
        world.put(if i % 2 == 0 { "a" } else { "b" }, "");
    }
    let from = |start_revision, key, range_end| WatchCreateRequest {
        start_revision,
        ..watch(key, range_end)
    };
    world.create(from(2, "a", "c"));
    world.create(from(2, "b", ""));
    world.create(from(2500, "a", "c"));
    world.create(from(2, "none", ""));
    let mut batches = Vec::new();
    let mut round = |world: &mut World| {
        let responses = world.responses();
        let batch = |response: &WatchResponse| {
            assert_eq!(response.header.as_ref().map(|header| header.revision), Some(2501));
            (response.watch_id, response.events.len())
        };
        batches.push(responses.iter().map(batch).collect::<Vec<_>>());
    };
    round(&mut world);
    for _ in 0..4 {
        world.pass(Duration::from_millis(100));
        round(&mut world);
    }
    let expected = [
        vec![(0, 0), (1, 0), (2, 0), (3, 0)],
        vec![(0, 1000), (1, 1000), (2, 2)],
        vec![(0, 1000), (1, 250)],
        vec![(0, 500)],
        vec![],
    ];
    assert_eq!(batches, expected);
    assert_eq!(world.stream.next_timeout(), None);
    world.put("none", "");
    assert_eq!(world.lines(), ["2502 #3 +none@2502"]);
}

#[test]
fn events_meanwhile_are_not_sent_twice() {
    let mut world = world();
    world.put("a", "");
    world.create(WatchCreateRequest {
        start_revision: 2,
        ..watch("a", "")
    });
    world.put("a", "");
    assert_eq!(world.lines(), ["2 #0 created", "3 #0 +a@2 +a@3"]);
    world.put("a", "");
    assert_eq!(world.lines(), ["4 #0 +a@4"]);
}

#[test]
fn who_does_not_take_responses_catches_up_later() {
    let mut world = World::new(2, 2 << 20);
    world.create(watch("a", ""));
    world.create(watch("a", "c"));
    for i in 0..5 {
        world.put(if i == 2 { "b" } else { "a" }, "");
    }
    world.pass(Duration::from_secs(1));
    // While it lags, it can't be told that it doesn't.
    world.progress();
    let expected = [
        // The buffer.
        "1 #0 created",
        "1 #1 created",
        "2 #0 +a@2",
        "2 #1 +a@2",
        // What was held.
        "3 #0 +a@3",
        "3 #1 +a@3",
        // History.
        "6 #0 +a@5 +a@6",
        "6 #1 +b@4 +a@5 +a@6",
    ];
    assert_eq!(world.lines(), expected);
    world.progress();
    assert_eq!(world.lines(), ["6 #-1"]);
}

#[test]
fn a_lagging_watcher_loses_what_is_compacted() {
    let mut world = World::new(1, 2 << 20);
    world.create(watch("a", ""));
    for _ in 0..4 {
        world.put("a", "");
    }
    world.compact(5);
    let expected = [
        "1 #0 created",
        "2 #0 +a@2",
        "3 #0 +a@3",
        "0 #0 canceled compacted 5",
    ];
    assert_eq!(world.lines(), expected);
    world.put("a", "");
    assert_eq!(world.lines(), vec![""; 0]);
}

#[test]
fn previous_values_are_looked_up_late() {
    let mut world = world();
    world.create(WatchCreateRequest {
        prev_kv: true,
        ..watch("a", "")
    });
    for _ in 0..3 {
        world.put("a", "");
    }
    world.delete("a");
    world.compact(3);
    let expected = [
        "1 #0 created",
        "2 #0 +a@2",
        "3 #0 +a@3",
        "4 #0 +a@4<3",
        "5 #0 -a@5<4",
    ];
    assert_eq!(world.lines(), expected);
}

#[test]
fn progress_notifications() {
    let mut world = world();
    let notify = |key, start_revision| WatchCreateRequest {
        progress_notify: true,
        start_revision,
        ..watch(key, "")
    };
    world.create(notify("a", 0));
    world.create(notify("b", 100));
    world.create(watch("a", ""));
    assert_eq!(world.lines().len(), 3);
    let interval = world.stream.progress_interval;
    assert!(interval >= PROGRESS_INTERVAL && interval <= PROGRESS_INTERVAL.mul_f64(1.1));
    world.pass(interval);
    assert_eq!(world.lines(), ["1 #0"]);
    // Events make the next one needless, but not the one after.
    world.put("a", "");
    assert_eq!(world.lines(), ["2 #0 +a@2", "2 #2 +a@2"]);
    world.pass(interval);
    assert_eq!(world.lines(), vec![""; 0]);
    world.pass(interval);
    assert_eq!(world.lines(), ["2 #0"]);
    // A stream that nobody looks after for long doesn't make up for it.
    world.now = world.now + interval * 10;
    assert_eq!(world.responses().iter().map(line).collect::<Vec<_>>(), ["2 #0"]);
    world.cancel(0);
    world.cancel(1);
    assert_eq!(world.lines(), ["2 #0 canceled", "2 #1 canceled"]);
    assert_eq!(world.stream.next_timeout(), None);
}

// What nobody waited for is not made up for.
#[test]
fn the_first_notification_is_not_from_before() {
    let mut world = world();
    world.now = world.now + world.stream.progress_interval * 5 / 2;
    world.create(WatchCreateRequest {
        progress_notify: true,
        ..watch("a", "")
    });
    assert_eq!(world.lines(), ["1 #0 created"]);
    world.pass(world.stream.progress_interval / 2);
    assert_eq!(world.lines(), ["1 #0"]);
}

#[test]
fn large_responses_are_split() {
    const MAX: usize = 1000;
    for fragment in [false, true] {
        let mut world = World::new(128, MAX);
        for size in [400, 400, 400, 5000, 10, 10] {
            world.put("a", &"v".repeat(size));
        }
        world.create(WatchCreateRequest {
            fragment,
            start_revision: 2,
            ..watch("a", "")
        });
        assert_eq!(world.responses().len(), 1);
        world.pass(Duration::from_millis(100));
        let responses = world.responses();
        let lines: Vec<String> = responses.iter().map(line).collect();
        if fragment {
            let expected = [
                "7 #0 fragment +a@2 +a@3",
                "7 #0 fragment +a@4",
                "7 #0 fragment +a@5",
                "7 #0 +a@6 +a@7",
            ];
            assert_eq!(lines, expected);
            let small = |response: &WatchResponse| response.encoded_len() < MAX;
            assert!(
                responses
                    .iter()
                    .all(|response| small(response) || response.events.len() == 1)
            );
        } else {
            assert_eq!(lines, ["7 #0 +a@2 +a@3 +a@4 +a@5 +a@6 +a@7"]);
        }
    }
}

#[test]
fn a_server_stops_reading_when_answers_pile_up() {
    let mut world = world();
    for id in 1..=128 {
        assert!(!world.stream.is_blocked());
        world.create(WatchCreateRequest {
            watch_id: id,
            ..watch("a", "")
        });
    }
    assert!(world.stream.is_blocked());
    assert!(world.pump(true).is_some());
    assert!(!world.stream.is_blocked());
}

#[test]
fn a_stream_that_slept_through_a_compaction_starts_over() {
    let mut world = world();
    world.create(watch("a", ""));
    world.create(WatchCreateRequest {
        start_revision: 100,
        ..watch("a", "")
    });
    assert_eq!(world.lines().len(), 2);
    let mut ahead = World::new(1, 1);
    for _ in 0..4 {
        ahead.put("a", "");
    }
    ahead.compact(4);
    world.state = ahead.state;
    assert_eq!(world.lines(), ["0 #0 canceled compacted 4"]);
}
