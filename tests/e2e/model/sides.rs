//! What the two sides have in common.

use bytes::Bytes;

/// `--max-request-bytes` of both: small, so that "too large" and fragments don't take megabytes.
pub(crate) const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// `--max-txn-ops` of both.
pub(crate) const MAX_TXN_OPS: usize = 8;

/// The metadata key and the token that go with a call.
pub(crate) type By = Option<(&'static str, String)>;

/// The end of a call without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u32,
    pub(crate) message: String,
}

impl Status {
    pub(crate) fn new(code: u32, message: &str) -> Self {
        Self {
            code,
            message: message.to_owned(),
        }
    }
}

/// An encoded answer, or how the call failed.
pub(crate) type Outcome = Result<Bytes, Status>;
