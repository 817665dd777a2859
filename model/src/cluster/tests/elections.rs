//! Leaders that are lost, and what becomes of calls meanwhile.

use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    MoveLeaderRequest, MoveLeaderResponse, StatusRequest, StatusResponse,
};

use super::*;
use crate::error::Error;

const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const MOVE_LEADER: &str = "/etcdserverpb.Maintenance/MoveLeader";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// The longest that a leader that others can replace is missing.
const ELECTION: Duration = secs(2);

const REQUEST_TIMEOUT: Duration = secs(7);

#[test]
fn a_lost_leader_is_replaced_after_one_to_two_election_timeouts() {
    for seed in 0..20 {
        for fault in [Fault::Crash, Fault::Freeze, Fault::Isolate] {
            let mut world = World::with(Config {
                members: 3,
                seed,
                ..Config::default()
            });
            let (old, follower) = (world.leader(), world.follower());
            world.fault(fault(old));
            world.pass(millis(999));
            assert_eq!(world.cluster.leader(), None);
            assert!(world.cluster.has_leader(follower), "it hasn't noticed yet");
            world.pass(millis(1001));
            assert_ne!(world.leader(), old);
            assert!(world.cluster.has_leader(follower));
            assert!(!world.cluster.has_leader(old), "an isolated one has stepped down");
        }
    }
}

#[test]
fn reads_fail_when_a_new_leader_comes_and_writes_to_the_old_one_time_out() {
    let mut world = World::new(3);
    let (old, asked) = (world.leader(), world.follower());
    world.fault(Fault::Crash(old));
    let start = world.now;
    let read = world.call(asked, RANGE, &range("a"));
    let write = world.call(asked, PUT, &put("a"));
    let stale: RangeResponse = world.answer(asked, RANGE, &serializable("a"));
    assert_eq!(stale.kvs.len(), 0);
    world.pass(ELECTION);
    assert_eq!(world.status(read), Error::LeaderChanged.status());
    assert!(world.is_open(write));
    world.pass(REQUEST_TIMEOUT);
    // Who became leader itself knows best.
    let own = world.leader() == asked;
    let error = if own {
        Error::TimeoutLeaderFailed
    } else {
        Error::Timeout
    };
    assert_eq!(world.status(write), error.status());
    assert_eq!(world.replies[&write].0, start + REQUEST_TIMEOUT);
    assert_eq!(world.get(asked, "a").kvs.len(), 0, "it is lost");
}

#[test]
fn writes_wait_for_a_leader() {
    let mut world = World::new(3);
    let asked = world.follower();
    world.fault(Fault::LoseLeader);
    assert!((0..3).all(|member| !world.cluster.has_leader(member)));
    let read = world.call(asked, RANGE, &range("a"));
    let write = world.call(asked, PUT, &put("a"));
    let refused = world.call_with(asked, PUT, &put("b"), require_leader());
    assert_eq!(world.status(refused), Error::NoLeader.status());
    let status: StatusResponse = world.answer(asked, STATUS, &StatusRequest {});
    assert_eq!(
        (status.leader, &*status.errors),
        (0, &["etcdserver: no leader".into()][..])
    );
    world.pass(ELECTION);
    assert_eq!(world.status(read), Error::LeaderChanged.status());
    assert_eq!(
        world
            .response::<PutResponse>(write)
            .header
            .map(|header| header.raft_term),
        Some(3)
    );
    assert_eq!(world.get(asked, "a").kvs.len(), 1);
}

#[test]
fn without_a_quorum_calls_time_out() {
    let mut world = World::new(3);
    let asked = world.leader();
    for other in [world.follower(), world.other_follower()] {
        world.fault(Fault::Isolate(other));
    }
    // What its clients give to a leader that will step down is lost.
    let lost = world.call(asked, PUT, &put("a"));
    world.pass(ELECTION);
    assert!(!world.cluster.has_leader(asked));
    let start = world.now;
    let read = world.call(asked, RANGE, &range("a"));
    let write = world.call(asked, PUT, &put("a"));
    let ask = world.call(
        asked,
        TIME_TO_LIVE,
        &LeaseTimeToLiveRequest { id: 1, keys: false },
    );
    world.pass(REQUEST_TIMEOUT);
    assert_eq!(world.status(read), Error::Timeout.status());
    assert_eq!(world.status(write), Status::new(4, "context deadline exceeded"));
    assert_eq!(world.status(ask), Error::NoLeader.status());
    for call in [read, write, ask] {
        assert_eq!(world.replies[&call].0, start + REQUEST_TIMEOUT);
    }
    assert_eq!(world.status(lost), Error::Timeout.status());
    world.fault(Fault::Heal((asked + 1) % 3));
    world.pass(ELECTION);
    assert_eq!(world.get(asked, "a").kvs.len(), 0);
}

