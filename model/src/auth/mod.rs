//! Users, roles and permissions, and who may do what.
//!
//! [`Auth`] is part of the replicated state: [`Auth::apply`] is called for what comes out of the log, on every
//! member alike. [`Tokens`] is what one member remembers of the tokens that the log assigned; it runs on that
//! member's clock and is gone when the member restarts, as a simple token is in etcd.
//!
//! A call goes through here like this: [`Tokens::identify`] makes a [`User`] of its token where it enters the
//! cluster, and the `check_` functions are asked with that user where it takes effect, which is after the log for
//! what is proposed. In between the user may have become [outdated](Error::AuthOldRevision).
//!
//! Everything here is what etcd 3.5.30 does, as seen by trying. Not covered: passwords that arrive hashed match
//! nothing; permission checks of ranges that end before they begin, which etcd decides by the shape of a tree, are
//! decided as if every permission were looked at; identities from client certificates.

mod apply;
mod password;
mod permission;
mod request;
mod token;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_proto::authpb::{Permission, permission::Type};
use etcd_proxy_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request as Operation,
};

use self::password::Password;
pub use self::request::{Request, Response};
pub use self::token::{Identity, Tokens, token_prefix};
use crate::error::Error;

/// The name of the user and of the role that may do everything.
const ROOT: &str = "root";

/// Who is calling, as known where the call entered the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The [revision](Auth::revision) at which the token was looked up.
    pub revision: u64,
}

/// Users, roles and whether they matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, Account>,
    roles: BTreeMap<String, Vec<Permission>>,
}

/// What is stored of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    password: Password,
    roles: BTreeSet<String>,
}

impl Auth {
    /// Off, without users or roles, at revision 1.
    #[must_use]
    pub fn new() -> Self {
        Self {
            enabled: false,
            revision: 1,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
        }
    }

    /// Whether calls are checked at all.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Counts changes of users and roles, from 1; switching authentication off is one, switching it on is none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether the caller is anyone at all: for LeaseGrant, LeaseRevoke, LeaseTimeToLive, MemberList and Alarm GET.
    ///
    /// # Errors
    ///
    /// [`Error::UserEmpty`] if it isn't.
    pub fn check_identified(&self, user: Option<&User>) -> Result<(), Error> {
        if self.enabled && user.is_none() {
            return Err(Error::UserEmpty);
        }
        Ok(())
    }

