use alloc::string::String;
use alloc::vec::Vec;

use etcd_proxy_proto::etcdserverpb::request_op::Request as Operation;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RequestOp};

use super::*;

fn apply(state: &mut State, command: Command) -> Result<Response, Error> {
    let entry = Entry { user: None, command };
    state.apply(state.index() + 1, &entry)
}

fn put(key: &'static str, lease: i64) -> Command {
    Command::Put(PutRequest {
        key: key.into(),
        lease,
        ..Default::default()
    })
}

fn grant(id: i64) -> Command {
    Command::LeaseGrant(LeaseGrantRequest { id, ttl: 1 })
}

fn alarm(action: AlarmAction, alarm: AlarmType, member_id: u64) -> Command {
    Command::Alarm(AlarmRequest {
        action: action.into(),
        member_id,
        alarm: alarm.into(),
    })
}

fn alarms(response: Result<Response, Error>) -> Vec<(u64, i32)> {
    let Ok(Response::Alarm(response)) = response else {
        panic!("not an answer to Alarm: {response:?}");
    };
    response
        .alarms
        .iter()
        .map(|alarm| (alarm.member_id, alarm.alarm))
        .collect()
}

fn revoke(id: i64) -> Command {
    Command::LeaseRevoke(LeaseRevokeRequest { id })
}

fn revision_of(response: Result<Response, Error>) -> i64 {
    let bytes = response.unwrap().encode(ResponseHeader {
        revision: 99,
        ..Default::default()
    });
    // The header is the first field of every response.
    PutResponse::decode(bytes).unwrap().header.unwrap().revision
}

#[test]
fn a_lease_takes_its_keys_with_it_in_one_revision() {
    let mut state = State::default();
    let Ok(Response::LeaseGrant(granted)) = apply(&mut state, grant(7)) else {
        panic!("not granted");
    };
    assert_eq!((granted.id, granted.ttl), (7, 2));
    apply(&mut state, put("b", 7)).unwrap();
    apply(&mut state, put("a", 7)).unwrap();
    apply(&mut state, put("c", 7)).unwrap();
    apply(&mut state, put("c", 0)).unwrap();
    assert_eq!(apply(&mut state, put("d", 8)), Err(Error::LeaseNotFound));
    assert_eq!(state.store().revision(), 5);
    assert_eq!(revision_of(apply(&mut state, Command::LeaseExpire(7))), 6);
    let gone: Vec<_> = state
        .store()
        .log_from(6)
        .map(|change| (change.sub, change.kv.key.clone()))
        .collect();
    assert_eq!(gone, [(0, "a".into()), (1, "b".into())]);
    assert_eq!(apply(&mut state, revoke(7)), Err(Error::LeaseNotFound));
    apply(&mut state, grant(7)).unwrap();
    assert_eq!(revision_of(apply(&mut state, revoke(7))), 6);
    assert_eq!(state.index(), 10);
}

#[test]
fn deleting_a_key_takes_it_from_its_lease() {
    let mut state = State::default();
    apply(&mut state, grant(7)).unwrap();
    apply(&mut state, put("a", 7)).unwrap();
    let delete = DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    apply(&mut state, Command::DeleteRange(delete)).unwrap();
    assert!(state.leases().get(7).unwrap().keys.is_empty());
}

#[test]
fn an_unknown_lease_is_noticed_before_a_missing_key() {
    let mut state = State::default();
    let mut request = PutRequest {
        key: "a".into(),
        lease: 7,
        ignore_value: true,
        ..Default::default()
    };
    assert_eq!(
        apply(&mut state, Command::Put(request.clone())),
        Err(Error::LeaseNotFound)
    );
    request.lease = 0;
    assert_eq!(apply(&mut state, Command::Put(request)), Err(Error::KeyNotFound));
    assert_eq!(state.store().revision(), 1);
}

#[test]
fn headers_are_filled_in_by_the_member() {
    let member = ResponseHeader {
        cluster_id: 1,
        member_id: 2,
        revision: 99,
        raft_term: 3,
    };
    let mut state = State::default();
    let put = apply(&mut state, put("a", 0)).unwrap().encode(member);
    assert_eq!(
        PutResponse::decode(put).unwrap().header,
        Some(ResponseHeader {
            revision: 2,
            ..member
        })
    );
    let get = alarm(AlarmAction::Get, AlarmType::None, 0);
    let get = apply(&mut state, get).unwrap().encode(member);
    assert_eq!(AlarmResponse::decode(get).unwrap().header, Some(member));
}

