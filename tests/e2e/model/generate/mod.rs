//! Programs made at random. The same seed gives the same program.

mod access;
mod kv;
mod streams;

use etcd_proxy_proto::etcdserverpb as pb;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    calls::Call,
    program::{By, CURRENT, Kind, MEMBER, Op, Pace, Program},
};

/// Operations of a program, roughly: some come in groups.
pub(crate) const OPS_PER_PROGRAM: usize = 600;

/// Operations of a [`Kind::History`]: more than the 1000 revisions that one catch-up response holds.
const OPS_OF_HISTORY: usize = 1500;

/// The program of a seed.
pub(crate) fn program(seed: u64) -> Program {
    let (kind, pace) = match seed % 10 {
        0..=2 => (Kind::Data, Pace::Lockstep),
        3 | 6 => (Kind::Data, Pace::Loose),
        5 => (Kind::Alarms, Pace::Lockstep),
        4 | 7 | 8 => (Kind::Access, Pace::Lockstep),
        _ => (Kind::History, Pace::Lockstep),
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
    );
    let groups = match kind {
        Kind::Alarms => prop::collection::vec(alarms(), OPS_PER_PROGRAM).boxed(),
        Kind::Access => access::program(OPS_PER_PROGRAM),
        Kind::Data => prop::collection::vec(data(), OPS_PER_PROGRAM).boxed(),
        Kind::History => prop::collection::vec(history(), OPS_OF_HISTORY).boxed(),
    };
    let groups = groups
        .new_tree(&mut runner)
        .expect("nothing is filtered")
        .current();
    let mut ops: Vec<Op> = groups.into_iter().flatten().collect();
    if seed.is_multiple_of(2) {
        ops.iter_mut().for_each(choose_lease);
    }
    Program {
        seed,
        kind,
        pace,
        ops,
    }
}

/// Has the client choose a lease's id. A server chooses another one each time, and hashes of the store cover it.
fn choose_lease(op: &mut Op) {
    if let Op::Call(_, Call::LeaseGrant(request)) = op
        && request.id == 0
    {
        request.id = 6;
    }
}

/// What goes with anything that a program does.
type Group = Vec<Op>;

fn by_nobody(call: impl Strategy<Value = Call> + 'static) -> BoxedStrategy<Group> {
    call.prop_map(|call| vec![Op::Call(By::Nobody, call)]).boxed()
}

/// Everything but access.
fn data() -> BoxedStrategy<Group> {
    prop_oneof![
        60 => by_nobody(kv::call()),
        2 => by_nobody(kv::compact()),
        10 => by_nobody(streams::lease_call()),
        2 => streams::keep_alive(Just(By::Nobody).boxed()),
        1 => streams::short_lease(),
        20 => streams::watch(Just(By::Nobody).boxed()),
        1 => streams::fragments(),
        1 => streams::what_compaction_left(),
        3 => by_nobody(maintenance()),
    ]
    .boxed()
}

/// Anything, while alarms come and go.
fn alarms() -> BoxedStrategy<Group> {
    let member = prop_oneof![1 => Just(0), 4 => Just(MEMBER), 1 => Just(7)];
    // Off more often than on: with an alarm most things fail.
    // An action that is none kills a 3.5 server, and so does raising an alarm that is none.
    let action = prop_oneof![1 => Just(0), 2 => Just(1), 4 => Just(2)];
    let alarm = prop_oneof![1 => Just(0), 4 => Just(1), 2 => Just(2)];
    let alarm = (action, member, alarm).prop_map(|(action, member_id, alarm)| {
        Call::Alarm(pb::AlarmRequest {
            action,
            member_id,
            alarm,
        })
    });
    prop_oneof![1 => by_nobody(alarm), 8 => data()].boxed()
}

/// Writes, and watchers that see all of them.
fn history() -> BoxedStrategy<Group> {
    prop_oneof![
        200 => by_nobody(kv::small_put()),
        10 => by_nobody(kv::call()),
        3 => streams::watch(Just(By::Nobody).boxed()),
        4 => streams::from_the_beginning(),
    ]
    .boxed()
}

/// The services Cluster and Maintenance, as far as a model can know them.
fn maintenance() -> BoxedStrategy<Call> {
    let hash_kv = kv::revision().prop_map(|revision| Call::HashKV(pb::HashKvRequest { revision }));
    let member = prop_oneof![2 => Just(0), 2 => Just(MEMBER), 1 => Just(7)];
    // What raises an alarm stops writes: that is for programs about alarms.
    let alarm =
        (prop::sample::select(vec![0, 2]), member.clone(), 0..3).prop_map(|(action, member_id, alarm)| {
            Call::Alarm(pb::AlarmRequest {
                action,
                member_id,
                alarm,
            })
        });
    let member_list =
        any::<bool>().prop_map(|linearizable| Call::MemberList(pb::MemberListRequest { linearizable }));
    let move_leader = member.prop_map(|target_id| Call::MoveLeader(pb::MoveLeaderRequest { target_id }));
    prop_oneof![
        8 => hash_kv,
        2 => alarm,
        2 => member_list,
        2 => Just(Call::Status(pb::StatusRequest::default())),
        1 => Just(Call::Defragment(pb::DefragmentRequest::default())),
        1 => move_leader,
    ]
    .boxed()
}

/// A revision some steps from the current one.
fn near(steps: std::ops::Range<i64>) -> impl Strategy<Value = i64> + Clone {
    steps.prop_map(|step| CURRENT + step)
}