    /// Whether the caller may administer the cluster: for Compact, all of Auth but Authenticate, UserGet and
    /// RoleGet, all of Cluster but MemberList, and all of Maintenance but Alarm GET.
    ///
    /// Defragment, Hash, HashKV and Snapshot answer a refusal in other words: see [`unmapped`].
    ///
    /// # Errors
    ///
    /// [`Error::UserEmpty`] without a user, [`Error::PermissionDenied`] for one that isn't root.
    pub fn check_admin(&self, user: Option<&User>) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        let user = user.ok_or(Error::UserEmpty)?;
        if self.is_root(&user.name) {
            Ok(())
        } else {
            Err(Error::PermissionDenied)
        }
    }

    /// Whether the caller may read this range: for Range and for the creation of a watcher.
    ///
    /// # Errors
    ///
    /// [`Error::UserEmpty`] without a user, [`Error::AuthOldRevision`] if users or roles changed since the caller
    /// was identified, [`Error::PermissionDenied`].
    pub fn check_range(&self, user: Option<&User>, key: &[u8], range_end: &[u8]) -> Result<(), Error> {
        self.check(user, key, range_end, Type::Read)
    }

    /// Whether the caller may put. `lease_keys` are the keys of the lease that the request names.
    ///
    /// # Errors
    ///
    /// As [`check_range`](Self::check_range).
    pub fn check_put<'a>(
        &self,
        user: Option<&User>,
        request: &PutRequest,
        lease_keys: impl IntoIterator<Item = &'a Bytes>,
    ) -> Result<(), Error> {
        self.check(user, &request.key, b"", Type::Write)?;
        // Who could not revoke the lease may not make more depend on it.
        self.check_lease_write(user, lease_keys)?;
        if request.prev_kv {
            self.check(user, &request.key, b"", Type::Read)?;
        }
        Ok(())
    }

    /// Whether the caller may delete.
    ///
    /// # Errors
    ///
    /// As [`check_range`](Self::check_range).
    pub fn check_delete_range(&self, user: Option<&User>, request: &DeleteRangeRequest) -> Result<(), Error> {
        self.check(user, &request.key, &request.range_end, Type::Write)?;
        if request.prev_kv {
            self.check(user, &request.key, &request.range_end, Type::Read)?;
        }
        Ok(())
    }

    /// Whether the caller may do everything that a transaction might do, nested ones included. `lease_keys` answers
    /// the keys of a lease.
    ///
    /// # Errors
    ///
    /// As [`check_range`](Self::check_range).
    pub fn check_txn<'a, K>(
        &self,
        user: Option<&User>,
        request: &TxnRequest,
        lease_keys: &impl Fn(i64) -> K,
    ) -> Result<(), Error>
    where
        K: IntoIterator<Item = &'a Bytes>,
    {
        if !self.enabled {
            return Ok(());
        }
        for compare in &request.compare {
            self.check(user, &compare.key, &compare.range_end, Type::Read)?;
        }
        let operations = request.success.iter().chain(&request.failure);
        for operation in operations.filter_map(|RequestOp { request }| request.as_ref()) {
            match operation {
                Operation::RequestRange(range) => self.check_range(user, &range.key, &range.range_end)?,
                Operation::RequestPut(put) => self.check_put(user, put, lease_keys(put.lease))?,
                Operation::RequestDeleteRange(delete) => self.check_delete_range(user, delete)?,
                Operation::RequestTxn(txn) => self.check_txn(user, txn, lease_keys)?,
            }
        }
        Ok(())
    }

    /// Whether the caller may end or renew a lease with these keys: for LeaseRevoke when it is applied and
    /// LeaseKeepAlive, each after [`check_identified`](Self::check_identified).
    ///
    /// # Errors
    ///
    /// As [`check_range`](Self::check_range).
    pub fn check_lease_write<'a>(
        &self,
        user: Option<&User>,
        keys: impl IntoIterator<Item = &'a Bytes>,
    ) -> Result<(), Error> {
        self.check_keys(user, keys, Type::Write)
    }

    /// Whether the caller may see these keys of leases: for LeaseTimeToLive with keys, and for LeaseLeases with the
    /// keys of all leases, each after [`check_identified`](Self::check_identified).
    ///
    /// # Errors
    ///
    /// As [`check_range`](Self::check_range).
    pub fn check_lease_read<'a>(
        &self,
        user: Option<&User>,
        keys: impl IntoIterator<Item = &'a Bytes>,
    ) -> Result<(), Error> {
        self.check_keys(user, keys, Type::Read)
    }

    fn check_keys<'a>(
        &self,
        user: Option<&User>,
        keys: impl IntoIterator<Item = &'a Bytes>,
        access: Type,
    ) -> Result<(), Error> {
        // Root may, even with a token from before the last change.
        if self.check_admin(user).is_ok() {
            return Ok(());
        }
        keys.into_iter()
            .try_for_each(|key| self.check(user, key, b"", access))
    }

    fn check(&self, user: Option<&User>, key: &[u8], range_end: &[u8], access: Type) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        let user = user.ok_or(Error::UserEmpty)?;
        if user.revision < self.revision {
            return Err(Error::AuthOldRevision);
        }
        let account = self.users.get(&user.name).ok_or(Error::PermissionDenied)?;
        let permissions = || {
            let roles = account.roles.iter().filter_map(|role| self.roles.get(role));
            roles.flatten()
        };
        if account.roles.contains(ROOT) || permission::allows(permissions, key, range_end, access) {
            Ok(())
        } else {
            Err(Error::PermissionDenied)
        }
    }

    fn is_root(&self, name: &str) -> bool {
        self.users
            .get(name)
            .is_some_and(|account| account.roles.contains(ROOT))
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self::new()
    }
}

/// How Defragment, Hash, HashKV and Snapshot answer a refusal: they hand out the error of the layer below, which
/// etcd's table of statuses doesn't know.
#[must_use]
pub fn unmapped(error: Error) -> crate::status::Status {
    use crate::status::Status;
    match error {
        Error::InvalidAuthToken => Status::new(2, "auth: invalid auth token"),
        Error::PermissionDenied => Status::new(2, "auth: permission denied"),
        Error::UserEmpty => Status::new(2, "auth: user name is empty"),
        other => other.status(),
    }
}

#[cfg(test)]
mod tests;
