use etcd_proxy_core::endpoints::Event;
use prost::Message as _;

use super::*;
use crate::rt::testing::{Testing, run};
use crate::upstream::testing::{Cluster, Heard, Member, Says};

const RANGE: &str = "/etcdserverpb.KV/Range";

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: 1,
        member_id: 2,
        revision,
        raft_term: 4,
    }
}

fn at(revision: i64) -> Says {
    Says::message(&RangeResponse {
        header: Some(header(revision)),
        ..RangeResponse::default()
    })
}

fn range(heard: &Heard) -> RangeRequest {
    assert_eq!(heard.path, RANGE);
    RangeRequest::decode(heard.message.clone()).expect("a request")
}

/// Asks one member, which answers so, and tells what it has heard and what the control task was told.
async fn asked(
    question: Question,
    verdicts: &[Verdict],
    says: impl Fn(&Heard) -> Says + Send + Sync + 'static,
) -> (Result<Header, Status>, Vec<Heard>, Vec<Event>) {
    let member = Member::start("member", says);
    let mut cluster = Cluster::of(&[&member]).await;
    cluster.judge.verdicts.lock().extend(verdicts);
    let answer = question.ask::<Testing>(&cluster.uplink).await;
    (answer, member.heard(), cluster.events())
}

#[test]
fn what_each_question_asks() {
    run(async {
        let token = || Some(Bytes::from_static(b"secret"));
        let key = || Bytes::from_static(b"k");
        let read = |serializable| RangeRequest {
            key: key(),
            keys_only: true,
            serializable,
            ..RangeRequest::default()
        };
        let permission = RangeRequest {
            key: key(),
            range_end: "z".into(),
            revision: i64::MAX - 1,
            serializable: true,
            ..RangeRequest::default()
        };
        for (question, expected, token, leader) in [
            (Question::revision(token(), key(), true), read(false), true, true),
            (Question::revision(None, key(), false), read(true), false, true),
            (
                Question::revision_of_member(token(), key()),
                read(true),
                true,
                false,
            ),
            (
                Question::permission(token(), key(), "z".into()),
                permission,
                true,
                false,
            ),
        ] {
            let (answer, heard, _) = asked(question, &[], |_| at(3)).await;
            let answer = answer.expect("an answer");
            let fields = (
                answer.cluster_id,
                answer.member_id,
                answer.revision,
                answer.raft_term,
            );
            assert_eq!(fields, (1, 2, 3, 4));
            assert_eq!(range(&heard[0]), expected);
            assert_eq!(heard[0].header("token"), token.then_some("secret"));
            assert_eq!(heard[0].header("hasleader"), leader.then_some("true"));
        }
        let (answer, heard, _) = asked(Question::header(), &[], |_| {
            Says::message(&TxnResponse {
                header: Some(header(5)),
                ..TxnResponse::default()
            })
        })
        .await;
        assert_eq!(answer.expect("an answer").revision, 5);
        assert_eq!(heard[0].path, "/etcdserverpb.KV/Txn");
        assert!(heard[0].message.is_empty());
    });
}

#[test]
fn the_judge_is_told_whether_an_answer_is_the_newest() {
    for (linearizable, is_newest) in [(true, true), (false, false)] {
        run(async {
            let member = Member::start("member", |_| at(3));
            let cluster = Cluster::of(&[&member]).await;
            let question = Question::revision(None, "k".into(), linearizable);
            assert!(question.ask::<Testing>(&cluster.uplink).await.is_ok());
            let expected = Shows {
                cluster_id: 1,
                revision: 3,
                is_newest,
            };
            assert_eq!(*cluster.judge.judged.lock(), [expected]);
        });
    }
}

