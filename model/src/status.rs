//! How a call or a stream ended.

use alloc::borrow::Cow;

/// A gRPC status as an etcd server sends it: a code, 0 to 16, and a message. etcd sends no details.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// The code on the wire; 0 is OK.
    pub code: u8,
    /// The message, not percent-encoded.
    pub message: Cow<'static, str>,
}

impl Status {
    /// The end of a stream that went well.
    pub const OK: Self = Self::new(0, "");

    /// A status with a fixed message.
    #[must_use]
    pub const fn new(code: u8, message: &'static str) -> Self {
        Self {
            code,
            message: Cow::Borrowed(message),
        }
    }
}
