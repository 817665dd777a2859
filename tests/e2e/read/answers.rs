//! Requests out of the ordinary, and large answers: what comes from the cache is what a member says.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::RangeRequest;
use etcd_proxy_tests::{
    client::Client,
    wire::{Reply, Wire, WireOptions, frame},
};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::world::{Upstream, World, one, prefix, put, range, revision, scenario, serializable};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "odd_requests", &[], odd_requests),
        scenario(upstream, "odd_calls", &[], odd_calls),
        scenario(upstream, "large_answers", &[], large_answers),
    ]
}

const RANGE: &str = "/etcdserverpb.KV/Range";

/// All that a client can tell of a reply, which must have come whole.
fn told(reply: Reply) -> Reply {
    assert!(
        reply.reset.is_none() && reply.error.is_none(),
        "{}",
        reply.in_short()
    );
    reply
}

/// Asked three times, so that the last answers come from the cache if any do: equal to the byte to the member's.
async fn odd_requests(world: World) -> World {
    let mut revisions = Vec::new();
    for name in ["a", "b", "c", "d"] {
        revisions.push(put(&world.direct, &world.key(name), name).await);
    }
    revisions.push(put(&world.direct, &world.key("b"), "second").await);
    let all = prefix(&world.prefix);
    let at = |revision: i64| RangeRequest {
        revision,
        ..all.clone()
    };
    let mut requests = vec![
        all.clone(),
        one(&world.key("nothing")),
        RangeRequest {
            limit: 1,
            ..all.clone()
        },
        RangeRequest {
            limit: i64::MAX,
            ..all.clone()
        },
        RangeRequest {
            limit: -1,
            ..all.clone()
        },
        RangeRequest {
            limit: i64::MIN,
            ..all.clone()
        },
        RangeRequest {
            keys_only: true,
            ..all.clone()
        },
        RangeRequest {
            count_only: true,
            ..all.clone()
        },
        RangeRequest {
            count_only: true,
            keys_only: true,
            limit: 2,
            ..all.clone()
        },
        // Not a target that there isn't together with an order: that ends the member.
        RangeRequest {
            sort_order: 7,
            ..all.clone()
        },
        RangeRequest {
            sort_order: -1,
            sort_target: -1,
            ..all.clone()
        },
        RangeRequest {
            min_mod_revision: revisions[1],
            max_mod_revision: revisions[3],
            ..all.clone()
        },
        RangeRequest {
            min_create_revision: revisions[1],
            max_create_revision: revisions[2],
            limit: 1,
            ..all.clone()
        },
        RangeRequest {
            min_mod_revision: -1,
            ..all.clone()
        },
        RangeRequest {
            max_mod_revision: i64::MAX,
            ..all.clone()
        },
        at(revisions[0]),
        at(revisions[3]),
        at(revisions[4]),
        at(-1),
        at(i64::MIN),
        // Of the future: OUT_OF_RANGE.
        at(revisions[4] + 1_000_000),
        at(i64::MAX),
        // Nothing is between them.
        range(b"b", b"a"),
        range(b"b", b"b"),
        range(world.key("b").as_bytes(), b"\0"),
        range(b"\0", b"\0"),
        range(b"", b""),
        range(b"", b"\0"),
        RangeRequest {
            key: vec![b'x'; 70_000].into(),
            ..Default::default()
        },
    ];
    for sort_order in 0..3 {
        for sort_target in 0..5 {
            requests.push(RangeRequest {
                sort_order,
                sort_target,
                ..all.clone()
            });
        }
    }
    let mut messages = Vec::new();
    for request in requests {
        messages.push(Bytes::from(serializable(&request).encode_to_vec()));
        messages.push(Bytes::from(request.encode_to_vec()));
    }
    let key = one(&world.key("a")).encode_to_vec();
    for tail in [
        // Unknown fields: 14 a number, 99 text, 15 eight bytes, and a group.
        &b"\x70\x01"[..],
        b"\x9a\x06\x03abc",
        b"\x79\0\0\0\0\0\0\0\0",
        b"\x73\x74",
        // Bools and numbers in more bytes than need be, and twice.
        b"\x38\x80\x01",
        b"\x38\x01\x38\x00",
        b"\x38\x00\x38\x02",
        b"\x18\x85\x80\x00",
        b"\x18\x01\x18\x00",
        // The wrong wire type, a number without end, one that is too long, field 0.
        b"\x1a\x01x",
        b"\x38",
        b"\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x01",
        b"\x12\x05x",
    ] {
        messages.push([&key[..], tail].concat().into());
    }
    messages.push(Bytes::new());
    let before = world.hits().await;
    for message in messages {
        let call = |client: &Client| {
            let (wire, message) = (client.wire.clone(), message.clone());
            async move { told(wire.call(RANGE, &[], &[message]).await) }
        };
        let expected = call(&world.direct).await;
        for time in 1..=3 {
            let answer = call(&world.proxied).await;
            assert_eq!(answer, expected, "asked {time} times: {message:?}");
        }
    }
    assert!(world.hits().await - before > 50.0, "little came from the cache");
    world
}

