//! Streams.

use etcd_proxy_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use etcd_proxy_proto::health::{HealthCheckRequest, HealthCheckResponse};

use super::*;
use crate::error::Error;

const HEALTH: &str = "/grpc.health.v1.Health/Watch";

fn watch(key: &'static str) -> WatchRequest {
    WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: key.into(),
            ..Default::default()
        })),
    }
}

fn keep_alive(id: i64) -> LeaseKeepAliveRequest {
    LeaseKeepAliveRequest { id }
}

fn grant(world: &mut World, id: i64, ttl: i64) {
    let _: LeaseGrantResponse = world.answer(0, GRANT, &LeaseGrantRequest { id, ttl });
}

#[test]
fn watchers_see_what_their_member_applies() {
    let mut world = World::new(3);
    let (leader, slow) = (world.leader(), world.follower());
    let streams = [leader, slow].map(|member| world.open(member, WATCH, Metadata::default(), 100));
    for stream in streams {
        world.message(stream, &watch("a"));
        let created: Vec<WatchResponse> = world.take(stream);
        assert!(created.len() == 1 && created[0].created && !created[0].canceled);
    }
    world.fault(Fault::Lag(slow, millis(100)));
    world.put(leader, "a");
    let events: Vec<WatchResponse> = world.take(streams[0]);
    assert_eq!((events.len(), events[0].events.len()), (1, 1));
    assert_eq!(
        events[0].header.map(|header| header.member_id),
        Some(world.cluster.ids(leader).1)
    );
    assert!(world.take::<WatchResponse>(streams[1]).is_empty());
    world.pass(millis(100));
    assert_eq!(world.take::<WatchResponse>(streams[1]).len(), 1);
    // Half-closed, it goes on.
    world.handle(Event::HalfClose(streams[0]));
    world.put(leader, "a");
    assert_eq!(world.take::<WatchResponse>(streams[0]).len(), 1);
}

#[test]
fn a_compaction_of_what_didnt_concern_a_watcher_doesnt_cancel_it() {
    let mut world = World::new(1);
    let stream = world.open(0, WATCH, Metadata::default(), 100);
    world.message(stream, &watch("a"));
    for _ in 0..10 {
        world.put(0, "b");
    }
    let request = CompactionRequest {
        revision: 11,
        physical: true,
    };
    let _: CompactionResponse = world.answer(0, "/etcdserverpb.KV/Compact", &request);
    world.put(0, "a");
    world.pass(secs(1));
    let responses: Vec<WatchResponse> = world.take(stream);
    assert_eq!(responses.len(), 2);
    assert!(responses[0].created);
    assert!(!responses[1].canceled && responses[1].events.len() == 1);
}

#[test]
fn nothing_is_sent_without_credit() {
    let mut world = World::new(1);
    let stream = world.open(0, WATCH, Metadata::default(), 2);
    world.message(stream, &watch("a"));
    for _ in 0..500 {
        world.put(0, "a");
    }
    assert_eq!(world.take::<WatchResponse>(stream).len(), 2);
    let mut revision = 2;
    while revision < 501 {
        world.handle(Event::Credit { stream, messages: 1 });
        world.pass(millis(100));
        for response in world.take::<WatchResponse>(stream) {
            for event in response.events {
                revision += 1;
                assert_eq!(event.kv.map(|kv| kv.mod_revision), Some(revision));
            }
        }
    }
}

#[test]
fn a_client_that_takes_nothing_is_not_read_for_ever() {
    let mut world = World::new(1);
    let stream = world.open(0, WATCH, Metadata::default(), 0);
    for _ in 0..200 {
        world.message(stream, &watch("a"));
    }
    assert_eq!(world.cluster.backlog(stream), 200 - 128);
    world.handle(Event::Credit {
        stream,
        messages: 1000,
    });
    assert_eq!(world.cluster.backlog(stream), 0);
    assert_eq!(world.take::<WatchResponse>(stream).len(), 200);
}

#[test]
fn heartbeats_are_answered_in_order_and_at_once() {
    let mut world = World::new(3);
    grant(&mut world, 7, 10);
    let member = world.follower();
    let stream = world.open(member, KEEP_ALIVE, Metadata::default(), 3);
    for id in [7, 8, 7, 7] {
        world.message(stream, &keep_alive(id));
    }
    let answers: Vec<LeaseKeepAliveResponse> = world.take(stream);
    let answers: Vec<_> = answers.iter().map(|answer| (answer.id, answer.ttl)).collect();
    assert_eq!(answers, [(7, 10), (8, 0), (7, 10)]);
    world.handle(Event::HalfClose(stream));
    assert!(!world.ended.contains_key(&stream), "one answer is left");
    world.handle(Event::Credit { stream, messages: 1 });
    assert_eq!(world.take::<LeaseKeepAliveResponse>(stream).len(), 1);
    assert_eq!(world.ended[&stream].1, Status::OK);
    assert_eq!(world.cluster.streams(), 0);
}

