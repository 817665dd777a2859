//! HTTP/2 frames by hand, for clients that a library would not let one write (RFC 9113, RFC 7541).

use std::{collections::VecDeque, io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of RFC 9113 section 6")]

    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// END_STREAM of DATA and HEADERS, ACK of SETTINGS and PING.
pub const END_STREAM: u8 = 1;
/// ACK of SETTINGS and PING.
pub const ACK: u8 = 1;
/// END_HEADERS of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Depends on the type.
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// What follows the 9-byte header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a GOAWAY with its debug data.
    #[must_use]
    pub fn goaway(&self) -> Option<(u32, String)> {
        let code = self.payload.get(4..8)?.try_into().ok()?;
        let debug = String::from_utf8_lossy(&self.payload[8..]).into_owned();
        (self.kind == kind::GOAWAY).then(|| (u32::from_be_bytes(code), debug))
    }
}

/// The bytes of a frame.
///
/// # Panics
/// If the payload is 16 MiB or longer.
#[must_use]
pub fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 1 << 24, "a length has 24 bits");
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals that are not indexed and not Huffman coded.
///
/// # Panics
/// If a name or value is 16,000 bytes or longer.
#[must_use]
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(0);
        string(&mut bytes, name);
        string(&mut bytes, value);
    }
    bytes
}

/// RFC 7541 section 5.1 and 5.2: a length with a 7-bit prefix, then the octets.
fn string(bytes: &mut Vec<u8>, text: &str) {
    let length = text.len();
    assert!(length < 16_000, "two continuation octets are enough");
    if length < 127 {
        bytes.push(length as u8);
    } else {
        let rest = length - 127;
        bytes.push(127);
        if rest < 128 {
            bytes.push(rest as u8);
        } else {
            bytes.extend([(rest % 128) as u8 | 128, (rest / 128) as u8]);
        }
    }
    bytes.extend(text.as_bytes());
}

/// The headers of a gRPC call, with more of them.
#[must_use]
pub fn call_headers(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut headers = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.extend(more);
    block(&headers)
}

/// A connection on which nothing happens by itself: no acknowledgement, no window update.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    /// Bytes that were received and not yet taken as frames.
    received: VecDeque<u8>,
}

impl RawClient {
    /// Connects and sends nothing.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: VecDeque::new(),
        })
    }

    /// Connects and sends the preface with empty settings. The peer's settings are acknowledged
    /// when they are read by [`frame`](Self::frame).
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn open(address: &str) -> io::Result<Self> {
        let mut client = Self::connect(address).await?;
        client.send(PREFACE).await?;
        client.send(&encode(kind::SETTINGS, 0, 0, &[])).await?;
        Ok(client)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next frame; `None` when the connection has ended, however it did. Settings are
    /// acknowledged, pings are not.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parse() {
                if frame.kind == kind::SETTINGS && frame.flags & ACK == 0 {
                    // If this fails, the next read tells.
                    let _ = self.send(&encode(kind::SETTINGS, ACK, 0, &[])).await;
                }
                return Some(frame);
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.received.extend(&buffer[..count]),
            }
        }
    }

    /// Reads frames until one fits or the connection ends.
    pub async fn find(&mut self, fits: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if fits(&frame) {
                return Some(frame);
            }
        }
    }

    /// Everything that is received until the connection ends or `limit` has passed, as bytes, and
    /// whether it ended.
    pub async fn read_to_end(&mut self, limit: Duration) -> (Vec<u8>, bool) {
        let mut bytes: Vec<u8> = self.received.drain(..).collect();
        let reading = async {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count) = self.stream.read(&mut buffer).await {
                if count == 0 {
                    break;
                }
                bytes.extend(&buffer[..count]);
            }
        };
        let ended = tokio::time::timeout(limit, reading).await.is_ok();
        (bytes, ended)
    }

    fn parse(&mut self) -> Option<Frame> {
        let head: Vec<u8> = self.received.iter().take(9).copied().collect();
        let [a, b, c, kind, flags, s1, s2, s3, s4] = head[..] else {
            return None;
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if self.received.len() < 9 + length {
            return None;
        }
        let payload = self.received.drain(..9 + length).skip(9).collect();
        let stream = u32::from_be_bytes([s1, s2, s3, s4]) & 0x7fff_ffff;
        Some(Frame {
            kind,
            flags,
            stream,
            payload,
        })
    }
}
