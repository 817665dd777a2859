//! Ranges of keys, as requests name them.

use bytes::Bytes;

/// The keys of a watcher, a read or a write. The empty key of a request stands for the smallest one, `\0`, as it does
/// on a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRange {
    key: Bytes,
    /// As in requests: empty for the single key, `\0` for no end.
    end: Bytes,
}

/// The key that stands in for the empty one, and the range end that means "no end".
const ZERO: Bytes = Bytes::from_static(b"\0");

impl KeyRange {
    /// All keys there are.
    #[must_use]
    pub const fn everything() -> Self {
        Self { key: ZERO, end: ZERO }
    }

    /// The range that a request names with `key` and `range_end`: empty for the single key, `\0` for no end.
    #[must_use]
    pub fn new(key: Bytes, end: Bytes) -> Self {
        Self {
            key: if key.is_empty() { ZERO } else { key },
            end,
        }
    }

    /// All keys that begin with this.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        let kept = prefix.iter().rposition(|byte| *byte < u8::MAX);
        let end = kept.map_or(ZERO, |last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        });
        Self::new(Bytes::copy_from_slice(prefix), end)
    }

    /// The first key.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        &self.key
    }

    /// The end as requests have it.
    #[must_use]
    pub const fn end(&self) -> &Bytes {
        &self.end
    }

    /// Whether it is one key.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.end.is_empty()
    }

    fn is_open(&self) -> bool {
        self.end.as_ref() == b"\0"
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_single() && !self.is_open() && self.key >= self.end
    }

    /// Whether a key is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_single() {
            return key == self.key;
        }
        key >= self.key.as_ref() && (self.is_open() || key < self.end.as_ref())
    }

    /// Whether all of another range is in it. Neither may be empty.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if other.is_single() {
            return self.contains(&other.key);
        }
        if self.is_single() || other.key < self.key {
            // A range that isn't written as a single key may still hold just one; that it has a watcher of its
            // own then does no harm.
            return false;
        }
        self.is_open() || (!other.is_open() && other.end <= self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(
            Bytes::from_static(key.as_bytes()),
            Bytes::from_static(end.as_bytes()),
        )
    }

    #[test]
    fn covering_is_containing_every_key() {
        let ranges = [
            range("a", ""),
            range("b", ""),
            range("a", "c"),
            range("a", "b"),
            range("b", "\0"),
            range("", "\0"),
            range("b", "d"),
        ];
        let keys = ["\0", "a", "aa", "b", "bb", "c", "d", "z"];
        for one in &ranges {
            for other in &ranges {
                let contains_all = keys
                    .iter()
                    .all(|key| !other.contains(key.as_bytes()) || one.contains(key.as_bytes()));
                if one.covers(other) {
                    assert!(contains_all, "{one:?} doesn't cover {other:?}");
                } else {
                    assert!(!contains_all, "{one:?} covers {other:?}");
                }
            }
        }
    }

    #[test]
    fn prefixes_end_before_what_follows_them() {
        for (prefix, key, end) in [
            (&b"a"[..], &b"a"[..], &b"b"[..]),
            (b"a\xff", b"a\xff", b"b"),
            (b"\xff\xff", b"\xff\xff", b"\0"),
            (b"", b"\0", b"\0"),
        ] {
            let range = KeyRange::prefix(prefix);
            assert_eq!((range.key().as_ref(), range.end().as_ref()), (key, end));
        }
    }

    #[test]
    fn a_range_may_be_empty() {
        assert!(range("b", "a").is_empty());
        assert!(range("b", "b").is_empty());
        assert!(!range("b", "").is_empty());
        assert!(!range("b", "\0").is_empty());
        assert!(range("", "").contains(b"\0"));
    }
}
