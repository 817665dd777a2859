//! Named scenarios: what the proxy promises, and defects that the simulation found, each told in few events.

use std::time::Duration;

use etcd_proxy_proto::etcdserverpb::HashKvResponse;
use etcd_proxy_sim::{Answer, FaultKind, Key, Lines, Manner, Op, Outcome, Settings, World};
use prost::Message as _;

const SECOND: Duration = Duration::from_secs(1);
const FAILOVER_MAX: Duration = Duration::from_secs(5);

const GET: Op = Op::Get {
    key: Key(1),
    serializable: false,
    revision: 0,
};

const PUT: Op = Op::Put { key: Key(1) };

fn patient() -> Manner {
    Manner::default()
}

fn within(timeout: Duration) -> Manner {
    Manner {
        timeout: Some(timeout),
        ..Manner::default()
    }
}

fn settled(settings: Settings) -> World {
    let mut world = World::new(settings, Lines::Off);
    world.settle();
    world
}

/// A world in which every frame takes its time, so that something can happen meanwhile.
fn slow(members: usize) -> World {
    settled(Settings {
        latency: Duration::from_millis(20)..Duration::from_millis(21),
        ..Settings::plain(members)
    })
}

fn message_of(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Answered(Err(status)) => &status.message,
        other => panic!("not a status: {other:?}"),
    }
}

#[test]
fn calls_pass_through() {
    let mut world = settled(Settings::plain(3));
    for op in [PUT, GET, Op::MemberList, Op::HashKv, Op::Delete { key: Key(1) }] {
        let call = world.call(0, op, patient());
        assert!(world.answer(call, SECOND).is_ok());
        assert_eq!(world.attempts(call), (1, 1));
    }
}

#[test]
fn reads_go_on_when_their_member_is_killed() {
    let mut world = slow(3);
    let call = world.call(0, GET, patient());
    world.run_for(Duration::from_millis(25));
    let member = world.in_use(0).expect("it has settled");
    world.fault(FaultKind::Kill, member, 60 * SECOND);
    assert!(world.answer(call, FAILOVER_MAX).is_ok());
    assert_ne!(world.in_use(0), Some(member));
    assert_eq!(world.attempts(call).0, 2);
}

#[test]
fn reads_go_on_when_their_member_freezes() {
    let mut world = slow(3);
    let member = world.in_use(0).expect("it has settled");
    world.fault(FaultKind::Freeze, member, 60 * SECOND);
    let call = world.call(0, GET, patient());
    assert!(world.answer(call, FAILOVER_MAX).is_ok());
    assert_ne!(world.in_use(0), Some(member));
}

#[test]
fn a_write_whose_connection_breaks_is_not_made_again() {
    let mut world = slow(3);
    let call = world.call(0, PUT, patient());
    world.run_for(Duration::from_millis(25));
    let member = world.in_use(0).expect("it has settled");
    world.fault(FaultKind::Kill, member, 60 * SECOND);
    world.run_while(SECOND, |world| *world.outcome(call) == Outcome::Open);
    assert!(message_of(world.outcome(call)).ends_with("it may have been carried out"));
    assert_eq!(world.attempts(call).0, 1);
}

#[test]
fn a_read_meets_death_twice_at_most() {
    let mut world = slow(3);
    let call = world.call(0, GET, patient());
    for attempts in 1..=2 {
        world.run_while(FAILOVER_MAX, |world| world.attempts(call).0 < attempts);
        let member = world.in_use(0).expect("a call was sent there");
        world.fault(FaultKind::Kill, member, 60 * SECOND);
    }
    world.run_while(SECOND, |world| *world.outcome(call) == Outcome::Open);
    assert_eq!(
        message_of(world.outcome(call)),
        "etcd-proxy: the connection to the member was lost during the call"
    );
    assert_eq!(world.attempts(call).0, 2);
}

#[test]
fn a_member_without_leader_is_left() {
    let mut world = slow(3);
    let member = world.in_use(0).expect("it has settled");
    world.fault(FaultKind::Isolate, member, 60 * SECOND);
    // It waits for a leader at its member, is moved with everyone, and finds one.
    let call = world.call(0, GET, patient());
    assert!(world.answer(call, FAILOVER_MAX).is_ok());
    assert_ne!(world.in_use(0), Some(member));
}

#[test]
fn what_a_goaway_leaves_out_is_sent_again() {
    // Half of all GOAWAYs come at once, in the others nothing is left out.
    let mut left_out = 0;
    for seed in 0..20 {
        let mut settings = Settings::plain(3);
        settings.seed = seed;
        settings.latency = Duration::from_millis(20)..Duration::from_millis(21);
        let mut world = settled(settings);
        world.run_for(2 * SECOND);
        let member = world.in_use(0).expect("it has settled");
        let call = world.call(0, PUT, patient());
        world.run_while(SECOND, |world| world.attempts(call).0 == 0);
        world.fault(FaultKind::GoAway, member, SECOND);
        let answer = world.answer(call, SECOND);
        assert!(answer.is_ok(), "{answer:?}");
        let (sent, reached) = world.attempts(call);
        assert_eq!(reached, 1);
        left_out += u32::from(sent == 2);
    }
    assert!((1..20).contains(&left_out), "{left_out} of 20");
}

#[test]
fn a_refused_call_is_sent_again() {
    let mut world = slow(3);
    let member = world.in_use(0).expect("it has settled");
    let mut again = 0;
    for _ in 0..5 {
        world.fault(FaultKind::Refuse, member, Duration::from_millis(300));
        let call = world.call(0, PUT, patient());
        assert!(world.answer(call, SECOND).is_ok());
        let (sent, reached) = world.attempts(call);
        assert_eq!(reached, 1);
        again += u32::from(sent > 1);
    }
    assert!(again > 0);
}

