//! How calls end: statuses on the wire, and answers that are nothing else.

use etcd_proxy_core::grpc::header::{APPLICATION_GRPC, GRPC_MESSAGE, GRPC_STATUS};
use etcd_proxy_core::grpc::{Code, Status, decode_message, encode_message};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// What an etcd server says when it is shut down.
pub(crate) const SERVER_STOPPED: Status = Status::of(Code::Unavailable, "etcdserver: server stopped");

/// What newer etcd servers answer to a version that isn't text. 3.5 servers die of it.
pub(crate) const INVALID_CLIENT_API_VERSION: Status =
    Status::of(Code::InvalidArgument, "etcdserver: invalid client api version");

/// The fields that say how a call has ended, as grpc-go sends them: the message even if it is empty.
pub(crate) fn status_fields(status: &Status) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(3);
    fields.insert(GRPC_STATUS, HeaderValue::from(u16::from(status.code)));
    // Percent-encoded text is a valid header value.
    if let Ok(message) = HeaderValue::from_str(&encode_message(&status.message)) {
        fields.insert(GRPC_MESSAGE, message);
    }
    fields
}

/// The status code that these fields end an answer with, whatever number it is; `None` if they have none that can be read.
pub(crate) fn code_of(fields: &HeaderMap) -> Option<u8> {
    fields.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The status that these fields end an answer with; UNKNOWN if they have none that can be read.
pub(crate) fn status_of(fields: &HeaderMap) -> Status {
    let message = fields.get(GRPC_MESSAGE).and_then(|value| value.to_str().ok());
    Status {
        code: code_of(fields).unwrap_or(Code::Unknown.number()),
        message: decode_message(message.unwrap_or_default()).into_owned().into(),
    }
}

/// An answer that is a status and nothing else.
pub(crate) fn refusal(status: &Status) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = status_fields(status);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(APPLICATION_GRPC));
    response
}

/// The answer to a call that has more headers than are taken, as HTTP/2 servers refuse those that are too large.
pub(crate) fn too_many_headers() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    response
}
