use etcd_proxy_core::rpc::Rpc;
use futures_util::future::join;

use super::*;
use crate::rt::testing::{Testing, listen, run, until};
use crate::rt::{self};
use crate::upstream::OnBehalf;
use crate::upstream::testing::{Member, Says, settings};

type Call = (ResponseFuture, SendStream<Bytes>, OpenCall);

fn open(connection: &Arc<Connection>) -> Result<Call, Refused> {
    let head = connection.request(Rpc::Range, &OnBehalf::default());
    connection.open_call(head.expect("it is valid"), false)
}

/// Asks something, so that the member does as it was told.
fn ask(connection: &Arc<Connection>) -> Call {
    let (response, mut stream, open) = open(connection).expect("it is open");
    stream
        .send_data(Bytes::from_static(b"\0\0\0\0\0"), true)
        .expect("it is sent");
    (response, stream, open)
}

/// A connection whose end is told.
async fn driven(member: &Member) -> (Arc<Connection>, tokio::sync::oneshot::Receiver<(bool, End)>) {
    let settings = settings();
    let opened = Connection::open::<Testing>(ConnectionId::default(), member.endpoint.clone(), &settings);
    let (connection, driver) = opened.await.expect("somebody listens");
    let (told, ended) = tokio::sync::oneshot::channel();
    rt::spawn::<Testing>(async move {
        let mut goes_away = false;
        let end = driver.run(|| goes_away = true).await;
        let _ = told.send((goes_away, end));
    });
    connection.heard().await;
    (connection, ended)
}

#[test]
fn a_withdrawn_connection_takes_probes_and_ends_with_its_last_call() {
    run(async {
        let member = Member::start("member", |_| Says::Nothing);
        let (connection, ended) = driven(&member).await;
        let call = ask(&connection);
        connection.withdraw();
        assert!(!connection.is_open() && !connection.is_refusing());
        let probe = open(&connection).expect("probes may still be sent");
        drop(probe);
        drop(connection);
        until(|| member.heard().len() == 1).await;
        assert!(!call.2.connection.is_closed(), "a call is a handle");
        drop(call);
        let (_, end) = ended.await.expect("it ends");
        assert!(end.announced && end.error.is_none(), "{end:?}");
    });
}

#[test]
fn a_member_that_goes_away_is_left_with_its_calls() {
    run(async {
        let member = Member::start("member", |_| Says::GoAway);
        let (connection, ended) = driven(&member).await;
        let call = ask(&connection);
        until(|| connection.is_refusing()).await;
        assert!(!connection.is_closed());
        assert_eq!(open(&connection).err(), Some(Refused));
        assert!(!connection.refuses(), "that is known");
        drop(call);
        let (goes_away, end) = ended.await.expect("it ends");
        assert!(goes_away && end.announced, "{end:?}");
        assert!(connection.is_closed());
    });
}

#[test]
fn closing_ends_calls_and_says_why() {
    for moves in [false, true] {
        run(async {
            let member = Member::start("member", |_| Says::Nothing);
            let (connection, ended) = driven(&member).await;
            let (response, _stream, _open) = ask(&connection);
            if moves {
                connection.move_away();
            } else {
                connection.close();
            }
            let (answer, ended) = join(response, ended).await;
            assert!(answer.is_err());
            assert!(connection.is_closed(), "before its calls know");
            assert_eq!(connection.has_moved_away(), moves);
            let (goes_away, end) = ended.expect("it ends");
            assert!(!goes_away && !end.announced, "{end:?}");
        });
    }
}

#[test]
fn a_member_that_hangs_up_is_closed_without_a_word() {
    run(async {
        let member = Member::start("member", |_| Says::Hangup);
        let (connection, ended) = driven(&member).await;
        let (response, _stream, _open) = ask(&connection);
        assert!(response.await.is_err());
        let (goes_away, end) = ended.await.expect("it ends");
        assert!(!goes_away && !end.announced, "{end:?}");
        assert!(connection.is_closed() && !connection.has_moved_away());
    });
}

#[test]
fn open_calls_are_counted_and_the_members_limit_is_known() {
    run(async {
        let member = Member::with_calls_max("member", Some(2), |_| Says::Nothing);
        let connection = member.connect().await;
        assert_eq!((connection.calls_open(), connection.calls_max()), (0, 2));
        let first = open(&connection).expect("it is open");
        assert!(!connection.is_full());
        let second = open(&connection).expect("it is open");
        assert_eq!(connection.calls_open(), 2);
        assert!(connection.is_full());
        drop(first);
        assert!(!connection.is_full());
        drop(second);
        assert_eq!(connection.calls_open(), 0);
        let unlimited = Member::start("unlimited", |_| Says::Nothing).connect().await;
        let _call = open(&unlimited).expect("it is open");
        assert!(!unlimited.is_full());
    });
}

#[test]
fn where_nobody_listens_there_is_no_connection() {
    run(async {
        let (endpoint, listener) = listen("gone");
        drop(listener);
        let settings = settings();
        let opened = Connection::open::<Testing>(ConnectionId::default(), endpoint, &settings);
        assert!(opened.await.is_err());
    });
}
