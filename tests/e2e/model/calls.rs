//! The unary calls that programs make, with their requests and answers.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb as pb;
use prost::{DecodeError, Message};

macro_rules! calls {
    ($($service:ident { $($method:ident: $request:ident => $answer:ident,)* })*) => {
        /// A request, by the method it goes to.
        #[derive(Clone, Debug)]
        pub(crate) enum Call {
            $($(#[doc = concat!(stringify!($service), "/", stringify!($method))] $method(pb::$request),)*)*
        }

        /// What a call answers if it succeeds.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) enum Answer {
            $($(#[doc = concat!(stringify!($service), "/", stringify!($method))] $method(pb::$answer),)*)*
        }

        /// The paths of all methods in [`Call`].
        pub(crate) const PATHS: &[&str] = &[
            $($(concat!("/etcdserverpb.", stringify!($service), "/", stringify!($method)),)*)*
        ];

        impl Call {
            /// The method's name, which no two services share.
            pub(crate) fn kind(&self) -> &'static str {
                match self {
                    $($(Self::$method(_) => stringify!($method),)*)*
                }
            }

            pub(crate) fn path(&self) -> &'static str {
                match self {
                    $($(Self::$method(_) => {
                        concat!("/etcdserverpb.", stringify!($service), "/", stringify!($method))
                    })*)*
                }
            }

            pub(crate) fn encode(&self) -> Bytes {
                match self {
                    $($(Self::$method(request) => request.encode_to_vec().into(),)*)*
                }
            }

            /// Decodes the answer to this call.
            pub(crate) fn answer(&self, message: Bytes) -> Result<Answer, DecodeError> {
                Ok(match self {
                    $($(Self::$method(_) => Answer::$method(pb::$answer::decode(message)?),)*)*
                })
            }
        }

        impl Answer {
            pub(crate) fn header(&mut self) -> &mut Option<pb::ResponseHeader> {
                match self {
                    $($(Self::$method(answer) => &mut answer.header,)*)*
                }
            }
        }
    };
}

calls! {
    KV {
        Range: RangeRequest => RangeResponse,
        Put: PutRequest => PutResponse,
        DeleteRange: DeleteRangeRequest => DeleteRangeResponse,
        Txn: TxnRequest => TxnResponse,
        Compact: CompactionRequest => CompactionResponse,
    }
    Lease {
        LeaseGrant: LeaseGrantRequest => LeaseGrantResponse,
        LeaseRevoke: LeaseRevokeRequest => LeaseRevokeResponse,
        LeaseTimeToLive: LeaseTimeToLiveRequest => LeaseTimeToLiveResponse,
        LeaseLeases: LeaseLeasesRequest => LeaseLeasesResponse,
    }
    Cluster {
        MemberList: MemberListRequest => MemberListResponse,
    }
    Maintenance {
        Alarm: AlarmRequest => AlarmResponse,
        Status: StatusRequest => StatusResponse,
        Defragment: DefragmentRequest => DefragmentResponse,
        HashKV: HashKvRequest => HashKvResponse,
        MoveLeader: MoveLeaderRequest => MoveLeaderResponse,
    }
    Auth {
        AuthEnable: AuthEnableRequest => AuthEnableResponse,
        AuthDisable: AuthDisableRequest => AuthDisableResponse,
        AuthStatus: AuthStatusRequest => AuthStatusResponse,
        Authenticate: AuthenticateRequest => AuthenticateResponse,
        UserAdd: AuthUserAddRequest => AuthUserAddResponse,
        UserGet: AuthUserGetRequest => AuthUserGetResponse,
        UserList: AuthUserListRequest => AuthUserListResponse,
        UserDelete: AuthUserDeleteRequest => AuthUserDeleteResponse,
        UserChangePassword: AuthUserChangePasswordRequest => AuthUserChangePasswordResponse,
        UserGrantRole: AuthUserGrantRoleRequest => AuthUserGrantRoleResponse,
        UserRevokeRole: AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse,
        RoleAdd: AuthRoleAddRequest => AuthRoleAddResponse,
        RoleGet: AuthRoleGetRequest => AuthRoleGetResponse,
        RoleList: AuthRoleListRequest => AuthRoleListResponse,
        RoleDelete: AuthRoleDeleteRequest => AuthRoleDeleteResponse,
        RoleGrantPermission: AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse,
        RoleRevokePermission: AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse,
    }
}
