//! The head of a request as the member gets it.

use etcd_proxy_core::grpc::header::{GRPC_TIMEOUT, TRAILERS};
use http::header::{self, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use super::deadline::Deadline;
use crate::upstream::Connection;

/// Headers that are meant for the next hop only: RFC 9113, section 8.2.2; `host`, which `:authority` replaces; and
/// `content-length`, as what is sent on may be less than what came.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::CONTENT_LENGTH,
];

/// What is kept of a client's request to make the requests of all its attempts from.
pub(super) struct Head {
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
}

impl Head {
    pub(super) fn new(parts: http::request::Parts) -> Self {
        let http::request::Parts {
            method,
            uri,
            mut headers,
            ..
        } = parts;
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
        // A hop-by-hop header as well, but one that gRPC asks for on every hop.
        headers.insert(header::TE, HeaderValue::from_static(TRAILERS));
        let path = uri
            .into_parts()
            .path_and_query
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        Self {
            method,
            path,
            headers,
        }
    }

    /// The first attempt's request: everything as the client sent it.
    pub(super) fn first(&self, connection: &Connection) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(connection.scheme());
        parts.authority = Some(connection.authority().clone());
        parts.path_and_query = Some(self.path.clone());
        // Three valid parts make a valid URI.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request
    }

    /// A later attempt's request: what is left of the deadline instead of all of it.
    pub(super) fn again(&self, connection: &Connection, deadline: Deadline) -> Request<()> {
        let mut request = self.first(connection);
        if let Some(remaining) = deadline.remaining() {
            request.headers_mut().insert(GRPC_TIMEOUT, remaining);
        }
        request
    }
}
