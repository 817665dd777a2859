//! What is known of each RPC of the etcd v3 API, as etcd 3.4 to 3.7 have it.
//!
//! A call's path is looked up once, where the call comes in ([`Rpc::of_path`]); the [`Rpc`] is what is passed on. All that
//! depends on nothing but the RPC is a column of one table, `table.rs`. What depends on its request too matches on the
//! [`Rpc`] where it belongs: [`retry`](crate::retry), [`history`](crate::history), [`class`](crate::class).
//!
//! An RPC that isn't in the table is forwarded all the same, as a stream of bytes in both directions.

mod member;
mod table;

pub use member::{Member, OTHER_ANSWER_TIMEOUT, OTHER_CONNECT_TIMEOUT, Said};
pub use table::Rpc;

use crate::class::ClassRule;

/// What an RPC is about: a coarser name than its own, for rules and statistics that concern all of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Users, roles and tokens.
    Auth,
    /// Authentication is switched on or off.
    AuthSwitch,
    /// The members of the cluster.
    Cluster,
    /// Old revisions are forgotten.
    Compact,
    /// Whether a server serves.
    Health,
    /// Leases are kept alive.
    KeepAlive,
    /// Leases are granted, revoked or looked at.
    Lease,
    /// Locks and elections: writes and watches that the server makes for its client.
    Lock,
    /// The state and the files of one member, or of the cluster as one member sees it.
    Maintenance,
    /// Keys are read.
    Read,
    /// An RPC that isn't in the table.
    Unknown,
    /// Keys are watched.
    Watch,
    /// Keys are changed, or may be.
    Write,
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

impl Rpc {
    /// Looks an RPC up by its path, `/package.Service/Method`, which is compared as it is.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        table::find(path).unwrap_or_else(|| Self::unknown(path))
    }

    #[cold]
    fn unknown(path: &str) -> Self {
        let of_etcd = |package| path.starts_with(package);
        if path.starts_with("/etcdserverpb.Maintenance/") {
            Self::UnknownOfMaintenance
        } else if ["/etcdserverpb.", "/v3electionpb.", "/v3lockpb."]
            .iter()
            .any(of_etcd)
        {
            Self::UnknownOfEtcd
        } else {
            Self::Unknown
        }
    }

    /// Whether it is one of the table's. Of the others nothing but their package is known.
    #[must_use]
    pub const fn is_known(self) -> bool {
        !self.path().is_empty()
    }

    /// The path that it is called by; empty if it isn't known.
    #[must_use]
    pub const fn path(self) -> &'static str {
        self.row().path
    }

    /// The full name of its service, `etcdserverpb.KV`; `unknown` if it isn't known.
    #[must_use]
    pub const fn service(self) -> &'static str {
        self.row().service
    }

    /// The name in the service, `Range`; `unknown` if the RPC isn't known.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// What it is about.
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.row().kind
    }

    /// The shape of its calls.
    #[must_use]
    pub const fn shape(self) -> Shape {
        self.row().shape
    }

    /// Whether clientv3 calls it repeatable: sending it again after it may have been carried out does no harm that clients
    /// don't already accept (clientv3 `retry.go`). What its request says of that counts as well:
    /// [`retry::is_repeatable`](crate::retry::is_repeatable).
    #[must_use]
    pub const fn is_repeatable(self) -> bool {
        self.row().is_repeatable
    }

    /// Which member must answer.
    #[must_use]
    pub const fn member(self) -> Member {
        self.row().member
    }

    /// How it is told which of a member's connections a call takes.
    #[must_use]
    pub const fn class(self) -> ClassRule {
        self.row().class
    }

    /// What its answers show of the store.
    #[must_use]
    pub const fn shows(self) -> Shows {
        self.row().shows
    }
}

#[cfg(test)]
mod tests;
