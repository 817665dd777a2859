//! Defects that the simulation or the fuzzer found, each told in few events.

mod sick;

use std::time::Duration;

use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::{
    Action, CloseCause, Config, ConnectionId, EndpointId, Endpoints, Event, FailureCause, Health, Lane,
};
use etcd_proxy_core::time::Instant;

/// A machine driven by hand, with the actions of the last event.
struct Hand {
    machine: Endpoints,
    now: Instant,
    actions: Vec<Action>,
}

impl Hand {
    fn start(config: Config, members: usize) -> Self {
        let addresses = (0..members).map(|member| format!("member-{member}").into());
        let mut hand = Self {
            machine: Endpoints::new(config, 1, addresses),
            now: Instant::ZERO,
            actions: Vec::new(),
        };
        hand.tell(Event::Start);
        hand
    }

    fn tell(&mut self, event: Event) {
        self.actions.clear();
        self.machine.handle(self.now, event, &mut self.actions);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Goes to the next timeout.
    fn timeout(&mut self) {
        self.now = self.machine.next_timeout().expect("something is waited for");
        self.tell(Event::Timeout);
    }

    /// The connections that the last event asked for.
    fn asked(&self, lane: Lane) -> Vec<ConnectionId> {
        let of_lane = |action: &Action| match action {
            Action::Connect {
                connection,
                lane: other,
                ..
            } if *other == lane => Some(*connection),
            _ => None,
        };
        self.actions.iter().filter_map(of_lane).collect()
    }

    fn one(&self, lane: Lane) -> ConnectionId {
        let asked = self.asked(lane);
        assert_eq!(asked.len(), 1, "{:?}", self.actions);
        asked[0]
    }

    /// The candidate just asked for answers; returns the connection of worker 0 if that one is dialled then.
    fn candidate_answers(&mut self, health: Health) -> Option<ConnectionId> {
        let candidate = self.one(Lane::Candidate);
        self.tell(Event::Connected(candidate));
        self.tell(Event::ProbeAnswered(candidate, health));
        self.asked(Lane::Worker(0)).pop()
    }

    /// The candidate just asked for answers and all workers connect.
    fn in_use(&mut self) -> Vec<ConnectionId> {
        self.candidate_answers(Health::Fit).expect("it is fit");
        let workers: Vec<ConnectionId> = (0..8)
            .flat_map(|worker| self.asked(Lane::Worker(worker)))
            .collect();
        for connection in &workers {
            self.tell(Event::Connected(*connection));
        }
        workers
    }

    fn wait_until_hidden(&mut self) {
        for _ in 0..100 {
            self.timeout();
            if self.hidden().is_some() {
                return;
            }
        }
        panic!("nothing is hidden after 100 timeouts");
    }

    fn hidden(&self) -> Option<(FailureCause, Duration)> {
        self.actions.iter().find_map(|action| match action {
            Action::Hidden { cause, retry_in, .. } => Some((*cause, *retry_in)),
            _ => None,
        })
    }
}

fn lost(connection: ConnectionId) -> Event {
    Event::Lost {
        connection,
        graceful: false,
    }
}

/// It was dialled every 50 ms for ever: its answer to the candidate's probe ended the row of failures.
#[test]
fn a_member_that_answers_and_says_goodbye_waits_longer_each_time() {
    let config = Config::default();
    let mut hand = Hand::start(config, 1);
    let mut waits = Vec::new();
    for _ in 0..20 {
        let worker = hand.in_use()[0];
        hand.tell(Event::Draining(worker));
        let (cause, wait) = hand.hidden().expect("it refuses");
        assert_eq!(cause, FailureCause::Refusing);
        waits.push(wait);
        hand.timeout();
    }
    assert!(
        waits[0] <= Duration::from_millis(60) && waits[19] >= config.backoff_max * 8 / 10,
        "{waits:?}"
    );
}

/// And a member that was well for long starts over.
#[test]
fn a_member_that_was_well_for_long_is_tried_again_soon() {
    let mut hand = Hand::start(
        Config {
            probe_interval: None,
            ..Config::default()
        },
        1,
    );
    for _ in 0..20 {
        let worker = hand.in_use()[0];
        hand.pass(Duration::from_secs(5));
        hand.tell(lost(worker));
        assert!(hand.hidden().expect("it was in use").1 <= Duration::from_millis(60));
        hand.timeout();
    }
}

/// Its end moved everyone although the connections in use were well.
#[test]
fn the_end_of_a_former_connection_says_nothing_of_its_endpoint() {
    let config = Config {
        lanes: 2,
        ..Config::default()
    };
    let mut hand = Hand::start(config, 1);
    let former = hand.in_use();
    hand.tell(lost(former[0]));
    hand.timeout();
    hand.in_use();
    hand.tell(lost(former[1]));
    assert_eq!(hand.actions, []);
    assert_eq!(hand.machine.connections(), 2);
}

/// Connections that were drained early were forgotten while their calls went on.
#[test]
fn a_connection_drained_early_is_known_until_it_ends() {
    let mut hand = Hand::start(Config::default(), 1);
    let worker = hand.in_use()[0];
    hand.tell(Event::Draining(worker));
    assert_eq!(hand.machine.connections(), 1);
    hand.tell(lost(worker));
    assert_eq!((hand.machine.connections(), &hand.actions), (0, &vec![]));
}

/// It was left open with nobody to look after it.
#[test]
fn a_candidate_that_drains_is_closed() {
    let mut hand = Hand::start(Config::default(), 1);
    let candidate = hand.one(Lane::Candidate);
    hand.tell(Event::Connected(candidate));
    hand.pass(Duration::from_secs(2));
    hand.tell(Event::Draining(candidate));
    assert_eq!(hand.actions[0], Action::Close(candidate, CloseCause::Unneeded));
    assert_eq!(hand.hidden().expect("it refuses").0, FailureCause::Refusing);
    assert_eq!(hand.machine.connections(), 0);
}

/// No call can be opened on it, so each of its probes stayed without answer and hid a well member.
#[test]
fn a_draining_connection_is_not_probed() {
    let mut hand = Hand::start(Config::default(), 1);
    let drained = hand.in_use()[0];
    hand.timeout();
    assert_eq!(hand.actions, [Action::Probe(drained)]);
    hand.tell(Event::Draining(drained));
    let worker = hand.one(Lane::Worker(0));
    hand.tell(Event::Connected(worker));
    for _ in 0..10 {
        hand.timeout();
        assert_eq!(hand.actions, [Action::Probe(worker)]);
        hand.tell(Event::ProbeAnswered(worker, Health::Fit));
    }
    hand.tell(Event::Doubt(drained));
    assert_eq!(hand.actions, []);
}

/// It was waited for as long as anything else came, and nobody looked after the connection any more.
#[test]
fn a_probe_that_is_lost_is_sent_again() {
    let config = Config::default();
    let mut hand = Hand::start(config, 1);
    let worker = hand.in_use()[0];
    hand.timeout();
    assert_eq!(hand.actions, [Action::Probe(worker)]);
    let sent = hand.now;
    hand.tell(Event::ProbeLost(worker));
    hand.tell(Event::Active(worker));
    hand.timeout();
    assert_eq!(hand.actions, [Action::Probe(worker)]);
    assert_eq!(hand.now, sent + config.probe_timeout / 4);
    hand.tell(Event::ProbeLost(worker));
    let lost = hand.now;
    hand.wait_until_hidden();
    assert_eq!(hand.now, lost + config.probe_timeout, "silence is silence");
}

/// As it isn't probed, it has to go with its silent member, or its calls would wait for ever.
#[test]
fn draining_connections_end_with_their_silent_member() {
    let mut hand = Hand::start(Config::default(), 1);
    let drained = hand.in_use()[0];
    hand.pass(Duration::from_secs(1));
    hand.tell(Event::Draining(drained));
    let worker = hand.one(Lane::Worker(0));
    hand.tell(Event::Connected(worker));
    hand.wait_until_hidden();
    for connection in [drained, worker] {
        assert!(
            hand.actions
                .contains(&Action::Close(connection, CloseCause::Silent))
        );
    }
}

/// They lead where the first one leads, and only that one speaks for the member.
#[test]
fn further_connections_come_and_go_with_the_first() {
    let mut hand = Hand::start(Config::default(), 1);
    let worker = hand.in_use()[0];
    hand.tell(Event::Wanted(7, Class::Bulk));
    assert_eq!(hand.actions, [], "there is no such worker");
    let want = |hand: &mut Hand, class| {
        hand.tell(Event::Wanted(0, class));
        hand.one(Lane::Further(0, class))
    };
    let failed = want(&mut hand, Class::Bulk);
    hand.tell(Event::ConnectFailed(failed));
    let (worker_number, class) = (0, Class::Bulk);
    let not_joined = Action::NotJoined {
        worker: worker_number,
        class,
    };
    assert_eq!(hand.actions, [not_joined]);
    let bulk = want(&mut hand, class);
    hand.tell(Event::Connected(bulk));
    let join = Action::Join {
        worker: worker_number,
        class,
        connection: bulk,
    };
    assert_eq!(hand.actions, [join]);
    let under_way = want(&mut hand, Class::Blocking);
    hand.tell(lost(worker));
    for expected in [
        Action::Withdraw {
            worker: worker_number,
        },
        Action::Close(under_way, CloseCause::Unneeded),
    ] {
        assert!(hand.actions.contains(&expected), "{:?}", hand.actions);
    }
    hand.tell(Event::Wanted(0, class));
    assert_eq!(hand.actions, [], "there is nothing to add to");
    hand.tell(Event::Connected(under_way));
    assert_eq!(hand.actions, []);
    hand.tell(lost(bulk));
    assert_eq!(hand.actions, [], "its member isn't to blame");
}

/// The dead ones were tried again so often that one of them was always being asked.
#[test]
fn a_member_without_leader_is_taken_while_dead_ones_are_tried_again() {
    let mut hand = Hand::start(Config::default(), 2);
    let first = hand.one(Lane::Candidate);
    hand.tell(Event::ConnectFailed(first));
    let second = hand.one(Lane::Candidate);
    hand.tell(Event::Connected(second));
    // The first is tried again, and nothing comes back.
    hand.timeout();
    hand.one(Lane::Candidate);
    hand.tell(Event::ProbeAnswered(second, Health::Unfit));
    assert!(
        hand.actions
            .iter()
            .any(|action| matches!(action, Action::Chosen(_))),
        "{:?}",
        hand.actions
    );
}

/// Bytes that came just after the probe bought the connection a whole second probe timeout.
#[test]
fn a_busy_connection_that_falls_silent_is_given_up_soon() {
    let config = Config::default();
    let mut hand = Hand::start(config, 1);
    let worker = hand.in_use()[0];
    hand.timeout();
    assert_eq!(hand.actions, [Action::Probe(worker)]);
    let silent_since = hand.now;
    hand.tell(Event::Active(worker));
    hand.wait_until_hidden();
    assert!(hand.now - silent_since <= config.probe_timeout * 5 / 4);
}

/// A candidate that sent something now and then, but no answer, was waited for without end.
#[test]
fn a_candidate_has_no_excuse_for_not_answering() {
    let config = Config::default();
    let mut hand = Hand::start(config, 1);
    let candidate = hand.one(Lane::Candidate);
    hand.tell(Event::Connected(candidate));
    for _ in 0..4 {
        hand.tell(Event::Active(candidate));
        hand.timeout();
    }
    assert_eq!(hand.now, Instant::ZERO + config.probe_timeout);
    assert_eq!(hand.hidden().expect("it didn't answer").0, FailureCause::Silent);
}

/// A zero made `Timeout` loop for ever.
#[test]
fn waits_of_zero_do_not_spin() {
    let config = Config {
        challenge_interval: Duration::ZERO,
        backoff_min: Duration::ZERO,
        backoff_max: Duration::ZERO,
        connect_timeout: Duration::ZERO,
        stagger: Duration::ZERO,
        probe_interval: Some(Duration::ZERO),
        probe_timeout: Duration::ZERO,
        ..Config::default()
    };
    let mut hand = Hand::start(config, 2);
    for _ in 0..100 {
        let before = hand.now;
        hand.timeout();
        let asked = hand.asked(Lane::Candidate);
        for candidate in asked {
            hand.tell(Event::Connected(candidate));
            hand.tell(Event::ProbeAnswered(candidate, Health::Unfit));
        }
        assert!(hand.machine.next_timeout() > Some(before));
    }
}

const OURS: u64 = 7;
const OTHER: u64 = 8;

impl Hand {
    /// The candidate answers, and says of which cluster it is; whether it is used then.
    fn says(&mut self, candidate: ConnectionId, cluster: u64) -> bool {
        self.tell(Event::Connected(candidate));
        self.tell(Event::Identified(candidate, cluster));
        self.tell(Event::ProbeAnswered(candidate, Health::Fit));
        self.asked(Lane::Worker(0)).pop().is_some()
    }

