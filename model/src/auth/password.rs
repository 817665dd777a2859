//! Passwords, as far as it matters which ones are taken for the same.

/// The longest password that can be set, in bytes (bcrypt).
pub(super) const BYTES_MAX: usize = 72;

/// What a user proves its identity with. Nothing is hashed: nothing here is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Password {
    /// The user was added without one and can't authenticate.
    Absent,
    /// What bcrypt sees of a password.
    Set([u8; BYTES_MAX]),
    /// A hash that came from the client: nothing matches it here.
    Unknown,
}

impl Password {
    pub(super) fn new(password: &str) -> Self {
        Self::Set(seen(password))
    }

    pub(super) fn matches(&self, password: &str) -> bool {
        matches!(self, Self::Set(own) if *own == seen(password))
    }
}

/// What bcrypt sees of a password: with a zero byte after it, again and again, as much as fits.
fn seen(password: &str) -> [u8; BYTES_MAX] {
    let mut bytes = password.bytes().chain([0]).cycle();
    core::array::from_fn(|_| bytes.next().unwrap_or_default())
}

/// Whether this is base64 as Go's standard encoding reads it: padded, line breaks ignored.
pub(super) fn is_base64(text: &str) -> bool {
    let mut length = 0_usize;
    let mut padding = 0;
    for byte in text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        match byte {
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => {}
            _ => return false,
        }
        length += 1;
    }
    padding <= 2 && length.is_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_match_as_under_bcrypt() {
        assert!(Password::new("").matches(""));
        assert!(Password::new("p").matches("p"));
        assert!(!Password::new("p").matches("q"));
        assert!(!Password::new("p").matches(""));
        assert!(!Password::Absent.matches(""));
        assert!(!Password::Unknown.matches(""));
        let (longest, longer) = ("x".repeat(72), "x".repeat(80));
        assert!(Password::new(&longest).matches(&longer));
        assert!(!Password::new(&longest).matches(&longer[..71]));
    }

    #[test]
    fn base64_is_padded() {
        for good in ["", "YQ==", "YWI=", "YWJj", "YW\nJj\r\n", "+/+/"] {
            assert!(is_base64(good), "{good}");
        }
        for bad in ["!!", "Y", "YQ=", "YQ", "Y===", "YQ==YQ==", "====", "=YQ="] {
            assert!(!is_base64(bad), "{bad}");
        }
    }
}