#[test]
fn leases_end_with_their_last_heartbeat() {
    let mut world = World::new(1);
    grant(&mut world, 7, 3);
    let put = PutRequest { lease: 7, ..put("a") };
    let _: PutResponse = world.answer(0, PUT, &put);
    let stream = world.open(0, KEEP_ALIVE, Metadata::default(), 10);
    for _ in 0..5 {
        world.pass(secs(2));
        world.message(stream, &keep_alive(7));
    }
    let last = world.now;
    let watcher = world.open(0, WATCH, Metadata::default(), 10);
    world.message(watcher, &watch("a"));
    world.take::<WatchResponse>(watcher);
    while world.get(0, "a").count > 0 {
        let next = world.cluster.next_timeout().expect("the lease will end");
        world.pass(next - world.now);
    }
    assert!(
        world.now >= last + secs(3) && world.now <= last + millis(3500),
        "{:?}",
        world.now
    );
    assert_eq!(world.take::<WatchResponse>(watcher)[0].events[0].r#type, 1);
    world.message(stream, &keep_alive(7));
    assert_eq!(
        world
            .take::<LeaseKeepAliveResponse>(stream)
            .last()
            .map(|answer| answer.ttl),
        Some(0)
    );
}

#[test]
fn a_heartbeat_waits_for_a_leader_or_ends_the_stream() {
    let mut world = World::new(3);
    grant(&mut world, 7, 10);
    let stream = world.open(0, KEEP_ALIVE, Metadata::default(), 10);
    world.fault(Fault::LoseLeader);
    world.message(stream, &keep_alive(7));
    assert!(world.take::<LeaseKeepAliveResponse>(stream).is_empty());
    world.pass(secs(2));
    assert_eq!(world.take::<LeaseKeepAliveResponse>(stream)[0].ttl, 10);

    let (cut, other) = (world.follower(), world.other_follower());
    let stream = world.open(cut, KEEP_ALIVE, Metadata::default(), 10);
    world.fault(Fault::Isolate(cut));
    world.message(stream, &keep_alive(7));
    let start = world.now;
    world.pass(secs(8));
    let (at, status) = &world.ended[&stream];
    assert_eq!((*at, status), (start + secs(7), &Error::NoLeader.status()));
    // A leader that is frozen is waited for, although another one leads.
    let leader = world.leader();
    let stream = world.open(other, KEEP_ALIVE, Metadata::default(), 10);
    world.fault(Fault::Heal(cut));
    world.fault(Fault::Freeze(leader));
    world.message(stream, &keep_alive(7));
    world.pass(secs(8));
    assert_ne!(world.leader(), leader);
    assert_eq!(world.ended[&stream].1, Error::Timeout.status());
}

#[test]
fn streams_that_require_a_leader_end_after_three_election_timeouts() {
    let mut world = World::new(3);
    let cut = world.follower();
    let strict = [WATCH, KEEP_ALIVE].map(|path| world.open(cut, path, require_leader(), 10));
    let patient = [WATCH, KEEP_ALIVE].map(|path| world.open(cut, path, Metadata::default(), 10));
    world.fault(Fault::Isolate(cut));
    while world.cluster.has_leader(cut) {
        world.pass(millis(10));
    }
    let refused = world.open(cut, WATCH, require_leader(), 10);
    assert_eq!(world.ended[&refused].1, Error::NoLeader.status());
    world.pass(millis(2980));
    assert!(strict.iter().all(|stream| !world.ended.contains_key(stream)));
    world.pass(millis(30));
    assert!(
        strict
            .iter()
            .all(|stream| world.ended[stream].1 == Error::NoLeader.status())
    );
    world.pass(secs(60));
    assert!(patient.iter().all(|stream| !world.ended.contains_key(stream)));
    // A short loss ends none.
    world.fault(Fault::Heal(cut));
    let stream = world.open(cut, WATCH, require_leader(), 10);
    world.fault(Fault::LoseLeader);
    world.pass(secs(10));
    assert!(!world.ended.contains_key(&stream));
}

#[test]
fn health_can_be_watched() {
    let mut world = World::new(1);
    for (service, status) in [("", 1), ("x", 3)] {
        let stream = world.open(0, HEALTH, Metadata::default(), 10);
        world.message(
            stream,
            &HealthCheckRequest {
                service: service.into(),
            },
        );
        world.handle(Event::HalfClose(stream));
        let answers: Vec<HealthCheckResponse> = world.take(stream);
        assert_eq!(
            answers.iter().map(|answer| answer.status).collect::<Vec<_>>(),
            [status]
        );
        assert!(!world.ended.contains_key(&stream));
    }
}

#[test]
fn what_is_no_stream_and_what_is_no_message_ends() {
    let mut world = World::new(1);
    for (path, message) in [
        (RANGE, "a unary call is not a stream"),
        (
            "/etcdserverpb.Watch/Nope",
            "unknown method Nope for service etcdserverpb.Watch",
        ),
        (
            "/v3electionpb.Election/Observe",
            "the in-memory etcd does not cover this call",
        ),
        // There is no database: a stream that ended well would leave a client with a file that can't be restored.
        (
            "/etcdserverpb.Maintenance/Snapshot",
            "the in-memory etcd does not cover this call",
        ),
    ] {
        let stream = world.open(0, path, Metadata::default(), 10);
        let status = &world.ended[&stream].1;
        assert_eq!((status.code, &*status.message), (12, message));
    }
    for path in [WATCH, KEEP_ALIVE, HEALTH] {
        let stream = world.open(0, path, Metadata::default(), 10);
        world.handle(Event::Message {
            stream,
            message: Bytes::from_static(b"\xff\xff"),
        });
        assert_eq!(world.ended[&stream].1.code, 13, "{path}");
    }
    let stream = world.open(0, HEALTH, Metadata::default(), 10);
    world.handle(Event::HalfClose(stream));
    assert_eq!(world.ended[&stream].1, Status::new(2, "EOF"));
}