/// As seen with etcd 3.5.30.
#[test]
fn alarms_are_raised_per_member() {
    use AlarmAction::{Activate, Deactivate, Get};
    use AlarmType::{Corrupt, None, Nospace};

    let mut state = State::default();
    let mut ask = |action, kind, member| alarms(apply(&mut state, alarm(action, kind, member)));
    assert_eq!(ask(Get, None, 0), []);
    assert_eq!(ask(Activate, None, 5), []);
    assert_eq!(ask(Activate, Nospace, 5), [(5, 1)]);
    assert_eq!(ask(Activate, Nospace, 5), [(5, 1)]);
    assert_eq!(ask(Activate, Nospace, 0), [(0, 1)]);
    assert_eq!(ask(Get, None, 0), [(0, 1), (5, 1)]);
    assert_eq!(ask(Get, Nospace, 9), [(0, 1), (5, 1)]);
    assert_eq!(ask(Get, Corrupt, 5), []);
    assert_eq!(ask(Deactivate, Nospace, 7), []);
    assert_eq!(ask(Deactivate, Corrupt, 5), []);
    assert_eq!(ask(Deactivate, Nospace, 0), [(0, 1)]);
    assert_eq!(apply(&mut state, put("a", 0)), Err(Error::NoSpace));
    let ended = alarm(Deactivate, Nospace, 5);
    assert_eq!(alarms(apply(&mut state, ended)), [(5, 1)]);
    assert!(apply(&mut state, put("a", 0)).is_ok());
}

#[test]
fn what_alarms_forbid() {
    let txn = |operation| {
        let operation = RequestOp {
            request: Some(operation),
        };
        Command::Txn(TxnRequest {
            failure: [operation].into(),
            ..Default::default()
        })
    };
    let put_op = Operation::RequestPut(PutRequest {
        key: "a".into(),
        ..Default::default()
    });
    let nested = Operation::RequestTxn(TxnRequest {
        failure: [RequestOp {
            request: Some(put_op.clone()),
        }]
        .into(),
        ..Default::default()
    });
    let delete = || {
        Command::DeleteRange(DeleteRangeRequest {
            key: "a".into(),
            ..Default::default()
        })
    };
    let mut state = State::default();
    apply(&mut state, alarm(AlarmAction::Activate, AlarmType::Nospace, 1)).unwrap();
    assert_eq!(apply(&mut state, grant(1)), Err(Error::NoSpace));
    assert_eq!(apply(&mut state, txn(put_op.clone())), Err(Error::NoSpace));
    assert!(apply(&mut state, txn(nested)).is_ok());
    assert!(apply(&mut state, delete()).is_ok());

    apply(&mut state, alarm(AlarmAction::Activate, AlarmType::Corrupt, 1)).unwrap();
    let compact = Command::Compact(CompactionRequest::default());
    for command in [
        grant(1),
        revoke(1),
        Command::LeaseExpire(1),
        put("a", 0),
        txn(put_op),
        delete(),
        compact,
    ] {
        assert_eq!(apply(&mut state, command), Err(Error::Corrupt));
    }
    assert!(
        state
            .store()
            .range(&RangeRequest {
                key: "a".into(),
                ..Default::default()
            })
            .is_ok()
    );
    // Taking one kind back takes both back, as etcd has it until it restarts.
    apply(&mut state, alarm(AlarmAction::Deactivate, AlarmType::Corrupt, 1)).unwrap();
    assert!(apply(&mut state, put("a", 0)).is_ok());
    assert_eq!(state.alarms().count(), 1);
}

#[test]
fn same_entries_same_state() {
    let commands = || {
        [
            grant(1),
            put("a", 1),
            put("b", 0),
            Command::NoOp,
            Command::LeaseExpire(1),
            Command::Compact(CompactionRequest {
                revision: 2,
                physical: true,
            }),
            put("x", 5),
        ]
    };
    let run = || -> (Vec<_>, String) {
        let mut state = State::default();
        let answers = commands()
            .into_iter()
            .map(|command| apply(&mut state, command))
            .collect();
        (answers, alloc::format!("{state:?}"))
    };
    assert_eq!(run(), run());
}
