use etcd_proxy_core::grpc::Status;
use etcd_proxy_proto::etcdserverpb::ResponseHeader;
use futures_util::future::join3;

use super::*;
use crate::rt::testing::{Testing, run};
use crate::upstream::testing::{Member, Says};

fn of_cluster(cluster_id: u64) -> Says {
    Says::message(&TxnResponse {
        header: Some(ResponseHeader {
            cluster_id,
            ..ResponseHeader::default()
        }),
        ..TxnResponse::default()
    })
}

#[test]
fn a_member_is_asked_once_for_its_cluster() {
    run(async {
        let member = Member::start("member", |_| of_cluster(5));
        let connection = member.connect().await;
        assert_eq!(connection.known_cluster(), None);
        let ask = || cluster_of::<Testing>(&connection);
        let all = join3(ask(), ask(), ask()).await;
        assert_eq!(all, (Ok(Some(5)), Ok(Some(5)), Ok(Some(5))));
        assert_eq!(connection.known_cluster(), Some(5));
        assert_eq!(member.paths(), ["/etcdserverpb.KV/Txn"]);
    });
}

#[test]
fn what_a_member_says_of_its_cluster() {
    let refused = || Says::error(Code::Unavailable, "etcdserver: no leader");
    for (says, expected, asked) in [
        (of_cluster(0), Ok(None), 1),
        // Of an older server, perhaps: it won't say more when it is asked again.
        (refused(), Ok(None), 1),
        (
            Says::Message(Vec::new()),
            Err("no etcd: the answer to a transaction has no header".to_owned()),
            2,
        ),
        (
            Says::Http(404),
            Err("no etcd: no gRPC answer, but HTTP status 404".to_owned()),
            2,
        ),
        (Says::Reset(h2::Reason::CANCEL), Ok(None), 2),
    ] {
        let told = format!("{says:?}");
        run(async {
            let member = Member::start("member", move |_| says.clone());
            let connection = member.connect().await;
            assert_eq!(cluster_of::<Testing>(&connection).await, expected, "{told}");
            assert_eq!(cluster_of::<Testing>(&connection).await, expected, "{told}");
            assert_eq!(member.heard().len(), asked, "{told}");
        });
    }
}

#[test]
fn a_member_that_is_silent_says_nothing_of_its_cluster() {
    run(async {
        let member = Member::start("member", |_| Says::Nothing);
        let connection = member.connect().await;
        let began = Instant::now();
        // They wait for one another, and still not longer than each for itself.
        let ask = || cluster_of::<Testing>(&connection);
        assert_eq!(join3(ask(), ask(), ask()).await, (Ok(None), Ok(None), Ok(None)));
        assert!(began.elapsed() < 2 * IDENTITY_PATIENCE);
        assert_eq!(member.heard().len(), 1);
    });
}

#[test]
fn whom_to_trust_with_progress() {
    let version = |version: &str| {
        Says::message(&StatusResponse {
            version: version.to_owned(),
            ..StatusResponse::default()
        })
    };
    let error = |code| Says::Status(Status::of(code, "why"));
    for (says, expected, asked) in [
        (version("3.5.30"), Some(true), 1),
        (version("3.4.9"), Some(false), 1),
        (error(Code::PermissionDenied), Some(true), 1),
        (error(Code::Unauthenticated), Some(true), 1),
        (error(Code::InvalidArgument), Some(true), 1),
        (error(Code::Unimplemented), Some(false), 1),
        (error(Code::Unavailable), None, 2),
        (Says::Reset(h2::Reason::CANCEL), None, 2),
        (Says::Nothing, None, 2),
    ] {
        let told = format!("{says:?}");
        run(async {
            let member = Member::start("member", move |_| says.clone());
            let connection = member.connect().await;
            for _ in 0..2 {
                let until = Instant::now() + Duration::from_millis(50);
                let trusts = trusts_progress::<Testing>(&connection, until).await;
                assert_eq!(trusts, expected, "{told}");
            }
            assert_eq!(member.heard().len(), asked, "{told}");
        });
    }
}
