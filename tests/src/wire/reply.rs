//! What came back for a call, and how to read it.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// Everything that came back for one call.
///
/// Two replies are equal when a client could not tell them apart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reply {
    /// 0 when no response headers came.
    pub http_status: u16,
    /// Response headers without pseudo headers, sorted by name and value.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Messages without prefix. Those that [`Call::message`](super::Call::message) handed out
    /// are not here.
    pub messages: Vec<Bytes>,
    /// How many messages of the whole call had a compression flag other than 0.
    pub compressed: usize,
    /// Sorted. None if the response was trailers-only (see `headers` then) or was cut off.
    pub trailers: Option<Vec<(String, Vec<u8>)>>,
    /// Code of a RST_STREAM that was received.
    pub reset: Option<u32>,
    /// What else went wrong: the connection ended, this client reset the call, or the peer broke
    /// HTTP/2's or gRPC's framing.
    pub error: Option<String>,
}

impl Reply {
    pub(super) fn failed<E: std::fmt::Display>(error: &E) -> Self {
        Self {
            error: Some(error.to_string()),
            ..Self::default()
        }
    }

    /// Adds what the response began and ended with.
    pub(super) fn with(
        mut self,
        head: &Option<(StatusCode, HeaderMap)>,
        trailers: &Option<HeaderMap>,
    ) -> Self {
        if let Some((status, headers)) = head {
            self.http_status = status.as_u16();
            self.headers = sorted(headers);
        }
        self.trailers = trailers.as_ref().map(sorted);
        self
    }

    /// Notes why a stream ended before its end.
    pub(super) fn note(&mut self, error: &h2::Error) {
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => {
                self.reset = Some(reason.into());
            }
            _ => self.error = Some(error.to_string()),
        }
    }

    /// `grpc-status`, from the trailers or, in a trailers-only response, the headers. None if
    /// there is none or it is not a number.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        std::str::from_utf8(self.field("grpc-status")?).ok()?.parse().ok()
    }

    /// `grpc-message`, percent-decoded; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        self.field("grpc-message").map(percent_decoded)
    }

    /// `grpc-status-details-bin`, decoded. None if there is none or it is not base64.
    #[must_use]
    pub fn details(&self) -> Option<Vec<u8>> {
        base64_decoded(self.field("grpc-status-details-bin")?)
    }

    /// Whether the call ended whole, with status 0.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.code() == Some(0) && self.reset.is_none() && self.error.is_none()
    }

    /// How it ended, in one line and without the messages.
    #[must_use]
    pub fn in_short(&self) -> String {
        format!(
            "HTTP {}, code {:?}, message {:?}, reset {:?}, error {:?}",
            self.http_status,
            self.code(),
            self.message(),
            self.reset,
            self.error
        )
    }

    /// The first value of a trailer or, in a trailers-only response, header; `name` in lower case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let fields = self.trailers.as_ref().unwrap_or(&self.headers);
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_slice())
    }

    /// The only message of an OK reply, decoded.
    ///
    /// # Errors
    /// The reply itself when it is not OK, has not exactly one message, or that message does not
    /// decode; [`Reply::error`] tells the last two.
    pub fn into_message<R: prost::Message + Default>(mut self) -> Result<R, Self> {
        let decoded = match self.messages.as_slice() {
            _ if !self.is_ok() => return Err(self),
            [message] => R::decode(message.clone()).map_err(|error| error.to_string()),
            messages => Err(format!("{} messages in a unary reply", messages.len())),
        };
        decoded.map_err(|error| {
            self.error = Some(error);
            self
        })
    }
}

/// Headers or trailers as sorted pairs.
fn sorted(fields: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut pairs: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// "gRPC over HTTP2", `Percent-Encoded`: a `%` without two hex digits stands for itself.
fn percent_decoded(value: &[u8]) -> String {
    let hex = |at: usize| value.get(at).and_then(|&digit| (digit as char).to_digit(16));
    let mut decoded = Vec::with_capacity(value.len());
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// RFC 4648 section 4, with or without padding, as gRPC asks of receivers.
fn base64_decoded(value: &[u8]) -> Option<Vec<u8>> {
    let end = value
        .iter()
        .rposition(|&digit| digit != b'=')
        .map_or(0, |last| last + 1);
    if value.len() - end > 2 || end % 4 == 1 {
        return None;
    }
    let mut decoded = Vec::with_capacity(end * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for &digit in &value[..end] {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailing(name: &str, value: &str) -> Reply {
        let trailers = vec![(name.to_owned(), value.as_bytes().to_vec())];
        Reply {
            trailers: Some(trailers),
            ..Reply::default()
        }
    }

    #[test]
    fn percent_encoding() {
        for (encoded, message) in [
            ("etcdserver: key not found", "etcdserver: key not found"),
            ("50%25 of%0A%e2%82%AC", "50% of\n€"),
            ("100% %4 %zz %", "100% %4 %zz %"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(
                trailing("grpc-message", encoded).message().as_deref(),
                Some(message)
            );
        }
    }

    #[test]
    fn base64() {
        for (encoded, details) in [
            ("", Some(&b""[..])),
            ("CA8", Some(b"\x08\x0f")),
            ("CA8=", Some(b"\x08\x0f")),
            ("+/+/", Some(b"\xfb\xff\xbf")),
            ("Zm9vYg==", Some(b"foob")),
            ("Zm9vY", None),
            ("Zm9_", None),
            ("Zm9v===", None),
        ] {
            let reply = trailing("grpc-status-details-bin", encoded);
            assert_eq!(reply.details().as_deref(), details, "{encoded}");
        }
    }
}
