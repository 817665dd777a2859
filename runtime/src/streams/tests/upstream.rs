use etcd_proxy_core::endpoints::{ConnectionId, Event};
use etcd_proxy_core::grpc::Code;

use super::*;
use crate::grpc::status_fields;
use crate::rt;
use crate::upstream::testing::{Cluster, Member, Says};

/// A machine with a stream to a member, for which it has sent one message.
struct Opened {
    world: World,
    cluster: Cluster,
    member: Member,
    upstream: UpstreamId,
}

/// Opens a stream to a member that answers so.
async fn open(says: Says, credentials: Option<Bytes>, require_leader: bool) -> Opened {
    let member = Member::start("member", move |_| says.clone());
    let cluster = Cluster::of(&[&member]).await;
    let mut world = World::new();
    let upstream = order(&mut world, &cluster, credentials, require_leader);
    world.want(Wanted::Send(upstream, Bytes::from_static(b"hello")));
    Opened {
        world,
        cluster,
        member,
        upstream,
    }
}

fn order(
    world: &mut World,
    cluster: &Cluster,
    credentials: Option<Bytes>,
    require_leader: bool,
) -> UpstreamId {
    let mut upstream = UpstreamId::default();
    world.streams.tell(|machine, _, actions| {
        upstream = machine.upstreams.insert(());
        actions.push(Wanted::Open {
            upstream,
            credentials,
            require_leader,
            class: Class::Prompt,
        });
    });
    let ordered = world.workers.iter_mut().find_map(|worker| worker.try_recv().ok());
    let order = ordered.expect("an order");
    order.carry_out::<Testing>(cluster.uplink.clone(), world.streams.clone());
    upstream
}

#[test]
fn a_stream_is_opened_as_the_machine_wants_it() {
    run(async {
        let says = Says::Messages(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
        let opened = open(says, Some("secret".into()), true).await;
        opened.world.happens("got two").await;
        assert_eq!(
            opened.world.happened(),
            ["prepared", "opened", "got one", "got two"]
        );
        let heard = opened.member.heard();
        assert_eq!(heard[0].path, "/etcdserverpb.Watch/Watch");
        assert_eq!(heard[0].header("token"), Some("secret"));
        assert_eq!(heard[0].header("hasleader"), Some("true"));
        assert_eq!(heard[0].header("grpc-timeout"), None, "it stays");
        assert_eq!(&heard[0].message[..], b"hello");
    });
}

#[test]
fn a_stream_without_credentials_and_leader_says_nothing_of_either() {
    run(async {
        let opened = open(Says::Messages(vec![Bytes::from_static(b"one")]), None, false).await;
        opened.world.happens("got one").await;
        let heard = opened.member.heard();
        assert_eq!(heard[0].header("token"), None);
        assert_eq!(heard[0].header("hasleader"), None);
    });
}

#[test]
fn how_a_member_ends_a_stream_is_told() {
    run(async {
        let lost = "ended 14 connection lost";
        let denied = Status::of(Code::PermissionDenied, "etcdserver: permission denied");
        for (says, expected, doubted) in [
            (
                Says::Status(Status::NO_LEADER),
                "ended 14 etcdserver: no leader",
                true,
            ),
            (
                Says::Data(framed(b"x").to_vec(), Some(status_fields(&denied))),
                "ended 7 etcdserver: permission denied",
                false,
            ),
            (Says::Data(framed(b"x").to_vec(), None), "ended 2 ", false),
            (Says::Reset(h2::Reason::CANCEL), lost, true),
            (Says::Hangup, lost, true),
            (
                Says::Data(b"\x02\0\0\0\x01x".to_vec(), None),
                "ended 13 grpc: received unexpected payload format 2",
                false,
            ),
        ] {
            let told = format!("{says:?}");
            let mut opened = open(says, None, true).await;
            until(|| opened.world.happened().iter().any(|it| it.starts_with("ended"))).await;
            let happened = opened.world.happened();
            assert_eq!(happened.last().map(String::as_str), Some(expected), "{told}");
            let doubts = opened.cluster.events();
            let is_doubt = |event: &Event| matches!(event, Event::Doubt(_));
            assert_eq!(doubts.iter().any(is_doubt), doubted, "{told}");
        }
    });
}

#[test]
fn a_stream_that_the_machine_closes_is_reset_and_no_more_is_told_of_it() {
    run(async {
        let opened = open(Says::Messages(vec![Bytes::from_static(b"one")]), None, true).await;
        opened.world.happens("got one").await;
        let main = opened.cluster.main(&opened.member);
        assert!(!is_idle(&main));
        opened.world.want(Wanted::Close(opened.upstream));
        until(|| is_idle(&main)).await;
        let happened = opened.world.happened();
        assert_eq!(
            happened.last().map(String::as_str),
            Some("got one"),
            "{happened:?}"
        );
    });
}

fn is_idle(connection: &Arc<Connection>) -> bool {
    etcd_proxy_core::pool::Link::calls_open(&**connection) == 0
}

#[test]
fn without_a_member_a_stream_ends_before_it_is_opened() {
    run(async {
        let cluster = Cluster::of(&[]).await;
        let mut world = World::new();
        order(&mut world, &cluster, None, true);
        world.happens("ended 14 no endpoint can be reached").await;
        assert_eq!(world.happened().len(), 1);
    });
}

#[test]
fn a_stream_with_a_token_that_no_header_holds_is_refused() {
    run(async {
        let opened = open(Says::Nothing, Some("a\nb".into()), true).await;
        opened.world.happens("ended 3 the token is no valid header").await;
        assert!(opened.member.heard().is_empty(), "it is in nobody else's name");
    });
}

#[test]
fn a_stream_on_a_connection_that_is_replaced_is_superseded() {
    run(async {
        let opened = open(Says::Messages(vec![Bytes::from_static(b"one")]), None, true).await;
        opened.world.happens("got one").await;
        let next = slotmap::KeyData::from_ffi(1 << 32 | 9);
        let next = opened.member.connect_as(ConnectionId::from(next)).await;
        assert!(!opened.world.happened().iter().any(|it| it == "superseded"));
        opened.cluster.use_now(next);
        opened.world.happens("superseded").await;
        rt::sleep::<Testing>(Duration::from_millis(20)).await;
        let happened = opened.world.happened();
        assert_eq!(
            happened.last().map(String::as_str),
            Some("superseded"),
            "it goes on: {happened:?}"
        );
    });
}
