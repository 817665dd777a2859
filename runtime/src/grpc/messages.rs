//! Length-prefixed messages, taken out of a byte stream that is cut anywhere.

use bytes::{Buf as _, Bytes, BytesMut};
use etcd_proxy_core::grpc::{Code, MESSAGE_PREFIX_LEN, MessageTooLarge, Status};

/// Takes the messages out of a request. What it holds is at most one chunk and one message.
#[derive(Debug)]
pub(crate) struct Messages {
    bytes_max: u64,
    /// What came last and wasn't looked at yet.
    chunk: Bytes,
    /// A message that spans chunks, with its prefix, as far as it came.
    partial: BytesMut,
}

/// Where a byte stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// After a message, or within a prefix: grpc-go takes both for the end of the messages.
    Between,
    /// Within a message.
    Within,
}

impl Messages {
    /// For messages of up to `bytes_max` bytes, their prefix not counted.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
        }
    }

    /// Takes in what came next. Only once [`Messages::next`] has nothing more to give.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(
            self.chunk.is_empty(),
            "messages are taken out before more comes in"
        );
        self.chunk = chunk;
    }

    /// The next message that is complete.
    ///
    /// # Errors
    /// A prefix that grpc-go refuses, with its status.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty() && self.chunk.len() >= MESSAGE_PREFIX_LEN {
            let len = self.message_len(&self.chunk)?;
            if self.chunk.len() - MESSAGE_PREFIX_LEN >= len {
                self.chunk.advance(MESSAGE_PREFIX_LEN);
                return Ok(Some(self.chunk.split_to(len)));
            }
        }
        self.fill(MESSAGE_PREFIX_LEN);
        if self.partial.len() < MESSAGE_PREFIX_LEN {
            return Ok(None);
        }
        let len = self.message_len(&self.partial)?;
        self.fill(MESSAGE_PREFIX_LEN + len);
        if self.partial.len() < MESSAGE_PREFIX_LEN + len {
            return Ok(None);
        }
        let mut message = self.partial.split().freeze();
        message.advance(MESSAGE_PREFIX_LEN);
        Ok(Some(message))
    }

    /// How many bytes are there of a message that isn't complete.
    pub(crate) fn held(&self) -> usize {
        self.partial.len()
    }

    /// Where the stream would be cut if it ended here.
    pub(crate) fn cut(&self) -> Cut {
        if self.partial.len() < MESSAGE_PREFIX_LEN {
            Cut::Between
        } else {
            Cut::Within
        }
    }

    /// Moves bytes from the chunk until `partial` has `len` of them.
    fn fill(&mut self, len: usize) {
        let missing = len.saturating_sub(self.partial.len());
        let part = self.chunk.split_to(missing.min(self.chunk.len()));
        self.partial.extend_from_slice(&part);
    }

    /// Length of the message whose prefix `bytes` begins with.
    fn message_len(&self, bytes: &[u8]) -> Result<usize, Status> {
        let [flag, a, b, c, d] = core::array::from_fn(|index| bytes[index]);
        let len = u32::from_be_bytes([a, b, c, d]);
        if u64::from(len) > self.bytes_max {
            let too_large = MessageTooLarge {
                bytes: len.into(),
                bytes_max: self.bytes_max,
            };
            return Err(too_large.status());
        }
        match flag {
            // The limit above fits memory, so this does.
            0 => Ok(len as usize),
            1 => Err(Status::of(
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            )),
            other => Err(Status::owned(
                Code::Internal,
                format!("grpc: received unexpected payload format {other}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(message);
        bytes
    }

    /// All messages of a stream that comes in chunks of `chunk` bytes, and where it is cut.
    fn taken(stream: &[u8], chunk: usize, bytes_max: u64) -> (Vec<Bytes>, Result<Cut, Status>) {
        let mut messages = Messages::new(bytes_max);
        let mut all = Vec::new();
        for chunk in stream.chunks(chunk) {
            messages.push(Bytes::copy_from_slice(chunk));
            loop {
                match messages.next() {
                    Ok(Some(message)) => all.push(message),
                    Ok(None) => break,
                    Err(status) => return (all, Err(status)),
                }
            }
        }
        let cut = messages.cut();
        (all, Ok(cut))
    }

    proptest! {
        #[test]
        fn whatever_is_put_in_comes_out(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            chunk in 1usize..60,
            cut in 0usize..60,
        ) {
            let mut stream: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
            let (all, end) = taken(&stream, chunk, 40);
            prop_assert_eq!(&all, &messages);
            prop_assert_eq!(end, Ok(Cut::Between));

            let kept = stream.len().saturating_sub(cut);
            stream.truncate(kept);
            let (all, end) = taken(&stream, chunk, 40);
            prop_assert_eq!(&all[..], &messages[..all.len()]);
            let whole: usize = all.iter().map(|message| MESSAGE_PREFIX_LEN + message.len()).sum();
            let within = kept - whole >= MESSAGE_PREFIX_LEN;
            prop_assert_eq!(end, Ok(if within { Cut::Within } else { Cut::Between }));
        }
    }

    #[test]
    fn bad_prefixes_get_the_words_of_grpc_go() {
        for (prefix, code, message) in [
            (
                [0, 0, 0x20, 0, 1],
                Code::ResourceExhausted,
                "grpc: received message larger than max (2097153 vs. 2097152)",
            ),
            (
                [1, 0, 0, 0, 3],
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            ),
            (
                [2, 0, 0, 0, 3],
                Code::Internal,
                "grpc: received unexpected payload format 2",
            ),
        ] {
            for chunk in [1, 2, 5] {
                let (all, end) = taken(&prefix, chunk, 2 << 20);
                let status = end.unwrap_err();
                assert!(status.is(code) && status.message == message, "{status:?}");
                assert!(all.is_empty());
            }
        }
    }
}