/// Calls with metadata that matters, or doesn't, and in shapes that a unary call hasn't: of what is cached.
async fn odd_calls(world: World) -> World {
    let key = world.key("k");
    put(&world.direct, &key, "v").await;
    for read in [one(&key), serializable(&one(&key))] {
        let message = Bytes::from(read.encode_to_vec());
        world.warm(&read).await;
        for metadata in [
            &[][..],
            &[("hasleader", "true")],
            &[("token", "no.1")],
            &[("authorization", "no.1")],
            &[("content-type", "application/grpc+proto")],
            &[("grpc-timeout", "10S")],
            &[("grpc-encoding", "identity")],
            &[("grpc-accept-encoding", "gzip")],
            &[("user-agent", "somebody"), ("x-else", "something")],
        ] {
            for messages in [&[message.clone()][..], &[], &[message.clone(), message.clone()]] {
                let expected = world.direct.wire.call(RANGE, metadata, messages).await;
                for _ in 0..2 {
                    let answer = world.proxied.wire.call(RANGE, metadata, messages).await;
                    let what = format!("{} messages, {metadata:?}", messages.len());
                    assert_eq!(answer, expected, "{what}");
                }
            }
        }
        // A message in two pieces.
        let framed = frame(&message);
        for client in [&world.direct, &world.proxied] {
            let mut call = client.wire.open(RANGE, &[]).await.expect("a call");
            call.send_raw(framed.slice(..7), false)
                .await
                .expect("an open stream");
            call.send_raw(framed.slice(7..), true)
                .await
                .expect("an open stream");
            let reply = told(call.finish().await);
            assert!(reply.is_ok(), "{}", reply.in_short());
            assert_eq!(reply.messages.len(), 1);
        }
    }
    world
}

/// An answer that is too large to be cached goes to each reader whole.
async fn large_answers(world: World) -> World {
    const READERS: usize = 50;
    let value = "x".repeat(64 * 1024);
    for number in 0..32 {
        put(&world.direct, &world.key(&format!("{number:02}")), &value).await;
    }
    let read = prefix(&world.prefix);
    let expected = world.direct.range(&read).await.expect("a read");
    assert_eq!(expected.kvs.len(), 32);
    assert!(expected.encoded_len() > 2 << 20);
    let windows = WireOptions {
        stream_window_bytes: 4 << 20,
        connection_window_bytes: 16 << 20,
    };
    let admitted = world.read_metric("admitted_total").await;
    let mut readers = Vec::new();
    for number in 0..READERS {
        // Some with windows so small that the answer takes many turns.
        let windows = if number % 2 == 0 {
            windows.clone()
        } else {
            WireOptions::default()
        };
        let wire = Wire::connect_with(world.proxy.address(), &windows)
            .await
            .expect("proxy");
        let read = if number % 3 == 0 {
            read.clone()
        } else {
            serializable(&read)
        };
        let expected = expected.clone();
        readers.push(tokio::spawn(async move {
            let client = Client { wire };
            for _ in 0..2 {
                let answer = client.range(&read).await.expect("a read");
                assert!(revision(&answer) >= revision(&expected));
                assert!(answer.kvs == expected.kvs, "another answer");
            }
        }));
    }
    for reader in readers {
        reader.await.expect("a reader");
    }
    assert_eq!(
        world.read_metric("admitted_total").await,
        admitted,
        "it was cached"
    );
    world
}