    /// The next candidate, whenever it is tried.
    fn next_candidate(&mut self) -> ConnectionId {
        for _ in 0..100 {
            if let Some(candidate) = self.asked(Lane::Candidate).pop() {
                return candidate;
            }
            self.timeout();
        }
        panic!("nobody is tried");
    }

    /// The candidates that the last event asked for.
    fn candidates(&self) -> Vec<(ConnectionId, EndpointId)> {
        let candidate = |action: &Action| match action {
            Action::Connect {
                connection,
                endpoint,
                lane: Lane::Candidate,
            } => Some((*connection, *endpoint)),
            _ => None,
        };
        self.actions.iter().filter_map(candidate).collect()
    }

    fn is_told(&self, is_it: impl Fn(&Action) -> bool) -> bool {
        self.actions.iter().any(is_it)
    }
}

/// Half of the starts were with the other cluster, and a watch mixed both: now the first one that is used decides.
#[test]
fn endpoints_of_two_clusters_are_never_used_together() {
    let mut hand = Hand::start(Config::default(), 2);
    let ours = hand.candidates()[0].1;
    let first = hand.one(Lane::Candidate);
    assert!(hand.says(first, OURS));
    let worker = hand.one(Lane::Worker(0));
    hand.tell(Event::Connected(worker));
    hand.tell(Event::Lost {
        connection: worker,
        graceful: false,
    });
    // The other one is asked, again and again. It is not used, and that is said once.
    let (mut told, mut asked) = (0, 0);
    while asked < 5 {
        for (candidate, endpoint) in hand.candidates() {
            if endpoint == ours {
                hand.tell(Event::ConnectFailed(candidate));
            } else {
                asked += 1;
                assert!(!hand.says(candidate, OTHER), "it is another cluster's");
                assert_eq!(hand.hidden().expect("it is hidden").0, FailureCause::Foreign);
                told += usize::from(hand.is_told(|action| matches!(action, Action::Foreign { .. })));
            }
        }
        if hand.candidates().is_empty() {
            hand.timeout();
        }
    }
    assert_eq!(
        (told, hand.machine.foreign(), hand.machine.current()),
        (1, 1, None)
    );
    // When the first one is back it is used, and the other one stays where it is.
    for _ in 0..1_000 {
        for (candidate, endpoint) in hand.candidates() {
            let is_used = hand.says(candidate, if endpoint == ours { OURS } else { OTHER });
            assert_eq!(is_used, endpoint == ours);
            if is_used {
                return;
            }
        }
        if hand.candidates().is_empty() {
            hand.timeout();
        }
    }
    panic!("it isn't used again");
}

/// The member of the endpoint in use is replaced while the connection stays, as behind a load balancer.
#[test]
fn one_that_becomes_another_clusters_is_left() {
    let mut hand = Hand::start(Config::default(), 1);
    let first = hand.one(Lane::Candidate);
    assert!(hand.says(first, OURS));
    let worker = hand.one(Lane::Worker(0));
    hand.tell(Event::Connected(worker));
    hand.tell(Event::Identified(worker, OTHER));
    assert!(hand.is_told(|action| *action == Action::Close(worker, CloseCause::Foreign)));
    assert_eq!(hand.machine.current(), None);
    // It is the only one, so it is followed.
    let again = hand.next_candidate();
    assert!(hand.says(again, OTHER));
    assert!(hand.machine.current().is_some());
}

/// A cluster that was set up anew at the same addresses is followed as soon as all who answer say so.
#[test]
fn another_cluster_is_followed_when_all_say_so() {
    let mut hand = Hand::start(Config::default(), 1);
    let first = hand.one(Lane::Candidate);
    assert!(hand.says(first, OURS));
    let worker = hand.one(Lane::Worker(0));
    hand.tell(Event::Connected(worker));
    hand.tell(Event::Lost {
        connection: worker,
        graceful: false,
    });
    let again = hand.next_candidate();
    assert!(hand.says(again, OTHER));
    assert_eq!(hand.machine.foreign(), 0);
}

/// Silence is no vote, until it lasts.
#[test]
fn who_is_silent_for_long_has_no_say() {
    let config = Config::default();
    let mut hand = Hand::start(config, 2);
    let ours = hand.candidates()[0].1;
    let first = hand.one(Lane::Candidate);
    assert!(hand.says(first, OURS));
    let worker = hand.one(Lane::Worker(0));
    hand.tell(Event::Connected(worker));
    hand.tell(Event::Lost {
        connection: worker,
        graceful: false,
    });
    let lost_at = hand.now;
    // The one in use doesn't come back; the other one answers again and again.
    for _ in 0..1_000 {
        for (candidate, endpoint) in hand.candidates() {
            if endpoint == ours {
                hand.tell(Event::ConnectFailed(candidate));
            } else if hand.says(candidate, OTHER) {
                assert!(hand.now >= lost_at + config.say, "too early");
                return;
            }
        }
        if hand.candidates().is_empty() {
            hand.timeout();
        }
    }
    panic!("it is never followed");
}
