use core::future::poll_fn;

use etcd_proxy_core::grpc::{Code, framed};
use etcd_proxy_core::lease::{Config as LeaseConfig, Router};
use etcd_proxy_core::read::{CacheRole, Config, FLOOR_UNKNOWN, Payload};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::watch::{Config as WatchConfig, Hub};
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use prost::Message as _;

use super::*;
use crate::rt::testing::run;

/// A cache, and the orders that it gives to its one worker.
struct World {
    reads: Arc<ReadCache>,
    orders: mpsc::UnboundedReceiver<Order>,
}

fn world(scope: &Scope) -> World {
    let shown = Arc::<Shown>::default();
    let (orders, _) = mpsc::unbounded_channel();
    let hub = Hub::new(WatchConfig::default(), 1);
    let hub = Arc::new(WatchHub::new(hub, "watch", shown.clone(), vec![orders]));
    let (orders, _) = mpsc::unbounded_channel();
    let router = Router::new(LeaseConfig::default(), 1);
    let router = Arc::new(LeaseRouter::new(router, "lease", shown.clone(), vec![orders]));
    let (sender, orders) = mpsc::unbounded_channel();
    let config = Config {
        scope: scope.clone(),
        ..Config::default()
    };
    let cache = Cache::new(config, 1);
    let reads = ReadCache::new(cache, scope.clone(), shown, hub, router, vec![sender]);
    World {
        reads: Arc::new(reads),
        orders,
    }
}

fn request() -> Bytes {
    let request = RangeRequest {
        key: "k".into(),
        serializable: true,
        ..RangeRequest::default()
    };
    request.encode_to_vec().into()
}

fn response(revision: i64) -> Bytes {
    let response = RangeResponse {
        header: Some(ResponseHeader {
            cluster_id: 1,
            revision,
            ..ResponseHeader::default()
        }),
        ..RangeResponse::default()
    };
    response.encode_to_vec().into()
}