#[test]
fn a_leader_that_is_reached_again_commits_what_it_was_given() {
    let mut world = World::new(3);
    let leader = world.leader();
    world.fault(Fault::Freeze(leader));
    let write = world.call((leader + 1) % 3, PUT, &put("a"));
    let own = world.call(leader, PUT, &put("b"));
    world.pass(millis(500));
    assert!(world.is_open(write) && world.is_open(own));
    world.fault(Fault::Thaw(leader));
    assert!(!world.is_open(write) && !world.is_open(own));
    assert_eq!(world.leader(), leader);
    world.pass(secs(10));
    assert_eq!(world.leader(), leader, "no election is left over");
    assert_eq!(
        (world.get(leader, "a").kvs.len(), world.get(leader, "b").kvs.len()),
        (1, 1)
    );
}

#[test]
fn an_isolated_member_serves_old_state_and_catches_up() {
    let mut world = World::new(3);
    let (leader, cut) = (world.leader(), world.follower());
    world.fault(Fault::Isolate(cut));
    world.put(leader, "a");
    let stale: RangeResponse = world.answer(cut, RANGE, &serializable("a"));
    assert_eq!(stale.kvs.len(), 0);
    world.pass(millis(900));
    world.fault(Fault::Heal(cut));
    assert_eq!(world.get(cut, "a").kvs.len(), 1);
    // It hadn't noticed.
    world.pass(secs(5));
    assert_eq!(world.leader(), leader);

    world.fault(Fault::Isolate(cut));
    world.pass(ELECTION);
    assert!(!world.cluster.has_leader(cut));
    let read = world.call(cut, RANGE, &range("a"));
    world.fault(Fault::Heal(cut));
    assert_eq!(world.status(read), Error::LeaderChanged.status());
    assert_eq!(world.get(cut, "a").kvs.len(), 1);
}

#[test]
fn who_lacks_committed_entries_is_not_elected() {
    for seed in 0..10 {
        let mut world = World::with(Config {
            members: 3,
            seed,
            ..Config::default()
        });
        let (leader, behind, other) = (world.leader(), world.follower(), world.other_follower());
        world.fault(Fault::Isolate(behind));
        world.put(leader, "a");
        world.fault(Fault::Crash(leader));
        world.fault(Fault::Heal(behind));
        world.pass(ELECTION);
        assert_eq!(world.leader(), other);
        assert_eq!(world.get(behind, "a").kvs.len(), 1);
    }
}

#[test]
fn a_member_that_lags_answers_late() {
    let mut world = World::new(3);
    let (leader, slow) = (world.leader(), world.follower());
    world.fault(Fault::Lag(slow, millis(300)));
    world.put(leader, "a");
    let stale: RangeResponse = world.answer(slow, RANGE, &serializable("a"));
    assert_eq!(stale.kvs.len(), 0);
    let read = world.call(slow, RANGE, &range("a"));
    let write = world.call(slow, PUT, &put("b"));
    assert_eq!(world.get(leader, "b").kvs.len(), 1, "it is committed");
    world.pass(millis(299));
    assert!(world.is_open(read) && world.is_open(write));
    world.pass(millis(1));
    assert_eq!(world.response::<RangeResponse>(read).kvs.len(), 1);
    assert_eq!(
        world
            .response::<PutResponse>(write)
            .header
            .map(|header| header.revision),
        Some(3)
    );
    // Even so slow that the call ends before.
    world.fault(Fault::Lag(slow, secs(20)));
    let write = world.call(slow, PUT, &put("c"));
    world.pass(REQUEST_TIMEOUT);
    assert_eq!(world.status(write), Error::Timeout.status());
    assert_eq!(world.get(leader, "c").kvs.len(), 1);
}

#[test]
fn a_single_member_that_lags_has_committed_more_than_it_has_applied() {
    let mut world = World::new(1);
    world.put(0, "a");
    world.fault(Fault::Lag(0, secs(1)));
    world.call(0, PUT, &put("b"));
    assert_eq!(world.cluster.committed().store().revision(), 3);
    assert_eq!(world.cluster.applied(0).store().revision(), 2);
    assert!(world.cluster.truth.is_some());
    world.fault(Fault::Lag(0, Duration::ZERO));
    assert_eq!(world.cluster.applied(0).store().revision(), 3);
    assert!(
        world.cluster.truth.is_none(),
        "the store isn't kept twice for nothing"
    );
}

