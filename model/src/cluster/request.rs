//! Which methods there are, and what their requests ask for.

use alloc::borrow::Cow;
use alloc::format;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    AuthenticateRequest, DefragmentRequest, HashKvRequest, LeaseLeasesRequest, LeaseTimeToLiveRequest,
    MemberListRequest, MoveLeaderRequest, RangeRequest, StatusRequest, TxnRequest,
};
use etcd_proxy_proto::health::{HealthCheckRequest, HealthListRequest};
use prost::{DecodeError, Message};

use super::types::Config;
use crate::auth;
use crate::state::Command;
use crate::status::Status;
use crate::store::{is_read_only, is_serializable, validate};

/// Calls of a real etcd 3.5 that the model refuses with UNIMPLEMENTED, by their paths.
pub const UNCOVERED: &[&str] = &[
    "/etcdserverpb.Cluster/MemberAdd",
    "/etcdserverpb.Cluster/MemberPromote",
    "/etcdserverpb.Cluster/MemberRemove",
    "/etcdserverpb.Cluster/MemberUpdate",
    "/etcdserverpb.Maintenance/Downgrade",
    "/etcdserverpb.Maintenance/Hash",
    "/etcdserverpb.Maintenance/Snapshot",
    "/v3electionpb.Election/Campaign",
    "/v3electionpb.Election/Leader",
    "/v3electionpb.Election/Observe",
    "/v3electionpb.Election/Proclaim",
    "/v3electionpb.Election/Resign",
    "/v3lockpb.Lock/Lock",
    "/v3lockpb.Lock/Unlock",
];

/// What a call that is not covered is answered with.
const NOT_COVERED: Status = Status::new(12, "the in-memory etcd does not cover this call");

/// What a stream is answered with that reaches a unary method, or the other way round.
const OTHER_KIND: Status = Status::new(12, "a unary call is not a stream");

const SERVICES: [&str; 9] = [
    "etcdserverpb.Auth",
    "etcdserverpb.Cluster",
    "etcdserverpb.KV",
    "etcdserverpb.Lease",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Watch",
    "grpc.health.v1.Health",
    "v3electionpb.Election",
    "v3lockpb.Lock",
];

/// The methods that are streams in at least one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamMethod {
    HealthWatch,
    LeaseKeepAlive,
    Watch,
}

impl StreamMethod {
    /// The method with this path, or how a server refuses it.
    pub(super) fn of(path: &str) -> Result<Self, Status> {
        match split(path)? {
            ("etcdserverpb.Lease", "LeaseKeepAlive") => Ok(Self::LeaseKeepAlive),
            ("etcdserverpb.Watch", "Watch") => Ok(Self::Watch),
            ("grpc.health.v1.Health", "Watch") => Ok(Self::HealthWatch),
            (service, method) => {
                let unary = Request::decode_as(service, method, Bytes::new()).is_some();
                Err(if unary {
                    OTHER_KIND
                } else {
                    unknown(path, service, method)
                })
            }
        }
    }
}

/// Whether the method with this path is a stream: to be opened with [`Event::Open`](super::Event::Open), not called
/// with [`Event::Call`](super::Event::Call). False for unknown methods.
#[must_use]
pub fn is_stream(path: &str) -> bool {
    StreamMethod::of(path).is_ok()
}

/// A unary call.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Authenticate(AuthenticateRequest),
    /// Answered by the member itself.
    Local(Local),
    /// Goes through the log.
    Log(Command),
    MoveLeader(u64),
    /// Answered by the leader's lessor.
    TimeToLive(LeaseTimeToLiveRequest),
}

/// What a member answers out of what it has applied.
#[derive(Clone, Debug)]
pub(super) enum Local {
    Defragment,
    HashKv(i64),
    Health(HealthCheckRequest),
    HealthList,
    Leases,
    MemberList(MemberListRequest),
    Range(RangeRequest),
    Status,
    Txn(TxnRequest),
}

impl Local {
    /// Whether the member must first have applied what was committed when it was asked.
    pub(super) fn is_linearizable(&self) -> bool {
        match self {
            Self::MemberList(request) => request.linearizable,
            Self::Range(request) => !request.serializable,
            Self::Txn(request) => !is_serializable(request),
            _ => false,
        }
    }
}

impl Request {
    /// Reads the request of a unary method.
    ///
    /// # Errors
    ///
    /// UNIMPLEMENTED if there is no such method or it isn't covered, INTERNAL if the message is none.
    pub(super) fn decode(path: &str, message: Bytes) -> Result<Self, Status> {
        let (service, method) = split(path)?;
        match Self::decode_as(service, method, message) {
            Some(Ok(request)) => Ok(request),
            Some(Err(error)) => Err(Status {
                code: 13,
                message: Cow::Owned(format!("grpc: error unmarshalling request: {error}")),
            }),
            None if StreamMethod::of(path).is_ok() => Err(OTHER_KIND),
            None => Err(unknown(path, service, method)),
        }
    }

