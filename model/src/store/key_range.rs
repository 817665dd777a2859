//! The keys that a request names.

use core::ops::{Bound, RangeBounds};

/// `key` and `range_end` of a request, read as etcd reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    key: &'a [u8],
    end: End<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'a> {
    /// The key alone.
    Point,
    /// Up to this key, exclusive; nothing if it isn't above the first.
    Before(&'a [u8]),
    /// No end.
    Open,
}

impl<'a> KeyRange<'a> {
    /// An empty end: the key alone; a single zero byte: all keys from `key` on; else the keys from `key` up to
    /// `range_end`, exclusive, which may be none.
    #[must_use]
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => End::Point,
            [0] => End::Open,
            end => End::Before(end),
        };
        Self { key, end }
    }

    /// The key, if the range is that key alone.
    #[must_use]
    pub fn point(&self) -> Option<&'a [u8]> {
        (self.end == End::Point).then_some(self.key)
    }

    /// Whether there can be no such key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.end, End::Before(end) if end <= self.key)
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            End::Point => key == self.key,
            End::Before(end) => key >= self.key && key < end,
            End::Open => key >= self.key,
        }
    }

    /// The bounds for a map; None if there can be no such key, which a map would panic at.
    pub(super) fn bounds(&self) -> Option<impl RangeBounds<[u8]> + use<'a>> {
        let end = match self.end {
            End::Point => Bound::Included(self.key),
            End::Before(end) => Bound::Excluded(end),
            End::Open => Bound::Unbounded,
        };
        (!self.is_empty()).then_some((Bound::Included(self.key), end))
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use super::*;

    /// What a map answers for the bounds is what [`KeyRange::contains`] says, and nothing makes it panic.
    #[test]
    fn bounds_and_membership_agree() {
        let keys: [&[u8]; 7] = [b"\0", b"\0\0", b"a", b"a\0", b"b", b"c", b"\xff"];
        let all: BTreeSet<&[u8]> = keys.into_iter().collect();
        let ends = keys.into_iter().chain([&b""[..]]);
        for (key, end) in keys
            .into_iter()
            .flat_map(|key| ends.clone().map(move |end| (key, end)))
        {
            let range = KeyRange::new(key, end);
            let bounds = range.bounds();
            assert_eq!(bounds.is_none(), range.is_empty(), "{range:?}");
            let found: Vec<_> = bounds
                .map(|bounds| all.range::<[u8], _>(bounds).collect())
                .unwrap_or_default();
            let expected: Vec<_> = all.iter().filter(|key| range.contains(key)).collect();
            assert_eq!(found, expected, "{range:?}");
            assert_eq!(range.point(), end.is_empty().then_some(key));
        }
    }
}
