//! Nothing older than what was shown, whatever way it was shown.

use std::time::Duration;

use etcd_proxy_proto::{
    etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse},
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    },
};
use etcd_proxy_tests::suite::within;
use libtest_mimic::Trial;
use prost::Message as _;

use crate::world::{ANSWER_LIMIT, Upstream, World, number, one, put, revision, scenario, serializable};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "snapshot_then_read", &[], snapshot_then_read),
        scenario(upstream, "observe_then_read", &[], observe_then_read),
        scenario(
            upstream,
            "no_staleness_at_all",
            &["--cache-staleness=0s"],
            no_staleness_at_all,
        ),
    ]
}

/// A snapshot shows the store, and no header tells of what revision: what is read after it isn't older.
async fn snapshot_then_read(world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    put(&world.direct, &key, "0").await;
    world.warm(&read).await;
    for round in 1..20 {
        let written = put(&world.direct, &key, &round.to_string()).await;
        let path = "/etcdserverpb.Maintenance/Snapshot";
        let reply = within(
            "a snapshot",
            ANSWER_LIMIT,
            world.proxied.wire.call(path, &[], &[bytes::Bytes::new()]),
        )
        .await;
        assert!(reply.is_ok(), "{}", reply.in_short());
        let answer = world.proxied.range(&read).await.expect("a read");
        assert_eq!(number(&answer), Some(round), "older than the snapshot");
        assert!(revision(&answer) >= written);
    }
    world
}

/// A message of a stream that is passed on as bytes shows the store as an answer does.
async fn observe_then_read(world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    put(&world.direct, &key, "0").await;
    world.warm(&read).await;
    let grant = LeaseGrantRequest { ttl: 600, id: 0 };
    let granted = world
        .direct
        .wire
        .unary("/etcdserverpb.Lease/LeaseGrant", &[], &grant);
    let granted: LeaseGrantResponse = granted.await.expect("a lease");
    let name = world.key("election");
    let campaign = CampaignRequest {
        name: name.clone().into(),
        lease: granted.id,
        value: "0".into(),
    };
    let won = world
        .direct
        .wire
        .unary("/v3electionpb.Election/Campaign", &[], &campaign);
    let won: CampaignResponse = within("a campaign", ANSWER_LIMIT, won).await.expect("won");
    let observe = LeaderRequest { name: name.into() };
    let mut observed = world
        .proxied
        .wire
        .open("/v3electionpb.Election/Observe", &[])
        .await
        .expect("a call");
    observed.send(observe.encode_to_vec().into()).await.expect("sent");
    observed.half_close().expect("half-close");
    let mut next = async || {
        let message = within("what is observed", ANSWER_LIMIT, observed.message()).await;
        let message = LeaderResponse::decode(message.expect("a message")).expect("a response");
        message.header.expect("a header").revision
    };
    next().await;
    let mut behind = 0;
    for round in 1..20 {
        let proclaim = ProclaimRequest {
            leader: won.leader.clone(),
            value: format!("{round}").into(),
        };
        let proclaimed = world
            .direct
            .wire
            .unary("/v3electionpb.Election/Proclaim", &[], &proclaim);
        let _: ProclaimResponse = proclaimed.await.expect("proclaimed");
        let shown = next().await;
        let answer = world.proxied.range(&read).await.expect("a read");
        behind += usize::from(revision(&answer) < shown);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(behind, 0, "so many of 19 reads are older than what was observed");
    world
}

/// No time at all: each read waits for a check that began after it, and for no other.
async fn no_staleness_at_all(world: World) -> World {
    let key = world.key("k");
    put(&world.direct, &key, "1").await;
    let read = serializable(&one(&key));
    world.warm(&read).await;
    let before = world.member_reads().await;
    let hits_before = world.hits().await;
    for _ in 0..40 {
        let answer = within("a read", ANSWER_LIMIT, world.proxied.range(&read)).await;
        assert_eq!(number(&answer.expect("a read")), Some(1));
    }
    let asked = world.member_reads().await - before;
    assert!(asked <= 100, "40 reads cost the member {asked} calls");
    assert!(world.hits().await > hits_before, "nothing came from the cache");
    world
}
