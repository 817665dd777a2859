//! Statuses the proxy makes itself. Statuses of etcd pass through as they are and never take this form.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// gRPC status codes: <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Code {
    /// The call succeeded.
    Ok = 0,
    /// The caller cancelled the call.
    Cancelled = 1,
    /// An error without a better code.
    Unknown = 2,
    /// The request makes no sense, whatever the state of the server.
    InvalidArgument = 3,
    /// The deadline passed before the call was answered.
    DeadlineExceeded = 4,
    /// A limit was exceeded.
    ResourceExhausted = 8,
    /// The method, or something that the call asks for, isn't there.
    Unimplemented = 12,
    /// A broken invariant, or a peer that breaks the protocol.
    Internal = 13,
    /// The service can't be reached now; trying again may help.
    Unavailable = 14,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A status made by the proxy: a code and a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    code: Code,
    message: Cow<'static, str>,
}

impl Status {
    /// A status with a fixed message.
    #[must_use]
    pub const fn new(code: Code, message: &'static str) -> Self {
        Self {
            code,
            message: Cow::Borrowed(message),
        }
    }

    /// A status with a message made at run time.
    #[must_use]
    pub const fn owned(code: Code, message: String) -> Self {
        Self {
            code,
            message: Cow::Owned(message),
        }
    }

    /// The deadline that the client set has passed; message as grpc-go and etcd servers give it.
    #[must_use]
    pub const fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The message, not yet percent-encoded.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Percent-encodes a message for the `grpc-message` trailer, as the gRPC specification asks: space to
/// tilde pass, except `%`; all else becomes `%XX` of its UTF-8 bytes.
#[must_use]
pub fn encode_message(message: &str) -> Cow<'_, str> {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
    if message.bytes().all(plain) {
        return Cow::Borrowed(message);
    }
    let mut encoded = String::with_capacity(message.len() + 8);
    for byte in message.bytes() {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Cow::Owned(encoded)
}

/// Reads a status message that came in a header. What isn't an encoded byte stands for itself, as
/// in grpc-go.
#[must_use]
pub fn decode_message(message: &str) -> Cow<'_, str> {
    if !message.contains('%') {
        return Cow::Borrowed(message);
    }
    let mut bytes = Vec::with_capacity(message.len());
    let mut rest = message.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let encoded = rest.get(1..3).and_then(|digits| {
            let digits = core::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16)
                .ok()
                .filter(|_| *first == b'%' && !digits.starts_with('+'))
        });
        match encoded {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(encode_message("plain text, ok"), "plain text, ok");
        assert_eq!(encode_message("50%\nü"), "50%25%0A%C3%BC");
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for message in ["", "plain text, ok", "50%\nü", "%", "%4", "%zz", "%+1", "%%41"] {
            assert_eq!(decode_message(&encode_message(message)), message);
        }
        assert_eq!(decode_message("%zz%4"), "%zz%4");
        assert_eq!(decode_message("%41%e2%82%ac%+1"), "A€%+1");
    }
}
