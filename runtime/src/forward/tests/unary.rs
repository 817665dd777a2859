use etcd_proxy_core::grpc::parse_timeout;
use etcd_proxy_core::retry::CONNECTION_LOST;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, StatusResponse};
use prost::Message as _;

use super::*;

#[test]
fn a_call_goes_through_as_it_is() {
    run(async {
        let member = Member::start("member", |_| Says::Message(b"answer".to_vec()));
        let world = World::of(&[&member]).await;
        let headers = [("token", "secret"), ("grpc-timeout", "77S"), ("x-custom", "kept")];
        let answered = world.call(Rpc::Put, &headers, b"request").await;
        assert_eq!(answered, Answered::message(b"answer"));
        let heard = member.heard();
        assert_eq!(heard[0].path, Rpc::Put.path());
        assert_eq!(&heard[0].message[..], b"request");
        for (name, value) in headers {
            assert_eq!(heard[0].header(name), Some(value));
        }
        assert_eq!(world.outcome().await, Outcome::Status(0));
        let noted = world.noted.0.lock()[0];
        assert_eq!((noted.request_bytes, noted.response_bytes), (12, 11));
    });
}

#[test]
fn what_is_sent_again_and_what_is_not() {
    let no_leader = || Says::Status(Status::NO_LEADER);
    let refused = || Says::Reset(Reason::REFUSED_STREAM);
    let ok = || Says::Message(b"ok".to_vec());
    let read = RangeRequest {
        key: "k".into(),
        ..RangeRequest::default()
    };
    let read = read.encode_to_vec();
    run(async {
        for (rpc, first, expected, asked) in [
            // A read may be asked again; a write that was answered may not, whatever the answer.
            (Rpc::Range, no_leader(), Answered::message(b"ok"), 2),
            (Rpc::Put, no_leader(), Answered::status(&Status::NO_LEADER), 1),
            // What wasn't processed may be sent again in any case.
            (Rpc::Range, refused(), Answered::message(b"ok"), 2),
            (Rpc::Put, refused(), Answered::message(b"ok"), 2),
            (
                Rpc::Range,
                Says::Reset(Reason::ENHANCE_YOUR_CALM),
                Answered::reset(Reason::ENHANCE_YOUR_CALM),
                1,
            ),
            (
                Rpc::Range,
                Says::error(Code::PermissionDenied, "etcdserver: permission denied"),
                Answered::status(&Status::of(
                    Code::PermissionDenied,
                    "etcdserver: permission denied",
                )),
                1,
            ),
        ] {
            let told = format!("{rpc:?} {first:?}");
            let member = Member::start("member", in_turn(&[first, ok()]));
            let world = World::of(&[&member]).await;
            assert_eq!(world.call(rpc, &[], &read).await, expected, "{told}");
            assert_eq!(member.heard().len(), asked, "{told}");
        }
    });
}

#[test]
fn a_write_on_a_connection_that_broke_may_be_applied() {
    run(async {
        let member = Member::start("member", |_| Says::Hangup);
        let world = World::of(&[&member]).await;
        let answered = world.call(Rpc::Put, &[], b"x").await;
        let (code, message) = answered.end.expect("a status");
        assert_eq!(code, Code::Unavailable.number());
        assert_ne!(
            message, CONNECTION_LOST.message,
            "that would say that it may be sent again"
        );
        assert_eq!(member.heard().len(), 1);
    });
}

#[test]
fn a_read_on_a_connection_that_broke_waits_for_another() {
    run(async {
        let broken = Member::start("broken", |_| Says::Hangup);
        let well = Member::start("well", |_| Says::Message(b"ok".to_vec()));
        let world = World::of(&[&broken, &well]).await;
        let mut call = world.open(Rpc::Range, &[]);
        call.requests.send_data(framed(b""), true).expect("it is sent");
        let main = world.cluster.main(&broken);
        until(|| main.is_closed()).await;
        world.cluster.use_now(well.connect().await);
        // A request without a key isn't known as a whole: it gets no second member.
        assert_ne!(call.answer().await, Answered::message(b"ok"));

        let world = World::of(&[&broken, &well]).await;
        let mut call = world.open(Rpc::Range, &[]);
        let read = RangeRequest {
            key: "k".into(),
            ..RangeRequest::default()
        };
        let read = framed(&read.encode_to_vec());
        call.requests.send_data(read, true).expect("it is sent");
        let main = world.cluster.main(&broken);
        until(|| main.is_closed()).await;
        let next = slotmap::KeyData::from_ffi(1 << 32 | 9);
        world.cluster.use_now(well.connect_as(next.into()).await);
        assert_eq!(call.answer().await, Answered::message(b"ok"));
    });
}

