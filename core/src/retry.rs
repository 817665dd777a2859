//! Which calls may be sent again.
//!
//! The rules, in the order of their weight:
//!
//! - a call that certainly never reached a member may always be sent again;
//! - a call that clientv3 calls repeatable may be sent again after its connection died under it, but
//!   to one other member at most, and only if everything in it is known: some requests kill the member that
//!   serves them (on etcd 3.5 a Range with an unknown `sort_target` does), and a proxy must not walk them
//!   through the cluster. LeaseGrant with an id and LeaseRevoke aren't repeatable, whatever clientv3 calls them:
//!   what succeeded the first time fails the second time;
//! - a repeatable call that a member answered with UNAVAILABLE may be repeated a few times, spaced
//!   out, as clientv3 does (leader changes are over in that time), from the second time on by another member
//!   if there is one; the last answer stands;
//! - anything else is answered as it stands.

mod requests;

use core::time::Duration;

use fastrand::Rng;

use crate::endpoints::CloseCause;
use crate::grpc::{Code, Status};
use crate::rpc::Rpc;

/// Times a repeatable call is sent again after its connection died under it.
const REPEATS_AFTER_LOSS_MAX: u32 = 1;

/// Waits before a repeatable call that was answered UNAVAILABLE is sent again; jitter of ±10 % comes
/// on top (clientv3: 25 ms ±10 %).
const REPEATS_AFTER_UNAVAILABLE: [Duration; 3] = [
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(400),
];

/// Wait before a refused call is sent again on the same connection.
const REFUSED_PAUSE: Duration = Duration::from_millis(25);

/// Jitter of all waits (clientv3's).
const JITTER_PERCENT: u64 = 10;

/// Times a call is sent again after it certainly wasn't processed, or was cut off by the proxy; the
/// bound only stops a peer that refuses every stream.
const RESENDS_MAX: u32 = 16;

/// The member's connection broke and the call wasn't carried out, or may be made again.
pub const CONNECTION_LOST: Status = Status::of(
    Code::Unavailable,
    "etcd-proxy: the connection to the member was lost during the call",
);

/// The member's connection broke under a call that must not be made twice.
pub const MAY_BE_APPLIED: Status = Status::of(
    Code::Unavailable,
    "etcd-proxy: the connection to the member was lost during the call; it may have been carried out",
);

/// No connection to any member could be had in time.
const NO_ENDPOINT: Status = Status::of(Code::Unavailable, "etcd-proxy: no endpoint is reachable");

/// The part of a client's time that is left for telling it that no member is reachable: the client counts from before we
/// do, and the answer is on its way for as long as the request was.
const TELLING_PERCENT: u32 = 10;

/// The same, at most.
const TELLING_MAX: Duration = Duration::from_millis(500);

/// How long a call waits for a member that can be reached: `dial_timeout`, but not to the very end of the client's time. A
/// client that waits no longer than the proxy would only ever learn that its own time is up. `left` is the time until the
/// client's deadline; `None` without one.
#[must_use]
pub fn patience(dial_timeout: Duration, left: Option<Duration>) -> Duration {
    let Some(left) = left else { return dial_timeout };
    // Without overflow: a deadline can be years away.
    let telling = (left / 100 * TELLING_PERCENT).min(TELLING_MAX);
    dial_timeout.min(left - telling)
}

/// The status of a call that found no connection in time. `left` is the time until its deadline, zero if that has
/// passed; `None` without deadline.
#[must_use]
pub fn no_endpoint(left: Option<Duration>) -> Status {
    if left == Some(Duration::ZERO) {
        Status::deadline_exceeded()
    } else {
        NO_ENDPOINT
    }
}

/// A client's calls of a kind are as many as the member allows it.
const NO_TURN: Status = Status::of(
    Code::ResourceExhausted,
    "etcd-proxy: this client has as many such calls open as the member leaves to one",
);

/// The status of a call whose client had as many open as it may have, until the time to wait was over. `left` as for
/// [`no_endpoint`].
#[must_use]
pub fn no_turn(left: Option<Duration>) -> Status {
    if left == Some(Duration::ZERO) {
        Status::deadline_exceeded()
    } else {
        NO_TURN
    }
}

