use std::sync::atomic::AtomicBool;

use etcd_proxy_core::class::Class;
use etcd_proxy_core::grpc::Status;
use etcd_proxy_proto::etcdserverpb::{ResponseHeader, TxnResponse};
use etcd_proxy_proto::health::HealthCheckResponse;

use super::*;
use crate::rt::testing::{Testing, listen, run, until};
use crate::upstream::Wish;
use crate::upstream::testing::{Heard, Member, Says, settings};

/// What a member of a cluster that serves answers to probes.
fn serves(heard: &Heard, cluster_id: u64) -> Says {
    if heard.path.ends_with("/Txn") {
        let header = Some(ResponseHeader {
            cluster_id,
            ..ResponseHeader::default()
        });
        return Says::message(&TxnResponse {
            header,
            ..TxnResponse::default()
        });
    }
    Says::message(&HealthCheckResponse { status: 1 })
}

/// What a test sees of a control task with one worker.
struct Seen {
    lane: Arc<Lane>,
    reports: Reports,
    reached: latest::Receiver<Reached>,
    foreign: Arc<AtomicUsize>,
}

/// Runs a control task for these endpoints. Probes come one after another, and members get little time.
fn start(endpoints: &[Endpoint]) -> Seen {
    let config = Config {
        probe_interval: Some(Duration::from_millis(5)),
        probe_timeout: Duration::from_millis(100),
        connect_timeout: Duration::from_millis(100),
        stagger: Duration::from_millis(5),
        challenge_interval: Duration::from_millis(5),
        ..Config::default()
    };
    let (orders, mut mailbox) = mpsc::unbounded_channel::<Connect>();
    let (lane, settings) = (Arc::<Lane>::default(), Arc::new(settings()));
    let control = Control::new(
        config,
        1,
        endpoints,
        settings.clone(),
        vec![lane.clone()],
        vec![orders],
    );
    let seen = Seen {
        lane,
        reports: control.reports(),
        reached: control.reached(),
        foreign: control.foreign(),
    };
    let reports = control.reports();
    rt::spawn::<Testing>(async move {
        while let Some(order) = mailbox.recv().await {
            rt::spawn::<Testing>(order.run::<Testing>(settings.clone(), reports.clone()));
        }
    });
    rt::spawn::<Testing>(control.run::<Testing>());
    seen
}

impl Seen {
    fn uses(&self, member: &Member) -> bool {
        self.lane.main_to(&member.endpoint).is_some()
    }
}

#[test]
fn the_member_that_answers_is_used() {
    run(async {
        let (gone, listener) = listen("gone");
        drop(listener);
        let well = Member::start("well", |heard| serves(heard, 1));
        let mut seen = start(&[gone, well.endpoint.clone()]);
        until(|| seen.uses(&well)).await;
        let reached = seen.reached.wait_for(|reached| *reached != Reached::NotYet).await;
        assert_eq!(
            *reached.expect("it goes on"),
            Reached::Endpoint(well.endpoint.to_string())
        );
        let heard = well.heard();
        let probe = heard.iter().find(|heard| heard.path.ends_with("/Check"));
        assert_eq!(probe.expect("it was probed").header("hasleader"), Some("true"));
        until(|| seen.lane.is_alone()).await;
    });
}

#[test]
fn where_nobody_answers_none_is_reached() {
    run(async {
        let (gone, listener) = listen("gone");
        drop(listener);
        let mut seen = start(&[gone]);
        let reached = seen.reached.wait_for(|reached| *reached != Reached::NotYet).await;
        assert_eq!(*reached.expect("it goes on"), Reached::None);
    });
}

/// Has a member that is in use change what it says, and tells how calls on its connection have ended when another one that
/// serves has taken over.
async fn taken_over(says_then: Says) -> Arc<Connection> {
    let changed = Arc::new(AtomicBool::new(false));
    let has_changed = changed.clone();
    let one = Member::start("one", move |heard| {
        if has_changed.load(Ordering::Relaxed) {
            says_then.clone()
        } else {
            serves(heard, 1)
        }
    });
    let (other, connections) = listen("other");
    let seen = start(&[one.endpoint.clone(), other]);
    until(|| seen.uses(&one)).await;
    let main = seen.lane.main_to(&one.endpoint).expect("it is in use");
    drop(connections);
    let other = Member::start("other", |heard| serves(heard, 1));
    changed.store(true, Ordering::Relaxed);
    until(|| seen.uses(&other)).await;
    until(|| main.is_closed()).await;
    main
}

