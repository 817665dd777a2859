//! How a connection ended.

/// What the end of a connection looked like from here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConnectionEnd {
    /// Error code and debug data of the last GOAWAY received.
    pub goaway: Option<(u32, Vec<u8>)>,
    /// The IO or protocol error, if the end was not clean.
    pub error: Option<String>,
}

impl ConnectionEnd {
    pub(super) fn of(result: Result<(), h2::Error>) -> Self {
        let Err(error) = result else {
            return Self::default();
        };
        let text = error.to_string();
        match error.reason() {
            Some(reason) if error.is_go_away() && error.is_remote() => Self {
                goaway: Some((reason.into(), debug_data(&text))),
                error: None,
            },
            _ => Self {
                goaway: None,
                error: Some(text),
            },
        }
    }
}

/// h2 gives the debug data only inside its error text, as ` (b"…")` with Rust's escapes.
fn debug_data(text: &str) -> Vec<u8> {
    let quoted = text
        .split_once(" (b\"")
        .and_then(|(_, rest)| rest.strip_suffix("\")"));
    let mut rest = quoted.unwrap_or_default().bytes();
    let mut data = Vec::new();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            data.push(byte);
            continue;
        }
        data.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'x') => {
                let mut digit = || rest.next().and_then(|hex| (hex as char).to_digit(16));
                (digit().unwrap_or(0) * 16 + digit().unwrap_or(0)) as u8
            }
            Some(other) => other,
            None => b'\\',
        });
    }
    data
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn debug_data_survives_the_error_text() {
        let all: Vec<u8> = (0..=255).collect();
        for data in [&b""[..], b"too_many_pings", b"a\"b\\c (b\"d\")", &all] {
            let mut text = "connection error received: some reason".to_owned();
            if !data.is_empty() {
                text += &format!(" ({:?})", Bytes::copy_from_slice(data));
            }
            assert_eq!(debug_data(&text), data);
        }
    }
}
