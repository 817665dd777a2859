//! What changes users and roles.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use etcd_proxy_proto::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
};

use super::password::{Password, is_base64};
use super::{Account, Auth, ROOT, Request, Response, User, permission};
use crate::error::Error;
use crate::status::Status;

impl Auth {
    /// Whether a password is right, before [`Request::Authenticate`] is proposed. Answers the revision that this
    /// holds for: if it isn't the same any more once the request is applied, etcd starts over.
    ///
    /// # Errors
    ///
    /// The status that Authenticate ends with.
    pub fn check_password(&self, name: &str, password: &str) -> Result<u64, Status> {
        if !self.enabled {
            return Err(Error::AuthNotEnabled.status());
        }
        let account = self.users.get(name).ok_or(Error::AuthFailed.status())?;
        if account.password == Password::Absent {
            return Err(Error::NoPasswordUser.status());
        }
        if !account.password.matches(password) {
            return Err(Error::AuthFailed.status());
        }
        Ok(self.revision)
    }

    /// Applies what came out of the log at `index`, for the user that proposed it. Every member must hand the
    /// result to its [`Tokens`](super::Tokens).
    ///
    /// # Errors
    ///
    /// As etcd has them; nothing has changed then.
    pub fn apply(&mut self, index: u64, user: Option<&User>, request: &Request) -> Result<Response, Error> {
        match request {
            Request::Authenticate { .. } => {}
            Request::UserGet(request) if user.map_or("", |user| &user.name) == request.name => {}
            Request::RoleGet(request) if self.has_role(user, &request.role) => {}
            _ => self.check_admin(user)?,
        }
        match request {
            Request::Authenticate { name, token_prefix } => self.authenticate(index, name, token_prefix),
            Request::Disable => Ok(self.disable()),
            Request::Enable => self.enable(),
            Request::RoleAdd(request) => self.role_add(&request.name),
            Request::RoleDelete(request) => self.role_delete(&request.role),
            Request::RoleGet(request) => self.role_get(&request.role),
            Request::RoleGrantPermission(request) => self.role_grant_permission(request),
            Request::RoleList => Ok(Response::RoleNames(self.roles.keys().cloned().collect())),
            Request::RoleRevokePermission(request) => self.role_revoke_permission(request),
            Request::Status => Ok(Response::Status {
                enabled: self.enabled,
                revision: self.revision,
            }),
            Request::UserAdd(request) => self.user_add(request),
            Request::UserChangePassword(request) => self.user_change_password(request),
            Request::UserDelete(request) => self.user_delete(&request.name),
            Request::UserGet(request) => self.user_get(&request.name),
            Request::UserGrantRole(request) => self.user_grant_role(request),
            Request::UserList => Ok(Response::UserNames(self.users.keys().cloned().collect())),
            Request::UserRevokeRole(request) => self.user_revoke_role(request),
        }
    }

    fn has_role(&self, user: Option<&User>, role: &str) -> bool {
        let account = user.and_then(|user| self.users.get(&user.name));
        account.is_some_and(|account| account.roles.contains(role))
    }

    fn changed(&mut self) -> Response {
        self.revision = self.revision.saturating_add(1);
        Response::Done
    }

    fn account(&mut self, name: &str) -> Result<&mut Account, Error> {
        self.users.get_mut(name).ok_or(Error::UserNotFound)
    }

    fn authenticate(&self, index: u64, name: &str, token_prefix: &str) -> Result<Response, Error> {
        if !self.enabled {
            return Err(Error::AuthNotEnabled);
        }
        match self.users.get(name) {
            Some(account) if account.password != Password::Absent => {
                Ok(Response::Authenticated(format!("{token_prefix}.{index}")))
            }
            _ => Err(Error::AuthFailed),
        }
    }

    fn disable(&mut self) -> Response {
        if !self.enabled {
            return Response::Done;
        }
        self.enabled = false;
        self.changed()
    }

    fn enable(&mut self) -> Result<Response, Error> {
        if !self.enabled {
            let root = self.users.get(ROOT).ok_or(Error::RootUserMissing)?;
            if !root.roles.contains(ROOT) {
                return Err(Error::RootRoleMissing);
            }
            self.enabled = true;
        }
        Ok(Response::Done)
    }