/// Whether a call may be made again though it may have been carried out. `message` is its request; `None` if that can't be
/// read.
#[must_use]
pub fn is_repeatable(rpc: Rpc, message: Option<&[u8]>) -> bool {
    requests::is_repeatable(rpc, message)
}

/// Whether a member refuses a call for being a learner, by the message of its status. Its own answer is as good as any, unless
/// there are other members.
#[must_use]
pub fn is_learners(message: &[u8]) -> bool {
    message == b"etcdserver: rpc not supported for learner"
}

/// How an attempt ended without an answer that could be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The call certainly wasn't processed, and its connection takes no more: it was never handed to
    /// the connection, or the member left it out of its GOAWAY (RFC 9113, section 6.8).
    NotSent,
    /// The member refused this one stream, mostly because it has too many: it wasn't processed (RFC
    /// 9113, section 8.7), and the connection is as good as before.
    Refused,
    /// The connection died after the call had been handed to it.
    ConnectionLost,
    /// The proxy itself closed the connection under the call, because the member had lost its leader
    /// and another one has one: nobody died of the call.
    MovedAway,
    /// The member answered UNAVAILABLE.
    Unavailable,
}

impl Failure {
    /// What the calls on a connection meet that the proxy itself closes for this reason.
    #[must_use]
    pub const fn of_close(cause: CloseCause) -> Self {
        match cause {
            CloseCause::Foreign | CloseCause::LeaderLost => Self::MovedAway,
            CloseCause::ConnectTimeout | CloseCause::Silent | CloseCause::Unneeded => Self::ConnectionLost,
        }
    }

    /// Whether the connection is what failed, so that another attempt needs another one.
    const fn takes_connection(self) -> bool {
        matches!(self, Self::NotSent | Self::ConnectionLost | Self::MovedAway)
    }
}

/// What becomes of a call after a [`Failure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It is sent again.
    Again {
        /// After this wait.
        pause: Duration,
        /// Whether the connection of the failed attempt must be avoided.
        elsewhere: bool,
    },
    /// The client gets the member's own answer.
    Forward,
    /// The client gets this status.
    Refuse(Status),
}

/// What to do after a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the call again after this wait, on a connection other than the failed one if the
    /// connection was what failed.
    Again(Duration),
    /// Answer the client: with the member's own status if there is one.
    GiveUp,
}

/// The account of one call's attempts.
#[derive(Clone, Debug)]
pub struct Attempts {
    repeatable: bool,
    /// Whether it may meet another death than the first.
    understood: bool,
    resends: u32,
    losses: u32,
    unavailable: usize,
}

impl Attempts {
    /// The account of a new call. `message` is its request; `None` if that can't be read.
    #[must_use]
    pub fn of(rpc: Rpc, message: Option<&[u8]>) -> Self {
        Self {
            understood: requests::is_understood(rpc, message),
            ..Self::new(is_repeatable(rpc, message))
        }
    }

    /// The account of a new call; `repeatable` as in [`is_repeatable`]. Everything in it is known.
    #[must_use]
    pub const fn new(repeatable: bool) -> Self {
        Self {
            repeatable,
            understood: true,
            resends: 0,
            losses: 0,
            unavailable: 0,
        }
    }

    /// Whether an answer with this gRPC status code is a [`Failure::Unavailable`]: the call may be tried again, and
    /// its member is worth a look.
    #[must_use]
    pub const fn is_failure(&self, code: u8) -> bool {
        self.repeatable && code == Code::Unavailable.number()
    }

    /// Whether another member should be asked next, if there is one: the one in use has answered UNAVAILABLE more than once.
    #[must_use]
    pub const fn wants_another_member(&self) -> bool {
        self.unavailable > 1
    }

