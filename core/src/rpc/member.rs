//! Which member must answer a call, and what is done when another one did.

use core::time::Duration;

use crate::grpc::Code;

/// How long reaching one of the other members may take.
pub const OTHER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one of the other members may take to answer: longer than a transfer of leadership takes.
pub const OTHER_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Which member must answer a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// Any member: the one in use.
    Any,
    /// What it tells or does concerns one member, so all such calls of one client connection go to
    /// the same one for as long as it lives.
    Same,
    /// As [`Member::Same`]; and if it is the first such call of its client connection, the leader answers it when
    /// it can be reached: `etcdctl move-leader` looks for the leader's endpoint this way, and a proxy is the only
    /// endpoint that its clients know.
    SamePreferLeader,
    /// Only the leader can carry it out.
    Leader,
}

/// What an answer says of the member that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The member isn't the leader, and so can't do what it was asked: FAILED_PRECONDITION `etcdserver: not leader`.
    NotLeader,
    /// The member tells of its state, and is the leader.
    Leads,
    /// The member tells of its state, and another member is the leader.
    Follows,
    /// Nothing of the kind.
    Nothing,
}

impl Said {
    /// What an error says.
    #[must_use]
    pub fn by_error(code: u8, message: &[u8]) -> Self {
        if code == Code::FailedPrecondition.number() && message == b"etcdserver: not leader" {
            Self::NotLeader
        } else {
            Self::Nothing
        }
    }

    /// What the answer to Status says, by its `header.member_id` and `leader`.
    #[must_use]
    pub const fn by_status(member_id: u64, leader: u64) -> Self {
        if leader == 0 {
            // It knows none.
            Self::Nothing
        } else if leader == member_id {
            Self::Leads
        } else {
            Self::Follows
        }
    }
}

impl Member {
    /// Whether calls of one client connection go where the first of them went.
    #[must_use]
    pub const fn is_sticky(self) -> bool {
        matches!(self, Self::Same | Self::SamePreferLeader)
    }

    /// Whether the other endpoints are asked in turn, given what the member in use said. `first` tells whether it is
    /// the first such call of its client connection. A call asked of the wrong member does nothing there.
    #[must_use]
    pub fn asks_others(self, first: bool, said: Said) -> bool {
        match self {
            Self::Leader => said == Said::NotLeader,
            Self::SamePreferLeader => first && said == Said::Follows,
            Self::Any | Self::Same => false,
        }
    }

    /// Whether the answer of one of them takes the place of the first one's.
    #[must_use]
    pub fn is_found(self, said: Said) -> bool {
        match self {
            Self::Leader => said != Said::NotLeader,
            Self::SamePreferLeader => said == Said::Leads,
            Self::Any | Self::Same => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_looked_for_where_only_it_will_do() {
        let not_leader = Said::by_error(9, b"etcdserver: not leader");
        assert_eq!(not_leader, Said::NotLeader);
        assert_eq!(Said::by_error(14, b"etcdserver: not leader"), Said::Nothing);
        assert_eq!(Said::by_error(9, b"etcdserver: not learner"), Said::Nothing);
        assert_eq!(Said::by_status(7, 0), Said::Nothing);
        assert_eq!(Said::by_status(7, 7), Said::Leads);
        assert_eq!(Said::by_status(7, 8), Said::Follows);
        assert!(Member::Leader.asks_others(false, not_leader));
        assert!(!Member::Leader.asks_others(false, Said::Nothing));
        assert!(Member::Leader.is_found(Said::Nothing) && !Member::Leader.is_found(not_leader));
        assert!(Member::SamePreferLeader.asks_others(true, Said::Follows));
        assert!(!Member::SamePreferLeader.asks_others(false, Said::Follows));
        assert!(!Member::SamePreferLeader.asks_others(true, Said::Leads));
        assert!(Member::SamePreferLeader.is_found(Said::Leads));
        assert!(!Member::SamePreferLeader.is_found(Said::Follows));
        assert!(!Member::Same.asks_others(true, Said::Follows) && !Member::Any.asks_others(true, not_leader));
    }
}