#[test]
fn an_answer_in_question_is_settled_by_the_newest() {
    let serializable = || Question::revision(None, "k".into(), false);
    let of_member = || Question::revision_of_member(None, "k".into());
    let answers = |newest: Says| {
        move |heard: &Heard| {
            if range(heard).serializable {
                at(3)
            } else {
                newest.clone()
            }
        }
    };
    let no_leader = || Says::Status(Status::NO_LEADER);
    let former = || Err(FORMER_HISTORY);
    run(async {
        for (question, verdicts, newest, expected) in [
            (serializable(), [Verdict::Suspicious, Verdict::Same], at(9), Ok(3)),
            (
                serializable(),
                [Verdict::Suspicious, Verdict::Another],
                at(2),
                former(),
            ),
            (serializable(), [Verdict::Foreign, Verdict::Same], at(9), Ok(3)),
            (
                serializable(),
                [Verdict::Suspicious, Verdict::Same],
                no_leader(),
                Err(Status::NO_LEADER),
            ),
            // Who needs no leader gets what the member has, unless it is another cluster's.
            (
                of_member(),
                [Verdict::Suspicious, Verdict::Same],
                no_leader(),
                Ok(3),
            ),
            (
                of_member(),
                [Verdict::Foreign, Verdict::Same],
                no_leader(),
                Err(Status::NO_LEADER),
            ),
        ] {
            let (answer, heard, _) = asked(question, &verdicts, answers(newest)).await;
            assert_eq!(answer.map(|header| header.revision), expected, "{verdicts:?}");
            let asked: Vec<_> = heard.iter().map(|heard| range(heard).serializable).collect();
            assert_eq!(asked, [true, false], "{verdicts:?}");
            assert_eq!(heard[1].header("hasleader"), Some("true"));
        }
    });
}

#[test]
fn an_answer_of_a_former_history_is_none() {
    run(async {
        let question = Question::revision(None, "k".into(), true);
        let (answer, heard, _) = asked(question, &[Verdict::Stale], |_| at(3)).await;
        assert_eq!((answer, heard.len()), (Err(FORMER_HISTORY), 1));
        // Nothing shows what is newer than the newest, or than a permission.
        for question in [
            Question::revision(None, "k".into(), true),
            Question::permission(None, "k".into(), Bytes::new()),
        ] {
            let (answer, heard, _) = asked(question, &[Verdict::Suspicious], |_| at(3)).await;
            assert_eq!((answer.map(|header| header.revision), heard.len()), (Ok(3), 1));
        }
    });
}

#[test]
fn a_member_that_refuses_is_doubted() {
    run(async {
        for (says, doubted) in [
            (Says::Status(Status::NO_LEADER), true),
            (Says::Hangup, true),
            (
                Says::error(Code::PermissionDenied, "etcdserver: permission denied"),
                false,
            ),
        ] {
            let told = format!("{says:?}");
            let question = Question::revision(None, "k".into(), true);
            let (answer, _, events) = asked(question, &[], move |_| says.clone()).await;
            assert!(answer.is_err(), "{told}");
            let doubts = events.iter().filter(|event| matches!(event, Event::Doubt(_)));
            assert_eq!(doubts.count(), usize::from(doubted), "{told}");
        }
    });
}

#[test]
fn a_member_that_is_silent_is_doubted_in_time() {
    run(async {
        let began = Instant::now();
        let question = Question::revision(None, "k".into(), true);
        let (answer, _, events) = asked(question, &[], |_| Says::Nothing).await;
        assert_eq!(answer, Err(Status::of(Code::Unavailable, "no answer in time")));
        assert!(began.elapsed() >= CHECK_PATIENCE && began.elapsed() < 2 * CHECK_PATIENCE);
        assert!(matches!(events[..], [Event::Doubt(_)]), "{events:?}");
    });
}

#[test]
fn without_a_member_nobody_is_asked() {
    run(async {
        let cluster = Cluster::of(&[]).await;
        cluster.uplink.lane.end();
        let answer = Question::header().ask::<Testing>(&cluster.uplink).await;
        let expected = Status::of(Code::Unavailable, "no endpoint can be reached");
        assert_eq!(answer, Err(expected));
    });
}

#[test]
fn who_is_unavailable() {
    run(async {
        for (says, expected) in [
            (at(1), false),
            (
                Says::error(Code::PermissionDenied, "etcdserver: permission denied"),
                false,
            ),
            (Says::Status(Status::NO_LEADER), true),
            (Says::Hangup, true),
            (Says::Nothing, true),
        ] {
            let told = format!("{says:?}");
            let member = Member::start("member", move |_| says.clone());
            let connection = member.connect().await;
            assert_eq!(is_unavailable::<Testing>(&connection).await, expected, "{told}");
            let asked = range(&member.heard()[0]);
            assert!(!asked.serializable && asked.key == NOBODYS_KEY, "{asked:?}");
        }
    });
}
