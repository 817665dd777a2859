//! What a server refuses with.

use crate::status::Status;

macro_rules! errors {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $message:literal;)*) => {
        /// What an etcd 3.5 server answers instead of a result: its `rpctypes` errors, by name.
        ///
        /// Codes are those of etcd 3.5.30; three of them are others from 3.6 on (not capable, rpc not
        /// supported for learner, cluster version not found during downgrade).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Error {
            $($(#[doc = $doc])* $name,)*
        }

        impl Error {
            /// Every error there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The status that goes over the wire.
            #[must_use]
            pub const fn status(self) -> Status {
                match self {
                    $(Self::$name => Status::new($code, $message),)*
                }
            }
        }
    };
}

errors! {
    /// Authentication isn't enabled.
    AuthNotEnabled = 9, "etcdserver: authentication is not enabled";
    /// A name and a password that don't go together.
    AuthFailed = 3, "etcdserver: authentication failed, invalid user ID or password";
    /// A token from before the last change of users, roles or permissions.
    AuthOldRevision = 3, "etcdserver: revision of auth store is old";
    /// The revision asked for has been compacted, or is to be compacted again.
    Compacted = 11, "etcdserver: mvcc: required revision has been compacted";
    /// The CORRUPT alarm is raised.
    Corrupt = 15, "etcdserver: corrupt cluster";
    /// Two operations of a transaction change the same key.
    DuplicateKey = 3, "etcdserver: duplicate key given in txn request";
    /// A key is empty.
    EmptyKey = 3, "etcdserver: key is not provided";
    /// The revision asked for isn't there yet.
    FutureRevision = 11, "etcdserver: mvcc: required revision is a future revision";
    /// What the root user or the root role needs was to be taken away.
    InvalidAuthManagement = 3, "etcdserver: invalid auth management";
    /// A token that this server doesn't know, or no longer.
    InvalidAuthToken = 16, "etcdserver: invalid auth token";
    /// The `client-api-version` metadata isn't UTF-8.
    InvalidClientApiVersion = 3, "etcdserver: invalid client api version";
    /// An unknown sort order or target. Only 3.6 and later say so; an unknown target kills a 3.5 server.
    InvalidSortOption = 3, "etcdserver: invalid sort option";
    /// A key that must exist doesn't, or an operation of a transaction is empty.
    KeyNotFound = 3, "etcdserver: key not found";
    /// The leader changed before the proposal was committed.
    LeaderChanged = 14, "etcdserver: leader changed";
    /// A password for a user that has none, or a hash that isn't one. etcd's table of statuses doesn't know it.
    NoPasswordUser = 2, "auth: authentication failed, password was given for no password user";
    /// The lease to be granted exists.
    LeaseExists = 9, "etcdserver: lease already exists";
    /// No such lease.
    LeaseNotFound = 5, "etcdserver: requested lease not found";
    /// `ignore_lease` along with a lease.
    LeaseProvided = 3, "etcdserver: lease is provided";
    /// A TTL above 9,000,000,000 seconds.
    LeaseTtlTooLarge = 11, "etcdserver: too large lease TTL";
    /// A learner serves only a few calls.
    LearnerUnsupported = 14, "etcdserver: rpc not supported for learner";
    /// Leadership was to be moved to a member that can't have it.
    LeaderTransfereeBad = 9, "etcdserver: bad leader transferee";
    /// No such member.
    MemberNotFound = 5, "etcdserver: member not found";
    /// No member leads.
    NoLeader = 14, "etcdserver: no leader";
    /// The NOSPACE alarm is raised.
    NoSpace = 8, "etcdserver: mvcc: database space exceeded";
    /// A call for the leader reached another member.
    NotLeader = 9, "etcdserver: not leader";
    /// The user's roles don't allow it.
    PermissionDenied = 7, "etcdserver: permission denied";
    /// A permission to be granted is missing from the request.
    PermissionNotGiven = 3, "etcdserver: permission not given";
    /// A permission to be revoked isn't granted.
    PermissionNotGranted = 9, "etcdserver: permission is not granted to the role";
    /// The request is larger than `--max-request-bytes`.
    RequestTooLarge = 3, "etcdserver: request is too large";
    /// The role exists.
    RoleAlreadyExists = 9, "etcdserver: role name already exists";
    /// A role without a name.
    RoleEmpty = 3, "etcdserver: role name is empty";
    /// No such role.
    RoleNotFound = 9, "etcdserver: role name not found";
    /// The role to be taken away isn't granted.
    RoleNotGranted = 9, "etcdserver: role is not granted to the user";
    /// Authentication can't be enabled unless the user root has the role root.
    RootRoleMissing = 9, "etcdserver: root user does not have root role";
    /// Authentication can't be enabled without a user root.
    RootUserMissing = 9, "etcdserver: root user does not exist";
    /// The server is going down.
    Stopped = 14, "etcdserver: server stopped";
    /// Not committed in time.
    Timeout = 14, "etcdserver: request timed out";
    /// Not committed in time, and the leader was lost meanwhile.
    TimeoutLeaderFailed = 14, "etcdserver: request timed out, possibly due to previous leader failure";
    /// Not committed in time, and too few members are in reach.
    TimeoutConnectionLost = 14, "etcdserver: request timed out, possibly due to connection lost";
    /// Committed, but not applied in time.
    TimeoutWaitingApplied = 14, "etcdserver: request timed out, waiting for the applied index took too long";
    /// More operations in a transaction than `--max-txn-ops`.
    TooManyOperations = 3, "etcdserver: too many operations in txn request";
    /// Too many proposals are waiting. A server answers this as UNKNOWN, not as its own table has it.
    TooManyRequests = 2, "etcdserver: too many requests";
    /// Too few members are in reach.
    Unhealthy = 14, "etcdserver: unhealthy cluster";
    /// The user exists.
    UserAlreadyExists = 9, "etcdserver: user name already exists";
    /// A user without a name, or a call without a token while authentication is on.
    UserEmpty = 3, "etcdserver: user name is empty";
    /// No such user.
    UserNotFound = 9, "etcdserver: user name not found";
    /// `ignore_value` along with a value.
    ValueProvided = 3, "etcdserver: value is provided";
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.status()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    #[test]
    fn statuses_are_told_apart_by_their_messages() {
        let messages: BTreeSet<_> = Error::ALL.iter().map(|error| error.status().message).collect();
        assert_eq!(messages.len(), Error::ALL.len());
        for error in Error::ALL {
            let Status { code, message } = error.status();
            assert!((1..=16).contains(&code), "{error:?}");
            let known = message.starts_with("etcdserver: ");
            assert_eq!(known, *error != Error::NoPasswordUser, "{error:?}");
        }
    }
}