#[test]
fn messages_have_a_limit_in_both_directions() {
    run(async {
        let member = Member::start("member", |_| Says::Message(vec![b'x'; 2001]));
        let world = World::of(&[&member]).await;
        let too_large = "grpc: received message larger than max (1001 vs. 1000)";
        let expected = Answered::status(&Status::of(Code::ResourceExhausted, too_large));
        assert_eq!(world.call(Rpc::Put, &[], &[b'x'; 1001]).await, expected);
        assert!(member.heard().is_empty());
        let too_large = "grpc: received message larger than max (2001 vs. 2000)";
        let expected = Answered::status(&Status::of(Code::ResourceExhausted, too_large));
        assert_eq!(world.call(Rpc::Put, &[], &[b'x'; 1000]).await, expected);
    });
}

#[test]
fn a_call_ends_at_its_deadline_whatever_the_member_does() {
    run(async {
        let member = Member::start("member", |_| Says::Nothing);
        let world = World::of(&[&member]).await;
        let began = Instant::now();
        let answered = world.call(Rpc::Put, &[("grpc-timeout", "50m")], b"x").await;
        assert_eq!(answered, Answered::status(&Status::deadline_exceeded()));
        assert!(began.elapsed() >= Duration::from_millis(50));
        let main = world.cluster.main(&member);
        until(|| is_idle(&main)).await;
    });
}

#[test]
fn without_a_member_a_call_waits_for_as_long_as_it_is_told() {
    run(async {
        let world = World::of(&[]).await;
        let began = Instant::now();
        let answered = world.call(Rpc::Put, &[], b"x").await;
        assert_eq!(answered, Answered::status(&no_endpoint(None)));
        assert!(began.elapsed() >= Duration::from_millis(200));
        world.cluster.ends();
        let answered = world.call(Rpc::Put, &[], b"x").await;
        assert_eq!(answered, Answered::status(&SERVER_STOPPED));
    });
}

#[test]
fn who_has_waited_tells_the_member_what_is_left() {
    run(async {
        let member = Member::start("member", |_| Says::Message(Vec::new()));
        let world = World::of(&[]).await;
        let mut call = world.open(Rpc::Put, &[("grpc-timeout", "150m")]);
        call.requests.send_data(framed(b"x"), true).expect("it is sent");
        rt::sleep::<Testing>(Duration::from_millis(50)).await;
        world.cluster.use_now(member.connect().await);
        assert_eq!(call.answer().await, Answered::message(b""));
        let heard = member.heard();
        let told = heard[0].header("grpc-timeout").expect("a deadline");
        let told = parse_timeout(told.as_bytes()).expect("a time");
        assert!(told <= Duration::from_millis(100), "{told:?}");
    });
}

#[test]
fn a_client_that_cancels_takes_its_call_with_it() {
    run(async {
        let member = Member::start("member", |_| Says::Nothing);
        let world = World::of(&[&member]).await;
        let mut call = world.open(Rpc::Put, &[]);
        call.requests.send_data(framed(b"x"), true).expect("it is sent");
        until(|| member.heard().len() == 1).await;
        let main = world.cluster.main(&member);
        assert!(!is_idle(&main));
        call.requests.send_reset(Reason::CANCEL);
        until(|| is_idle(&main)).await;
        assert_eq!(world.outcome().await, Outcome::ClientGone);
    });
}

#[test]
fn a_request_has_no_trailers_and_one_message() {
    run(async {
        let member = Member::start("member", |_| Says::Message(b"ok".to_vec()));
        let world = World::of(&[&member]).await;
        let mut call = world.open(Rpc::Put, &[]);
        call.requests.send_data(framed(b"x"), false).expect("it is sent");
        call.requests.send_trailers(HeaderMap::new()).expect("it is sent");
        assert_eq!(call.answer().await, Answered::reset(Reason::PROTOCOL_ERROR));
        assert!(member.heard().is_empty());

        let mut call = world.open(Rpc::Put, &[]);
        let two = [framed(b"one"), framed(b"two")].concat();
        call.requests.send_data(two.into(), false).expect("it is sent");
        assert_eq!(call.answer().await, Answered::message(b"ok"));
        assert_eq!(&member.heard()[0].message[..], b"one");
    });
}

