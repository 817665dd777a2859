//! The head of a request, judged in the order and the words of grpc-go, which etcd serves with.

use core::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::grpc::header::{
    APPLICATION_GRPC, AUTHORIZATION, CLIENT_API_VERSION, GRPC_ENCODING, GRPC_TIMEOUT, HAS_LEADER, TOKEN, TRUE,
};
use etcd_proxy_core::grpc::{Code, Status, parse_timeout};
use etcd_proxy_core::rpc::{Rpc, Shape};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use super::{INVALID_CLIENT_API_VERSION, Responder, path_of, status_fields};

/// What a request's head says.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "embedded"),
    expect(dead_code, reason = "the path and the shape are for the in-memory etcd")
)]
pub(crate) struct Head {
    pub(crate) path: String,
    /// The token of whoever calls; opaque.
    pub(crate) token: Option<Bytes>,
    /// Whether the call is for a member that has a leader only.
    pub(crate) require_leader: bool,
    /// Whether the call has one message in each direction. What isn't known is a stream, whose first message nobody
    /// waits for.
    pub(crate) unary: bool,
    pub(crate) deadline: Option<Instant>,
    /// `content-type` of the answer: that of the request.
    pub(crate) content_type: HeaderValue,
}

/// An answer that is a status and nothing else.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "embedded"),
    expect(dead_code, reason = "the proxy leaves it to members to refuse")
)]
pub(crate) struct Refusal {
    pub(crate) http_status: StatusCode,
    pub(crate) content_type: HeaderValue,
    pub(crate) status: Status,
}

impl Head {
    /// Reads the head of a call of this RPC.
    ///
    /// # Errors
    /// What grpc-go answers to one that it doesn't take. What this server can't do beside that: messages are taken
    /// uncompressed only, while etcd takes gzip.
    pub(crate) fn of<B>(rpc: Rpc, request: &Request<B>) -> Result<Self, Refusal> {
        let headers = request.headers();
        let grpc = HeaderValue::from_static(APPLICATION_GRPC);
        let refusal = |http_status, status| Refusal {
            http_status,
            content_type: grpc.clone(),
            status,
        };
        let content_type =
            content_type(headers).map_err(|status| refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, status))?;
        let timeout = timeout(headers).map_err(|status| refusal(StatusCode::BAD_REQUEST, status))?;
        if request.method() != http::Method::POST {
            let message = format!(
                "Received a HEADERS frame with :method {:?} which should be POST",
                request.method().as_str()
            );
            let status = Status::owned(Code::Internal, message);
            return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, status));
        }
        let refusal = |status| Refusal {
            http_status: StatusCode::OK,
            content_type: content_type.clone(),
            status,
        };
        if timeout == Some(Duration::ZERO) {
            return Err(refusal(Status::deadline_exceeded()));
        }
        let version = headers.get(CLIENT_API_VERSION);
        if version.is_some_and(|version| core::str::from_utf8(version.as_bytes()).is_err()) {
            return Err(refusal(INVALID_CLIENT_API_VERSION));
        }
        let encoding = headers.get(GRPC_ENCODING);
        if let Some(encoding) = encoding
            && rpc.is_known()
            && !matches!(encoding.as_bytes(), b"" | b"identity")
        {
            return Err(refusal(Status::owned(
                Code::Unimplemented,
                format!(
                    "grpc: Decompressor is not installed for grpc-encoding {:?}",
                    String::from_utf8_lossy(encoding.as_bytes())
                ),
            )));
        }
        Ok(Self {
            path: path_of(request.uri()).to_owned(),
            token: token(headers),
            require_leader: headers
                .get(HAS_LEADER)
                .is_some_and(|value| value.as_bytes() == TRUE.as_bytes()),
            unary: rpc.shape() == Shape::Unary,
            // A deadline beyond what a clock can show is none.
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            content_type,
        })
    }

    /// The head of an answer.
    pub(crate) fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        response
            .headers_mut()
            .insert(CONTENT_TYPE, self.content_type.clone());
        response
    }

    /// An answer that is this status and nothing else.
    pub(crate) fn refuse(&self, responder: Responder, status: &Status) {
        send(responder, StatusCode::OK, &self.content_type, status);
    }
}

#[cfg(feature = "embedded")]
impl Refusal {
    pub(crate) fn send(&self, responder: Responder) {
        send(responder, self.http_status, &self.content_type, &self.status);
    }
}

fn send(responder: Responder, http_status: StatusCode, content_type: &HeaderValue, status: &Status) {
    let mut response = Response::new(());
    *response.status_mut() = http_status;
    *response.headers_mut() = status_fields(status);
    response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    responder.answer_with(response);
}

