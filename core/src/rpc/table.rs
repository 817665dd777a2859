//! The table of RPCs, and the way from a path to a row of it.

use super::{Kind, Member, Shape, Shows};
use crate::class::{Class, ClassRule};

/// All that is known of an RPC.
pub(super) struct Row {
    pub(super) path: &'static str,
    pub(super) service: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    pub(super) is_repeatable: bool,
    pub(super) member: Member,
    pub(super) class: ClassRule,
    pub(super) shows: Shows,
}

/// Makes the enumeration of RPCs and the table of what is known of them.
macro_rules! rpcs {
    (known { $(
        $variant:ident = $service:literal $name:literal,
        $kind:ident $shape:ident $repeatable:ident $member:ident $class:ident $shows:ident;
    )+ }
    unknown { $(
        #[doc = $doc:literal]
        $unknown:ident,
        $unknown_shape:ident $unknown_repeatable:ident $unknown_member:ident $unknown_class:ident $unknown_shows:ident;
    )+ }) => {
        /// An RPC of the etcd v3 API. See the [module documentation](super).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rpc {
            $(
                #[doc = concat!("`", $service, "/", $name, "`.")]
                $variant,
            )+
            $(
                #[doc = $doc]
                $unknown,
            )+
        }

        impl Rpc {
            /// All RPCs that are known.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
        }

        /// In the order of the variants: first those that are known.
        const TABLE: &[Row] = &[
            $(Row {
                path: concat!("/", $service, "/", $name),
                service: $service,
                name: $name,
                kind: Kind::$kind,
                shape: Shape::$shape,
                is_repeatable: repeatable!($repeatable),
                member: Member::$member,
                class: class!($class),
                shows: Shows::$shows,
            },)+
            $(Row {
                path: "",
                service: "unknown",
                name: "unknown",
                kind: Kind::Unknown,
                shape: Shape::$unknown_shape,
                is_repeatable: repeatable!($unknown_repeatable),
                member: Member::$unknown_member,
                class: class!($unknown_class),
                shows: Shows::$unknown_shows,
            },)+
        ];
    };
}

/// The column of what clientv3 repeats.
macro_rules! repeatable {
    (repeated) => {
        true
    };
    (once) => {
        false
    };
}

/// The column of classes: one for all calls, or how a request tells.
macro_rules! class {
    (prompt) => {
        ClassRule::Always(Class::Prompt)
    };
    (bulk) => {
        ClassRule::Always(Class::Bulk)
    };
    (blocking) => {
        ClassRule::Always(Class::Blocking)
    };
    ($by_request:ident) => {
        ClassRule::$by_request
    };
}