    /// Rules what becomes of the call after a failed attempt. `left` is the time until its deadline, zero if that has
    /// passed; `None` without deadline.
    pub fn rule(&mut self, failure: Failure, left: Option<Duration>, rng: &mut Rng) -> Ruling {
        match self.after(failure, rng) {
            Next::Again(pause) if left.is_none_or(|left| pause < left) => Ruling::Again {
                pause,
                elsewhere: failure.takes_connection(),
            },
            _ if failure == Failure::Unavailable => Ruling::Forward,
            _ if left == Some(Duration::ZERO) => Ruling::Refuse(Status::deadline_exceeded()),
            _ if self.repeatable || matches!(failure, Failure::NotSent | Failure::Refused) => {
                Ruling::Refuse(CONNECTION_LOST)
            }
            _ => Ruling::Refuse(MAY_BE_APPLIED),
        }
    }

    /// Decides what follows a failed attempt.
    pub fn after(&mut self, failure: Failure, rng: &mut Rng) -> Next {
        match failure {
            Failure::NotSent if self.resends < RESENDS_MAX => {
                self.resends += 1;
                Next::Again(Duration::ZERO)
            }
            Failure::Refused if self.resends < RESENDS_MAX => {
                self.resends += 1;
                Next::Again(jittered(REFUSED_PAUSE, JITTER_PERCENT, rng))
            }
            Failure::MovedAway if self.repeatable && self.resends < RESENDS_MAX => {
                self.resends += 1;
                Next::Again(Duration::ZERO)
            }
            Failure::ConnectionLost
                if self.repeatable && self.understood && self.losses < REPEATS_AFTER_LOSS_MAX =>
            {
                self.losses += 1;
                Next::Again(Duration::ZERO)
            }
            Failure::Unavailable if self.repeatable => {
                let Some(wait) = REPEATS_AFTER_UNAVAILABLE.get(self.unavailable) else {
                    return Next::GiveUp;
                };
                self.unavailable += 1;
                Next::Again(jittered(*wait, JITTER_PERCENT, rng))
            }
            Failure::NotSent
            | Failure::Refused
            | Failure::ConnectionLost
            | Failure::MovedAway
            | Failure::Unavailable => Next::GiveUp,
        }
    }
}