#[test]
fn a_crash_answers_nothing_and_keeps_what_is_committed() {
    let mut world = World::new(1);
    world.put(0, "a");
    world.fault(Fault::Lag(0, secs(1)));
    let write = world.call(0, PUT, &put("b"));
    let stream = world.open(0, WATCH, Metadata::default(), 1);
    world.fault(Fault::Crash(0));
    assert_eq!((world.cluster.calls(), world.cluster.streams()), (0, 0));
    let ignored = world.call(0, PUT, &put("c"));
    world.pass(secs(10));
    assert!(world.is_open(write) && world.is_open(ignored) && !world.ended.contains_key(&stream));
    world.fault(Fault::Lag(0, Duration::ZERO));
    world.fault(Fault::Start(0));
    world.pass(ELECTION);
    assert_eq!(world.get(0, "b").kvs.len(), 1);
    assert_eq!(world.get(0, "c").kvs.len(), 0);
}

#[test]
fn a_frozen_member_reads_later_what_was_sent() {
    let mut world = World::new(1);
    world.fault(Fault::Freeze(0));
    let write = world.call(0, PUT, &put("a"));
    let stream = world.open(0, KEEP_ALIVE, Metadata::default(), 1);
    world.handle(Event::HalfClose(stream));
    let gone = world.open(0, KEEP_ALIVE, Metadata::default(), 1);
    world.handle(Event::Reset(gone));
    world.pass(secs(60));
    assert!(world.is_open(write) && world.ended.is_empty());
    world.fault(Fault::Thaw(0));
    assert_eq!(
        world
            .response::<PutResponse>(write)
            .header
            .map(|header| header.revision),
        Some(2)
    );
    assert_eq!(world.ended[&stream].1, Status::OK);
    assert!(!world.ended.contains_key(&gone));
}

#[test]
fn a_request_that_its_client_gave_up_may_still_be_read_by_a_frozen_member() {
    let (mut done, mut dropped) = (0, 0);
    for seed in 0..20 {
        let mut world = World::with(Config {
            seed,
            ..Config::default()
        });
        world.fault(Fault::Freeze(0));
        let write = world.call(0, PUT, &put("a"));
        world.handle(Event::CancelCall(write));
        world.fault(Fault::Thaw(0));
        assert!(world.is_open(write));
        match world.cluster.committed().store().revision() {
            1 => dropped += 1,
            _ => done += 1,
        }
    }
    assert!(done > 0 && dropped > 0);
}

#[test]
fn leadership_moves_on_request() {
    let mut world = World::new(3);
    let (leader, target) = (world.leader(), world.follower());
    let request = |target_id| MoveLeaderRequest { target_id };
    let id = world.cluster.ids(target).1;
    assert_eq!(
        world.refusal(target, MOVE_LEADER, &request(id)),
        Error::NotLeader.status()
    );
    assert_eq!(
        world.refusal(leader, MOVE_LEADER, &request(1)),
        Error::LeaderTransfereeBad.status()
    );
    let _: MoveLeaderResponse = world.answer(leader, MOVE_LEADER, &request(id));
    assert_eq!(world.leader(), target);
    // To who isn't there it doesn't, and the call waits.
    let gone = world.follower();
    world.fault(Fault::Crash(gone));
    let id = world.cluster.ids(gone).1;
    let call = world.call(target, MOVE_LEADER, &request(id));
    world.pass(secs(60));
    assert!(world.is_open(call));
    assert_eq!(world.leader(), target);
}

#[test]
fn a_new_leader_gives_leases_their_whole_time() {
    let mut world = World::new(3);
    let lease: LeaseGrantResponse = world.answer(0, GRANT, &LeaseGrantRequest { id: 7, ttl: 10 });
    assert_eq!(lease.ttl, 10);
    world.pass(secs(8));
    let ask = LeaseTimeToLiveRequest { id: 7, keys: false };
    for member in 0..3 {
        let left: LeaseTimeToLiveResponse = world.answer(member, TIME_TO_LIVE, &ask);
        assert_eq!((left.ttl, left.granted_ttl), (2, 10));
    }
    world.fault(Fault::LoseLeader);
    world.pass(ELECTION);
    let left: LeaseTimeToLiveResponse = world.answer(0, TIME_TO_LIVE, &ask);
    assert!((9..=11).contains(&left.ttl), "{left:?}");
    world.pass(secs(12));
    let left: LeaseTimeToLiveResponse = world.answer(0, TIME_TO_LIVE, &ask);
    assert_eq!((left.ttl, left.granted_ttl), (-1, 0));
    for member in 0..3 {
        assert!(world.cluster.applied(member).leases().get(7).is_none());
    }
}

#[test]
fn who_is_too_far_behind_gets_everything_at_once() {
    let mut world = World::new(3);
    let (leader, behind) = (world.leader(), world.follower());
    world.fault(Fault::Isolate(behind));
    for _ in 0..10_010 {
        world.put(leader, "a");
    }
    world.fault(Fault::Heal(behind));
    assert_eq!(world.get(behind, "a").kvs[0].version, 10_010);
    assert_eq!(
        world.cluster.applied(behind).index(),
        world.cluster.applied(leader).index()
    );
}
