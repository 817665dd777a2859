//! Members that answer, but not as they should, or that fall silent, many at a time.

use std::time::Duration;

use etcd_proxy_core::endpoints::{Action, CloseCause, Config, Event, FailureCause, Health, Lane};

use super::Hand;

/// The member in use fails where another one doesn't: it loses its place to one that is fit, whatever its own probes say.
#[test]
fn one_that_is_outdone() {
    let mut hand = Hand::start(Config::default(), 2);
    let worker = hand.in_use()[0];
    let former = hand.machine.current();
    hand.pass(Duration::from_secs(1));
    hand.tell(Event::Outdone(worker));
    let candidate = hand.one(Lane::Candidate);
    hand.tell(Event::Connected(candidate));
    // A probe of it that was on its way.
    hand.tell(Event::Doubt(worker));
    hand.tell(Event::ProbeAnswered(worker, Health::Fit));
    assert_eq!(hand.machine.current(), former);
    hand.tell(Event::ProbeAnswered(candidate, Health::Fit));
    assert_ne!(hand.machine.current(), former);
    let closed = Action::Close(worker, CloseCause::LeaderLost);
    assert!(hand.actions.contains(&closed), "{:?}", hand.actions);
    // A former connection says nothing of the one in use.
    let in_use = hand.machine.current();
    hand.tell(Event::Outdone(worker));
    assert_eq!((hand.machine.current(), hand.actions.len()), (in_use, 0));
}

/// If nobody else is fit it keeps its place, and is as good as before after a while.
#[test]
fn one_that_is_outdone_and_the_only_one() {
    let config = Config::default();
    let mut hand = Hand::start(config, 1);
    let worker = hand.in_use()[0];
    let in_use = hand.machine.current();
    hand.tell(Event::Outdone(worker));
    assert_eq!(
        (hand.machine.current(), hand.asked(Lane::Candidate).len()),
        (in_use, 0)
    );
    hand.pass(config.connect_timeout);
    hand.tell(Event::Doubt(worker));
    hand.tell(Event::ProbeAnswered(worker, Health::Fit));
    let regained = in_use.map(Action::LeaderRegained);
    assert!(
        hand.actions
            .iter()
            .any(|action| Some(action) == regained.as_ref())
    );
}

/// Whether another member might answer is known of those that were tried.
#[test]
fn one_that_is_alone() {
    let mut hand = Hand::start(Config::default(), 2);
    assert!(!hand.machine.is_alone(), "nobody is in use");
    let dead = hand.one(Lane::Candidate);
    hand.tell(Event::ConnectFailed(dead));
    let learner = hand.candidate_answers(Health::Unfit).expect("the only one");
    hand.tell(Event::Connected(learner));
    assert!(hand.machine.is_alone());
    while hand.asked(Lane::Candidate).is_empty() {
        hand.timeout();
    }
    assert!(hand.machine.is_alone(), "the other one hasn't answered yet");
    hand.candidate_answers(Health::Unfit);
    assert!(!hand.machine.is_alone());
}

/// What is no etcd is neither chosen nor kept.
#[test]
fn strangers() {
    let mut hand = Hand::start(Config::default(), 2);
    let hides = |hand: &Hand| {
        let is_it = |action: &Action| {
            matches!(
                action,
                Action::Hidden {
                    cause: FailureCause::Stranger,
                    ..
                }
            )
        };
        hand.actions.iter().any(is_it)
    };
    let first = hand.one(Lane::Candidate);
    hand.tell(Event::Connected(first));
    hand.tell(Event::Stranger(first));
    assert!(hides(&hand) && hand.machine.current().is_none());
    let worker = hand.in_use()[0];
    let former = hand.machine.current();
    assert!(former.is_some());
    hand.pass(Duration::from_secs(1));
    hand.tell(Event::Doubt(worker));
    hand.tell(Event::Stranger(worker));
    assert!(hides(&hand) && hand.machine.current().is_none());
    assert!(hand.actions.contains(&Action::Close(worker, CloseCause::Foreign)));
}

/// When the one in use falls silent all others are asked at once, and one without leader isn't kept waiting by those who are as
/// silent.
#[test]
fn many_are_silent() {
    let config = Config::default();
    let mut hand = Hand::start(config, 4);
    let worker = hand.in_use()[0];
    hand.tell(Event::Doubt(worker));
    while hand.machine.current().is_some() {
        hand.timeout();
    }
    let candidates = hand.asked(Lane::Candidate);
    assert_eq!(candidates.len(), 3);
    for candidate in &candidates {
        hand.tell(Event::Connected(*candidate));
    }
    hand.tell(Event::ProbeAnswered(candidates[1], Health::Unfit));
    let answered = hand.now;
    while hand.machine.current().is_none() {
        hand.timeout();
    }
    assert!(hand.now <= answered + config.stagger * 2, "{:?}", hand.now);
    // One of them wakes up, and is better.
    let unfit = hand.machine.current();
    hand.tell(Event::ProbeAnswered(candidates[2], Health::Fit));
    assert_ne!(hand.machine.current(), unfit);
}

/// A member whose connection is lost is dialled again at once; if that comes to nothing, with growing waits.
#[test]
fn dialled_again_at_once() {
    let config = Config::default();
    let mut hand = Hand::start(config, 1);
    let worker = hand.in_use()[0];
    hand.pass(Duration::from_secs(60));
    hand.tell(Event::Lost {
        connection: worker,
        graceful: false,
    });
    let lost = hand.now;
    let mut waits = Vec::new();
    for _ in 0..3 {
        hand.timeout();
        let candidate = hand.one(Lane::Candidate);
        waits.push(hand.now.saturating_since(lost));
        hand.tell(Event::ConnectFailed(candidate));
    }
    assert_eq!(waits[0], Duration::ZERO);
    assert!(
        waits[1] >= config.backoff_min && waits[2] > waits[1] * 2,
        "{waits:?}"
    );
}