#[test]
fn a_version_that_is_no_text_reaches_no_member() {
    run(async {
        let member = Member::start("member", |_| Says::Message(b"ok".to_vec()));
        let world = World::of(&[&member]).await;
        let mut request = Request::post("http://proxy/etcdserverpb.KV/Put")
            .body(())
            .expect("a request");
        let version = http::HeaderValue::from_bytes(b"\xff").expect("a value");
        request.headers_mut().insert(CLIENT_API_VERSION, version);
        let (response, requests) = world
            .sender
            .clone()
            .send_request(request, true)
            .expect("it is sent");
        let answered = Open { requests, response }.answer().await;
        assert_eq!(answered, Answered::status(&INVALID_CLIENT_API_VERSION));
        assert!(member.heard().is_empty());
    });
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

#[test]
fn an_answer_older_than_what_was_shown_is_never_given() {
    run(async {
        let at = |revision| RangeResponse {
            header: header(revision),
            ..RangeResponse::default()
        };
        let member = Member::start("member", move |heard| {
            let read = RangeRequest::decode(heard.message.clone()).expect("a request");
            Says::message(&at(if read.serializable { 5 } else { 12 }))
        });
        let world = World::of(&[&member]).await;
        let read = RangeRequest {
            key: "k".into(),
            serializable: true,
            ..RangeRequest::default()
        };
        let read = read.encode_to_vec();
        let fresh = world.call(Rpc::Range, &[], &read).await;
        assert_eq!(fresh, Answered::message(&at(5).encode_to_vec()));
        world.reads.show(0, 10);
        let refreshed = world.call(Rpc::Range, &[], &read).await;
        assert_eq!(refreshed, Answered::message(&at(12).encode_to_vec()));
        assert_eq!(member.heard().len(), 3);
        assert_eq!(world.reads.known().revision, 12, "and that is shown now");
    });
}

#[test]
fn a_call_for_the_leader_finds_it() {
    run(async {
        let not_leader = || Says::error(Code::FailedPrecondition, "etcdserver: not leader");
        let follower = Member::start("follower", move |_| not_leader());
        let other = Member::start("other", move |_| not_leader());
        let leader = Member::start("leader", |_| Says::Message(b"moved".to_vec()));
        let world = World::of(&[&follower, &other, &leader]).await;
        let moved = Answered::message(b"moved");
        assert_eq!(world.call(Rpc::MoveLeader, &[], b"x").await, moved);
        // Where it can't be reached the answer is the follower's.
        let world = World::of(&[&follower, &other]).await;
        let expected = Status::of(Code::FailedPrecondition, "etcdserver: not leader");
        let answered = world.call(Rpc::MoveLeader, &[], b"x").await;
        assert_eq!(answered, Answered::status(&expected));
    });
}

#[test]
fn calls_about_one_member_stay_with_it() {
    run(async {
        let status = |member_id| {
            let header = Some(ResponseHeader {
                member_id,
                ..ResponseHeader::default()
            });
            StatusResponse {
                header,
                leader: member_id,
                ..StatusResponse::default()
            }
        };
        let one = Member::start("one", move |_| Says::message(&status(1)));
        let two = Member::start("two", move |_| Says::message(&status(2)));
        let world = World::of(&[&one, &two]).await;
        let (first, second) = (status(1).encode_to_vec(), status(2).encode_to_vec());
        assert_eq!(world.call(Rpc::Status, &[], b"").await, Answered::message(&first));
        world.cluster.use_now(two.connect().await);
        assert_eq!(world.call(Rpc::Status, &[], b"").await, Answered::message(&first));
        assert_eq!(world.call(Rpc::Put, &[], b"").await, Answered::message(&second));
    });
}

#[test]
fn a_read_that_is_refused_again_is_asked_of_another_member() {
    run(async {
        let sick = Member::start("sick", |_| Says::Status(Status::NO_LEADER));
        let well = Member::start("well", |_| Says::Message(b"ok".to_vec()));
        let world = World::of(&[&sick, &well]).await;
        let read = RangeRequest {
            key: "k".into(),
            ..RangeRequest::default()
        };
        let answered = world.call(Rpc::Range, &[], &read.encode_to_vec()).await;
        assert_eq!(answered, Answered::message(b"ok"));
        assert!(
            world.cluster.uplink.lane.main_to(&sick.endpoint).is_some(),
            "it decides nothing"
        );
    });
}

fn is_idle(connection: &Arc<Connection>) -> bool {
    etcd_proxy_core::pool::Link::calls_open(&**connection) == 0
}
