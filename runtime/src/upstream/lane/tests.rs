use core::pin::pin;

use futures_util::future::join;
use slotmap::KeyData;

use super::*;
use crate::rt::testing::{Testing, run};
use crate::upstream::OnBehalf;
use crate::upstream::testing::{Cluster, Member, Says};

const SHORT: Duration = Duration::from_millis(30);

fn soon() -> Instant {
    Instant::now() + SHORT
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn id(number: u64) -> ConnectionId {
    KeyData::from_ffi(1 << 32 | number).into()
}

fn silent(calls_max: Option<u32>) -> Member {
    Member::with_calls_max("member", calls_max, |_| Says::Nothing)
}

/// The id of the connection that a call gets, or why it gets none.
async fn taken(lane: &Lane, wish: Wish<'_>, deadline: Instant) -> Result<ConnectionId, NoConnection> {
    let taken = lane.connection::<Testing>(wish, deadline).await;
    taken.map(|taken| taken.connection.id())
}

#[test]
fn calls_go_to_the_connection_that_was_set_last() {
    run(async {
        let (member, lane) = (silent(None), Lane::default());
        let (one, two) = (member.connect_as(id(1)).await, member.connect_as(id(2)).await);
        lane.set(Some(one.clone()));
        assert_eq!(taken(&lane, Wish::of_proxy(), soon()).await, Ok(id(1)));
        assert!(lane.main_to(&member.endpoint).is_some());
        assert!(lane.main_to(&Endpoint::Unix { path: "/x".into() }).is_none());
        lane.set(Some(two.clone()));
        assert_eq!(taken(&lane, Wish::of_proxy(), soon()).await, Ok(id(2)));
        assert!(!one.is_open(), "it is withdrawn");
        assert!(two.is_open() && !one.is_closed());
    });
}

#[test]
fn a_call_waits_for_a_connection_until_its_deadline() {
    run(async {
        let (member, lane) = (silent(None), Lane::default());
        let began = Instant::now();
        let none = taken(&lane, Wish::of_proxy(), began + SHORT).await;
        assert_eq!(none, Err(NoConnection::NoEndpoint));
        assert!(began.elapsed() >= SHORT);

        let connection = member.connect_as(id(1)).await;
        let set = async {
            rt::sleep::<Testing>(SHORT).await;
            lane.set(Some(connection));
        };
        let (got, ()) = join(taken(&lane, Wish::of_proxy(), later()), set).await;
        assert_eq!(got, Ok(id(1)));
        // It was refused there.
        let turn = Arc::default();
        let avoiding = Wish::of_client(Class::Prompt, Client(1), &turn, Some(id(1)));
        let got = taken(&lane, avoiding, soon()).await;
        assert_eq!(got, Err(NoConnection::NoEndpoint));
    });
}

#[test]
fn nobody_waits_when_the_process_ends() {
    run(async {
        let (member, lane) = (silent(None), Lane::default());
        let began = Instant::now();
        let end = async {
            rt::sleep::<Testing>(SHORT).await;
            lane.end();
        };
        let (got, ()) = join(taken(&lane, Wish::of_proxy(), later()), end).await;
        assert_eq!(got, Err(NoConnection::NoEndpoint));
        assert!(lane.has_ended() && began.elapsed() < Duration::from_secs(1));
        drop(member);
    });
}

#[test]
fn who_stays_is_told_when_calls_go_elsewhere() {
    run(async {
        let (member, lane) = (silent(None), Lane::default());
        let (one, two) = (member.connect_as(id(1)).await, member.connect_as(id(2)).await);
        lane.set(Some(one.clone()));
        let mut superseded = pin!(lane.superseded(id(1)));
        let waited = rt::timeout_at::<Testing, _>(soon(), superseded.as_mut()).await;
        assert_eq!(waited, Err(rt::Elapsed));
        // It takes no calls, but nothing else does either: to end what is on it would help nobody.
        one.refuses();
        lane.look_again();
        let waited = rt::timeout_at::<Testing, _>(soon(), superseded.as_mut()).await;
        assert_eq!(waited, Err(rt::Elapsed));
        lane.set(Some(two));
        assert_eq!(rt::timeout_at::<Testing, _>(later(), superseded).await, Ok(()));
    });
}

#[test]
fn a_class_of_its_own_gets_a_connection_of_its_own() {
    run(async {
        let member = silent(None);
        let mut cluster = Cluster::of(&[&member]).await;
        let lane = cluster.uplink.lane.clone();
        let turn = Arc::default();
        let wish = Wish::of_client(Class::Blocking, Client(1), &turn, None);
        let further = member.connect_as(id(2)).await;
        let join_it = async {
            rt::sleep::<Testing>(SHORT).await;
            assert_eq!(cluster.events(), [Event::Wanted(0, Class::Blocking)]);
            lane.join(Class::Blocking, further.clone());
        };
        let (got, ()) = join(taken(&lane, wish, later()), join_it).await;
        assert_eq!(got, Ok(id(2)));
        assert!(lane.tidy(), "there is one that must be looked after");
        lane.set(None);
        assert!(!further.is_open(), "it is withdrawn with the main one");
        assert!(!lane.tidy());
    });
}

#[test]
fn a_call_that_can_share_does_so_when_there_is_no_other_connection() {
    run(async {
        let member = silent(None);
        let mut cluster = Cluster::of(&[&member]).await;
        let lane = cluster.uplink.lane.clone();
        let turn = Arc::default();
        let wish = Wish::of_client(Class::Bulk, Client(1), &turn, None);
        let refuse = async {
            rt::sleep::<Testing>(SHORT).await;
            assert_eq!(cluster.events(), [Event::Wanted(0, Class::Bulk)]);
            lane.not_joined(Class::Bulk);
        };
        let (got, ()) = join(taken(&lane, wish, later()), refuse).await;
        assert_eq!(got, Ok(ConnectionId::default()));
    });
}

#[test]
fn a_busy_control_task_is_asked_again() {
    run(async {
        let member = silent(None);
        let mut cluster = Cluster::of(&[&member]).await;
        let lane = cluster.uplink.lane.clone();
        while cluster.uplink.reports.try_send(Report::End).is_ok() {}
        let turn = Arc::default();
        let wish = Wish::of_client(Class::Blocking, Client(1), &turn, None);
        assert_eq!(taken(&lane, wish, soon()).await, Err(NoConnection::NoEndpoint));
        assert!(cluster.events().is_empty());
        assert_eq!(taken(&lane, wish, soon()).await, Err(NoConnection::NoEndpoint));
        assert_eq!(cluster.events(), [Event::Wanted(0, Class::Blocking)]);
    });
}

/// A member that allows one call on a connection leaves room for four prompt calls of clients, on four connections.
#[test]
fn a_client_waits_for_its_turn() {
    run(async {
        let member = silent(Some(1));
        let cluster = Cluster::of(&[&member]).await;
        let lane = cluster.uplink.lane.clone();
        for number in 2..=4 {
            lane.join(Class::Prompt, member.connect_as(id(number)).await);
        }
        let turn = Arc::new(Notify::new());
        let wish = Wish::of_client(Class::Prompt, Client(1), &turn, None);
        let open = async || {
            let taken = lane.connection::<Testing>(wish, soon()).await?;
            assert!(taken.counted);
            let head = taken
                .connection
                .request(etcd_proxy_core::rpc::Rpc::Put, &OnBehalf::default());
            let (response, stream, mut open) = taken
                .connection
                .open_call(head.expect("it is valid"), true)
                .expect("it is open");
            open.count(lane.begin(Class::Prompt, Client(1)));
            Ok((response, stream, open))
        };
        let (first, second) = (open().await.expect("room"), open().await.expect("room"));
        assert_eq!(
            open().await.err(),
            Some(NoConnection::NoTurn),
            "half is for others"
        );
        let end = async {
            rt::sleep::<Testing>(SHORT / 3).await;
            drop(first);
        };
        let (third, ()) = join(open(), end).await;
        assert!(third.is_ok());
        drop(second);
    });
}
