//! Clients that ask for much and do not read it.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::{Call, Wire},
};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::{ANSWER_LIMIT, healthy};

/// What is in the store, and what every client below asks for.
const STORED_BYTES: usize = 40_000_000;

/// How many clients ask for it: a proxy that read ahead of them would need 800 MB.
const CLIENTS: usize = 20;

/// Bound for the proxy. A client that does not read may cost what it can hold in flow-control
/// windows, and no more.
const BOUND_KIB: u64 = 200 * 1024;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("unread_answers", unread_answers)]
}

async fn unread_answers() {
    let cluster = Cluster::start(Options::default()).await;
    let direct = Client::connect(&cluster.address(0)).await.expect("member");
    for number in 0..STORED_BYTES / 1_000_000 {
        let key = format!("big/{number:03}");
        direct
            .put(key.as_bytes(), &vec![number as u8; 1_000_000])
            .await
            .expect("put");
    }
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    healthy(&proxy).await;

    let mut calls: Vec<(&str, Call)> = Vec::new();
    for number in 0..CLIENTS {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        let (what, path, message) = match number % 3 {
            0 => ("snapshot", "/etcdserverpb.Maintenance/Snapshot", Bytes::new()),
            1 => ("watch", "/etcdserverpb.Watch/Watch", watch_from_the_beginning()),
            _ => (
                "watch with fragments",
                "/etcdserverpb.Watch/Watch",
                watch_in_fragments(),
            ),
        };
        let mut call = wire.open(path, &[]).await.expect("call");
        call.send(message).await.expect("send");
        if what == "snapshot" {
            call.half_close().expect("half-close");
        }
        // The answer has begun: from here on nobody reads.
        within(what, ANSWER_LIMIT, call.headers()).await.expect("headers");
        calls.push((what, call));
    }
    // Others are not affected, and what they do goes on for long enough that a proxy which reads
    // ahead has read a lot.
    let other = Client::connect(proxy.address()).await.expect("connection");
    for number in 0..2_000 {
        let value = number.to_string();
        let put = other.put(b"other", value.as_bytes());
        within("a put of another client", ANSWER_LIMIT, put)
            .await
            .expect("put");
    }
    let resident = proxy.process().memory_kib("VmHWM");
    assert!(
        resident > 0 && resident < BOUND_KIB,
        "the proxy took {resident} KiB"
    );

    // Whoever begins to read gets everything.
    let (snapshot, watch) = (calls.remove(0).1, calls.remove(0).1);
    let reply = within("a whole snapshot", Duration::from_secs(60), snapshot.finish()).await;
    assert!(reply.is_ok(), "{:?} {:?}", reply.code(), reply.error);
    let bytes: usize = reply.messages.iter().map(Bytes::len).sum();
    assert!(bytes >= STORED_BYTES, "{bytes} bytes of a snapshot");
    let mut watch = watch;
    let mut received = 0;
    while received < STORED_BYTES {
        let message = within("the watch's history", ANSWER_LIMIT, watch.message()).await;
        received += message.expect("the watch goes on").len();
    }

    // Those that never read are gone when they leave.
    drop(calls);
    drop(watch);
    healthy(&proxy).await;
    let process = proxy.process();
    eventually("the memory of those who left is free", ANSWER_LIMIT, async || {
        (process.memory_kib("VmRSS") < BOUND_KIB).then_some(())
    })
    .await;
    proxy.assert_sound();
}

fn watch(fragment: bool) -> Bytes {
    let create = WatchCreateRequest {
        key: "big/".into(),
        range_end: "big0".into(),
        start_revision: 1,
        fragment,
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    request.encode_to_vec().into()
}

fn watch_from_the_beginning() -> Bytes {
    watch(false)
}

fn watch_in_fragments() -> Bytes {
    watch(true)
}
