//! Pings: those of the client, and those it does not answer.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_tests::{
    frames::{self, ACK, END_HEADERS, RawClient, kind},
    proxy::Proxy,
    suite::within,
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::{ANSWER_LIMIT, Upstream, attack, unharmed};

/// GOAWAY code ENHANCE_YOUR_CALM.
const CALM: u32 = 11;

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        attack(upstream, "too_many_pings", &[], too_many_pings),
        attack(
            upstream,
            "allowed_pings",
            &["--grpc-keepalive-min-time=50ms"],
            allowed_pings,
        ),
        attack(
            upstream,
            "unanswered_pings",
            &["--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=1s"],
            unanswered_pings,
        ),
    ]
}

fn ping(number: u8) -> Vec<u8> {
    frames::encode(kind::PING, 0, 0, &[number; 8])
}

/// The first bytes of a watch that stays open.
fn open_watch() -> Vec<u8> {
    let block = frames::call_headers("/etcdserverpb.Watch/Watch", &[]);
    let create = b"\0\0\0\0\x07\x0a\x05\x0a\x03key";
    [
        frames::encode(kind::HEADERS, END_HEADERS, 1, &block),
        frames::encode(kind::DATA, 0, 1, create),
    ]
    .concat()
}

/// 5 s apart is what is allowed by default, with an open stream; without one, none.
async fn too_many_pings(proxy: Proxy) {
    for with_stream in [false, true] {
        let mut client = RawClient::open(proxy.address()).await.expect("connection");
        if with_stream {
            client.send(&open_watch()).await.expect("watch");
            let created = client.find(|frame| frame.kind == kind::DATA && frame.stream == 1);
            within("created", ANSWER_LIMIT, created).await.expect("created");
        }
        for number in 0..10 {
            // One after the other, each answered: nobody can say they came at once. The proxy closes
            // the connection somewhere in the middle.
            if client.send(&ping(number)).await.is_err() {
                break;
            }
        }
        let goaway = client.find(|frame| frame.goaway().is_some_and(|(code, _)| code != 0));
        let goaway = within("GOAWAY", ANSWER_LIMIT, goaway).await.expect("GOAWAY");
        assert_eq!(
            goaway.goaway(),
            Some((CALM, "too_many_pings".to_owned())),
            "{with_stream}"
        );
        let (_, ended) = client.read_to_end(ANSWER_LIMIT).await;
        assert!(ended, "the connection stays open");
    }
    unharmed(proxy).await;
}

async fn allowed_pings(proxy: Proxy) {
    let mut client = RawClient::open(proxy.address()).await.expect("connection");
    client.send(&open_watch()).await.expect("watch");
    for number in 0..15 {
        client.send(&ping(number)).await.expect("send");
        let answer = client
            .find(|frame| frame.kind == kind::GOAWAY || (frame.kind == kind::PING && frame.flags & ACK != 0));
        let answer = within("the answer", ANSWER_LIMIT, answer)
            .await
            .expect("the answer");
        assert_eq!(answer.kind, kind::PING, "ping {number}: {answer:?}");
        assert_eq!(answer.payload, [number; 8]);
        // The pace of a client that keeps to the rule; what is waited for is time itself.
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    unharmed(proxy).await;
}

async fn unanswered_pings(proxy: Proxy) {
    // This client answers, as its library does.
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let mut watch = wire.open("/etcdserverpb.Watch/Watch", &[]).await.expect("watch");
    watch
        .send(Bytes::from_static(b"\x0a\x05\x0a\x03key"))
        .await
        .expect("create");
    assert!(watch.message().await.is_some(), "created");

    // This one does not, and is dropped; with an open stream as without.
    for with_stream in [false, true] {
        let mut client = RawClient::open(proxy.address()).await.expect("connection");
        if with_stream {
            client.send(&open_watch()).await.expect("watch");
        }
        let ping = client.find(|frame| frame.kind == kind::PING && frame.flags & ACK == 0);
        let pinged = within("a ping of the proxy", ANSWER_LIMIT, ping).await;
        assert!(pinged.is_some(), "closed without a ping");
        let (_, ended) = client.read_to_end(ANSWER_LIMIT).await;
        assert!(ended, "a client that does not answer pings is still there");
    }
    let put = wire
        .call("/etcdserverpb.KV/Put", &[], &[Bytes::from_static(b"\x0a\x03key")])
        .await;
    assert!(put.is_ok(), "the client that answered was dropped: {put:?}");
    assert!(within("the event", ANSWER_LIMIT, watch.message()).await.is_some());
    unharmed(proxy).await;
}
