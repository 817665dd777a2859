//! What clients ask for.

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::authpb::{Permission, permission};
use etcd_proxy_proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserGetRequest,
    AuthenticateRequest, AuthenticateResponse, CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest,
    LeaseGrantRequest, LeaseRevokeRequest, MemberListRequest, MoveLeaderRequest, PutRequest, RangeRequest,
    RequestOp, StatusRequest, TxnRequest, compare, request_op,
};
use fastrand::Rng;
use prost::Message;

use crate::delivery::CallTag;

/// The user that all clients are, where users must authenticate.
pub(crate) const USER: &str = "root";

/// The user, and the role, that may read some of the keys only.
pub(crate) const READER: &str = "reader";

/// The keys that it may read: from the first up to this one.
pub(crate) const READABLE_TO: Key = Key(4);

/// Their password.
pub(crate) const PASSWORD: &str = "secret";

/// A key of the world, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u8);

impl Key {
    pub(crate) fn bytes(self) -> Bytes {
        format!("key-{:03}", self.0).into()
    }
}

/// What a client asks for. A value that is written is the name of its call, so that every write is known in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The value of a key.
    Get {
        /// Which key.
        key: Key,
        /// Whether the member may answer from what it has applied.
        serializable: bool,
        /// At which revision; 0 is now.
        revision: i64,
    },
    /// All keys from this one up to the other.
    List {
        /// The first key.
        from: Key,
        /// The first key that isn't asked for.
        to: Key,
        /// Whether the member may answer from what it has applied.
        serializable: bool,
    },
    /// Writes a key.
    Put {
        /// Which key.
        key: Key,
    },
    /// Deletes a key.
    Delete {
        /// Which key.
        key: Key,
    },
    /// Writes a long value.
    PutLong {
        /// Which key.
        key: Key,
        /// How long the value is, in bytes; a short one isn't made shorter.
        length: usize,
    },
    /// Writes several keys at once.
    PutMany {
        /// The first key.
        from: Key,
        /// How many.
        count: u8,
    },
    /// Writes a key if it was last modified at this revision (0: if it is absent), reads it otherwise.
    PutIf {
        /// Which key.
        key: Key,
        /// The revision to compare with.
        modified: i64,
    },
    /// Writes a key that ends with a lease.
    PutLeased {
        /// Which key.
        key: Key,
        /// Which lease.
        lease: i64,
    },
    /// Grants a lease.
    LeaseGrant {
        /// Its id.
        lease: i64,
        /// How long it lives without heartbeats, in seconds; a server may grant more.
        ttl: i64,
    },
    /// Ends a lease.
    LeaseRevoke {
        /// Which lease.
        lease: i64,
    },
    /// Compacts the history up to this revision.
    Compact {
        /// Which revision.
        revision: i64,
    },
    /// A token.
    Authenticate {
        /// For the one who may read some of the keys only.
        reader: bool,
    },
    /// Users must authenticate from now on.
    AuthEnable,
    /// Whether the reader may read what it may by right.
    Permit {
        /// It may from now on, or not any more.
        allowed: bool,
    },
    /// The members of the cluster.
    MemberList,
    /// A hash of the member's data: a call about one member.
    HashKv,
    /// The state of a member: a call about one member, of which the leader is best.
    Status,
    /// Makes a member the leader: only the one that is can do that.
    MoveLeader {
        /// What the cluster calls the member.
        to: u64,
    },
    /// A request that a server answers with an error, by its number.
    Odd(Odd),
}

/// Requests that a server refuses in different words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Odd {
    /// Put without a key.
    PutNothing,
    /// A read of a revision that will come some day.
    GetFuture,
    /// A transaction that puts one key twice.
    PutTwice,
    /// A lease that doesn't exist is revoked.
    RevokeUnknown,
    /// A user that doesn't exist is asked for.
    UserUnknown,
    /// A message that isn't one.
    Garbage,
}

impl Odd {
    const ALL: [Self; 6] = [
        Self::PutNothing,
        Self::GetFuture,
        Self::PutTwice,
        Self::RevokeUnknown,
        Self::UserUnknown,
        Self::Garbage,
    ];

    /// Any of them.
    pub(crate) fn any(rng: &mut Rng) -> Self {
        Self::ALL[rng.usize(..Self::ALL.len())]
    }
}

