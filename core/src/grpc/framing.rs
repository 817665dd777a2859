//! Length-prefixed messages: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use bytes::Bytes;

use super::{Code, Status};

/// Bytes in front of each message: one flag byte and a big-endian 32-bit length.
pub const MESSAGE_PREFIX_LEN: usize = 5;

/// The prefix of a message of so many bytes that isn't compressed.
#[must_use]
pub fn message_prefix(len: usize) -> [u8; MESSAGE_PREFIX_LEN] {
    // Longer ones can't be sent, and none is: what is sent came in a message, or was put together from such.
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// A message behind its prefix, as a copy.
#[must_use]
pub fn framed(message: &[u8]) -> Bytes {
    [&message_prefix(message.len()), message].concat().into()
}

/// Checks the size of every message that passes by in chunks cut anywhere.
///
/// It looks at the length prefixes only, as a grpc-go peer does before it reads a message, so the
/// answer to a message that is too large can be given before its bytes are accepted.
#[derive(Clone, Debug)]
pub struct MessageLimit {
    bytes_max: u64,
    /// Bytes of the current message's body that are still to come.
    body_left: u64,
    prefix: [u8; MESSAGE_PREFIX_LEN],
    prefix_len: usize,
    messages: u64,
}

/// A message's length prefix announced more bytes than the limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageTooLarge {
    /// Bytes that the prefix announced.
    pub bytes: u64,
    /// The limit in bytes.
    pub bytes_max: u64,
}

impl MessageTooLarge {
    /// The status with which a grpc-go peer, and so an etcd server, refuses such a message.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::owned(
            Code::ResourceExhausted,
            alloc::format!(
                "grpc: received message larger than max ({} vs. {})",
                self.bytes,
                self.bytes_max
            ),
        )
    }
}

impl MessageLimit {
    /// Allows messages of up to `bytes_max` bytes, their prefix not counted.
    #[must_use]
    pub const fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            body_left: 0,
            prefix: [0; MESSAGE_PREFIX_LEN],
            prefix_len: 0,
            messages: 0,
        }
    }

    /// How many messages have passed as a whole.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Looks at the next chunk of the byte stream.
    ///
    /// # Errors
    /// When a prefix in this chunk announces a message above the limit.
    pub fn check(&mut self, mut chunk: &[u8]) -> Result<(), MessageTooLarge> {
        while !chunk.is_empty() {
            if self.body_left > 0 {
                let skip = usize::try_from(self.body_left)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                self.body_left -= skip as u64;
                self.messages += u64::from(self.body_left == 0);
                chunk = &chunk[skip..];
                continue;
            }
            let take = (MESSAGE_PREFIX_LEN - self.prefix_len).min(chunk.len());
            self.prefix[self.prefix_len..self.prefix_len + take].copy_from_slice(&chunk[..take]);
            self.prefix_len += take;
            chunk = &chunk[take..];
            if self.prefix_len == MESSAGE_PREFIX_LEN {
                let [_, a, b, c, d] = self.prefix;
                let bytes = u64::from(u32::from_be_bytes([a, b, c, d]));
                if bytes > self.bytes_max {
                    return Err(MessageTooLarge {
                        bytes,
                        bytes_max: self.bytes_max,
                    });
                }
                self.body_left = bytes;
                self.messages += u64::from(bytes == 0);
                self.prefix_len = 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn frame(len: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![0];
        bytes.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        bytes.resize(MESSAGE_PREFIX_LEN + len, 7);
        bytes
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(lens in prop::collection::vec(0usize..40, 0..8), cut in 1usize..20, max in 0u64..40) {
            let stream: Vec<u8> = lens.iter().flat_map(|len| frame(*len)).collect();
            let mut limit = MessageLimit::new(max);
            let result = stream.chunks(cut).try_for_each(|chunk| limit.check(chunk));
            let expected = lens.iter().find(|len| **len as u64 > max);
            prop_assert_eq!(result.err().map(|e| e.bytes), expected.map(|len| *len as u64));
            prop_assert!(expected.is_some() || limit.messages() == lens.len() as u64);
        }
    }

    #[test]
    fn a_message_counts_when_it_is_whole() {
        let bytes = frame(4);
        for end in 1..=bytes.len() {
            let mut limit = MessageLimit::new(9);
            limit.check(&bytes[..end]).unwrap();
            assert_eq!(
                limit.messages(),
                u64::from(end == bytes.len()),
                "after {end} bytes"
            );
        }
    }

    #[test]
    fn answers_as_grpc_go_does() {
        let error = MessageLimit::new(2_097_152)
            .check(&[0, 0x00, 0x30, 0, 0])
            .unwrap_err();
        assert_eq!(
            &*error.status().message,
            "grpc: received message larger than max (3145728 vs. 2097152)"
        );
        assert!(error.status().is(Code::ResourceExhausted));
    }
}