/// `content-type` of the answer: `application/grpc`, with the subtype that the request has behind a `+` or a `;`.
fn content_type(headers: &HeaderMap) -> Result<HeaderValue, Status> {
    let given = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let answer = match given.strip_prefix(APPLICATION_GRPC.as_bytes()) {
        Some([]) => Some(HeaderValue::from_static(APPLICATION_GRPC)),
        Some([b'+' | b';', subtype @ ..]) => {
            HeaderValue::from_bytes(&[APPLICATION_GRPC.as_bytes(), b"+", subtype].concat()).ok()
        }
        _ => None,
    };
    answer.ok_or_else(|| {
        let given = String::from_utf8_lossy(given);
        Status::owned(
            Code::InvalidArgument,
            format!("invalid gRPC request content-type {given:?}"),
        )
    })
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    if let Some(timeout) = parse_timeout(value.as_bytes()) {
        return Ok(Some(timeout));
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    let problem = match value.as_bytes() {
        [] | [_] => format!("transport: timeout string is too short: {text:?}"),
        [_, _, _, _, _, _, _, _, _, _, ..] => format!("transport: timeout string is too long: {text:?}"),
        [digits @ .., b'H' | b'M' | b'S' | b'm' | b'u' | b'n'] => format!(
            "strconv.ParseUint: parsing {:?}: invalid syntax",
            String::from_utf8_lossy(digits)
        ),
        _ => format!("transport: timeout unit is not recognized: {text:?}"),
    };
    Err(Status::owned(
        Code::Internal,
        format!("malformed grpc-timeout: {problem}"),
    ))
}

/// What etcd reads: the first value of the first key that is there.
fn token(headers: &HeaderMap) -> Option<Bytes> {
    let token = headers.get(TOKEN).or_else(|| headers.get(AUTHORIZATION))?;
    Some(Bytes::copy_from_slice(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &[u8])]) -> Request<()> {
        let mut request = Request::builder()
            .method(method)
            .uri("http://localhost/etcdserverpb.KV/Range");
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        request.body(()).unwrap()
    }

    const CONTENT: (&str, &[u8]) = ("content-type", b"application/grpc");

    /// HTTP status, code and message, as etcd 3.5.30 answers.
    #[test]
    fn bad_heads_get_the_words_of_grpc_go() {
        for (method, headers, http_status, code, message) in [
            (
                "POST",
                &[("content-type", &b"application/json"[..])][..],
                415,
                3,
                "invalid gRPC request content-type \"application/json\"",
            ),
            ("POST", &[], 415, 3, "invalid gRPC request content-type \"\""),
            (
                "GET",
                &[CONTENT],
                405,
                13,
                "Received a HEADERS frame with :method \"GET\" which should be POST",
            ),
            (
                "POST",
                &[CONTENT, ("grpc-timeout", b"x")],
                400,
                13,
                "malformed grpc-timeout: transport: timeout string is too short: \"x\"",
            ),
            (
                "POST",
                &[CONTENT, ("grpc-timeout", b"5s")],
                400,
                13,
                "malformed grpc-timeout: transport: timeout unit is not recognized: \"5s\"",
            ),
            (
                "POST",
                &[CONTENT, ("grpc-timeout", b"123456789S")],
                400,
                13,
                "malformed grpc-timeout: transport: timeout string is too long: \"123456789S\"",
            ),
            (
                "POST",
                &[CONTENT, ("grpc-timeout", b"0S")],
                200,
                4,
                "context deadline exceeded",
            ),
            (
                "POST",
                &[CONTENT, ("grpc-encoding", b"snappy")],
                200,
                12,
                "grpc: Decompressor is not installed for grpc-encoding \"snappy\"",
            ),
            (
                "POST",
                &[CONTENT, ("client-api-version", b"\xff")],
                200,
                3,
                "etcdserver: invalid client api version",
            ),
        ] {
            let refusal = Head::of(Rpc::Range, &request(method, headers)).unwrap_err();
            let status = &refusal.status;
            assert_eq!(
                (refusal.http_status.as_u16(), status.code, &*status.message),
                (http_status, code, message),
            );
        }
    }

    #[test]
    fn the_first_value_of_each_key_counts() {
        let head = Head::of(
            Rpc::Range,
            &request(
                "POST",
                &[
                    CONTENT,
                    ("authorization", b"not this"),
                    ("token", b"one"),
                    ("token", b"two"),
                    ("hasleader", b"true"),
                    ("hasleader", b"no"),
                ],
            ),
        )
        .unwrap();
        assert_eq!(head.token.as_deref(), Some(&b"one"[..]));
        assert!(head.require_leader && head.unary);
        let head = Head::of(
            Rpc::Range,
            &request(
                "POST",
                &[CONTENT, ("authorization", b"this"), ("hasleader", b"yes")],
            ),
        )
        .unwrap();
        assert_eq!(head.token.as_deref(), Some(&b"this"[..]));
        assert!(!head.require_leader);
        assert_eq!(head.deadline, None);
    }

    #[test]
    fn the_answer_has_the_requests_subtype() {
        for (given, answered) in [
            ("application/grpc", "application/grpc"),
            ("application/grpc+proto", "application/grpc+proto"),
            ("application/grpc;x", "application/grpc+x"),
        ] {
            let head = Head::of(
                Rpc::Range,
                &request("POST", &[("content-type", given.as_bytes())]),
            )
            .unwrap();
            assert_eq!(head.content_type, answered);
        }
    }
}
