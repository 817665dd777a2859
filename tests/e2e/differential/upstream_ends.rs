//! A scripted upstream that ends calls and connections in every way but the proper one.

use bytes::Bytes;
use etcd_proxy_tests::{
    fake::{Fake, Step},
    suite::{eventually, trial},
    wire::{Reply, Wire},
};
use libtest_mimic::Trial;

use crate::{
    pair::ANSWER_LIMIT,
    upstream::{PUT, RANGE, STREAM, call, in_front_of, ok},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("upstream_resets", resets),
        trial("upstream_goes_away", goes_away),
        trial("upstream_hangs_up", hangs_up),
    ]
}

/// What a gRPC client makes of a reply: the status, or that of the RST_STREAM code ("gRPC over
/// HTTP2", error codes).
fn status(reply: &Reply) -> Option<u32> {
    match reply.reset {
        None => reply.code(),
        Some(7) => Some(14),
        Some(8) => Some(1),
        Some(11) => Some(8),
        Some(12) => Some(7),
        Some(_) => Some(13),
    }
}

async fn resets() {
    for code in 0..=13 {
        for headers_first in [false, true] {
            let mut steps = Vec::new();
            if headers_first {
                steps.extend([
                    Step::Headers(vec![("x-head", "1")]),
                    Step::Message(Bytes::from_static(b"partial")),
                ]);
            }
            steps.push(Step::Reset(code));
            let fake = Fake::playing(steps).await;
            let direct = Wire::connect(&fake.address()).await.expect("upstream");
            let (mut proxy, proxied) = in_front_of(&fake).await;
            for path in [PUT, STREAM] {
                let name = format!("RST_STREAM {code}, headers first: {headers_first}, {path}");
                let direct = call(&direct, path, &[]).await;
                assert_eq!(direct.http_status == 200, headers_first, "{name}: {direct:?}");
                let expected = status(&direct);
                let before = fake.requests().len();
                let seen = call(&proxied, path, &[]).await;
                assert_eq!(expected, status(&seen), "{name}: {seen:?}");
                // REFUSED_STREAM says that the call was not processed, so trying again is allowed.
                let sent = fake.requests().len() - before;
                assert!(
                    sent == 1 || (code == 7 && !headers_first),
                    "{name}: sent {sent} times"
                );
            }
            proxy.assert_sound();
        }
    }
}

async fn goes_away() {
    let fake = Fake::start(|_, request| match request.values("x-last").is_empty() {
        true => ok(b"answer"),
        false => [vec![Step::GoAway], ok(b"last")].concat(),
    })
    .await;
    let (mut proxy, wire) = in_front_of(&fake).await;
    // The call in flight is answered, and the next ones find a new connection without an error.
    for round in 0..5 {
        let reply = call(&wire, PUT, &[("x-last", "1")]).await;
        assert!(reply.is_ok(), "round {round}, in flight: {reply:?}");
        for path in [PUT, RANGE] {
            let reply = call(&wire, path, &[]).await;
            assert!(reply.is_ok(), "round {round}, {path}: {reply:?}");
        }
    }
    assert_eq!(fake.requests().len(), 15, "nothing is sent twice");
    proxy.assert_sound();
}

async fn hangs_up() {
    let fake = Fake::start(|_, request| match request.values("x-die").is_empty() {
        true => ok(b"answer"),
        false => vec![Step::Hangup, Step::Never],
    })
    .await;
    let (mut proxy, wire) = in_front_of(&fake).await;
    for (path, most) in [(PUT, 1), (RANGE, 2), ("/no.such.Service/Method", 1)] {
        let before = fake.requests().len();
        let reply = call(&wire, path, &[("x-die", "1")]).await;
        assert_eq!(reply.code(), Some(14), "{path}: {reply:?}");
        let sent = fake.requests().len() - before;
        assert!((1..=most).contains(&sent), "{path} was sent {sent} times");
        eventually("the proxy is connected again", ANSWER_LIMIT, async || {
            call(&wire, PUT, &[]).await.is_ok().then_some(())
        })
        .await;
    }
    // A read that dies once is tried again, and the client sees nothing of it.
    let fake = Fake::start(|number, _| match number {
        0 => vec![Step::Hangup, Step::Never],
        _ => ok(b"second try"),
    })
    .await;
    let (_other, other_wire) = in_front_of(&fake).await;
    let reply = call(&other_wire, RANGE, &[]).await;
    assert_eq!(reply.messages, [Bytes::from_static(b"second try")], "{reply:?}");
    proxy.assert_sound();
}
