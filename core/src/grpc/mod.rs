//! The parts of gRPC over HTTP/2 that a proxy must understand to forward messages without decoding
//! them.

mod framing;
pub mod header;
mod status;
mod timeout;

pub use framing::{MESSAGE_PREFIX_LEN, MessageLimit, MessageTooLarge, framed, message_prefix};
pub use status::{Code, Status, decode_message, encode_message};
pub use timeout::{DEADLINE_GRACE, format_timeout, has_shrunk, parse_timeout};