rpcs! {
known {
//  RPC                                                                  kind        shape   clientv3 member           class           shows
    Range                = "etcdserverpb.KV" "Range",                    Read        Unary   repeated Any              Range           Header;
    // Its messages begin with a RangeResponse, and that with the header.
    RangeStream          = "etcdserverpb.KV" "RangeStream",              Read        Stream  once     Any              bulk            Store;
    Put                  = "etcdserverpb.KV" "Put",                      Write       Unary   once     Any              prompt          Header;
    DeleteRange          = "etcdserverpb.KV" "DeleteRange",              Write       Unary   once     Any              DeleteRange     Header;
    Txn                  = "etcdserverpb.KV" "Txn",                      Write       Unary   once     Any              Txn             Header;
    Compact              = "etcdserverpb.KV" "Compact",                  Compact     Unary   once     Any              prompt          Header;

    Watch                = "etcdserverpb.Watch" "Watch",                 Watch       Endless once     Any              blocking        Header;

    // Grant and revoke are writes, yet clientv3 repeats them.
    LeaseGrant           = "etcdserverpb.Lease" "LeaseGrant",            Lease       Unary   repeated Any              prompt          Header;
    LeaseRevoke          = "etcdserverpb.Lease" "LeaseRevoke",           Lease       Unary   repeated Any              prompt          Header;
    LeaseKeepAlive       = "etcdserverpb.Lease" "LeaseKeepAlive",        KeepAlive   Endless once     Any              blocking        Header;
    LeaseTimeToLive      = "etcdserverpb.Lease" "LeaseTimeToLive",       Lease       Unary   repeated Any              LeaseTimeToLive Header;
    LeaseLeases          = "etcdserverpb.Lease" "LeaseLeases",           Lease       Unary   repeated Any              bulk            Header;

    MemberAdd            = "etcdserverpb.Cluster" "MemberAdd",           Cluster     Unary   once     Any              prompt          Header;
    MemberRemove         = "etcdserverpb.Cluster" "MemberRemove",        Cluster     Unary   once     Any              prompt          Header;
    MemberUpdate         = "etcdserverpb.Cluster" "MemberUpdate",        Cluster     Unary   once     Any              prompt          Header;
    MemberList           = "etcdserverpb.Cluster" "MemberList",          Cluster     Unary   repeated Any              prompt          Header;
    MemberPromote        = "etcdserverpb.Cluster" "MemberPromote",       Cluster     Unary   once     Any              prompt          Header;

    Alarm                = "etcdserverpb.Maintenance" "Alarm",           Maintenance Unary   repeated Same             prompt          Header;
    Status               = "etcdserverpb.Maintenance" "Status",          Maintenance Unary   repeated SamePreferLeader prompt          Header;
    Defragment           = "etcdserverpb.Maintenance" "Defragment",      Maintenance Unary   once     Same             prompt          Header;
    Hash                 = "etcdserverpb.Maintenance" "Hash",            Maintenance Unary   repeated Same             prompt          Header;
    HashKv               = "etcdserverpb.Maintenance" "HashKV",          Maintenance Unary   repeated Same             prompt          Header;
    Snapshot             = "etcdserverpb.Maintenance" "Snapshot",        Maintenance Stream  repeated Same             bulk            Store;
    MoveLeader           = "etcdserverpb.Maintenance" "MoveLeader",      Maintenance Unary   repeated Leader           prompt          Header;
    Downgrade            = "etcdserverpb.Maintenance" "Downgrade",       Maintenance Unary   once     Same             prompt          Header;

    AuthEnable           = "etcdserverpb.Auth" "AuthEnable",             AuthSwitch  Unary   once     Any              prompt          Header;
    AuthDisable          = "etcdserverpb.Auth" "AuthDisable",            AuthSwitch  Unary   once     Any              prompt          Header;
    AuthStatus           = "etcdserverpb.Auth" "AuthStatus",             Auth        Unary   once     Any              prompt          Header;
    Authenticate         = "etcdserverpb.Auth" "Authenticate",           Auth        Unary   once     Any              prompt          Header;
    UserAdd              = "etcdserverpb.Auth" "UserAdd",                Auth        Unary   once     Any              prompt          Header;
    UserGet              = "etcdserverpb.Auth" "UserGet",                Auth        Unary   repeated Any              prompt          Header;
    UserList             = "etcdserverpb.Auth" "UserList",               Auth        Unary   repeated Any              prompt          Header;
    UserDelete           = "etcdserverpb.Auth" "UserDelete",             Auth        Unary   once     Any              prompt          Header;
    UserChangePassword   = "etcdserverpb.Auth" "UserChangePassword",     Auth        Unary   once     Any              prompt          Header;
    UserGrantRole        = "etcdserverpb.Auth" "UserGrantRole",          Auth        Unary   once     Any              prompt          Header;
    UserRevokeRole       = "etcdserverpb.Auth" "UserRevokeRole",         Auth        Unary   once     Any              prompt          Header;
    RoleAdd              = "etcdserverpb.Auth" "RoleAdd",                Auth        Unary   once     Any              prompt          Header;
    RoleGet              = "etcdserverpb.Auth" "RoleGet",                Auth        Unary   repeated Any              prompt          Header;
    RoleList             = "etcdserverpb.Auth" "RoleList",               Auth        Unary   repeated Any              prompt          Header;
    RoleDelete           = "etcdserverpb.Auth" "RoleDelete",             Auth        Unary   once     Any              prompt          Header;
    RoleGrantPermission  = "etcdserverpb.Auth" "RoleGrantPermission",    Auth        Unary   once     Any              prompt          Header;
    RoleRevokePermission = "etcdserverpb.Auth" "RoleRevokePermission",   Auth        Unary   once     Any              prompt          Header;

    // Campaign and Lock are answered when others let them.
    Campaign             = "v3electionpb.Election" "Campaign",           Lock        Unary   once     Any              blocking        Header;
    Proclaim             = "v3electionpb.Election" "Proclaim",           Lock        Unary   once     Any              prompt          Header;
    Leader               = "v3electionpb.Election" "Leader",             Lock        Unary   once     Any              prompt          Header;
    Observe              = "v3electionpb.Election" "Observe",            Lock        Endless once     Any              blocking        Header;
    Resign               = "v3electionpb.Election" "Resign",             Lock        Unary   once     Any              prompt          Header;

    Lock                 = "v3lockpb.Lock" "Lock",                       Lock        Unary   once     Any              blocking        Header;
    Unlock               = "v3lockpb.Lock" "Unlock",                     Lock        Unary   once     Any              prompt          Header;

    HealthCheck          = "grpc.health.v1.Health" "Check",              Health      Unary   repeated Any              prompt          Nothing;
    HealthList           = "grpc.health.v1.Health" "List",               Health      Unary   repeated Any              prompt          Nothing;
    HealthWatch          = "grpc.health.v1.Health" "Watch",              Health      Endless once     Any              blocking        Nothing;

}
// Nothing is assumed of these but what all of their package have in common.
unknown {
    /// An RPC that isn't known, of a package that isn't etcd's.
    Unknown,                                                                         Stream  once     Any              blocking        Nothing;
    /// An RPC of etcd's that isn't known: of a package that is etcd's, but not of its service Maintenance.
    UnknownOfEtcd,                                                                   Stream  once     Any              blocking        Header;
    /// An RPC of etcd's service Maintenance that isn't known.
    UnknownOfMaintenance,                                                            Stream  once     Same             blocking        Header;
}
}

