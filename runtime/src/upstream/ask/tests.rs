use core::time::Duration;

use etcd_proxy_core::grpc::parse_timeout;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use h2::Reason;

use super::*;
use crate::grpc::status_fields;
use crate::rt::testing::{Testing, run};
use crate::upstream::testing::{Member, Says};

/// Asks a member that answers so.
async fn asked(says: Says) -> Result<RangeResponse, NoAnswer> {
    let member = Member::start("member", move |_| says.clone());
    read(&member.connect().await, soon()).await
}

async fn read(connection: &Arc<Connection>, options: Options) -> Result<RangeResponse, NoAnswer> {
    ask::<Testing, _, _>(connection, Rpc::Range, &question(), &options).await
}

fn question() -> RangeRequest {
    RangeRequest {
        key: "a".into(),
        ..RangeRequest::default()
    }
}

fn answer() -> RangeResponse {
    RangeResponse {
        header: Some(ResponseHeader {
            revision: 7,
            ..ResponseHeader::default()
        }),
        count: 1,
        ..RangeResponse::default()
    }
}

fn soon() -> Options {
    Options::until(Instant::now() + Duration::from_secs(5))
}

#[test]
fn a_question_reaches_the_member_as_grpc() {
    run(async {
        let member = Member::start("member", |_| Says::message(&answer()));
        let connection = member.connect().await;
        let options = soon().on_behalf(OnBehalf {
            credentials: Some("secret".into()),
            require_leader: true,
        });
        assert_eq!(read(&connection, options).await, Ok(answer()));
        assert_eq!(read(&connection, Options::unbounded()).await, Ok(answer()));

        let heard = member.heard();
        assert_eq!(heard[0].path, "/etcdserverpb.KV/Range");
        assert_eq!(heard[0].header("content-type"), Some("application/grpc"));
        assert_eq!(heard[0].header("te"), Some("trailers"));
        assert_eq!(heard[0].header("token"), Some("secret"));
        assert_eq!(heard[0].header("hasleader"), Some("true"));
        assert_eq!(heard[0].message, question().encode_to_vec());
        let told = heard[0]
            .header("grpc-timeout")
            .and_then(|value| parse_timeout(value.as_bytes()));
        let told = told.expect("a deadline");
        assert!(
            told > Duration::from_secs(4) && told <= Duration::from_secs(5) + DEADLINE_GRACE,
            "{told:?}"
        );
        for name in ["token", "hasleader", "grpc-timeout"] {
            assert_eq!(heard[1].header(name), None, "{name}");
        }
    });
}

#[test]
fn what_isnt_an_answer_is_told_apart() {
    let ok = || Some(status_fields(&Status::OK));
    let message = || framed(&answer().encode_to_vec()).to_vec();
    let internal = |what| Err(NoAnswer::Status(Status::of(Code::Internal, what)));
    let unknown = |message| Err(NoAnswer::Status(Status::of(Code::Unknown, message)));
    let no_leader = Status::NO_LEADER;
    let mut unreadable = status_fields(&Status::OK);
    unreadable.insert(GRPC_STATUS, HeaderValue::from_static("x"));
    let mut no_code = status_fields(&Status::owned(Code::Ok, "what".into()));
    no_code.insert(GRPC_STATUS, HeaderValue::from_static("99"));
    for (says, expected) in [
        (Says::message(&answer()), Ok(answer())),
        (Says::Data(message(), None), Ok(answer())),
        (Says::Data([message(), message()].concat(), ok()), Ok(answer())),
        (
            Says::Status(no_leader.clone()),
            Err(NoAnswer::Status(no_leader.clone())),
        ),
        (
            Says::Data(message(), Some(status_fields(&no_leader))),
            Err(NoAnswer::Status(no_leader)),
        ),
        (Says::Status(Status::OK), internal("the answer has no message")),
        (
            Says::Data(message()[..4].to_vec(), ok()),
            internal("the answer has no message"),
        ),
        (
            Says::Data(message()[..7].to_vec(), ok()),
            internal("the answer has no message"),
        ),
        (
            Says::Message(b"\x0a\xff".to_vec()),
            internal("the answer can't be read"),
        ),
        (
            Says::Data(b"\x01\0\0\0\x01x".to_vec(), ok()),
            internal("grpc: compressed flag set with identity or empty encoding"),
        ),
        (
            Says::Data(b"\0\0\x40\0\x01".to_vec(), ok()),
            Err(NoAnswer::Status(Status::of(
                Code::ResourceExhausted,
                "grpc: received message larger than max (4194305 vs. 4194304)",
            ))),
        ),
        (Says::Data(message(), Some(unreadable)), unknown("")),
        (Says::Data(message(), Some(no_code)), unknown("what")),
        (Says::Http(404), Err(NoAnswer::NotGrpc(404))),
        (Says::Reset(Reason::REFUSED_STREAM), Err(NoAnswer::Ended)),
        (Says::Hangup, Err(NoAnswer::Ended)),
    ] {
        let told = format!("{says:?}");
        assert_eq!(run(asked(says)), expected, "{told}");
    }
}

