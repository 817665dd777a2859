//! Reads that are asked again because their answer is older than what was shown.

use alloc::vec::Vec;
use core::time::Duration;

use crate::grpc::{Code, Status};

/// How long members that are behind may take to catch up, unless the client has less time: several election time-outs.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one of them may take before it is asked again, or another one is.
const ATTEMPT: Duration = Duration::from_millis(2500);

/// The first pause between two attempts; doubled from one to the next.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// The end of a `RangeRequest` that makes it linearizable whatever is before it: the last value of a field counts.
const LINEARIZABLE: [u8; 2] = [7 << 3, 0];

/// The status of a read for which what was shown before isn't to be had.
const BEHIND: Status = Status::of(
    Code::Unavailable,
    "etcd-proxy: no member has come to what was shown before",
);

/// A read that is asked again, as a linearizable one, until a member answers it, so that a client's store doesn't go back when
/// the proxy goes to another member. Who has only something old shows nothing.
#[derive(Clone, Debug)]
pub struct Refresh {
    patience: Duration,
    pause: Duration,
}

/// How an attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshEnd {
    /// The member has answered, with this gRPC code.
    Answered(u8),
    /// The member has failed: its connection broke, or it refused the call.
    Failed,
    /// Nobody could be asked, or nobody has answered in [time](Refresh::attempt_max).
    Nobody,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum RefreshRuling {
    /// The read is asked again after this pause, of another member if there is one.
    Again {
        /// How long to wait before.
        pause: Duration,
        /// Whether another member than the last one is to be asked.
        elsewhere: bool,
    },
    /// The client gets the answer.
    Give,
    /// The client is refused.
    Refuse(Status),
}

impl Refresh {
    /// A refresh that begins now, of a call that has so much time left; `None` if it has no deadline.
    #[must_use]
    pub fn new(left: Option<Duration>) -> Self {
        Self {
            patience: left.map_or(PATIENCE, |left| left.min(PATIENCE)),
            pause: PAUSE_MIN,
        }
    }

    /// The encoded `RangeRequest` that is asked instead of this one.
    #[must_use]
    pub fn request(request: &[u8]) -> Vec<u8> {
        [request, &LINEARIZABLE].concat()
    }

    /// How long the next attempt may take, so long after the beginning.
    #[must_use]
    pub fn attempt_max(&self, elapsed: Duration) -> Duration {
        ATTEMPT.min(self.patience.saturating_sub(elapsed))
    }

    /// What follows from the end of an attempt, so long after the beginning.
    pub fn ended(&mut self, elapsed: Duration, end: RefreshEnd) -> RefreshRuling {
        match end {
            RefreshEnd::Answered(code) if code != Code::Unavailable.number() => return RefreshRuling::Give,
            RefreshEnd::Answered(_) | RefreshEnd::Failed | RefreshEnd::Nobody => {}
        }
        let pause = self.pause;
        if elapsed + pause >= self.patience {
            return RefreshRuling::Refuse(BEHIND);
        }
        self.pause = (pause * 2).min(PAUSE_MAX);
        RefreshRuling::Again {
            pause,
            elsewhere: end == RefreshEnd::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_proxy_proto::etcdserverpb::RangeRequest;
    use prost::Message as _;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_same_is_asked_linearizably() {
        for serializable in [true, false] {
            let request = RangeRequest {
                key: b"key"[..].into(),
                limit: 7,
                serializable,
                ..RangeRequest::default()
            };
            let asked = Refresh::request(&request.encode_to_vec());
            let expected = RangeRequest {
                serializable: false,
                ..request
            };
            assert_eq!(RangeRequest::decode(&asked[..]), Ok(expected));
        }
    }

    #[test]
    fn attempts() {
        let again = |pause, elsewhere| RefreshRuling::Again {
            pause: MS(pause),
            elsewhere,
        };
        let mut refresh = Refresh::new(None);
        assert_eq!(refresh.attempt_max(Duration::ZERO), MS(2500));
        for (end, ruling) in [
            (RefreshEnd::Answered(14), again(25, false)),
            (RefreshEnd::Failed, again(50, true)),
            (RefreshEnd::Nobody, again(100, false)),
            (RefreshEnd::Answered(14), again(200, false)),
            (RefreshEnd::Answered(14), again(400, false)),
            (RefreshEnd::Answered(14), again(400, false)),
            (RefreshEnd::Answered(0), RefreshRuling::Give),
            // What a member says is what the client is told.
            (RefreshEnd::Answered(7), RefreshRuling::Give),
        ] {
            assert_eq!(refresh.ended(MS(1000), end), ruling, "{end:?}");
        }
    }

    #[test]
    fn patience() {
        for (left, patience) in [
            (None, 10_000),
            (Some(MS(60_000)), 10_000),
            (Some(MS(700)), 700),
            (Some(MS(0)), 0),
        ] {
            let refresh = || Refresh::new(left);
            let last = MS(patience).saturating_sub(MS(26));
            let ruling = refresh().ended(last, RefreshEnd::Nobody);
            assert_eq!(
                matches!(ruling, RefreshRuling::Again { .. }),
                patience > 0,
                "{left:?}"
            );
            let late = MS(patience).saturating_sub(MS(25));
            let ruling = refresh().ended(late, RefreshEnd::Nobody);
            assert_eq!(ruling, RefreshRuling::Refuse(BEHIND), "{left:?}");
            assert_eq!(refresh().attempt_max(MS(patience + 1)), Duration::ZERO);
            let left_at_last = MS(patience).saturating_sub(last);
            assert_eq!(refresh().attempt_max(last), left_at_last, "{left:?}");
        }
    }
}
