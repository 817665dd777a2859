//! What it takes to answer a gRPC call oneself, as grpc-go does, which etcd serves with: the head of the request, its
//! messages, the stream of the answer, the deadline.

mod answer;
mod expiry;
mod head;
mod messages;
mod requests;
mod responder;
mod send;
mod status;
mod uploads;

pub(crate) use answer::Answer;
pub(crate) use expiry::Expiry;
pub(crate) use head::Head;
pub(crate) use messages::{Cut, Messages};
pub(crate) use requests::Requests;
#[cfg(test)]
pub(crate) use responder::Ended;
pub(crate) use responder::{Body, CallEnds, Outcome, Record, Responder};
pub(crate) use send::send_all;
pub(crate) use status::{
    INVALID_CLIENT_API_VERSION, SERVER_STOPPED, code_of, refusal, status_fields, status_of, too_many_headers,
};
pub(crate) use uploads::Uploads;

use etcd_proxy_core::grpc::Status;
use http::uri::PathAndQuery;

/// The path of a call as a member gets it. To a gRPC server a `?` is part of the method's name.
pub(crate) fn path_of(uri: &http::Uri) -> &str {
    uri.path_and_query().map_or("", PathAndQuery::as_str)
}

/// How a stream ended.
pub(crate) enum End {
    /// The client has cancelled the call or is gone.
    ClientGone,
    /// The client's deadline has passed.
    Expired,
    /// The client has broken the protocol.
    Broken,
    /// With this, for the client.
    Status(Status),
}
