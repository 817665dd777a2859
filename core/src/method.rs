//! What is known of each RPC of the etcd v3 API.
//!
//! A method that isn't listed is forwarded all the same, as a stream of bytes in both directions.

use core::time::Duration;

use crate::class::{Class, ClassRule};

/// How a call may be handled, decided from its path alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The shape of the call.
    pub shape: Shape,
    /// Whether clientv3 calls it repeatable: sending it again after it may have been carried out
    /// does no harm that clients don't already accept (clientv3 `retry.go`).
    pub repeatable: bool,
    /// Which member must answer.
    pub member: Member,
    /// Which of a member's connections it takes.
    pub class: ClassRule,
}

/// The shape of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request message, one response message.
    Unary,
    /// Messages in one or both directions, and an end in sight.
    Stream,
    /// A stream that ends only when its client or the server goes away. A proxy that is shutting
    /// down doesn't wait for it.
    Endless,
}

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
    /// It isn't the leader, and so can't do what it was asked: FAILED_PRECONDITION `etcdserver: not leader`.
    NotLeader,
    /// It tells of its state, and is the leader.
    Leads,
    /// It tells of its state, and another member is the leader.
    Follows,
    /// Nothing of the kind.
    Nothing,
}

impl Said {
    /// What an error says.
    #[must_use]
    pub fn by_error(code: u8, message: &[u8]) -> Self {
        const FAILED_PRECONDITION: u8 = 9;
        if code == FAILED_PRECONDITION && message == b"etcdserver: not leader" {
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

/// What the answer to a call shows of the store, message by message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Nothing, as far as is known.
    Nothing,
    /// What the header says that each message begins with.
    Header,
    /// The store itself, and nothing says of what revision.
    Store,
}

impl Shows {
    /// Of a call, by its path.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        if path == "/etcdserverpb.Maintenance/Snapshot" {
            return Self::Store;
        }
        let has_headers = ["/etcdserverpb.", "/v3electionpb.", "/v3lockpb."]
            .iter()
            .any(|package| path.starts_with(package));
        if has_headers { Self::Header } else { Self::Nothing }
    }
}