impl Op {
    /// The RPC.
    #[must_use]
    pub const fn rpc(&self) -> Rpc {
        match self {
            Self::Get { .. } | Self::List { .. } | Self::Odd(Odd::GetFuture | Odd::Garbage) => Rpc::Range,
            Self::Put { .. } | Self::PutLong { .. } | Self::PutLeased { .. } | Self::Odd(Odd::PutNothing) => {
                Rpc::Put
            }
            Self::Delete { .. } => Rpc::DeleteRange,
            Self::PutIf { .. } | Self::PutMany { .. } | Self::Odd(Odd::PutTwice) => Rpc::Txn,
            Self::Compact { .. } => Rpc::Compact,
            Self::Authenticate { .. } => Rpc::Authenticate,
            Self::AuthEnable => Rpc::AuthEnable,
            Self::Permit { allowed: true } => Rpc::RoleGrantPermission,
            Self::Permit { allowed: false } => Rpc::RoleRevokePermission,
            Self::MemberList => Rpc::MemberList,
            Self::Status => Rpc::Status,
            Self::MoveLeader { .. } => Rpc::MoveLeader,
            Self::HashKv => Rpc::HashKv,
            Self::LeaseGrant { .. } => Rpc::LeaseGrant,
            Self::LeaseRevoke { .. } | Self::Odd(Odd::RevokeUnknown) => Rpc::LeaseRevoke,
            Self::Odd(Odd::UserUnknown) => Rpc::UserGet,
        }
    }

    /// Whether it may be made again though it may have been carried out: clientv3 would, and the answer is the same.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        let is_write = matches!(
            self,
            Self::LeaseGrant { .. } | Self::LeaseRevoke { .. } | Self::Odd(Odd::RevokeUnknown)
        );
        self.rpc().is_repeatable() && !is_write
    }

    /// Whether it reads keys, and nothing else.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::List { .. })
    }

    /// Whether it changes keys.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(
            self,
            Self::Put { .. }
                | Self::PutLong { .. }
                | Self::PutLeased { .. }
                | Self::Delete { .. }
                | Self::PutIf { .. }
                | Self::PutMany { .. }
        )
    }

    /// Whether it tells of one member, so that all such calls of a client must be answered by the same one.
    #[must_use]
    pub const fn is_about_member(&self) -> bool {
        matches!(self, Self::HashKv | Self::Status)
    }

    /// Whether a healthy cluster carries it out.
    pub(crate) const fn can_succeed(&self) -> bool {
        !matches!(
            self,
            Self::Odd(_)
                | Self::Compact { .. }
                | Self::AuthEnable
                | Self::Permit { .. }
                | Self::PutLeased { .. }
                | Self::LeaseGrant { .. }
                | Self::LeaseRevoke { .. }
                | Self::Get { revision: 1.., .. }
        )
    }

    pub(crate) fn message(&self, tag: CallTag) -> Bytes {
        let value = value(tag);
        match self {
            Self::Get {
                key,
                serializable,
                revision,
            } => encoded(&RangeRequest {
                key: key.bytes(),
                serializable: *serializable,
                revision: *revision,
                ..RangeRequest::default()
            }),
            Self::List {
                from,
                to,
                serializable,
            } => encoded(&RangeRequest {
                key: from.bytes(),
                range_end: to.bytes(),
                serializable: *serializable,
                ..RangeRequest::default()
            }),
            Self::Put { key } => encoded(&put(key.bytes(), value)),
            Self::PutLong { key, length } => encoded(&put(key.bytes(), long_value(tag, *length))),
            Self::PutLeased { key, lease } => encoded(&PutRequest {
                lease: *lease,
                ..put(key.bytes(), value)
            }),
            Self::LeaseGrant { lease, ttl } => encoded(&LeaseGrantRequest {
                id: *lease,
                ttl: *ttl,
            }),
            Self::LeaseRevoke { lease } => encoded(&LeaseRevokeRequest { id: *lease }),
            Self::Delete { key } => encoded(&DeleteRangeRequest {
                key: key.bytes(),
                ..DeleteRangeRequest::default()
            }),
            Self::PutMany { from, count } => encoded(&TxnRequest {
                success: (0..*count)
                    .map(|next| request_put(Key(from.0 + next).bytes(), value.clone()))
                    .collect(),
                ..TxnRequest::default()
            }),
            Self::PutIf { key, modified } => encoded(&TxnRequest {
                compare: vec![Compare {
                    key: key.bytes(),
                    target: compare::CompareTarget::Mod.into(),
                    result: compare::CompareResult::Equal.into(),
                    target_union: Some(compare::TargetUnion::ModRevision(*modified)),
                    ..Compare::default()
                }],
                success: vec![request_put(key.bytes(), value)],
                failure: vec![RequestOp {
                    request: Some(request_op::Request::RequestRange(RangeRequest {
                        key: key.bytes(),
                        ..RangeRequest::default()
                    })),
                }],
            }),
            Self::Compact { revision } => encoded(&CompactionRequest {
                revision: *revision,
                ..CompactionRequest::default()
            }),
            Self::Authenticate { reader } => encoded(&AuthenticateRequest {
                name: if *reader { READER } else { USER }.to_owned(),
                password: PASSWORD.to_owned(),
            }),
            Self::AuthEnable => encoded(&AuthEnableRequest {}),
            Self::Permit { allowed: true } => encoded(&AuthRoleGrantPermissionRequest {
                name: READER.to_owned(),
                perm: Some(Permission {
                    perm_type: permission::Type::Read.into(),
                    key: Key(0).bytes(),
                    range_end: READABLE_TO.bytes(),
                }),
            }),
            Self::Permit { allowed: false } => encoded(&AuthRoleRevokePermissionRequest {
                role: READER.to_owned(),
                key: Key(0).bytes(),
                range_end: READABLE_TO.bytes(),
            }),
            Self::MemberList => encoded(&MemberListRequest::default()),
            Self::Status => encoded(&StatusRequest {}),
            Self::MoveLeader { to } => encoded(&MoveLeaderRequest { target_id: *to }),
            Self::HashKv => encoded(&HashKvRequest::default()),
            Self::Odd(odd) => odd.message(value),
        }
    }
}