    fn decode_as(service: &str, method: &str, message: Bytes) -> Option<Result<Self, DecodeError>> {
        fn local<M: Message + Default>(
            message: Bytes,
            request: impl FnOnce(M) -> Local,
        ) -> Option<Result<Request, DecodeError>> {
            Some(M::decode(message).map(|message| Request::Local(request(message))))
        }
        fn log<M: Message + Default>(
            message: Bytes,
            command: impl FnOnce(M) -> Command,
        ) -> Option<Result<Request, DecodeError>> {
            Some(M::decode(message).map(|message| Request::Log(command(message))))
        }
        match (service, method) {
            ("etcdserverpb.Auth", "Authenticate") => {
                Some(AuthenticateRequest::decode(message).map(Self::Authenticate))
            }
            ("etcdserverpb.Auth", method) => {
                let request = auth::Request::decode(method, message)?;
                Some(request.map(|request| Self::Log(Command::Auth(request))))
            }
            ("etcdserverpb.Cluster", "MemberList") => local(message, Local::MemberList),
            ("etcdserverpb.KV", "Compact") => log(message, Command::Compact),
            ("etcdserverpb.KV", "DeleteRange") => log(message, Command::DeleteRange),
            ("etcdserverpb.KV", "Put") => log(message, Command::Put),
            ("etcdserverpb.KV", "Range") => local(message, Local::Range),
            ("etcdserverpb.KV", "Txn") => Some(TxnRequest::decode(message).map(|request| {
                if is_read_only(&request) {
                    Self::Local(Local::Txn(request))
                } else {
                    Self::Log(Command::Txn(request))
                }
            })),
            ("etcdserverpb.Lease", "LeaseGrant") => log(message, Command::LeaseGrant),
            ("etcdserverpb.Lease", "LeaseLeases") => local(message, |_: LeaseLeasesRequest| Local::Leases),
            ("etcdserverpb.Lease", "LeaseRevoke") => log(message, Command::LeaseRevoke),
            ("etcdserverpb.Lease", "LeaseTimeToLive") => {
                Some(LeaseTimeToLiveRequest::decode(message).map(Self::TimeToLive))
            }
            ("etcdserverpb.Maintenance", "Alarm") => log(message, Command::Alarm),
            ("etcdserverpb.Maintenance", "Defragment") => {
                local(message, |_: DefragmentRequest| Local::Defragment)
            }
            ("etcdserverpb.Maintenance", "HashKV") => {
                local(message, |request: HashKvRequest| Local::HashKv(request.revision))
            }
            ("etcdserverpb.Maintenance", "MoveLeader") => {
                Some(MoveLeaderRequest::decode(message).map(|request| Self::MoveLeader(request.target_id)))
            }
            ("etcdserverpb.Maintenance", "Status") => local(message, |_: StatusRequest| Local::Status),
            ("grpc.health.v1.Health", "Check") => local(message, Local::Health),
            ("grpc.health.v1.Health", "List") => local(message, |_: HealthListRequest| Local::HealthList),
            _ => None,
        }
    }

    /// What is refused whatever the cluster holds, and whoever calls.
    pub(super) fn validate(&self, config: &Config) -> Result<(), Status> {
        match self {
            Self::Local(Local::Range(request)) => validate::range(request)?,
            Self::Local(Local::Txn(request)) | Self::Log(Command::Txn(request)) => {
                validate::txn(request, config.txn_operations_max)?;
            }
            Self::Log(Command::Put(request)) => validate::put(request)?,
            Self::Log(Command::DeleteRange(request)) => validate::delete_range(request)?,
            Self::Log(Command::Auth(request)) => request.admit()?,
            _ => {}
        }
        Ok(())
    }
}

/// Service and method of a path, as grpc-go finds them.
fn split(path: &str) -> Result<(&str, &str), Status> {
    let name = path.strip_prefix('/').unwrap_or(path);
    name.rsplit_once('/')
        .ok_or_else(|| unimplemented(format!("malformed method name: {path:?}")))
}

fn unknown(path: &str, service: &str, method: &str) -> Status {
    if UNCOVERED.contains(&path) {
        NOT_COVERED
    } else if SERVICES.contains(&service) {
        unimplemented(format!("unknown method {method} for service {service}"))
    } else {
        unimplemented(format!("unknown service {service}"))
    }
}

fn unimplemented(message: alloc::string::String) -> Status {
    Status {
        code: 12,
        message: Cow::Owned(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_unary_or_a_stream_or_not_covered_or_unknown() {
        let refusal = |path: &str| Request::decode(path, Bytes::new()).map(|_| ()).unwrap_err();
        assert!(Request::decode("/etcdserverpb.KV/Range", Bytes::new()).is_ok());
        assert!(!is_stream("/etcdserverpb.KV/Range"));
        assert!(is_stream("/etcdserverpb.Watch/Watch"));
        assert_eq!(refusal("/etcdserverpb.Watch/Watch"), OTHER_KIND);
        for path in UNCOVERED {
            assert_eq!(refusal(path), NOT_COVERED, "{path}");
            assert_eq!(StreamMethod::of(path).unwrap_err(), NOT_COVERED, "{path}");
        }
        // As etcd 3.5.30 says it.
        assert_eq!(refusal("/nope").message, "malformed method name: \"/nope\"");
        assert_eq!(refusal("/foo.Bar/Baz").message, "unknown service foo.Bar");
        let unknown = "unknown method RangeStream for service etcdserverpb.KV";
        assert_eq!(refusal("/etcdserverpb.KV/RangeStream").message, unknown);
    }

    #[test]
    fn what_is_no_message_is_internal() {
        let status = Request::decode("/etcdserverpb.KV/Put", Bytes::from_static(b"\xff\xff")).unwrap_err();
        assert_eq!(status.code, 13);
        assert!(status.message.starts_with("grpc: error unmarshalling request: "));
    }
}
