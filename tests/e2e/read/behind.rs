//! Members that are behind what clients have seen: a scripted one, as a real one catches up too soon.

use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use etcd_proxy_tests::{
    client::Client,
    fake::{Fake, Recorded, Step},
    proxy::Proxy,
    suite::{trial, within},
};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::world::ANSWER_LIMIT;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("member_is_behind", member_is_behind)]
}

const RANGE: &str = "/etcdserverpb.KV/Range";

/// What the member says to reads, in this order. 0: it can't answer.
const REVISIONS: [i64; 8] = [10, 9, 12, 11, 0, 13, 14, 1];

/// Whether a request is a client's read, and not a question of the proxy's own.
fn is_read(request: &Recorded) -> bool {
    request.path == RANGE && request.values("hasleader").is_empty()
}

fn answer(revision: i64) -> Vec<Step> {
    let response = RangeResponse {
        header: Some(ResponseHeader {
            revision,
            ..ResponseHeader::default()
        }),
        ..RangeResponse::default()
    };
    vec![
        Step::HalfClosed,
        Step::Headers(Vec::new()),
        Step::Message(response.encode_to_vec().into()),
        Step::Trailers(vec![("grpc-status", "0")]),
    ]
}

/// A serializable read isn't shown a store that went back, if a newer state is to be had.
async fn member_is_behind() {
    let asked = AtomicUsize::new(0);
    let fake = Fake::start(move |_, request| {
        if !is_read(request) {
            // The watch of the cache never starts, so that all reads are forwarded.
            return vec![Step::Trailers(vec![("grpc-status", "14")])];
        }
        match REVISIONS.get(asked.fetch_add(1, Ordering::SeqCst)) {
            None | Some(0) => vec![Step::Trailers(vec![("grpc-status", "14")])],
            Some(revision) => answer(*revision),
        }
    })
    .await;
    let mut proxy = Proxy::start(&[fake.address()], &[]).await;
    let client = Client::connect(proxy.address()).await.expect("proxy");
    let read = async |serializable| {
        let request = RangeRequest {
            key: "k".into(),
            serializable,
            ..RangeRequest::default()
        };
        let answered = within("an answer", ANSWER_LIMIT, client.range(&request)).await;
        answered.expect("an answer").header.expect("a header").revision
    };
    assert_eq!(read(false).await, 10);
    // It says 9, and catches up when it is asked to.
    assert_eq!(read(true).await, 12);
    // It says 11, can't say anything newer at first, and then can.
    assert_eq!(read(true).await, 13);
    // It isn't behind.
    assert_eq!(read(true).await, 14);
    // It is behind, and has nothing newer for as long as the client has time: the old answer isn't given.
    let read = RangeRequest {
        key: "k".into(),
        serializable: true,
        ..RangeRequest::default()
    };
    let read = [read.encode_to_vec().into()];
    let call = client.wire.call(RANGE, &[("grpc-timeout", "600m")], &read);
    let reply = within("an end", ANSWER_LIMIT, call).await;
    assert!(
        matches!(reply.code(), Some(4 | 14)) && reply.messages.is_empty(),
        "{}",
        reply.in_short()
    );
    let requests = fake.requests();
    let reads = requests.iter().filter(|request| is_read(request));
    let serializable = reads.map(|request| {
        RangeRequest::decode(&request.body[5..])
            .expect("a request")
            .serializable
    });
    let serializable: Vec<bool> = serializable.collect();
    let expected = [false, true, false, true, false, false, true, true, false];
    assert_eq!(serializable[..9], expected);
    proxy.assert_sound();
}