#[test]
fn nobody_waits_longer_than_they_said() {
    run(async {
        let member = Member::start("member", |_| Says::Nothing);
        let connection = member.connect().await;
        let began = Instant::now();
        let until = began + Duration::from_millis(30);
        assert_eq!(
            read(&connection, Options::until(until)).await,
            Err(NoAnswer::Late)
        );
        assert!(began.elapsed() >= Duration::from_millis(30));
        assert_eq!(member.heard().len(), 1);
        // Their time is over.
        assert_eq!(
            read(&connection, Options::until(until)).await,
            Err(NoAnswer::Late)
        );
        let later = Instant::now() + Duration::from_millis(30);
        assert_eq!(
            read(&connection, Options::until(later)).await,
            Err(NoAnswer::Late)
        );
        assert_eq!(member.heard().len(), 2);
    });
}

#[test]
fn requests_are_bounded() {
    run(async {
        let member = Member::start("member", |_| Says::message(&answer()));
        let connection = member.connect().await;
        // The message is 4 bytes longer than its key, and has a prefix of 5.
        let of_len = |len: usize| RangeRequest {
            key: vec![b'x'; len - 4 - 5].into(),
            ..RangeRequest::default()
        };
        let (small, large) = (of_len(64 * 1024), of_len(64 * 1024 + 1));
        let asks = async |question: &RangeRequest, options: Options| {
            ask::<Testing, _, RangeResponse>(&connection, Rpc::Range, question, &options).await
        };
        assert!(asks(&small, soon()).await.is_ok());
        assert_eq!(asks(&large, soon()).await, Err(NoAnswer::Request));
        assert!(asks(&large, soon().for_keys(1 << 20)).await.is_ok());
        assert!(
            asks(&small, soon().for_keys(10)).await.is_ok(),
            "no less than others"
        );
        assert_eq!(member.heard().len(), 3);
    });
}

#[test]
fn a_connection_that_takes_no_calls_isnt_asked() {
    run(async {
        let member = Member::start("member", |_| Says::message(&answer()));
        let connection = member.connect().await;
        connection.refuses();
        assert_eq!(read(&connection, soon()).await, Err(NoAnswer::Refused));
        assert!(member.heard().is_empty());
    });
}

#[test]
fn a_token_that_no_header_holds_is_refused() {
    run(async {
        let member = Member::start("member", |_| Says::message(&answer()));
        let connection = member.connect().await;
        let options = soon().on_behalf(OnBehalf {
            credentials: Some("a\nb".into()),
            require_leader: false,
        });
        let refused = read(&connection, options).await;
        let status = refused.expect_err("it is refused").into_status();
        assert!(status.is(Code::InvalidArgument), "{status:?}");
        assert!(member.heard().is_empty(), "nobody else's question is asked");
    });
}

#[test]
fn without_an_answer_the_member_counts_as_unavailable() {
    for no_answer in [
        NoAnswer::Ended,
        NoAnswer::Late,
        NoAnswer::NotGrpc(404),
        NoAnswer::Refused,
        NoAnswer::Request,
    ] {
        assert!(
            no_answer.clone().into_status().is(Code::Unavailable),
            "{no_answer}"
        );
    }
    let told = Status::of(Code::PermissionDenied, "etcdserver: permission denied");
    assert_eq!(NoAnswer::Status(told.clone()).into_status(), told);
}
