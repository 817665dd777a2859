use etcd_proxy_core::grpc::Status;
use etcd_proxy_proto::etcdserverpb::{RangeResponse, ResponseHeader, TxnResponse};

use super::*;
use crate::rt::testing::{Testing, run};
use crate::upstream::testing::{Cluster, Heard, Member, Says};

const SOME_TIME: Duration = Duration::from_millis(50);

/// A member of a cluster, which serves or has no quorum.
fn member(name: &str, cluster_id: u64, serves: bool) -> Member {
    Member::start(name, move |heard| {
        let header = Some(ResponseHeader {
            cluster_id,
            ..ResponseHeader::default()
        });
        if heard.path.ends_with("/Txn") {
            return Says::message(&TxnResponse {
                header,
                ..TxnResponse::default()
            });
        }
        if serves {
            Says::message(&RangeResponse {
                header,
                ..RangeResponse::default()
            })
        } else {
            Says::Status(Status::NO_LEADER)
        }
    })
}

/// Suspects the first of these members, and tells whether it has lost its place.
async fn is_outdone(members: &[&Member]) -> bool {
    let mut cluster = Cluster::of(members).await;
    let main = cluster.main(members[0]);
    let _ = cluster_of::<Testing>(&main).await;
    cluster.uplink.suspect::<Testing>(&main);
    rt::sleep::<Testing>(SOME_TIME).await;
    cluster.events() == [Event::Outdone(main.id())]
}

fn reads(member: &Member) -> usize {
    let is_read = |heard: &Heard| heard.path.ends_with("/Range");
    member.heard().iter().filter(|heard| is_read(heard)).count()
}

#[test]
fn a_member_loses_its_place_to_one_that_serves() {
    run(async {
        let (sick, well) = (member("sick", 1, false), member("well", 1, true));
        assert!(is_outdone(&[&sick, &well]).await);
        assert_eq!((reads(&sick), reads(&well)), (1, 1));
    });
}

#[test]
fn a_member_that_serves_keeps_its_place() {
    run(async {
        let (one, other) = (member("one", 1, true), member("other", 1, true));
        assert!(!is_outdone(&[&one, &other]).await);
        assert_eq!((reads(&one), reads(&other)), (1, 0));
    });
}

#[test]
fn a_member_keeps_its_place_if_nobody_serves_or_nobody_of_its_cluster() {
    run(async {
        let sick = member("sick", 1, false);
        assert!(!is_outdone(&[&sick, &member("sick too", 1, false)]).await);
        assert!(!is_outdone(&[&sick, &member("stranger", 2, true)]).await);
        // Nobody listens there.
        let gone = member("gone", 1, true);
        drop(rt::testing::listen("gone"));
        assert!(!is_outdone(&[&sick, &gone]).await);
        assert!(is_outdone(&[&sick, &gone, &member("well", 1, true)]).await);
    });
}

#[test]
fn the_only_one_is_not_suspected() {
    run(async {
        let (sick, well) = (member("sick", 1, false), member("well", 1, true));
        assert!(!is_outdone(&[&sick]).await);
        assert_eq!(reads(&sick), 0);

        let mut cluster = Cluster::of(&[&sick, &well]).await;
        cluster.uplink.lane.set_alone(true);
        let main = cluster.main(&sick);
        cluster.uplink.suspect::<Testing>(&main);
        rt::sleep::<Testing>(SOME_TIME).await;
        assert_eq!((cluster.events(), reads(&sick)), (Vec::new(), 0));
    });
}

#[test]
fn many_suspicions_are_one() {
    run(async {
        let (one, other) = (member("one", 1, true), member("other", 1, true));
        let mut cluster = Cluster::of(&[&one, &other]).await;
        let main = cluster.main(&one);
        for _ in 0..10 {
            cluster.uplink.doubt::<Testing>(&main);
        }
        rt::sleep::<Testing>(SOME_TIME).await;
        assert_eq!(reads(&one), 1);
        let doubts = cluster.events();
        assert_eq!(doubts, vec![Event::Doubt(main.id()); 10], "each is worth a look");
    });
}

#[test]
fn a_silent_member_isnt_asked_again() {
    run(async {
        let (silent, well) = (
            Member::start("silent", |_| Says::Nothing),
            member("well", 1, true),
        );
        let mut cluster = Cluster::of(&[&silent, &well]).await;
        let main = cluster.main(&silent);
        cluster.uplink.is_silent::<Testing>(&main);
        rt::sleep::<Testing>(SOME_TIME).await;
        let id = main.id();
        assert_eq!(cluster.events(), [Event::Doubt(id), Event::Outdone(id)]);
        assert!(silent.heard().is_empty());
    });
}
