//! The head of a request of the proxy's own.

use bytes::Bytes;
use etcd_proxy_core::grpc::header::{APPLICATION_GRPC, HAS_LEADER, TOKEN, TRAILERS, TRUE};
use etcd_proxy_core::grpc::{Code, Status};
use etcd_proxy_core::rpc::Rpc;
use http::header::{CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Uri, Version};

use super::Connection;

/// On whose behalf the proxy calls a member, and of what kind the member must be.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnBehalf {
    /// A client's token, as it came in a header.
    pub(crate) credentials: Option<Bytes>,
    /// The member must have a leader.
    pub(crate) require_leader: bool,
}

impl Connection {
    /// The head of a call of the proxy's own to this member.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for credentials that no header can hold: without them the call would be somebody else's.
    pub(crate) fn request(&self, rpc: Rpc, on_behalf: &OnBehalf) -> Result<Request<()>, Status> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme());
        parts.authority = Some(self.authority().clone());
        parts.path_and_query = Some(PathAndQuery::from_static(rpc.path()));
        // Three valid parts make a valid URI.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(APPLICATION_GRPC));
        headers.insert(TE, HeaderValue::from_static(TRAILERS));
        if on_behalf.require_leader {
            headers.insert(HAS_LEADER, HeaderValue::from_static(TRUE));
        }
        if let Some(token) = &on_behalf.credentials {
            let token = HeaderValue::from_maybe_shared(token.clone())
                .map_err(|_| Status::of(Code::InvalidArgument, "the token is no valid header"))?;
            headers.insert(TOKEN, token);
        }
        Ok(request)
    }
}
