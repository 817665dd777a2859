//! What generated programs can't show: time that passes, and requests that no real server survives.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use etcd_proxy_model::cluster::Config;
use etcd_proxy_proto::{
    etcdserverpb::{self as pb, request_op::Request, watch_request::RequestUnion},
    health::HealthCheckRequest,
};
use etcd_proxy_tests::suite::{eventually, trial, within};
use libtest_mimic::Trial;
use prost::Message;

use crate::{
    calls::Call,
    counts::Counts,
    model_side::Model,
    program::{By, Op, Pace},
    real_side::ANSWER_LIMIT,
    run::{KEEP_ALIVE, Run, WATCH},
    sides::Outcome,
};

pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("health", health),
        trial("leases_expire", leases_expire),
        trial("no_messages", no_messages),
        trial("no_methods", no_methods),
        trial("progress_is_told_unasked", progress_is_told_unasked),
        trial("requests_that_kill_a_server", requests_that_kill_a_server),
        trial("tokens_expire", tokens_expire),
    ]
}

/// Both sides must agree in all of it.
async fn all(run: &mut Run, ops: Vec<Op>) {
    let mut counts = Counts::new();
    for op in ops {
        if let Err(stop) = run.op(&op, &mut counts).await {
            panic!("{op:?}: {stop:?}");
        }
        quiet(run).await;
    }
}

async fn quiet(run: &mut Run) {
    if let Err(difference) = run.quiet(&mut Counts::new()).await {
        panic!("{difference}");
    }
}

fn nobody(call: Call) -> Op {
    Op::Call(By::Nobody, call)
}

fn grant(id: i64, ttl: i64) -> Op {
    nobody(Call::LeaseGrant(pb::LeaseGrantRequest { ttl, id }))
}

fn put(key: &'static str, lease: i64) -> Op {
    nobody(Call::Put(pb::PutRequest {
        key: key.into(),
        value: "v".into(),
        lease,
        ..Default::default()
    }))
}

fn time_to_live(id: i64) -> Op {
    nobody(Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest {
        id,
        keys: true,
    }))
}

/// Leases delete their keys, not before their time and soon after it.
async fn leases_expire() {
    let mut run = Run::start(0, Pace::Lockstep, Config::default(), &[]).await;
    let every_key = pb::WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        prev_kv: true,
        ..Default::default()
    };
    let began = Instant::now();
    all(
        &mut run,
        vec![
            Op::Open(0, By::Nobody, false),
            Op::Create(0, every_key),
            // Raised to 2 seconds, the least with an election timeout of one.
            grant(1, 1),
            grant(2, 6),
            put("b", 1),
            put("a", 1),
            put("c", 2),
            put("d", 0),
        ],
    )
    .await;
    let early = run
        .pass(Duration::from_millis(1900), 0)
        .expect("promises are kept");
    assert!(!early, "the model ends a lease before its time");
    // Both keys go in one revision. An etcd looks for expired leases every half second.
    let ended = run
        .pass(Duration::from_millis(1200), 1)
        .expect("promises are kept");
    assert!(
        ended,
        "the model doesn't end a lease within a second after its time"
    );
    quiet(&mut run).await;
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "the real etcd ends a lease before its time"
    );
    let renewed = Instant::now();
    all(
        &mut run,
        vec![
            time_to_live(1),
            Op::KeepAlive(By::Nobody, vec![1, 2, 1]),
            put("a", 1),
            nobody(Call::LeaseRevoke(pb::LeaseRevokeRequest { id: 1 })),
            nobody(Call::LeaseLeases(pb::LeaseLeasesRequest::default())),
            grant(1, 3600),
            put("a", 1),
            time_to_live(1),
            time_to_live(2),
        ],
    )
    .await;
    let early = run
        .pass(Duration::from_millis(5900), 0)
        .expect("promises are kept");
    assert!(!early, "a keepalive counts from its own time on");
    let ended = run
        .pass(Duration::from_millis(1200), 1)
        .expect("promises are kept");
    assert!(
        ended,
        "the model doesn't end a renewed lease within a second after its time"
    );
    quiet(&mut run).await;
    assert!(
        renewed.elapsed() >= Duration::from_secs(6),
        "the real etcd ends a renewed lease before its time"
    );
    all(&mut run, vec![time_to_live(2), time_to_live(1)]).await;
}

