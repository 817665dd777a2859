//! Statuses: how calls end.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// gRPC status codes: <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
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
    /// Something that the call asks for isn't there.
    NotFound = 5,
    /// Something that the call makes is there already.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A limit was exceeded.
    ResourceExhausted = 8,
    /// The server is in no state to do this.
    FailedPrecondition = 9,
    /// The call was aborted, mostly by another one.
    Aborted = 10,
    /// The call asks for something beyond what there is, as a revision.
    OutOfRange = 11,
    /// The server has no such method.
    Unimplemented = 12,
    /// A broken invariant, or a peer that breaks the protocol.
    Internal = 13,
    /// The service can't be reached now; trying again may help.
    Unavailable = 14,
    /// Data is lost or damaged.
    DataLoss = 15,
    /// Nobody knows who the caller is.
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The code with this number on the wire; `None` if gRPC has none.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// How a call ended, whoever says so: a code and a message. etcd sends no details.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// The code on the wire; 0 is OK. Mostly a [`Code`]'s number: what a peer sends may be any.
    pub code: u8,
    /// The message, not percent-encoded.
    pub message: Cow<'static, str>,
}

impl Status {
    /// A call that went well.
    pub const OK: Self = Self::of(Code::Ok, "");

    /// What etcd refuses calls with that ask for a leader, or need one, while it knows none.
    pub const NO_LEADER: Self = Self::of(Code::Unavailable, "etcdserver: no leader");

    /// A status with a code and a fixed message.
    #[must_use]
    pub const fn of(code: Code, message: &'static str) -> Self {
        Self::new(code.number(), message)
    }

    /// A status with the number of a code and a fixed message.
    #[must_use]
    pub const fn new(code: u8, message: &'static str) -> Self {
        Self {
            code,
            message: Cow::Borrowed(message),
        }
    }

    /// A status with a message made at run time.
    #[must_use]
    pub const fn owned(code: Code, message: String) -> Self {
        Self {
            code: code.number(),
            message: Cow::Owned(message),
        }
    }

    /// The deadline that the client set has passed; message as grpc-go and etcd servers give it.
    #[must_use]
    pub const fn deadline_exceeded() -> Self {
        Self::of(Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// Whether it has this code.
    #[must_use]
    pub const fn is(&self, code: Code) -> bool {
        self.code == code.number()
    }

    /// Whether a member refuses because it knows no leader.
    #[must_use]
    pub fn is_no_leader(&self) -> bool {
        *self == Self::NO_LEADER
    }

    /// Whether it refuses the caller for who it is: for a permission or a user that it lacks, or for a token that isn't
    /// valid, or not any more.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        match Code::of_number(self.code) {
            Some(Code::PermissionDenied | Code::Unauthenticated) => true,
            Some(Code::InvalidArgument) => matches!(
                &*self.message,
                "etcdserver: user name is empty" | "etcdserver: revision of auth store is old"
            ),
            _ => false,
        }
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
    fn codes_have_their_numbers() {
        for number in 0..=16 {
            assert_eq!(Code::of_number(number).map(Code::number), Some(number));
        }
        assert_eq!(Code::of_number(17), None);
        assert_eq!(Code::of_number(255), None);
    }

    /// The words are those of etcd 3.4 to 3.6.
    #[test]
    fn who_is_refused_for_what_he_is() {
        for (code, message, is_denial) in [
            (7, "etcdserver: permission denied", true),
            (16, "etcdserver: invalid auth token", true),
            (3, "etcdserver: user name is empty", true),
            (3, "etcdserver: revision of auth store is old", true),
            (3, "etcdserver: key is not provided", false),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                false,
            ),
            (9, "etcdserver: authentication is not enabled", false),
            (14, "etcdserver: no leader", false),
            (0, "", false),
            (99, "etcdserver: user name is empty", false),
        ] {
            let status = Status::new(code, message);
            assert_eq!(status.is_denial(), is_denial, "{status:?}");
            assert_eq!(status.is_no_leader(), code == 14, "{status:?}");
        }
        assert!(!Status::new(14, "etcdserver: leader changed").is_no_leader());
    }

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
