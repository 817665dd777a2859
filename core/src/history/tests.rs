use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::request_op::Request;
use etcd_proxy_proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use prost::Message as _;

use super::*;

const OURS: u64 = 7;
const OTHER: u64 = 8;

fn newest(cluster_id: u64, revision: i64) -> Shows {
    Shows {
        cluster_id,
        revision,
        is_newest: true,
    }
}

fn any(cluster_id: u64, revision: i64) -> Shows {
    Shows {
        is_newest: false,
        ..newest(cluster_id, revision)
    }
}

fn known(history: u64, revision: i64) -> Known {
    Known { history, revision }
}

/// What is known after some answers, each asked for when all before it had come.
fn after(answers: &[Shows]) -> History {
    let mut history = History::new();
    for answer in answers {
        let _ = history.answered(history.known(), *answer);
    }
    history
}

/// What is newest decides. If nobody tells, those who need no leader get what a member of the cluster has.
#[test]
fn what_is_in_question_is_settled() {
    use Verdict::{Another, Foreign, Same, Stale, Suspicious};
    for (verdict, newest, needs_leader, is_usable) in [
        (Suspicious, Some(Same), true, true),
        (Suspicious, Some(Another), false, false),
        (Suspicious, Some(Stale), false, false),
        (Suspicious, None, true, false),
        (Suspicious, None, false, true),
        (Foreign, Some(Same), true, true),
        (Foreign, Some(Another), false, false),
        (Foreign, None, true, false),
        (Foreign, None, false, false),
    ] {
        assert!(verdict.is_in_question());
        assert_eq!(
            verdict.is_settled_by(newest, needs_leader),
            is_usable,
            "{verdict:?} {newest:?} {needs_leader}"
        );
    }
    assert!(
        ![Another, Same, Stale]
            .iter()
            .any(|verdict| verdict.is_in_question())
    );
}

#[test]
fn every_answer_has_its_verdict() {
    // After revision 100 of cluster 7 was seen: what was known when it was asked, what is answered, what follows, and what
    // is known then.
    let now = known(0, 100);
    for (asked, answer, verdict, then) in [
        (now, newest(OURS, 100), Verdict::Same, now),
        (now, newest(OURS, 101), Verdict::Same, known(0, 101)),
        (now, any(OURS, 101), Verdict::Same, known(0, 101)),
        (now, newest(OURS, 99), Verdict::Another, known(1, 99)),
        (now, any(OURS, 99), Verdict::Suspicious, now),
        // It was asked for before 100 was seen.
        (known(0, 50), newest(OURS, 99), Verdict::Same, now),
        (known(0, 50), any(OURS, 50), Verdict::Same, now),
        (known(0, 50), newest(OURS, 49), Verdict::Another, known(1, 49)),
        // Of another cluster, whatever its revision is.
        (known(0, 0), newest(OTHER, 500), Verdict::Another, known(1, 500)),
        (known(0, 0), any(OTHER, 500), Verdict::Foreign, now),
        (now, any(OTHER, 5), Verdict::Foreign, now),
        // Some proxies leave out who answers.
        (now, newest(0, 100), Verdict::Same, now),
        (now, newest(0, 99), Verdict::Another, known(1, 99)),
        // That is no revision.
        (now, newest(OURS, 0), Verdict::Same, now),
        (now, newest(OTHER, 0), Verdict::Same, now),
        (now, newest(OURS, i64::MIN), Verdict::Same, now),
        (now, newest(OURS, i64::MAX), Verdict::Same, now),
        (now, any(OURS, i64::MAX - 1), Verdict::Same, now),
        // Of a history that isn't there yet, or not any more.
        (known(1, 0), newest(OURS, 500), Verdict::Stale, now),
    ] {
        let mut history = after(&[newest(OURS, 100)]);
        let found = history.answered(asked, answer);
        assert_eq!((found, history.known()), (verdict, then), "{asked:?} {answer:?}");
    }
}

#[test]
fn answers_from_before_the_change_change_nothing() {
    let mut history = after(&[newest(OURS, 3000)]);
    let before = history.known();
    assert_eq!(history.answered(before, newest(OURS, 23)), Verdict::Another);
    for late in [newest(OURS, 3001), newest(OURS, 22), any(OTHER, 3001)] {
        assert_eq!(history.answered(before, late), Verdict::Stale);
    }
    history.raise(before.history, 3001);
    assert_eq!(history.known(), known(1, 23));
    history.raise(1, 24);
    assert_eq!(history.known(), known(1, 24));
}

#[test]
fn nonsense_is_healed_by_the_next_good_answer() {
    let mut history = after(&[newest(OURS, 100), any(OURS, 1 << 61)]);
    assert_eq!(history.known(), known(0, 1 << 61));
    assert_eq!(
        history.answered(history.known(), newest(OURS, 101)),
        Verdict::Another
    );
    assert_eq!(history.known(), known(1, 101));
    history.raise(1, i64::MAX);
    assert_eq!(history.known(), known(1, 101));
}

#[test]
fn a_cluster_that_is_gone_from_may_come_back() {
    let history = after(&[newest(OURS, 100), newest(OTHER, 5), newest(OURS, 101)]);
    assert_eq!((history.known(), history.cluster_id()), (known(2, 101), OURS));
}

#[test]
fn reads_and_writes_show_what_is_newest() {
    let range = |serializable| RangeRequest {
        key: Bytes::from_static(b"a"),
        serializable,
        ..RangeRequest::default()
    };
    let txn = |requests: Vec<Request>| {
        let operations = requests.into_iter();
        let operations = operations.map(|request| RequestOp {
            request: Some(request),
        });
        let txn = TxnRequest {
            failure: operations.collect(),
            ..TxnRequest::default()
        };
        txn.encode_to_vec()
    };
    let put = PutRequest::default();
    for (rpc, message, is_newest) in [
        (Rpc::Range, range(false).encode_to_vec(), true),
        (Rpc::Range, range(true).encode_to_vec(), false),
        // The last value counts.
        (
            Rpc::Range,
            [range(true).encode_to_vec(), vec![7 << 3, 0]].concat(),
            true,
        ),
        (Rpc::Range, vec![0xff], false),
        (Rpc::Put, put.encode_to_vec(), true),
        (Rpc::DeleteRange, Vec::new(), true),
        // A server doesn't ask its leader for these.
        (Rpc::Txn, txn(Vec::new()), false),
        (Rpc::Txn, txn(vec![Request::RequestRange(range(true))]), false),
        (Rpc::Txn, txn(vec![Request::RequestRange(range(false))]), true),
        (
            Rpc::Txn,
            txn(vec![Request::RequestRange(range(true)), Request::RequestPut(put)]),
            true,
        ),
        // Nor does it look at what is inside.
        (
            Rpc::Txn,
            txn(vec![Request::RequestTxn(TxnRequest::default())]),
            true,
        ),
        // A put and a serializable read in one operation: the read.
        (Rpc::Txn, vec![0x12, 6, 0x12, 0, 0x0a, 2, 0x38, 1], false),
        (Rpc::Txn, vec![0x12, 6, 0x0a, 2, 0x38, 1, 0x12, 0], true),
        (Rpc::Compact, Vec::new(), false),
    ] {
        assert_eq!(shows_newest(rpc, &message), is_newest, "{rpc:?} {message:?}");
    }
    assert!(!shows_newest(Rpc::LeaseGrant, b""));
}