/// `wait`, longer or shorter by up to `percent` (at most 100).
pub(crate) fn jittered(wait: Duration, percent: u64, rng: &mut Rng) -> Duration {
    let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
    let spread = nanos / 100 * percent;
    Duration::from_nanos(
        nanos
            .saturating_sub(spread)
            .saturating_add(rng.u64(0..=spread.saturating_mul(2))),
    )
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    fn failures() -> impl Strategy<Value = Failure> {
        prop_oneof![
            Just(Failure::NotSent),
            Just(Failure::Refused),
            Just(Failure::ConnectionLost),
            Just(Failure::MovedAway),
            Just(Failure::Unavailable)
        ]
    }

    /// A request that isn't known as a whole may be what the member died of.
    #[test]
    fn what_is_not_understood_meets_one_death() {
        let mut rng = Rng::with_seed(3);
        for (message, next) in [
            (&b"\x0a\x01k\x30\x04"[..], Next::Again(Duration::ZERO)),
            (b"\x0a\x01k\x30\x07", Next::GiveUp),
        ] {
            let mut attempts = Attempts::of(Rpc::Range, Some(message));
            assert_eq!(attempts.after(Failure::ConnectionLost, &mut rng), next);
            let mut attempts = Attempts::of(Rpc::Range, Some(message));
            let again = attempts.after(Failure::Unavailable, &mut rng);
            assert!(matches!(again, Next::Again(_)), "it has survived: {again:?}");
        }
    }

    proptest! {
        #[test]
        fn a_write_that_may_have_been_sent_is_never_repeated(story in prop::collection::vec(failures(), 1..30)) {
            let mut rng = Rng::with_seed(1);
            let mut attempts = Attempts::new(false);
            for failure in story {
                let next = attempts.after(failure, &mut rng);
                if !matches!(failure, Failure::NotSent | Failure::Refused) {
                    prop_assert_eq!(next, Next::GiveUp);
                }
            }
        }

        #[test]
        fn a_read_meets_death_at_most_twice_and_ends(story in prop::collection::vec(failures(), 30)) {
            let mut rng = Rng::with_seed(2);
            let mut attempts = Attempts::new(true);
            let mut lost = 0;
            let mut ended = false;
            for failure in story {
                let next = attempts.after(failure, &mut rng);
                lost += u32::from(failure == Failure::ConnectionLost);
                if next == Next::GiveUp {
                    ended = true;
                    break;
                }
                prop_assert!(lost <= 1);
            }
            prop_assert!(ended);
        }
    }

    #[test]
    fn what_a_client_is_told() {
        let mut rng = Rng::with_seed(4);
        let over = Some(Duration::ZERO);
        let mut told = |repeatable, failure, left, failures: u32| {
            let mut attempts = Attempts::new(repeatable);
            for _ in 0..failures {
                attempts.after(failure, &mut rng);
            }
            attempts.rule(failure, left, &mut rng)
        };
        let refuse = Ruling::Refuse;
        assert_eq!(
            told(false, Failure::ConnectionLost, None, 0),
            refuse(MAY_BE_APPLIED)
        );
        assert_eq!(told(false, Failure::MovedAway, None, 0), refuse(MAY_BE_APPLIED));
        assert_eq!(
            told(false, Failure::NotSent, None, RESENDS_MAX),
            refuse(CONNECTION_LOST)
        );
        assert_eq!(
            told(false, Failure::Refused, None, RESENDS_MAX),
            refuse(CONNECTION_LOST)
        );
        assert_eq!(
            told(true, Failure::ConnectionLost, None, 1),
            refuse(CONNECTION_LOST)
        );
        assert_eq!(told(true, Failure::Unavailable, None, 3), Ruling::Forward);
        assert_eq!(told(true, Failure::Unavailable, over, 0), Ruling::Forward);
        assert_eq!(
            told(false, Failure::ConnectionLost, over, 0),
            refuse(Status::deadline_exceeded())
        );
        assert_eq!(
            told(true, Failure::MovedAway, None, 1),
            Ruling::Again {
                pause: Duration::ZERO,
                elsewhere: true
            }
        );
        let Ruling::Again { elsewhere, pause } = told(false, Failure::Refused, None, 0) else {
            panic!("a refused call is sent again");
        };
        assert!(!elsewhere && !pause.is_zero());
        assert_eq!(
            told(false, Failure::Refused, Some(Duration::from_millis(1)), 0),
            refuse(CONNECTION_LOST),
            "no time is left for the pause"
        );
        assert_eq!(no_endpoint(None), no_endpoint(Some(Duration::from_secs(1))));
        assert_eq!(no_endpoint(over), Status::deadline_exceeded());
    }

    #[test]
    fn a_client_is_told_before_its_time_is_up() {
        let ms = Duration::from_millis;
        for (dial_timeout, left, expected) in [
            (5000, None, 5000),
            // etcdctl's own time-out is the proxy's.
            (5000, Some(5000), 4500),
            (5000, Some(4999), 4500),
            (5000, Some(5400), 4900),
            (5000, Some(60_000), 5000),
            (60_000, Some(30_000), 29_500),
            (5000, Some(1000), 900),
            (5000, Some(10), 9),
            (5000, Some(0), 0),
        ] {
            let patience = patience(ms(dial_timeout), left.map(ms));
            assert!(
                patience <= ms(expected) && patience + ms(1) >= ms(expected),
                "{dial_timeout} {left:?}: {patience:?}"
            );
        }
        assert_eq!(
            patience(Duration::MAX, Some(Duration::MAX)),
            Duration::MAX - TELLING_MAX
        );
    }

    #[test]
    fn jitter_stays_within_its_percentage() {
        let mut rng = Rng::with_seed(3);
        for _ in 0..1000 {
            let wait = jittered(Duration::from_millis(100), 20, &mut rng);
            assert!((80..=120).contains(&wait.as_millis()), "{wait:?}");
        }
        assert_eq!(jittered(Duration::ZERO, 20, &mut rng), Duration::ZERO);
    }
}
