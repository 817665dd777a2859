//! What the Auth service asks of the log, and what it answers.

use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::authpb::Permission;
use etcd_proxy_proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest, AuthRoleDeleteRequest,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest, AuthRoleListRequest,
    AuthRoleListResponse, AuthRoleRevokePermissionRequest, AuthStatusRequest, AuthStatusResponse,
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserListResponse,
    AuthUserRevokeRoleRequest, AuthenticateResponse, ResponseHeader,
};
use prost::{DecodeError, Message};

use super::password;
use crate::status::Status;

/// A call of the Auth service, as it goes through the log. Those that only read go through it too.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Assign a token. The password was [checked](super::Auth::check_password) before this was proposed.
    Authenticate {
        /// The user.
        name: String,
        /// What the token begins with, drawn by the member that was asked: see [`token_prefix`](super::token_prefix).
        token_prefix: String,
    },
    /// AuthDisable.
    Disable,
    /// AuthEnable.
    Enable,
    /// RoleAdd.
    RoleAdd(AuthRoleAddRequest),
    /// RoleDelete.
    RoleDelete(AuthRoleDeleteRequest),
    /// RoleGet.
    RoleGet(AuthRoleGetRequest),
    /// RoleGrantPermission.
    RoleGrantPermission(AuthRoleGrantPermissionRequest),
    /// RoleList.
    RoleList,
    /// RoleRevokePermission.
    RoleRevokePermission(AuthRoleRevokePermissionRequest),
    /// AuthStatus.
    Status,
    /// UserAdd.
    UserAdd(AuthUserAddRequest),
    /// UserChangePassword.
    UserChangePassword(AuthUserChangePasswordRequest),
    /// UserDelete.
    UserDelete(AuthUserDeleteRequest),
    /// UserGet.
    UserGet(AuthUserGetRequest),
    /// UserGrantRole.
    UserGrantRole(AuthUserGrantRoleRequest),
    /// UserList.
    UserList,
    /// UserRevokeRole.
    UserRevokeRole(AuthUserRevokeRoleRequest),
}

impl Request {
    /// Reads the message of a method of the service `etcdserverpb.Auth`, named without its path. None: there is no
    /// such method, or it is Authenticate, which isn't proposed as it comes.
    ///
    /// # Errors
    ///
    /// If it isn't such a message.
    #[must_use]
    pub fn decode(rpc: Rpc, message: Bytes) -> Option<Result<Self, DecodeError>> {
        Some(match rpc {
            Rpc::AuthDisable => AuthDisableRequest::decode(message).map(|_| Self::Disable),
            Rpc::AuthEnable => AuthEnableRequest::decode(message).map(|_| Self::Enable),
            Rpc::AuthStatus => AuthStatusRequest::decode(message).map(|_| Self::Status),
            Rpc::RoleAdd => Message::decode(message).map(Self::RoleAdd),
            Rpc::RoleDelete => Message::decode(message).map(Self::RoleDelete),
            Rpc::RoleGet => Message::decode(message).map(Self::RoleGet),
            Rpc::RoleGrantPermission => Message::decode(message).map(Self::RoleGrantPermission),
            Rpc::RoleList => AuthRoleListRequest::decode(message).map(|_| Self::RoleList),
            Rpc::RoleRevokePermission => Message::decode(message).map(Self::RoleRevokePermission),
            Rpc::UserAdd => Message::decode(message).map(Self::UserAdd),
            Rpc::UserChangePassword => Message::decode(message).map(Self::UserChangePassword),
            Rpc::UserDelete => Message::decode(message).map(Self::UserDelete),
            Rpc::UserGet => Message::decode(message).map(Self::UserGet),
            Rpc::UserGrantRole => Message::decode(message).map(Self::UserGrantRole),
            Rpc::UserList => AuthUserListRequest::decode(message).map(|_| Self::UserList),
            Rpc::UserRevokeRole => Message::decode(message).map(Self::UserRevokeRole),
            _ => return None,
        })
    }

    /// What is refused before anything is proposed, and before the caller's token is looked at.
    ///
    /// # Errors
    ///
    /// UNKNOWN for a password that can't be hashed, or a hash that isn't base64. The latter etcd notices only when
    /// it applies the request.
    pub fn admit(&self) -> Result<(), Status> {
        let password = match self {
            Self::UserAdd(request) if !request.options.is_some_and(|options| options.no_password) => {
                &request.password
            }
            Self::UserChangePassword(request) => &request.password,
            _ => return Ok(()),
        };
        if password.len() > password::BYTES_MAX {
            return Err(PASSWORD_TOO_LONG);
        }
        Ok(())
    }
}

/// etcd hands out bcrypt's own words.
const PASSWORD_TOO_LONG: Status = Status::new(2, "bcrypt: password length exceeds 72 bytes");

/// What a call of the Auth service answers, but for its header.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Authenticate: the token.
    Authenticated(String),
    /// The answer is a header and nothing else.
    Done,
    /// RoleGet: what the role allows, by key.
    Permissions(Vec<Permission>),
    /// RoleList: all roles, by name.
    RoleNames(Vec<String>),
    /// AuthStatus.
    Status {
        /// Whether calls are checked.
        enabled: bool,
        /// The revision of users and roles.
        revision: u64,
    },
    /// UserList: all users, by name.
    UserNames(Vec<String>),
    /// UserGet: the roles of the user, by name.
    UserRoles(Vec<String>),
}

impl Response {
    /// The response message, encoded.
    #[must_use]
    pub fn encode(self, header: ResponseHeader) -> Bytes {
        let header = Some(header);
        let bytes = match self {
            Self::Authenticated(token) => AuthenticateResponse { header, token }.encode_to_vec(),
            // All the others look the same.
            Self::Done => AuthEnableResponse { header }.encode_to_vec(),
            Self::Permissions(perm) => AuthRoleGetResponse { header, perm }.encode_to_vec(),
            Self::RoleNames(roles) => AuthRoleListResponse { header, roles }.encode_to_vec(),
            Self::Status { enabled, revision } => AuthStatusResponse {
                header,
                enabled,
                auth_revision: revision,
            }
            .encode_to_vec(),
            Self::UserNames(users) => AuthUserListResponse { header, users }.encode_to_vec(),
            Self::UserRoles(roles) => AuthUserGetResponse { header, roles }.encode_to_vec(),
        };
        Bytes::from(bytes)
    }
}