#[test]
fn a_deadline_is_kept_when_the_member_is_silent() {
    let mut world = slow(1);
    world.fault(FaultKind::Freeze, 0, 60 * SECOND);
    let call = world.call(0, PUT, within(SECOND));
    world.run_while(2 * SECOND, |world| *world.outcome(call) == Outcome::Open);
    assert_eq!(message_of(world.outcome(call)), "context deadline exceeded");
    assert!(world.took(call) >= SECOND && world.took(call) < SECOND + Duration::from_millis(250));
}

#[test]
fn nobody_is_reachable() {
    let mut world = settled(Settings::plain(3));
    world.fault(FaultKind::ClusterGone, 0, 60 * SECOND);
    world.run_for(SECOND);
    let call = world.call(0, PUT, patient());
    let hurried = world.call(0, GET, within(SECOND));
    world.run_for(6 * SECOND);
    assert_eq!(
        message_of(world.outcome(call)),
        "etcd-proxy: no endpoint is reachable"
    );
    assert_eq!(world.took(call).as_millis() / 10, 500);
    assert_eq!(message_of(world.outcome(hurried)), "context deadline exceeded");
    assert_eq!(world.attempts(call), (0, 0));
}

#[test]
fn a_call_that_is_given_up_is_given_up_upstream() {
    let mut world = slow(1);
    world.fault(FaultKind::Freeze, 0, 3 * SECOND);
    let call = world.call(0, GET, patient());
    world.run_for(Duration::from_millis(100));
    world.give_up(0, call);
    assert_eq!(*world.outcome(call), Outcome::Abandoned);
    world.run_for(4 * SECOND);
    let next = world.call(0, GET, patient());
    assert!(world.answer(next, SECOND).is_ok());
}

/// It hung for ever: what drains can't be probed, and only a probe noticed that its member is gone.
#[test]
fn a_call_on_a_draining_connection_ends_when_its_host_loses_power() {
    let mut world = slow(3);
    world.run_for(2 * SECOND);
    let member = world.in_use(0).expect("it has settled");
    // It can't commit anything, so the call stays open.
    world.fault(FaultKind::Isolate, member, 60 * SECOND);
    let call = world.call(0, PUT, patient());
    world.run_while(SECOND, |world| world.attempts(call).1 == 0);
    world.fault(FaultKind::Goodbye, member, SECOND);
    world.run_for(Duration::from_millis(100));
    world.fault(FaultKind::PowerOff, member, Duration::from_millis(500));
    world.run_while(60 * SECOND, |world| *world.outcome(call) == Outcome::Open);
    assert!(message_of(world.outcome(call)).ends_with("it may have been carried out"));
    assert!(world.took(call) > 10 * SECOND, "its host's kernel was asked");
}

/// Its connection was never probed again, and while calls went over it nobody noticed: a probe without an answer is
/// waited for as long as anything else comes.
#[test]
fn a_probe_that_is_refused_is_not_the_last_one() {
    let mut settings = Settings::plain(3);
    settings.clients[0].pause = Some(Duration::from_millis(20)..Duration::from_millis(50));
    settings.clients[0].calls_max = 10;
    settings.clients[0].serializable_percent = 90;
    let mut world = settled(settings);
    let member = world.in_use(0).expect("it has settled");
    for _ in 0..10 {
        world.fault(FaultKind::Refuse, member, SECOND);
        world.run_for(SECOND);
    }
    assert_eq!(world.in_use(0), Some(member), "it isn't to blame");
    world.fault(FaultKind::Isolate, member, 60 * SECOND);
    world.run_for(FAILOVER_MAX);
    assert_ne!(world.in_use(0), Some(member));
}

#[test]
fn the_leader_is_found_for_calls_that_only_it_can_carry_out() {
    let mut found = 0;
    for seed in 0..10 {
        let mut settings = Settings::plain(3);
        settings.seed = seed;
        let mut world = settled(settings);
        let (leader, in_use) = (world.leader(), world.in_use(0));
        let to = (leader.expect("it has settled") + 1) % 3;
        let status = world.call(0, Op::Status, patient());
        assert!(world.answer(status, SECOND).is_ok());
        // It asks the member in use first, and then the others in turn.
        assert_eq!(world.attempts(status).0 == 1, leader == in_use);
        let call = world.call(
            0,
            Op::MoveLeader {
                to: world.member_ids()[to],
            },
            within(SECOND),
        );
        assert!(world.answer(call, SECOND).is_ok());
        assert_eq!(world.leader(), Some(to));
        found += u32::from(leader != in_use);
    }
    assert!((1..10).contains(&found), "{found} of 10 had to look for it");
}

fn member_of(answer: Answer) -> u64 {
    let message = answer.expect("it is answered");
    let response = HashKvResponse::decode(message).expect("it is what the model said");
    response.header.expect("every answer has one").member_id
}

#[test]
fn calls_about_a_member_stay_on_it() {
    let mut left = 0;
    for seed in 0..10 {
        let mut settings = Settings::plain(3);
        settings.seed = seed;
        let mut world = settled(settings);
        let member = world.in_use(0);
        let call = world.call(0, Op::HashKv, patient());
        let first = member_of(world.answer(call, SECOND));
        // The proxy is told of some of the members only, and moves on if this one isn't among them.
        world.fault(FaultKind::Replace, 0, 60 * SECOND);
        world.run_for(SECOND);
        let call = world.call(0, Op::HashKv, patient());
        assert_eq!(member_of(world.answer(call, SECOND)), first);
        left += u32::from(world.in_use(0) != member);
    }
    assert!(left > 0, "no proxy moved on");
}
