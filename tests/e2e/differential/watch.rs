//! Watch.Watch.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, RequestOp, TxnRequest, WatchCancelRequest, WatchCreateRequest,
    WatchProgressRequest, WatchRequest, WatchResponse, request_op::Request, watch_request::RequestUnion,
};
use etcd_proxy_tests::{etcd::Options, suite::trial};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::pair::{Case, Pair, Seen, Step, put};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("watch_creates", creates),
        trial("watch_events", events),
        trial("watch_ends", ends),
        trial("watch_fragments", fragments),
        trial("watch_progress", progress),
    ]
}

fn request(union: RequestUnion) -> Step {
    Step::Send(
        WatchRequest {
            request_union: Some(union),
        }
        .encode_to_vec()
        .into(),
    )
}

fn create(create: WatchCreateRequest) -> Step {
    request(RequestUnion::CreateRequest(create))
}

fn cancel(watch_id: i64) -> Step {
    request(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
}

fn ask_progress() -> Step {
    request(RequestUnion::ProgressRequest(WatchProgressRequest {}))
}

fn on(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

fn aside(case: Case) -> Step {
    Step::Aside(Box::new(case))
}

fn delete(key: &str) -> Case {
    let request = DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    Case::unary(&format!("delete {key}"), "/etcdserverpb.KV/DeleteRange", &request)
}

fn stream(name: &str, steps: Vec<Step>) -> Case {
    Case::stream(name, WATCH, steps)
}

/// The answers of a watch stream, decoded.
fn answers(seen: &[Seen]) -> Vec<WatchResponse> {
    let messages = seen.iter().filter_map(|seen| match seen {
        Seen::Message(message) => Some(message.clone()),
        _ => None,
    });
    messages
        .map(|message| WatchResponse::decode(message).expect("a watch answer"))
        .collect()
}

async fn history(group: &'static str) -> Pair {
    let mut pair = Pair::start(group, Options::default()).await;
    for number in 0..6 {
        pair.put("a", &number.to_string()).await;
        pair.put("b", &number.to_string()).await;
    }
    pair
}

async fn creates() {
    let mut pair = history("watch creates").await;
    // One create each: what is answered first.
    for (name, request) in [
        ("a key", on("a", "")),
        ("no key", on("", "")),
        ("a range", on("a", "c")),
        ("from a key", on("a", "\0")),
        ("inverted", on("c", "a")),
        ("empty range", on("a", "a")),
        (
            "at the current revision",
            WatchCreateRequest {
                start_revision: 13,
                ..on("a", "")
            },
        ),
        (
            "in the future",
            WatchCreateRequest {
                start_revision: 1000,
                ..on("a", "")
            },
        ),
        (
            "at the largest revision",
            WatchCreateRequest {
                start_revision: i64::MAX,
                ..on("a", "")
            },
        ),
        (
            "before the beginning",
            WatchCreateRequest {
                start_revision: -1,
                ..on("a", "")
            },
        ),
        (
            "long before",
            WatchCreateRequest {
                start_revision: i64::MIN,
                ..on("a", "")
            },
        ),
        (
            "own id",
            WatchCreateRequest {
                watch_id: 42,
                ..on("a", "")
            },
        ),
        (
            "negative id",
            WatchCreateRequest {
                watch_id: -42,
                ..on("a", "")
            },
        ),
        (
            "id -1",
            WatchCreateRequest {
                watch_id: -1,
                ..on("a", "")
            },
        ),
        (
            "unknown filter",
            WatchCreateRequest {
                filters: vec![7],
                ..on("a", "")
            },
        ),
        (
            "both filters",
            WatchCreateRequest {
                filters: vec![0, 1],
                ..on("a", "")
            },
        ),
        (
            "with everything",
            WatchCreateRequest {
                progress_notify: true,
                prev_kv: true,
                fragment: true,
                watch_id: 1 << 40,
                ..on("a", "z")
            },
        ),
    ] {
        pair.check(stream(name, vec![create(request), Step::Receive(1)]))
            .await;
    }
    let reply = pair
        .check(stream(
            "ids: automatic, chosen, taken, automatic, freed, taken again",
            vec![
                create(on("a", "")),
                Step::Receive(1),
                create(WatchCreateRequest {
                    watch_id: 1,
                    ..on("a", "")
                }),
                Step::Receive(1),
                create(WatchCreateRequest {
                    watch_id: 1,
                    ..on("b", "")
                }),
                Step::Receive(1),
                create(on("b", "")),
                Step::Receive(1),
                cancel(1),
                Step::Receive(1),
                create(WatchCreateRequest {
                    watch_id: 1,
                    ..on("b", "")
                }),
                Step::Receive(1),
            ],
        ))
        .await;
    let ids: Vec<i64> = answers(&reply).iter().map(|answer| answer.watch_id).collect();
    assert_eq!(ids, [0, 1, -1, 2, 1, 1]);
    // Unset and unknown requests are ignored: the next answer is to the create after them.
    pair.check(stream(
        "ignored requests",
        vec![
            Step::Send(Bytes::new()),
            Step::Send((&b"\x9a\x06\x00"[..]).into()),
            cancel(77),
            create(on("a", "")),
            Step::Receive(1),
        ],
    ))
    .await;
    let many: Vec<Step> = (0..200)
        .map(|number| create(on(&format!("k{number}"), "")))
        .chain([Step::Receive(200)])
        .collect();
    pair.check(stream("200 watchers on one stream", many)).await;
    pair.finish();
}

async fn events() {
    let mut pair = history("watch events").await;
    for (name, request) in [
        ("all of a", on("a", "")),
        ("all", on("\0", "\0")),
        (
            "with previous values",
            WatchCreateRequest {
                prev_kv: true,
                ..on("a", "c")
            },
        ),
        (
            "no puts",
            WatchCreateRequest {
                filters: vec![0],
                ..on("a", "c")
            },
        ),
        (
            "no deletes",
            WatchCreateRequest {
                filters: vec![1],
                ..on("a", "c")
            },
        ),
    ] {
        let request = WatchCreateRequest {
            start_revision: 2,
            ..request
        };
        // The past comes in one answer; what follows comes one revision at a time. A filter that
        // leaves nothing leaves no answer: then the delete's is the next.
        let past = usize::from(name != "no puts");
        let live = if name == "no deletes" || name == "no puts" {
            1
        } else {
            2
        };
        let mut steps = vec![create(request), Step::Receive(1 + past)];
        steps.extend([
            aside(put("a", "live")),
            aside(delete("a")),
            Step::Receive(live),
            aside(put("a", "again")),
        ]);
        if name != "no puts" {
            steps.push(Step::Receive(1));
        }
        pair.check(stream(name, steps)).await;
    }
    // A transaction's events come in one answer.
    let ops = ["p", "q", "r"].map(|key| RequestOp {
        request: Some(Request::RequestPut(etcd_proxy_proto::etcdserverpb::PutRequest {
            key: key.into(),
            value: "txn".into(),
            ..Default::default()
        })),
    });
    let txn = TxnRequest {
        success: ops.to_vec(),
        ..Default::default()
    };
    let txn = Case::unary("txn", "/etcdserverpb.KV/Txn", &txn);
    let seen = pair
        .check(stream(
            "a transaction",
            vec![
                create(on("p", "s")),
                Step::Receive(1),
                aside(txn),
                Step::Receive(1),
            ],
        ))
        .await;
    assert_eq!(answers(&seen)[1].events.len(), 3);
    // Two watchers on one stream both get what both cover.
    pair.check(stream(
        "a future revision",
        vec![
            create(WatchCreateRequest {
                start_revision: 10_000,
                ..on("a", "")
            }),
            Step::Receive(1),
            aside(put("a", "too early")),
            // The answer to a cancel comes after any event that was to come.
            cancel(0),
            Step::Receive(1),
        ],
    ))
    .await;
    let lease = etcd_proxy_proto::etcdserverpb::LeaseGrantRequest { ttl: 600, id: 5 };
    pair.ok(Case::unary("grant", "/etcdserverpb.Lease/LeaseGrant", &lease))
        .await;
    let attach = etcd_proxy_proto::etcdserverpb::PutRequest {
        key: "leased".into(),
        value: "x".into(),
        lease: 5,
        ..Default::default()
    };
    let revoke = etcd_proxy_proto::etcdserverpb::LeaseRevokeRequest { id: 5 };
    pair.check(stream(
        "a lease is revoked",
        vec![
            create(WatchCreateRequest {
                prev_kv: true,
                ..on("leased", "")
            }),
            Step::Receive(1),
            aside(Case::unary("attach", "/etcdserverpb.KV/Put", &attach)),
            Step::Receive(1),
            aside(Case::unary("revoke", "/etcdserverpb.Lease/LeaseRevoke", &revoke)),
            Step::Receive(1),
        ],
    ))
    .await;
    pair.finish();
}

async fn ends() {
    let mut pair = history("watch ends").await;
    pair.check(stream(
        "cancel",
        vec![create(on("a", "")), Step::Receive(1), cancel(0), Step::Receive(1)],
    ))
    .await;
    pair.check(stream(
        "half-close: the stream stays open for events",
        vec![
            create(on("a", "")),
            Step::Receive(1),
            Step::HalfClose,
            aside(put("a", "after half-close")),
            Step::Receive(1),
            aside(put("a", "and another")),
            Step::Receive(1),
        ],
    ))
    .await;
    pair.check(stream(
        "half-close in one go",
        vec![
            create(WatchCreateRequest {
                start_revision: 2,
                ..on("a", "")
            }),
            Step::HalfClose,
            Step::Receive(2),
        ],
    ))
    .await;
    pair.check(stream(
        "garbage ends the stream",
        vec![
            create(on("a", "")),
            Step::Receive(1),
            Step::Send((&b"\xff\xff"[..]).into()),
            Step::Finish,
        ],
    ))
    .await;
    let compaction = CompactionRequest {
        revision: 8,
        physical: true,
    };
    pair.ok(Case::unary("compact", "/etcdserverpb.KV/Compact", &compaction))
        .await;
    for revision in [1, 7, 8, 9] {
        let request = WatchCreateRequest {
            start_revision: revision,
            prev_kv: true,
            ..on("a", "")
        };
        pair.check(stream(
            &format!("from {revision} after compaction at 8"),
            vec![create(request), Step::Receive(2)],
        ))
        .await;
    }
    pair.finish();
}

/// Answers beyond 2 MiB are cut into pieces, if the client asks for it.
async fn fragments() {
    let mut pair = Pair::start("watch fragments", Options::default()).await;
    // One revision of more than 2 MiB: a request has 1.5 MiB at most, but previous pairs come on top.
    for value in ["x", "y"] {
        let put = |key: &'static str| RequestOp {
            request: Some(Request::RequestPut(etcd_proxy_proto::etcdserverpb::PutRequest {
                key: key.into(),
                value: value.repeat(700_000).into(),
                ..Default::default()
            })),
        };
        let txn = TxnRequest {
            success: vec![put("big1"), put("big2")],
            ..Default::default()
        };
        pair.ok(Case::unary("both", "/etcdserverpb.KV/Txn", &txn)).await;
    }
    let all = WatchCreateRequest {
        start_revision: 3,
        fragment: true,
        prev_kv: true,
        ..on("big", "bih")
    };
    let seen = pair
        .check(stream(
            "with fragments",
            vec![create(all.clone()), Step::Receive(3)],
        ))
        .await;
    assert!(answers(&seen)[1].fragment, "not fragmented");
    let whole = WatchCreateRequest {
        fragment: false,
        ..all
    };
    let seen = pair
        .check(stream("without", vec![create(whole), Step::Receive(2)]))
        .await;
    assert_eq!(answers(&seen)[1].events.len(), 2);
    pair.finish();
}

async fn progress() {
    let options = Options::default().flag("--experimental-watch-progress-notify-interval=200ms");
    let mut pair = Pair::start("watch progress", options).await;
    pair.put("a", "1").await;
    pair.check(stream(
        "on request",
        vec![
            create(on("a", "")),
            Step::Receive(1),
            ask_progress(),
            Step::Receive(1),
        ],
    ))
    .await;
    pair.check(stream(
        "on request after half of the watchers were cancelled",
        vec![
            create(on("a", "")),
            create(on("b", "")),
            Step::Receive(2),
            cancel(0),
            Step::Receive(1),
            ask_progress(),
            Step::Receive(1),
        ],
    ))
    .await;
    let seen = pair
        .check(stream(
            "periodic",
            vec![
                create(WatchCreateRequest {
                    progress_notify: true,
                    ..on("a", "")
                }),
                Step::Receive(3),
            ],
        ))
        .await;
    assert!(answers(&seen)[1..].iter().all(|answer| answer.events.is_empty()));
    pair.finish();
}
