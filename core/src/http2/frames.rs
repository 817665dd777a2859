//! Frame boundaries in a byte stream: RFC 9113, section 4.1.

use alloc::vec::Vec;

/// What a client sends first on an HTTP/2 connection: RFC 9113, section 3.4.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame header.
pub const FRAME_HEADER_LEN: usize = 9;

const TYPE_DATA: u8 = 0x0;
const TYPE_HEADERS: u8 = 0x1;
const TYPE_PING: u8 = 0x6;
const TYPE_GO_AWAY: u8 = 0x7;
const FLAG_ACK: u8 = 0x1;

/// The kinds of frame that matter to the ping policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// DATA or HEADERS: proof that the sender has work on this connection.
    Message,
    /// A PING that asks for an answer.
    Ping,
    /// GOAWAY: the sender takes no new streams.
    GoAway,
    /// Anything else, answers to PINGs included.
    Other,
}

/// Follows the frames of one direction of a connection through chunks cut anywhere.
#[derive(Clone, Debug, Default)]
pub struct FrameScanner {
    header: [u8; FRAME_HEADER_LEN],
    header_len: usize,
    payload_left: usize,
}

impl FrameScanner {
    /// Reads the next chunk and reports each frame whose header is complete in it, with the bytes of its payload.
    pub fn scan(&mut self, mut chunk: &[u8], mut on_frame: impl FnMut(FrameKind, usize)) {
        while !chunk.is_empty() {
            if self.payload_left > 0 {
                let skip = self.payload_left.min(chunk.len());
                self.payload_left -= skip;
                chunk = &chunk[skip..];
                continue;
            }
            let take = (FRAME_HEADER_LEN - self.header_len).min(chunk.len());
            self.header[self.header_len..self.header_len + take].copy_from_slice(&chunk[..take]);
            self.header_len += take;
            chunk = &chunk[take..];
            if self.header_len == FRAME_HEADER_LEN {
                self.header_len = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                let kind = match kind {
                    TYPE_DATA | TYPE_HEADERS => FrameKind::Message,
                    TYPE_PING if flags & FLAG_ACK == 0 => FrameKind::Ping,
                    TYPE_GO_AWAY => FrameKind::GoAway,
                    _ => FrameKind::Other,
                };
                on_frame(kind, self.payload_left);
            }
        }
    }

    /// Whether all bytes so far end exactly at the end of a frame.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        self.header_len == 0 && self.payload_left == 0
    }
}

/// A GOAWAY frame that says every stream up to the highest id may have been processed.
///
/// `error_code` as in RFC 9113, section 7; `debug_data` of at most a frame (16 KiB) by contract of
/// its callers, who pass short constants.
#[must_use]
pub fn go_away_frame(error_code: u32, debug_data: &[u8]) -> Vec<u8> {
    let payload_len = 8 + debug_data.len();
    let mut frame = Vec::with_capacity(FRAME_HEADER_LEN + payload_len);
    let [_, a, b, c] = u32::try_from(payload_len).unwrap_or(u32::MAX).to_be_bytes();
    frame.extend_from_slice(&[a, b, c, TYPE_GO_AWAY, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    frame.extend_from_slice(&error_code.to_be_bytes());
    frame.extend_from_slice(debug_data);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes()[1..]);
        bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        bytes.resize(FRAME_HEADER_LEN + len, 0x6);
        bytes
    }

    proptest! {
        #[test]
        fn frames_are_found_however_cut(frames in prop::collection::vec((0u8..10, 0u8..2, 0usize..50), 0..10), cut in 1usize..30) {
            let stream: Vec<u8> = frames.iter().flat_map(|(k, f, l)| frame(*k, *f, *l)).collect();
            let mut scanner = FrameScanner::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(cut) {
                scanner.scan(chunk, |kind, len| seen.push((kind, len)));
            }
            prop_assert!(scanner.at_boundary());
            prop_assert_eq!(seen.len(), frames.len());
            for (seen, (code, flags, len)) in seen.iter().zip(&frames) {
                let expected = match (*code, *flags) {
                    (0 | 1, _) => FrameKind::Message,
                    (6, 0) => FrameKind::Ping,
                    (7, _) => FrameKind::GoAway,
                    _ => FrameKind::Other,
                };
                prop_assert_eq!(*seen, (expected, *len));
            }
        }
    }

    #[test]
    fn a_cut_frame_is_no_boundary() {
        let mut scanner = FrameScanner::default();
        let bytes = frame(0, 0, 4);
        for end in 1..bytes.len() {
            let mut scanner = scanner.clone();
            scanner.scan(&bytes[..end], |_, _| {});
            assert!(!scanner.at_boundary(), "after {end} bytes");
        }
        scanner.scan(&bytes, |_, _| {});
        assert!(scanner.at_boundary());
    }

    #[test]
    fn go_away_is_one_whole_frame() {
        let bytes = go_away_frame(0xb, b"too_many_pings");
        let mut scanner = FrameScanner::default();
        let mut frames = 0;
        scanner.scan(&bytes, |_, _| frames += 1);
        assert_eq!((frames, scanner.at_boundary()), (1, true));
        assert!(bytes.ends_with(b"too_many_pings"));
    }
}