/// Simple tokens are void some time after they were last used.
async fn tokens_expire() {
    let config = Config {
        token_ttl: Duration::from_secs(2),
        ..Config::default()
    };
    let flags = ["--auth-token-ttl=2", "--log-level=debug"];
    let mut run = Run::start(0, Pace::Lockstep, config, &flags).await;
    let root = || "root".to_owned();
    let read = || {
        let by_root = By::User {
            user: 0,
            age: 0,
            header: "token",
            scheme: "",
        };
        let request = pb::RangeRequest {
            key: "a".into(),
            ..Default::default()
        };
        Op::Call(by_root, Call::Range(request))
    };
    let log_in = || {
        nobody(Call::Authenticate(pb::AuthenticateRequest {
            name: root(),
            password: "p".to_owned(),
        }))
    };
    all(
        &mut run,
        vec![
            nobody(Call::UserAdd(pb::AuthUserAddRequest {
                name: root(),
                password: "p".to_owned(),
                ..Default::default()
            })),
            nobody(Call::RoleAdd(pb::AuthRoleAddRequest { name: root() })),
            nobody(Call::UserGrantRole(pb::AuthUserGrantRoleRequest {
                user: root(),
                role: root(),
            })),
            nobody(Call::AuthEnable(pb::AuthEnableRequest::default())),
            log_in(),
            read(),
        ],
    )
    .await;
    // Using the real one's token to see whether it is still good would keep it good: its log tells.
    eventually("the real etcd drops the token", ANSWER_LIMIT, async || {
        run.real.log().contains("deleted a simple token").then_some(())
    })
    .await;
    run.pass(Duration::from_secs(4), 0).expect("promises are kept");
    let mut counts = Counts::new();
    for op in [read(), log_in(), read()] {
        let done = run.op(&op, &mut counts).await;
        assert!(done.is_ok(), "{op:?}: {done:?}");
    }
    let ranges = &counts.kinds["Range"];
    let refusal = "etcdserver: invalid auth token";
    assert!(
        ranges.succeeded == 1 && ranges.failed.contains_key(refusal),
        "first refused, then not: {ranges:?}"
    );
}

/// With `progress_notify` a quiet watcher is told how far it is, if it has reached its start.
async fn progress_is_told_unasked() {
    const INTERVAL: Duration = Duration::from_millis(200);
    let config = Config {
        progress_interval: INTERVAL,
        ..Config::default()
    };
    let flag = "--experimental-watch-progress-notify-interval=200ms";
    let mut run = Run::start(0, Pace::Lockstep, config, &[flag]).await;
    all(&mut run, vec![put("a", 0), put("b", 0)]).await;
    let create = |start_revision, progress_notify| {
        let request = pb::WatchCreateRequest {
            key: "c".into(),
            start_revision,
            progress_notify,
            ..Default::default()
        };
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(request)),
        };
        Bytes::from(request.encode_to_vec())
    };
    let mut real = run.real.open(WATCH, &None, false).await;
    let stream = run.model.open(WATCH, &None, false, u32::MAX);
    for message in [
        create(0, true),
        create(0, false),
        create(1, true),
        create(100, true),
    ] {
        real.send(message.clone()).await;
        run.model.send(stream, message);
    }
    let decode = |message| pb::WatchResponse::decode(message).expect("a watch response");
    // Which watchers were told which revision; three rounds give each of them its turn.
    let told = |responses: &[pb::WatchResponse]| -> BTreeSet<(i64, i64)> {
        let progress = responses.iter().filter(|response| !response.created);
        progress
            .map(|response| {
                assert!(response.events.is_empty() && !response.canceled, "{response:?}");
                let header = response.header.expect("a header");
                (response.watch_id, header.revision)
            })
            .collect()
    };
    let mut responses = Vec::new();
    let rounds = |responses: &[pb::WatchResponse], id: i64| {
        let of_id = responses
            .iter()
            .filter(|response| !response.created && response.watch_id == id);
        of_id.count()
    };
    while rounds(&responses, 0) < 3 || rounds(&responses, 2) < 3 {
        let message = within("progress of the real etcd", ANSWER_LIMIT, real.message()).await;
        responses.push(decode(message.expect("an open stream")));
    }
    run.model.pass(INTERVAL * 4);
    let model: Vec<_> = run.model.take(stream).into_iter().map(decode).collect();
    assert!(rounds(&model, 0) >= 3, "{model:?}");
    assert_eq!(
        told(&responses),
        BTreeSet::from([(0, 3), (2, 3)]),
        "the real etcd"
    );
    assert_eq!(told(&model), told(&responses), "the model");
}