/// How long reaching one of the other members may take.
pub const OTHER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one of the other members may take to answer: longer than a transfer of leadership takes.
pub const OTHER_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Method {
    /// An RPC that isn't in the table: nothing is assumed of it.
    pub const UNKNOWN: Self = Self {
        shape: Shape::Stream,
        repeatable: false,
        member: Member::Any,
        class: ClassRule::Always(Class::Blocking),
    };

    const READ: Self = Self {
        shape: Shape::Unary,
        repeatable: true,
        member: Member::Any,
        class: ClassRule::Always(Class::Prompt),
    };
    const WRITE: Self = Self {
        repeatable: false,
        ..Self::READ
    };
    /// A write that is answered when others let it.
    const WAITING_WRITE: Self = Self {
        class: ClassRule::Always(Class::Blocking),
        ..Self::WRITE
    };
    const ENDLESS: Self = Self {
        shape: Shape::Endless,
        ..Self::UNKNOWN
    };
    const MEMBER_READ: Self = Self {
        member: Member::Same,
        ..Self::READ
    };
    const MEMBER_WRITE: Self = Self {
        member: Member::Same,
        ..Self::WRITE
    };

    /// Looks an RPC up by its path, `/package.Service/Method`.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return Self::UNKNOWN;
        };
        match service {
            "etcdserverpb.KV" => match method {
                "Range" => Self {
                    class: ClassRule::Range,
                    ..Self::READ
                },
                "Put" | "Compact" => Self::WRITE,
                "DeleteRange" => Self {
                    class: ClassRule::DeleteRange,
                    ..Self::WRITE
                },
                "Txn" => Self {
                    class: ClassRule::Txn,
                    ..Self::WRITE
                },
                _ => Self::UNKNOWN,
            },
            "etcdserverpb.Watch" => match method {
                "Watch" => Self::ENDLESS,
                _ => Self::UNKNOWN,
            },
            "etcdserverpb.Lease" => match method {
                "LeaseKeepAlive" => Self::ENDLESS,
                // Grant and revoke are writes, yet clientv3 repeats them.
                "LeaseGrant" | "LeaseRevoke" => Self::READ,
                "LeaseTimeToLive" => Self {
                    class: ClassRule::LeaseTimeToLive,
                    ..Self::READ
                },
                "LeaseLeases" => Self {
                    class: ClassRule::Always(Class::Bulk),
                    ..Self::READ
                },
                _ => Self::UNKNOWN,
            },
            "etcdserverpb.Cluster" => match method {
                "MemberList" => Self::READ,
                "MemberAdd" | "MemberRemove" | "MemberUpdate" | "MemberPromote" => Self::WRITE,
                _ => Self::UNKNOWN,
            },
            "etcdserverpb.Maintenance" => match method {
                "Alarm" | "Hash" | "HashKV" => Self::MEMBER_READ,
                "Status" => Self {
                    member: Member::SamePreferLeader,
                    ..Self::READ
                },
                "Defragment" | "Downgrade" => Self::MEMBER_WRITE,
                "MoveLeader" => Self {
                    member: Member::Leader,
                    ..Self::READ
                },
                "Snapshot" => Self {
                    shape: Shape::Stream,
                    class: ClassRule::Always(Class::Bulk),
                    ..Self::MEMBER_READ
                },
                _ => Self {
                    member: Member::Same,
                    ..Self::UNKNOWN
                },
            },
            "etcdserverpb.Auth" => match method {
                "UserList" | "UserGet" | "RoleList" | "RoleGet" => Self::READ,
                "AuthEnable"
                | "AuthDisable"
                | "AuthStatus"
                | "Authenticate"
                | "UserAdd"
                | "UserDelete"
                | "UserChangePassword"
                | "UserGrantRole"
                | "UserRevokeRole"
                | "RoleAdd"
                | "RoleDelete"
                | "RoleGrantPermission"
                | "RoleRevokePermission" => Self::WRITE,
                _ => Self::UNKNOWN,
            },
            "v3electionpb.Election" => match method {
                "Campaign" => Self::WAITING_WRITE,
                "Proclaim" | "Leader" | "Resign" => Self::WRITE,
                "Observe" => Self::ENDLESS,
                _ => Self::UNKNOWN,
            },
            "v3lockpb.Lock" => match method {
                "Lock" => Self::WAITING_WRITE,
                "Unlock" => Self::WRITE,
                _ => Self::UNKNOWN,
            },
            "grpc.health.v1.Health" => match method {
                "Check" => Self::READ,
                "Watch" => Self::ENDLESS,
                _ => Self::UNKNOWN,
            },
            _ => Self::UNKNOWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of clientv3's table, as facts to hold the code against.
    #[test]
    fn repeatable_as_clientv3_has_it() {
        let repeatable = [
            "KV/Range",
            "Lease/LeaseGrant",
            "Lease/LeaseRevoke",
            "Lease/LeaseTimeToLive",
            "Lease/LeaseLeases",
            "Cluster/MemberList",
            "Maintenance/Alarm",
            "Maintenance/Status",
            "Maintenance/Hash",
            "Maintenance/HashKV",
            "Maintenance/Snapshot",
            "Maintenance/MoveLeader",
            "Auth/UserList",
            "Auth/UserGet",
            "Auth/RoleList",
            "Auth/RoleGet",
        ];
        let not_repeatable = [
            "KV/Put",
            "KV/DeleteRange",
            "KV/Txn",
            "KV/Compact",
            "Cluster/MemberAdd",
            "Cluster/MemberRemove",
            "Cluster/MemberUpdate",
            "Cluster/MemberPromote",
            "Maintenance/Defragment",
            "Maintenance/Downgrade",
            "Auth/AuthEnable",
            "Auth/Authenticate",
            "Auth/UserAdd",
            "Auth/RoleGrantPermission",
        ];
        for name in repeatable {
            assert!(
                Method::of_path(&alloc::format!("/etcdserverpb.{name}")).repeatable,
                "{name}"
            );
        }
        for name in not_repeatable {
            let method = Method::of_path(&alloc::format!("/etcdserverpb.{name}"));
            assert!(!method.repeatable && method.shape == Shape::Unary, "{name}");
        }
    }

    #[test]
    fn anything_else_is_a_stream_of_bytes() {
        for path in [
            "",
            "/",
            "//",
            "/etcdserverpb.KV",
            "/etcdserverpb.KV/",
            "/etcdserverpb.KV/RangeStream",
            "x/y",
            "/a.B/C/D",
        ] {
            assert_eq!(Method::of_path(path), Method::UNKNOWN, "{path}");
        }
    }

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

    #[test]
    fn paths_are_exact() {
        for path in [
            "/etcdserverpb.KV/Range?x",
            "/etcdserverpb.KV/Range?",
            "/etcdserverpb.KV/Range/",
            "//etcdserverpb.KV/Range",
            "/etcdserverpb.KV//Range",
            "/etcdserverpb.KV/%52ange",
            "/etcdserverpb.KV/range",
            "/etcdserverpb.KV/Range ",
            "http://localhost/etcdserverpb.KV/Range",
            "/etcdserverpb.Watch/Watch?q",
            "/etcdserverpb.Lease/LeaseKeepAlive?q",
        ] {
            assert_eq!(Method::of_path(path), Method::UNKNOWN, "{path}");
        }
    }

    #[test]
    fn what_shows_the_store() {
        for (path, shows) in [
            ("/v3electionpb.Election/Observe", Shows::Header),
            ("/etcdserverpb.Watch/Watch", Shows::Header),
            ("/etcdserverpb.KV/RangeStream", Shows::Header),
            ("/etcdserverpb.Maintenance/Snapshot", Shows::Store),
            ("/grpc.health.v1.Health/Watch", Shows::Nothing),
            ("/x/y", Shows::Nothing),
        ] {
            assert_eq!(Shows::of_path(path), shows, "{path}");
        }
    }

    #[test]
    fn maintenance_stays_on_one_member() {
        for name in ["HashKV", "Snapshot", "Defragment", "SomethingNew"] {
            assert_eq!(
                Method::of_path(&alloc::format!("/etcdserverpb.Maintenance/{name}")).member,
                Member::Same
            );
        }
        let status = Method::of_path("/etcdserverpb.Maintenance/Status");
        assert_eq!(status.member, Member::SamePreferLeader);
        assert_eq!(
            Method::of_path("/etcdserverpb.Maintenance/MoveLeader").member,
            Member::Leader
        );
    }
}
