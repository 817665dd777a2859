//! Sizes of messages, in both directions.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{PutRequest, RangeRequest};
use etcd_proxy_tests::{
    proxy::Proxy,
    suite::within,
    wire::{Reply, Wire, frame},
};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::{ANSWER_LIMIT, Upstream, attack, healthy, unharmed};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    let flags = &["--max-send-bytes=10000", "--max-recv-bytes=20000"];
    vec![
        attack(upstream, "max_send_bytes", flags, max_send_bytes),
        attack(upstream, "max_recv_bytes", flags, max_recv_bytes),
        attack(upstream, "huge_uploads", &[], huge_uploads),
    ]
}

async fn put(wire: &Wire, key: &str, size: usize) -> (usize, Reply) {
    let value = Bytes::from(vec![b'v'; size]);
    let request = PutRequest {
        key: key.to_owned().into(),
        value,
        ..Default::default()
    };
    let message = Bytes::from(request.encode_to_vec());
    let length = message.len();
    let messages = [message];
    let call = wire.call("/etcdserverpb.KV/Put", &[], &messages);
    (length, within("an answer to a put", ANSWER_LIMIT, call).await)
}

/// What etcd's own server allows for beyond its limit of a request's size.
const OVERHEAD: usize = 512 * 1024;

async fn max_send_bytes(proxy: Proxy) {
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    assert!(put(&wire, "send", 9_000).await.1.is_ok());
    for size in [OVERHEAD + 10_000, 600_000, 1_000_000, 5_000_000] {
        // RESOURCE_EXHAUSTED that names the message's size.
        let (length, reply) = put(&wire, "send/large", size).await;
        assert_eq!(reply.code(), Some(8), "{size}: {reply:?}");
        let text = reply.message().unwrap_or_default();
        assert!(
            text.contains(&format!("message larger than max ({length} vs. ")),
            "{text:?}"
        );
    }
    // The message is refused, not the connection; and nothing of it was written.
    let read = RangeRequest {
        key: "send/large".into(),
        ..Default::default()
    };
    let read = [Bytes::from(read.encode_to_vec())];
    let reply = wire.call("/etcdserverpb.KV/Range", &[], &read).await;
    let answer = reply.into_message::<etcd_proxy_proto::etcdserverpb::RangeResponse>();
    assert!(
        answer.expect("an answer").kvs.is_empty(),
        "a refused message was written"
    );
    unharmed(proxy).await;
}

async fn max_recv_bytes(proxy: Proxy) {
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    for key in ["recv/1", "recv/2", "recv/3"] {
        assert!(put(&wire, key, 9_000).await.1.is_ok());
    }
    let read = |end: &str| {
        let request = RangeRequest {
            key: "recv/1".into(),
            range_end: end.to_owned().into(),
            ..Default::default()
        };
        [Bytes::from(request.encode_to_vec())]
    };
    let two = wire.call("/etcdserverpb.KV/Range", &[], &read("recv/3")).await;
    assert!(two.is_ok() && two.messages[0].len() > 18_000, "{two:?}");
    let three = wire.call("/etcdserverpb.KV/Range", &[], &read("recv/4")).await;
    assert_eq!(three.code(), Some(8), "{three:?}");
    let text = three.message().unwrap_or_default();
    assert!(
        text.contains("message larger than max (") && text.contains(" vs. 20000)"),
        "{text:?}"
    );
    // Watches are the exception: what a member refuses to send once it would refuse again and again.
    let mut watch = wire.open("/etcdserverpb.Watch/Watch", &[]).await.expect("watch");
    let create = b"\x0a\x12\x0a\x06recv/1\x12\x06recv/4\x18\x01";
    watch.send(Bytes::from_static(create)).await.expect("create");
    let mut received = 0;
    while received < 27_000 {
        let message = within("all events", ANSWER_LIMIT, watch.message()).await;
        received += message.expect("the watch goes on").len();
    }
    unharmed(proxy).await;
}

/// Uploads that go on and on: of one message that announces 2 GiB, and of many on one stream.
async fn huge_uploads(proxy: Proxy) {
    for path in [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.Watch/Watch",
        "/no.such.Service/M",
    ] {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        let mut call = wire.open(path, &[]).await.expect("call");
        let upload = async {
            call.send_raw(Bytes::from_static(b"\0\x7f\xff\xff\xff"), false)
                .await?;
            let chunk = Bytes::from(vec![7; 1_000_000]);
            for _ in 0..400 {
                call.send_raw(chunk.clone(), false).await?;
            }
            Ok::<_, h2::Error>(())
        };
        // Refused with an error, or not read any more: not swallowed.
        let swallowed = tokio::time::timeout(std::time::Duration::from_secs(5), upload).await;
        assert!(!matches!(swallowed, Ok(Ok(()))), "{path}: 400 MB were swallowed");
        healthy(&proxy).await;
    }
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let mut call = wire
        .open("/etcdserverpb.Lease/LeaseKeepAlive", &[])
        .await
        .expect("call");
    let upload = async {
        let request = frame(b"\x08\x01");
        let many = Bytes::from(request.repeat(10_000));
        for _ in 0..200 {
            call.send_raw(many.clone(), false).await?;
        }
        Ok::<_, h2::Error>(())
    };
    // Two million heartbeats whose answers nobody reads: flow control holds the sender back.
    let swallowed = tokio::time::timeout(std::time::Duration::from_secs(10), upload).await;
    assert!(
        !matches!(swallowed, Ok(Ok(()))),
        "2,000,000 requests were swallowed"
    );
    unharmed(proxy).await;
}