/// More than the longest path has bytes.
const LEN_END: usize = 64;

/// The rows with a path, in the order of their paths' lengths; and for each length where those begin that are at least so long.
const BY_LEN: ([Rpc; Rpc::ALL.len()], [u8; LEN_END + 1]) = {
    let mut rpcs = [Rpc::Unknown; Rpc::ALL.len()];
    let mut begins = [0; LEN_END + 1];
    let (mut len, mut count) = (0, 0);
    while len < LEN_END {
        begins[len] = count as u8;
        let mut at = 0;
        while at < Rpc::ALL.len() {
            if Rpc::ALL[at].path().len() == len {
                rpcs[count] = Rpc::ALL[at];
                count += 1;
            }
            at += 1;
        }
        len += 1;
    }
    begins[LEN_END] = count as u8;
    assert!(count == Rpc::ALL.len(), "no path is longer");
    (rpcs, begins)
};

/// The RPC with this path: of those whose paths have as many bytes, mostly one or two.
pub(super) fn find(path: &str) -> Option<Rpc> {
    static RPCS: [Rpc; Rpc::ALL.len()] = BY_LEN.0;
    static BEGINS: [u8; LEN_END + 1] = BY_LEN.1;
    let (begin, end) = (BEGINS.get(path.len())?, BEGINS.get(path.len() + 1)?);
    let of_len = RPCS.get(usize::from(*begin)..usize::from(*end))?;
    of_len.iter().copied().find(|rpc| rpc.path() == path)
}

impl Rpc {
    pub(super) const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}