#[test]
fn another_member_takes_over_from_one_that_falls_silent() {
    let left = run(taken_over(Says::Nothing));
    assert!(!left.has_moved_away(), "nobody knows what became of its calls");
}

#[test]
fn another_member_takes_over_from_one_that_hangs_up() {
    let left = run(taken_over(Says::Hangup));
    assert!(!left.has_moved_away());
}

#[test]
fn another_member_takes_over_from_one_without_leader() {
    let left = run(taken_over(Says::Status(Status::NO_LEADER)));
    assert!(left.has_moved_away(), "its calls are made elsewhere");
}

#[test]
fn who_is_no_etcd_is_not_used() {
    run(async {
        let stranger = Member::start("stranger", |_| Says::Http(404));
        let headless = Member::start("headless", |heard| {
            if heard.path.ends_with("/Txn") {
                Says::Message(Vec::new())
            } else {
                serves(heard, 1)
            }
        });
        for member in [&stranger, &headless] {
            let seen = start(core::slice::from_ref(&member.endpoint));
            until(|| member.heard().len() > 3).await;
            assert!(!seen.uses(member), "{:?}", member.endpoint);
        }
    });
}

/// The first one in use decides which cluster is the right one.
#[test]
fn a_member_of_another_cluster_is_not_used_even_without_leader() {
    run(async {
        let leaderless = Arc::new(AtomicBool::new(false));
        let is_leaderless = leaderless.clone();
        let one = Member::start("one", move |heard| {
            if is_leaderless.load(Ordering::Relaxed) {
                Says::Status(Status::NO_LEADER)
            } else {
                serves(heard, 1)
            }
        });
        let (foreign, connections) = listen("foreign");
        let seen = start(&[one.endpoint.clone(), foreign]);
        until(|| seen.uses(&one)).await;
        drop(connections);
        let foreign = Member::start("foreign", |heard| serves(heard, 2));
        leaderless.store(true, Ordering::Relaxed);
        until(|| seen.foreign.load(Ordering::Relaxed) == 1).await;
        assert!(seen.uses(&one) && !seen.uses(&foreign));
    });
}

#[test]
fn a_worker_gets_the_further_connections_that_it_wants() {
    run(async {
        let member = Member::start("member", |heard| serves(heard, 1));
        let seen = start(core::slice::from_ref(&member.endpoint));
        until(|| seen.uses(&member)).await;
        let main = seen.lane.main_to(&member.endpoint).expect("it is in use").id();
        let wish = Wish::of_stream(Class::Blocking);
        let until_then = Instant::now() + Duration::from_secs(5);
        let taken = seen.lane.connection::<Testing>(wish, until_then).await;
        assert_ne!(taken.expect("one is made").connection.id(), main);
    });
}

#[test]
fn the_end_of_the_process_ends_all_connections() {
    run(async {
        let member = Member::start("member", |heard| serves(heard, 1));
        let seen = start(core::slice::from_ref(&member.endpoint));
        until(|| seen.uses(&member)).await;
        let main = seen.lane.main_to(&member.endpoint).expect("it is in use");
        seen.reports.send(Report::End).await.expect("it goes on");
        until(|| main.is_closed()).await;
        assert!(seen.lane.has_ended() && !seen.uses(&member));
        assert!(seen.reports.send(Report::End).await.is_err(), "nobody listens");
    });
}

#[test]
fn a_connection_that_came_too_late_is_closed() {
    run(async {
        let member = Member::start("member", |heard| serves(heard, 1));
        let seen = start(core::slice::from_ref(&member.endpoint));
        until(|| seen.uses(&member)).await;
        let unknown = member.connect().await;
        let report = Report::Connected(unknown.clone());
        seen.reports.send(report).await.expect("it goes on");
        until(|| unknown.is_closed()).await;
        assert!(seen.uses(&member));
    });
}
