//! gRPC's length-prefixed messages, out of and into DATA frames cut anywhere.

use std::mem;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A message behind its 5-byte prefix, not compressed.
///
/// # Panics
/// When the message is 4 GiB or longer, which the prefix cannot tell.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    put_prefix(&mut framed, message.len());
    framed.put_slice(message);
    framed.freeze()
}

/// As [`frame`], encoding in place.
///
/// # Panics
/// When the encoded message is 4 GiB or longer.
#[must_use]
pub fn frame_message<M: prost::Message>(message: &M) -> Bytes {
    let len = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + len);
    put_prefix(&mut framed, len);
    message.encode(&mut framed).expect("a BytesMut grows as needed");
    framed.freeze()
}

fn put_prefix(framed: &mut BytesMut, len: usize) {
    framed.put_u8(0);
    framed.put_u32(u32::try_from(len).expect("a gRPC message is shorter than 4 GiB"));
}

/// Cuts a run of DATA chunks into messages. A message that lies in one chunk is not copied.
#[derive(Debug, Default)]
pub(crate) struct Unframer {
    /// The rest of the only chunk; empty while `joined` is in use.
    chunk: Bytes,
    /// Chunks put together, once a message spans more than one.
    joined: BytesMut,
}

impl Unframer {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.is_empty() {
            self.chunk = chunk;
        } else {
            self.joined.extend_from_slice(&mem::take(&mut self.chunk));
            self.joined.extend_from_slice(&chunk);
        }
    }

    /// The next whole message and its compression flag.
    pub(crate) fn next(&mut self) -> Option<(u8, Bytes)> {
        let held = if self.joined.is_empty() {
            &self.chunk[..]
        } else {
            &self.joined[..]
        };
        let mut prefix = held.get(..PREFIX_BYTES)?;
        let flag = prefix.get_u8();
        let len = prefix.get_u32() as usize;
        if held.len() - PREFIX_BYTES < len {
            return None;
        }
        let mut message = if self.joined.is_empty() {
            self.chunk.split_to(PREFIX_BYTES + len)
        } else {
            self.joined.split_to(PREFIX_BYTES + len).freeze()
        };
        message.advance(PREFIX_BYTES);
        Some((flag, message))
    }

    /// Whether no part of a message is left over.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.joined.is_empty()
    }
}

const PREFIX_BYTES: usize = 5;
