use super::*;
use crate::grpc::status_fields;

#[test]
fn a_stream_goes_through_in_both_directions() {
    run(async {
        let messages = [framed(b"one"), framed(b"two")].concat();
        let ends = Status::of(Code::Aborted, "that is it");
        let trailers = status_fields(&ends);
        let member = Member::start("member", move |_| {
            Says::Data(messages.clone(), Some(trailers.clone()))
        });
        let world = World::of(&[&member]).await;
        let mut call = world.open(Rpc::Snapshot, &[]);
        call.requests
            .send_data(framed(b"ask"), false)
            .expect("it is sent");
        let answered = call.answer().await;
        assert_eq!(answered.data, [framed(b"one"), framed(b"two")].concat());
        assert_eq!(answered.end, Ok((10, "that is it".to_owned())));
        assert_eq!(&member.heard()[0].message[..], b"ask");
        assert_eq!(world.outcome().await, Outcome::Status(10));
        let noted = world.noted.0.lock()[0];
        assert_eq!((noted.request_bytes, noted.response_bytes), (8, 16));
    });
}

#[test]
fn how_a_member_ends_a_stream_is_how_it_ends_for_the_client() {
    run(async {
        let no_leader = Status::NO_LEADER;
        for (says, expected, outcome) in [
            (
                Says::Status(no_leader.clone()),
                Answered::status(&no_leader),
                Outcome::Status(14),
            ),
            (
                Says::Reset(Reason::ENHANCE_YOUR_CALM),
                Answered::reset(Reason::ENHANCE_YOUR_CALM),
                Outcome::Reset(Reason::ENHANCE_YOUR_CALM),
            ),
            (
                Says::Hangup,
                Answered::status(&retry::CONNECTION_LOST),
                Outcome::Status(14),
            ),
            (
                Says::Data(framed(&[b'x'; 2001]).to_vec(), None),
                Answered::status(&Status::of(
                    Code::ResourceExhausted,
                    "grpc: received message larger than max (2001 vs. 2000)",
                )),
                Outcome::Status(8),
            ),
        ] {
            let told = format!("{says:?}");
            let member = Member::start("member", move |_| says.clone());
            let world = World::of(&[&member]).await;
            let mut call = world.open(Rpc::Snapshot, &[]);
            call.requests.send_data(framed(b"ask"), true).expect("it is sent");
            assert_eq!(call.answer().await, expected, "{told}");
            assert_eq!(world.outcome().await, outcome, "{told}");
        }
    });
}

#[test]
fn how_a_client_ends_a_stream_is_how_it_ends_for_the_member() {
    run(async {
        let member = Member::start("member", |_| Says::Messages(vec![Bytes::from_static(b"one")]));
        let world = World::of(&[&member]).await;
        let bulk = world.bulk.as_deref().expect("a connection");
        let is_idle = || etcd_proxy_core::pool::Link::calls_open(bulk) == 0;
        // It cancels, it breaks the protocol, it sends too much, it stops waiting.
        let mut call = world.open(Rpc::Snapshot, &[]);
        call.requests
            .send_data(framed(b"ask"), false)
            .expect("it is sent");
        until(|| member.heard().len() == 1).await;
        assert!(!is_idle());
        call.requests.send_reset(Reason::CANCEL);
        until(is_idle).await;

        let mut call = world.open(Rpc::Snapshot, &[]);
        call.requests
            .send_data(framed(b"ask"), false)
            .expect("it is sent");
        until(|| member.heard().len() == 2).await;
        call.requests.send_trailers(HeaderMap::new()).expect("it is sent");
        assert_eq!(call.answer().await.end, Err(Reason::PROTOCOL_ERROR));
        until(is_idle).await;

        let mut call = world.open(Rpc::Snapshot, &[]);
        call.requests
            .send_data(framed(&[b'x'; 1001]), false)
            .expect("it is sent");
        let too_large = "grpc: received message larger than max (1001 vs. 1000)";
        let (code, message) = call.answer().await.end.expect("a status");
        assert_eq!((code, &*message), (8, too_large));
        until(is_idle).await;

        let mut call = world.open(Rpc::Snapshot, &[("grpc-timeout", "30m")]);
        call.requests
            .send_data(framed(b"ask"), false)
            .expect("it is sent");
        let expired = Status::deadline_exceeded();
        let answered = call.answer().await;
        assert_eq!(answered.end, Ok((expired.code, expired.message.into_owned())));
        until(is_idle).await;
    });
}

#[test]
fn only_streams_without_an_end_are_ended_with_the_process() {
    run(async {
        for (rpc, ends) in [(Rpc::Observe, true), (Rpc::Snapshot, false)] {
            let member = Member::start("member", |_| Says::Messages(vec![Bytes::from_static(b"one")]));
            let world = World::of(&[&member]).await;
            let mut call = world.open(rpc, &[]);
            call.requests
                .send_data(framed(b"ask"), false)
                .expect("it is sent");
            until(|| member.heard().len() == 1).await;
            world.phase.send_replace(Phase::Draining);
            let until = Instant::now() + Duration::from_millis(50);
            let answered = rt::timeout_at::<Testing, _>(until, call.answer()).await;
            let answered = answered.ok().map(|answered| answered.end);
            let stopped = (14, "etcdserver: server stopped".to_owned());
            assert_eq!(answered, ends.then_some(Ok(stopped)), "{rpc:?}");
        }
    });
}

#[test]
fn what_a_stream_shows_counts_for_reads() {
    run(async {
        use etcd_proxy_proto::etcdserverpb::ResponseHeader;
        use etcd_proxy_proto::v3electionpb::LeaderResponse;
        use prost::Message as _;

        let shown = LeaderResponse {
            header: Some(ResponseHeader {
                revision: 42,
                ..ResponseHeader::default()
            }),
            ..LeaderResponse::default()
        };
        let shown = Bytes::from(shown.encode_to_vec());
        let member = Member::start("member", move |_| Says::Messages(vec![shown.clone()]));
        let world = World::of(&[&member]).await;
        let mut call = world.open(Rpc::Observe, &[]);
        call.requests
            .send_data(framed(b"ask"), false)
            .expect("it is sent");
        let response = Pin::new(&mut call.response).await.expect("an answer");
        assert!(response.into_body().data().await.is_some());
        assert_eq!(world.reads.known().revision, 42);
    });
}
