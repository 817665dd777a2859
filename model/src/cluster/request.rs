//! Which methods there are, and what their requests ask for.

use alloc::borrow::Cow;
use alloc::format;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
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

/// Calls of a real etcd 3.5 that the model refuses with UNIMPLEMENTED.
pub const UNCOVERED: &[Rpc] = &[
    Rpc::MemberAdd,
    Rpc::MemberPromote,
    Rpc::MemberRemove,
    Rpc::MemberUpdate,
    Rpc::Downgrade,
    Rpc::Hash,
    Rpc::Snapshot,
    Rpc::Campaign,
    Rpc::Leader,
    Rpc::Observe,
    Rpc::Proclaim,
    Rpc::Resign,
    Rpc::Lock,
    Rpc::Unlock,
];

/// What a call that is not covered is answered with.
const NOT_COVERED: Status = Status::new(12, "the in-memory etcd does not cover this call");

/// What a stream is answered with that reaches a unary method, or the other way round.
const OTHER_KIND: Status = Status::new(12, "a unary call is not a stream");

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
        let rpc = rpc_of(path);
        match rpc {
            Rpc::HealthWatch => Ok(Self::HealthWatch),
            Rpc::LeaseKeepAlive => Ok(Self::LeaseKeepAlive),
            Rpc::Watch => Ok(Self::Watch),
            _ if Request::decode_as(rpc, Bytes::new()).is_some() => Err(OTHER_KIND),
            _ => Err(unknown(rpc, path)),
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
        let rpc = rpc_of(path);
        match Self::decode_as(rpc, message) {
            Some(Ok(request)) => Ok(request),
            Some(Err(error)) => Err(Status {
                code: 13,
                message: Cow::Owned(format!("grpc: error unmarshalling request: {error}")),
            }),
            None if StreamMethod::of(path).is_ok() => Err(OTHER_KIND),
            None => Err(unknown(rpc, path)),
        }
    }

    fn decode_as(rpc: Rpc, message: Bytes) -> Option<Result<Self, DecodeError>> {
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
        match rpc {
            Rpc::Authenticate => Some(AuthenticateRequest::decode(message).map(Self::Authenticate)),
            Rpc::MemberList => local(message, Local::MemberList),
            Rpc::Compact => log(message, Command::Compact),
            Rpc::DeleteRange => log(message, Command::DeleteRange),
            Rpc::Put => log(message, Command::Put),
            Rpc::Range => local(message, Local::Range),
            Rpc::Txn => Some(TxnRequest::decode(message).map(|request| {
                if is_read_only(&request) {
                    Self::Local(Local::Txn(request))
                } else {
                    Self::Log(Command::Txn(request))
                }
            })),
            Rpc::LeaseGrant => log(message, Command::LeaseGrant),
            Rpc::LeaseLeases => local(message, |_: LeaseLeasesRequest| Local::Leases),
            Rpc::LeaseRevoke => log(message, Command::LeaseRevoke),
            Rpc::LeaseTimeToLive => Some(LeaseTimeToLiveRequest::decode(message).map(Self::TimeToLive)),
            Rpc::Alarm => log(message, Command::Alarm),
            Rpc::Defragment => local(message, |_: DefragmentRequest| Local::Defragment),
            Rpc::HashKv => local(message, |request: HashKvRequest| Local::HashKv(request.revision)),
            Rpc::MoveLeader => {
                Some(MoveLeaderRequest::decode(message).map(|request| Self::MoveLeader(request.target_id)))
            }
            Rpc::Status => local(message, |_: StatusRequest| Local::Status),
            Rpc::HealthCheck => local(message, Local::Health),
            Rpc::HealthList => local(message, |_: HealthListRequest| Local::HealthList),
            _ => {
                let request = auth::Request::decode(rpc, message)?;
                Some(request.map(|request| Self::Log(Command::Auth(request))))
            }
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

/// The RPC with this path, whose first `/` a server doesn't ask for.
fn rpc_of(path: &str) -> Rpc {
    if path.starts_with('/') {
        Rpc::of_path(path)
    } else {
        Rpc::of_path(&format!("/{path}"))
    }
}

/// What a server answers to an RPC that it doesn't know, as grpc-go takes its path apart.
fn unknown(rpc: Rpc, path: &str) -> Status {
    if UNCOVERED.contains(&rpc) {
        return NOT_COVERED;
    }
    let name = path.strip_prefix('/').unwrap_or(path);
    unimplemented(match name.rsplit_once('/') {
        None => format!("malformed method name: {path:?}"),
        Some((service, method)) if Rpc::ALL.iter().any(|rpc| rpc.service() == service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    })
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
        for path in UNCOVERED.iter().map(|rpc| rpc.path()) {
            assert_eq!(refusal(path), NOT_COVERED, "{path}");
            assert_eq!(StreamMethod::of(path).unwrap_err(), NOT_COVERED, "{path}");
        }
        assert!(Request::decode("etcdserverpb.KV/Range", Bytes::new()).is_ok());
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
