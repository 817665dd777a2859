//! Which ranges a set of permissions covers.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::cmp::Ordering;

use etcd_proxy_proto::authpb::{Permission, permission::Type};

/// Whether permissions cover a key (`range_end` empty) or a whole range. Permissions that overlap or touch add up.
pub(super) fn allows<'a, P>(permissions: impl Fn() -> P, key: &[u8], range_end: &[u8], access: Type) -> bool
where
    P: Iterator<Item = &'a Permission>,
{
    let granted = permissions()
        .filter(|permission| grants(permission, access))
        .map(Interval::granted);
    if range_end.is_empty() {
        let point = Interval::point(key);
        return granted.into_iter().any(|interval| interval.meets(&point));
    }
    let wanted = Interval {
        begin: key,
        end: Cow::Borrowed(open_end(range_end)),
    };
    let mut met: Vec<_> = granted.filter(|interval| wanted.meets(interval)).collect();
    met.sort_by(|a, b| compare(a.begin, b.begin));
    let mut met = met.into_iter();
    let Some(Interval { begin, mut end }) = met.next() else {
        return false;
    };
    for next in met {
        if compare(&end, next.begin).is_lt() {
            return false;
        }
        if compare(&next.end, &end).is_gt() {
            end = next.end;
        }
    }
    compare(begin, wanted.begin).is_le() && compare(&end, &wanted.end).is_ge()
}

/// Whether a permission can be given: it has a key, and an end that is none, after the key, or open.
pub(super) fn is_valid(permission: &Permission) -> bool {
    let Permission { key, range_end, .. } = permission;
    !key.is_empty() && (range_end.is_empty() || key < range_end || range_end.as_ref() == b"\0")
}

/// A permission of an unknown type is kept and grants nothing.
fn grants(permission: &Permission, access: Type) -> bool {
    permission.perm_type == i32::from(access) || permission.perm_type == i32::from(Type::Readwrite)
}

/// The end of a range as [`compare`] wants it: `\0` stands for no end.
fn open_end(range_end: &[u8]) -> &[u8] {
    if range_end == b"\0" { b"" } else { range_end }
}

/// Compares bounds. There are no empty keys, so etcd's interval trees take the empty one for the greatest.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    (a.is_empty(), a).cmp(&(b.is_empty(), b))
}

/// From `begin` to before `end`.
struct Interval<'a> {
    begin: &'a [u8],
    end: Cow<'a, [u8]>,
}

impl<'a> Interval<'a> {
    /// One key alone.
    fn point(key: &'a [u8]) -> Self {
        let mut end = Vec::with_capacity(key.len() + 1);
        end.extend_from_slice(key);
        end.push(0);
        Self {
            begin: key,
            end: Cow::Owned(end),
        }
    }

    fn granted(permission: &'a Permission) -> Self {
        if permission.range_end.is_empty() {
            return Self::point(&permission.key);
        }
        Self {
            begin: &permission.key,
            end: Cow::Borrowed(open_end(&permission.range_end)),
        }
    }

    /// Whether two intervals have a key in common.
    fn meets(&self, other: &Self) -> bool {
        let left = compare(self.begin, other.begin).is_lt() && compare(&self.end, other.begin).is_le();
        let right = compare(self.begin, &other.end).is_ge();
        !left && !right
    }
}