/// Outcomes of the same unary call.
async fn both(run: &mut Run, path: &str, message: &[u8]) -> [Outcome; 2] {
    let message = Bytes::copy_from_slice(message);
    [
        run.real.call(path, &None, message.clone()).await,
        run.model.call(path, &None, message),
    ]
}

/// The health checking protocol, for the whole server and for services that a server has or has not.
async fn health() {
    let mut run = Run::start(0, Pace::Lockstep, Config::default(), &[]).await;
    for service in ["", "etcdserverpb.KV", "nothing"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let [real, model] = both(&mut run, HEALTH, &request.encode_to_vec()).await;
        assert_eq!(real, model, "{service}");
        assert_eq!(real.is_ok(), service.is_empty(), "{service}: {real:?}");
    }
}

/// Paths that lead nowhere.
async fn no_methods() {
    let mut run = Run::start(0, Pace::Lockstep, Config::default(), &[]).await;
    for path in [
        "/etcdserverpb.KV/Nothing",
        "/etcdserverpb.Nothing/Range",
        "/nothing",
        "/",
        "/a/b/c",
    ] {
        let [real, model] = both(&mut run, path, b"").await;
        assert_eq!(real, model, "{path}");
        assert!(real.is_err(), "{path}");
    }
}

/// Bytes that are no message of the method. Each protobuf library complains in its own words.
async fn no_messages() {
    let mut run = Run::start(0, Pace::Lockstep, Config::default(), &[]).await;
    let code = |outcome: Outcome| outcome.map(|_| ()).map_err(|status| status.code);
    for path in crate::calls::PATHS {
        // A field of length 5 of which nothing comes, and an empty message with a field that nobody knows.
        let [real, model] = both(&mut run, path, b"\x0a\x05").await;
        let takes_any = real.is_ok();
        assert_eq!(code(real), code(model), "{path}");
        assert!(!takes_any, "{path}");
    }
    for path in [WATCH, KEEP_ALIVE] {
        let mut real = run.real.open(path, &None, false).await;
        let stream = run.model.open(path, &None, false, u32::MAX);
        real.send(Bytes::from_static(b"\x0a\x05")).await;
        run.model.send(stream, Bytes::from_static(b"\x0a\x05"));
        let message = within("the end of a stream", ANSWER_LIMIT, real.message()).await;
        assert_eq!(message, None, "{path}");
        let model = run.model.end(stream).map(|end| end.code);
        assert_eq!(real.end().map(|end| end.code), model, "{path}");
    }
}

/// 3.5.30 panics on these; the model must not: it is there for everybody's clients. What it answers is up to it.
async fn requests_that_kill_a_server() {
    let alarm = |action, alarm| {
        Call::Alarm(pb::AlarmRequest {
            action,
            member_id: 1,
            alarm,
        })
    };
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    let delete = pb::DeleteRangeRequest {
        key: "a".into(),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    };
    let put = pb::PutRequest {
        key: "b".into(),
        value: "1".into(),
        ..Default::default()
    };
    let needs_key = pb::PutRequest {
        ignore_lease: true,
        ..put.clone()
    };
    let calls = [
        Call::Range(pb::RangeRequest {
            key: "a".into(),
            range_end: "z".into(),
            sort_order: 1,
            sort_target: 9,
            ..Default::default()
        }),
        alarm(5, 1),
        alarm(1, 9),
        Call::Txn(pb::TxnRequest {
            success: vec![
                op(Request::RequestDeleteRange(delete)),
                op(Request::RequestPut(needs_key)),
            ],
            ..Default::default()
        }),
    ];
    let mut model = Model::new(0, Config::default(), "http://127.0.0.1:1");
    let put = Call::Put(put);
    for call in calls {
        let before = model.call(put.path(), &None, put.encode());
        assert!(before.is_ok(), "{before:?} before {call:?}");
        // Any answer will do.
        let _ = model.call(call.path(), &None, call.encode());
    }
    let after = model.call(put.path(), &None, put.encode());
    assert!(after.is_ok(), "{after:?}");
}