    fn role_add(&mut self, name: &str) -> Result<Response, Error> {
        if name.is_empty() {
            return Err(Error::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(Error::RoleAlreadyExists);
        }
        self.roles.insert(String::from(name), Vec::new());
        Ok(self.changed())
    }

    fn role_delete(&mut self, role: &str) -> Result<Response, Error> {
        if self.enabled && role == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        self.roles.remove(role).ok_or(Error::RoleNotFound)?;
        for account in self.users.values_mut() {
            account.roles.remove(role);
        }
        Ok(self.changed())
    }

    fn role_get(&self, role: &str) -> Result<Response, Error> {
        let permissions = self.roles.get(role).ok_or(Error::RoleNotFound)?;
        Ok(Response::Permissions(permissions.clone()))
    }

    fn role_grant_permission(&mut self, request: &AuthRoleGrantPermissionRequest) -> Result<Response, Error> {
        let granted = request.perm.as_ref().ok_or(Error::PermissionNotGiven)?;
        if !permission::is_valid(granted) {
            return Err(Error::InvalidAuthManagement);
        }
        let permissions = self.roles.get_mut(&request.name).ok_or(Error::RoleNotFound)?;
        // Only the first permission with the same key is looked at: a second one with the same range as a later one
        // is added beside it.
        let first = permissions.partition_point(|own| own.key < granted.key);
        match permissions.get_mut(first) {
            Some(own) if own.key == granted.key && own.range_end == granted.range_end => {
                own.perm_type = granted.perm_type;
            }
            _ => {
                let last = permissions.partition_point(|own| own.key <= granted.key);
                permissions.insert(last, granted.clone());
            }
        }
        Ok(self.changed())
    }

    fn role_revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
    ) -> Result<Response, Error> {
        let permissions = self.roles.get_mut(&request.role).ok_or(Error::RoleNotFound)?;
        let before = permissions.len();
        permissions.retain(|own| own.key != request.key || own.range_end != request.range_end);
        if permissions.len() == before {
            return Err(Error::PermissionNotGranted);
        }
        Ok(self.changed())
    }

    fn user_add(&mut self, request: &AuthUserAddRequest) -> Result<Response, Error> {
        if request.name.is_empty() {
            return Err(Error::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(Error::UserAlreadyExists);
        }
        let password = match request.options {
            Some(options) if options.no_password => Password::Absent,
            _ => Password::new(&request.password),
        };
        let account = Account {
            password,
            roles: BTreeSet::new(),
        };
        self.users.insert(request.name.clone(), account);
        Ok(self.changed())
    }

    fn user_change_password(&mut self, request: &AuthUserChangePasswordRequest) -> Result<Response, Error> {
        let account = self.account(&request.name)?;
        if account.password != Password::Absent {
            account.password = if request.password.is_empty() {
                if !is_base64(&request.hashed_password) {
                    return Err(Error::NoPasswordUser);
                }
                Password::Unknown
            } else {
                Password::new(&request.password)
            };
        }
        Ok(self.changed())
    }

    fn user_delete(&mut self, name: &str) -> Result<Response, Error> {
        if self.enabled && name == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(Error::UserNotFound)?;
        Ok(self.changed())
    }

    fn user_get(&self, name: &str) -> Result<Response, Error> {
        let account = self.users.get(name).ok_or(Error::UserNotFound)?;
        Ok(Response::UserRoles(account.roles.iter().cloned().collect()))
    }

    fn user_grant_role(&mut self, request: &AuthUserGrantRoleRequest) -> Result<Response, Error> {
        // The role root can be given without having been added.
        let exists = request.role == ROOT || self.roles.contains_key(&request.role);
        let account = self.account(&request.user)?;
        if !exists {
            return Err(Error::RoleNotFound);
        }
        if !account.roles.insert(request.role.clone()) {
            return Ok(Response::Done);
        }
        Ok(self.changed())
    }

    fn user_revoke_role(&mut self, request: &AuthUserRevokeRoleRequest) -> Result<Response, Error> {
        if self.enabled && request.name == ROOT && request.role == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        if !self.account(&request.name)?.roles.remove(&request.role) {
            return Err(Error::RoleNotGranted);
        }
        Ok(self.changed())
    }
}