fn reply(code: u8, message: &'static str, data: &Bytes) -> Reply<'static> {
    Reply {
        code,
        message: message.into(),
        payload: Payload::of(&framed(data)),
        is_whole: true,
    }
}

/// A read that is forwarded, with its ticket.
fn forwarded(reads: &Arc<ReadCache>) -> HeldTicket {
    let floor = CacheTicket::floor_of(&request(), reads.floor());
    match reads.read(&request()) {
        Admitted::Forward(ticket) => {
            assert!(ticket.is_some(), "the cache wants to know how it ends");
            HeldTicket::of_read(reads, ticket, floor, Rpc::Range, &request())
        }
        _ => panic!("there is nothing that it could wait for"),
    }
}

fn waiting(reads: &Arc<ReadCache>) -> Waiting {
    match reads.read(&request()) {
        Admitted::Wait(waiting) => waiting,
        _ => panic!("the same read is under way"),
    }
}

async fn resolved(waiting: &mut Waiting) -> Admitted {
    poll_fn(|cx| waiting.poll(cx)).await
}

#[test]
fn reads_that_are_the_same_share_an_answer() {
    run(async {
        let World { reads, .. } = world(&Scope::Everything);
        let first = forwarded(&reads);
        let mut second = waiting(&reads);
        first.answered(&reply(0, "", &response(7)));
        match resolved(&mut second).await {
            Admitted::Shared(Ok(shared)) => assert_eq!(shared, response(7)),
            _ => panic!("it was answered"),
        }
        assert_eq!(reads.known().revision, 7, "clients have seen that");
    });
}

#[test]
fn a_read_whose_answer_nobody_told_keeps_nobody_waiting() {
    run(async {
        let World { reads, .. } = world(&Scope::Everything);
        let first = forwarded(&reads);
        let mut second = waiting(&reads);
        drop(first);
        assert!(matches!(resolved(&mut second).await, Admitted::Forward(Some(_))));
    });
}

#[test]
fn a_refusal_of_the_proxys_own_is_for_all_who_wait() {
    run(async {
        let World { reads, .. } = world(&Scope::Everything);
        let first = forwarded(&reads);
        let mut second = waiting(&reads);
        let refused = Status::of(Code::Unavailable, "etcd-proxy: no endpoint is reachable");
        first.refused(&refused);
        match resolved(&mut second).await {
            Admitted::Shared(Err(status)) => assert_eq!(status, refused),
            _ => panic!("it was refused"),
        }
    });
}

#[test]
fn who_gives_up_waiting_leaves_nothing_behind() {
    run(async {
        let World { reads, .. } = world(&Scope::Everything);
        let waits = || reads.shared.quietly(|state| state.waiting.len());
        let first = forwarded(&reads);
        let (second, mut third) = (waiting(&reads), waiting(&reads));
        assert_eq!(waits(), 2);
        drop(second);
        assert_eq!(waits(), 1);
        first.answered(&reply(0, "", &response(7)));
        assert!(matches!(resolved(&mut third).await, Admitted::Shared(Ok(_))));
        assert_eq!(waits(), 0);

        // Its turn had come: it goes to the next one.
        let first = forwarded(&reads);
        let (second, mut third) = (waiting(&reads), waiting(&reads));
        drop(first);
        drop(second);
        assert!(matches!(resolved(&mut third).await, Admitted::Forward(Some(_))));
        assert_eq!(waits(), 0);
    });
}

#[test]
fn the_first_read_opens_one_watch() {
    let mut world = world(&Scope::Everything);
    for _ in 0..3 {
        drop(forwarded(&world.reads));
    }
    let mut watches = 0;
    while let Ok(order) = world.orders.try_recv() {
        watches += usize::from(matches!(order, Order::Watch(_)));
    }
    assert_eq!(watches, 1);
}

#[test]
fn a_cache_that_is_off_has_no_part_in_reads() {
    let mut world = world(&Scope::Nothing);
    assert!(world.reads.is_off());
    for _ in 0..2 {
        assert!(matches!(world.reads.read(&request()), Admitted::Forward(None)));
    }
    assert!(world.orders.try_recv().is_err());
}

#[test]
fn what_was_shown_is_the_floor() {
    let World { reads, .. } = world(&Scope::Everything);
    reads.show(0, 5);
    reads.show(0, 3);
    assert_eq!(reads.floor().revision, 5);
    reads.show(7, 9);
    assert_eq!(reads.floor().revision, 5, "of a history that isn't");
    reads.show_unread();
    assert_eq!(reads.floor().revision, FLOOR_UNKNOWN);
}

#[test]
fn another_history_is_told_to_all_machines() {
    let World { reads, .. } = world(&Scope::Everything);
    reads.show(0, 5);
    let asked = reads.known();
    let shows = |revision, is_newest| Shows {
        cluster_id: 1,
        revision,
        is_newest,
    };
    assert_eq!(reads.judge(asked, shows(3, false)), Verdict::Suspicious);
    assert_eq!(reads.look(Cache::history), 0);
    assert_eq!(reads.judge(asked, shows(3, true)), Verdict::Another);
    assert_eq!((reads.known().history, reads.known().revision), (1, 3));
    assert_eq!(reads.look(Cache::history), 1);
    assert_eq!(reads.hub.look(Hub::history), 1);
    assert_eq!(reads.router.look(Router::history), 1);
    assert_eq!(reads.judge(asked, shows(9, true)), Verdict::Stale);
    assert_eq!(reads.known().revision, 3);
}

#[test]
fn a_write_shows_its_revision_before_it_is_answered() {
    let World { reads, .. } = world(&Scope::Everything);
    let role = CacheRole::of(Rpc::LeaseGrant, || true);
    let ticket = HeldTicket::of(&reads, role, Rpc::LeaseGrant, None);
    ticket.answered(&reply(0, "", &response(11)));
    assert_eq!(reads.known().revision, 11);
}