impl Odd {
    fn message(self, value: Bytes) -> Bytes {
        match self {
            Self::PutNothing => encoded(&put(Bytes::new(), value)),
            Self::GetFuture => encoded(&RangeRequest {
                key: Key(0).bytes(),
                revision: i64::MAX - 1,
                ..RangeRequest::default()
            }),
            Self::PutTwice => encoded(&TxnRequest {
                success: vec![
                    request_put(Key(0).bytes(), value.clone()),
                    request_put(Key(0).bytes(), value),
                ],
                ..TxnRequest::default()
            }),
            Self::RevokeUnknown => encoded(&LeaseRevokeRequest { id: 4711 }),
            Self::UserUnknown => encoded(&AuthUserGetRequest {
                name: "nobody".into(),
            }),
            Self::Garbage => Bytes::from_static(b"\xff\xff\xff"),
        }
    }
}

fn put(key: Bytes, value: Bytes) -> PutRequest {
    PutRequest {
        key,
        value,
        ..PutRequest::default()
    }
}

fn request_put(key: Bytes, value: Bytes) -> RequestOp {
    RequestOp {
        request: Some(request_op::Request::RequestPut(put(key, value))),
    }
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// What a call writes.
pub(crate) fn value(tag: CallTag) -> Bytes {
    format!("written by {}", tag.0).into()
}

/// What a call writes that writes much.
pub(crate) fn long_value(tag: CallTag, length: usize) -> Bytes {
    let mut value = value(tag).to_vec();
    value.resize(value.len().max(length), PADDING);
    value.into()
}

/// What makes a value long.
const PADDING: u8 = b'.';

/// Who wrote this value.
pub(crate) fn writer(value: &[u8]) -> Option<CallTag> {
    let number = value.strip_prefix(b"written by ")?;
    let end = number.iter().position(|byte| *byte == PADDING);
    let number = std::str::from_utf8(&number[..end.unwrap_or(number.len())]).ok()?;
    Some(CallTag(number.parse().ok()?))
}

/// The token that was asked for.
pub(crate) fn token(answer: Bytes) -> Option<Bytes> {
    let response = AuthenticateResponse::decode(answer).ok()?;
    Some(response.token.into())
}
