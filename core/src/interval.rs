//! Which of many ranges have a key, keys of another range, or all of them.
//!
//! A treap: a search tree by the first keys of ranges, and a heap by random priorities, which keep it flat. Each node knows
//! the last key of all ranges beneath it, so a search leaves out what ends too early: it takes O(log n) steps and as
//! many again for each range that it finds. One tree for single keys and ranges alike, because what changes is a single
//! key or a range as well. The nodes are part of what has the ranges: nothing can be left behind in the index.

use alloc::vec::Vec;

use fastrand::Rng;

use crate::range::KeyRange;
use crate::slab::{NONE, Slab};

/// The last key of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last<'a> {
    /// This one.
    At(&'a [u8]),
    /// What comes before this one.
    Before(&'a [u8]),
    /// There is none.
    Never,
}

impl Last<'_> {
    /// Whether a key isn't beyond.
    fn admits(self, key: &[u8]) -> bool {
        match self {
            Self::At(last) => key <= last,
            Self::Before(end) => key < end,
            Self::Never => true,
        }
    }

    fn is_after(self, other: Last<'_>) -> bool {
        match (self, other) {
            (_, Last::Never) => false,
            (Self::Never, _) => true,
            (Self::At(one), Last::At(two)) | (Self::Before(one), Last::Before(two)) => one > two,
            (Self::At(one), Last::Before(two)) => one >= two,
            (Self::Before(one), Last::At(two)) => one > two,
        }
    }
}

/// A range as the tree compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span<'a> {
    pub(crate) first: &'a [u8],
    pub(crate) last: Last<'a>,
}

impl<'a> Span<'a> {
    /// The keys that a request names with `key` and `range_end`; none if there can't be any.
    pub(crate) fn of(key: &'a [u8], end: &'a [u8]) -> Option<Self> {
        let first = if key.is_empty() { b"\0" } else { key };
        let last = match end {
            b"" => Last::At(first),
            b"\0" => Last::Never,
            _ if first >= end => return None,
            _ => Last::Before(end),
        };
        Some(Self { first, last })
    }

    /// The keys of a range; none if there can't be any.
    pub(crate) fn of_range(range: &'a KeyRange) -> Option<Self> {
        Self::of(range.key(), range.end())
    }

    /// One key.
    pub(crate) const fn of_key(key: &'a [u8]) -> Self {
        Self {
            first: key,
            last: Last::At(key),
        }
    }

    /// Whether all its keys are in another one.
    pub(crate) fn is_within(self, other: Span<'_>) -> bool {
        other.first <= self.first && !self.last.is_after(other.last)
    }

    fn overlaps(self, other: Span<'_>) -> bool {
        self.last.admits(other.first) && other.last.admits(self.first)
    }
}

/// A node's place in the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    left: u32,
    right: u32,
    priority: u32,
    /// Whose range beneath here, or here, ends last.
    longest: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            left: NONE,
            right: NONE,
            priority: 0,
            longest: NONE,
        }
    }
}

/// What has a range and a place in the tree.
pub(crate) trait Node {
    /// The range. It is never empty, and doesn't change.
    fn span(&self) -> Span<'_>;
    fn link(&self) -> &Link;
    fn link_mut(&mut self) -> &mut Link;
}

/// The tree over values in a slab. It must be the same slab each time.
#[derive(Debug)]
pub(crate) struct Intervals {
    root: u32,
    rng: Rng,
}

impl Intervals {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            root: NONE,
            rng: Rng::with_seed(seed),
        }
    }

    /// Adds a value that isn't in the tree.
    pub(crate) fn insert<T: Node>(&mut self, nodes: &mut Slab<T>, id: u32) {
        *nodes[id].link_mut() = Link {
            priority: self.rng.u32(..),
            longest: id,
            ..Link::default()
        };
        let (left, right) = split(nodes, self.root, id);
        let left = merge(nodes, left, id);
        self.root = merge(nodes, left, right);
    }

    /// Removes a value that is in the tree.
    pub(crate) fn remove<T: Node>(&mut self, nodes: &mut Slab<T>, id: u32) {
        self.root = remove(nodes, self.root, id);
    }

    /// Forgets all values.
    pub(crate) const fn clear(&mut self) {
        self.root = NONE;
    }

    /// Whether there is none.
    #[cfg(test)]
    pub(crate) const fn is_empty(&self) -> bool {
        self.root == NONE
    }

    /// Adds to `found` all values whose ranges have keys of this one.
    pub(crate) fn find<T: Node>(&self, nodes: &Slab<T>, span: Span<'_>, found: &mut Vec<u32>) {
        find(nodes, self.root, span, found);
    }

    /// A value whose range has all keys of this one, if there is one. Of several it is one that ends last.
    pub(crate) fn covering<T: Node>(&self, nodes: &Slab<T>, span: Span<'_>) -> Option<u32> {
        let mut at = self.root;
        let mut longest = None;
        let mut consider = |candidate: u32| {
            let last = |id: u32| nodes[id].span().last;
            if longest.is_none_or(|longest| last(candidate).is_after(last(longest))) {
                longest = Some(candidate);
            }
            longest
        };
        let mut found = None;
        while at != NONE {
            let Link { left, right, .. } = *nodes[at].link();
            at = if nodes[at].span().first <= span.first {
                // So does all on the left.
                if left != NONE {
                    consider(nodes[left].link().longest);
                }
                found = consider(at);
                right
            } else {
                left
            };
        }
        found.filter(|id| span.is_within(nodes[*id].span()))
    }
}

fn is_before<T: Node>(nodes: &Slab<T>, one: u32, two: u32) -> bool {
    (nodes[one].span().first, one) < (nodes[two].span().first, two)
}

/// Whether a range in this part of the tree ends late enough to have keys of the span.
fn reaches<T: Node>(nodes: &Slab<T>, at: u32, span: Span<'_>) -> bool {
    nodes[nodes[at].link().longest].span().last.admits(span.first)
}

fn refresh<T: Node>(nodes: &mut Slab<T>, at: u32) {
    let Link { left, right, .. } = *nodes[at].link();
    let mut longest = at;
    for child in [left, right] {
        if child != NONE {
            let other = nodes[child].link().longest;
            if nodes[other].span().last.is_after(nodes[longest].span().last) {
                longest = other;
            }
        }
    }
    nodes[at].link_mut().longest = longest;
}

/// Splits a tree into what comes before a value and what comes after it. As deep as the tree is, which is flat.
fn split<T: Node>(nodes: &mut Slab<T>, at: u32, by: u32) -> (u32, u32) {
    if at == NONE {
        return (NONE, NONE);
    }
    if is_before(nodes, at, by) {
        let (left, right) = split(nodes, nodes[at].link().right, by);
        nodes[at].link_mut().right = left;
        refresh(nodes, at);
        (at, right)
    } else {
        let (left, right) = split(nodes, nodes[at].link().left, by);
        nodes[at].link_mut().left = right;
        refresh(nodes, at);
        (left, at)
    }
}

/// Joins two trees of which one comes before the other.
fn merge<T: Node>(nodes: &mut Slab<T>, left: u32, right: u32) -> u32 {
    if left == NONE || right == NONE {
        return left.min(right);
    }
    if nodes[left].link().priority > nodes[right].link().priority {
        let joined = merge(nodes, nodes[left].link().right, right);
        nodes[left].link_mut().right = joined;
        refresh(nodes, left);
        left
    } else {
        let joined = merge(nodes, left, nodes[right].link().left);
        nodes[right].link_mut().left = joined;
        refresh(nodes, right);
        right
    }
}

fn remove<T: Node>(nodes: &mut Slab<T>, at: u32, id: u32) -> u32 {
    assert_ne!(at, NONE, "what is removed is in the tree");
    let Link { left, right, .. } = *nodes[at].link();
    if at == id {
        return merge(nodes, left, right);
    }
    if is_before(nodes, id, at) {
        let left = remove(nodes, left, id);
        nodes[at].link_mut().left = left;
    } else {
        let right = remove(nodes, right, id);
        nodes[at].link_mut().right = right;
    }
    refresh(nodes, at);
    at
}

fn find<T: Node>(nodes: &Slab<T>, at: u32, span: Span<'_>, found: &mut Vec<u32>) {
    if at == NONE || !reaches(nodes, at, span) {
        return;
    }
    let Link { left, right, .. } = *nodes[at].link();
    find(nodes, left, span, found);
    let own = nodes[at].span();
    if !span.last.admits(own.first) {
        return;
    }
    if own.overlaps(span) {
        found.push(at);
    }
    find(nodes, right, span, found);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    struct Value(KeyRange, Link);

    impl Node for Value {
        fn span(&self) -> Span<'_> {
            Span::of_range(&self.0).expect("only those are inserted")
        }

        fn link(&self) -> &Link {
            &self.1
        }

        fn link_mut(&mut self) -> &mut Link {
            &mut self.1
        }
    }

    fn random_key(rng: &mut Rng) -> Bytes {
        let length = rng.usize(..3);
        (0..length)
            .map(|_| rng.choice([0, b'a', b'b', 0xff]).expect("not empty"))
            .collect()
    }

    fn random_range(rng: &mut Rng) -> KeyRange {
        let end = match rng.u8(..4) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(b"\0"),
            _ => random_key(rng),
        };
        KeyRange::new(random_key(rng), end)
    }

    /// All keys that matter for ranges of these keys: each of them, and one between each and the next.
    fn all_keys() -> Vec<Bytes> {
        let letters = [&b"\0"[..], b"a", b"b", b"\xff"];
        let mut keys: Vec<Vec<u8>> = letters.iter().map(|letter| letter.to_vec()).collect();
        for one in letters {
            keys.extend(letters.map(|two| [one, two].concat()));
            keys.extend(letters.map(|two| [one, two, b"\0"].concat()));
        }
        keys.into_iter().map(Bytes::from).collect()
    }

    #[test]
    fn finds_what_a_list_finds() {
        let keys = all_keys();
        for seed in 0..200 {
            let mut rng = Rng::with_seed(seed);
            let (mut slab, mut tree) = (Slab::default(), Intervals::new(seed));
            for _ in 0..100 {
                if rng.u8(..3) == 0 && slab.len() > 0 {
                    let id = rng.choice(slab.ids()).expect("not empty");
                    tree.remove(&mut slab, id);
                    slab.remove(id);
                } else {
                    let range = random_range(&mut rng);
                    if Span::of_range(&range).is_some() {
                        let id = slab.insert(Value(range, Link::default()));
                        tree.insert(&mut slab, id);
                    }
                }
                let asked = random_range(&mut rng);
                let shares =
                    |range: &KeyRange| keys.iter().any(|key| range.contains(key) && asked.contains(key));
                let ids = slab.ids();
                let expected: Vec<u32> = ids.into_iter().filter(|id| shares(&slab[*id].0)).collect();
                assert_eq!(Span::of_range(&asked).is_none(), asked.is_empty());
                if let Some(span) = Span::of_range(&asked) {
                    let mut found = Vec::new();
                    tree.find(&slab, span, &mut found);
                    found.sort_unstable();
                    assert_eq!(found, expected, "{asked:?}");
                    let covers = |id: u32| span.is_within(slab[id].span());
                    let cover = tree.covering(&slab, span);
                    assert_eq!(
                        cover.is_some(),
                        expected.iter().any(|id| covers(*id)),
                        "{asked:?}"
                    );
                    assert!(cover.is_none_or(covers), "{asked:?}");
                }
            }
            for id in slab.ids() {
                tree.remove(&mut slab, id);
                slab.remove(id);
            }
            assert!(tree.is_empty());
        }
    }

    fn depth(nodes: &Slab<Value>, at: u32) -> usize {
        if at == NONE {
            return 0;
        }
        let Link { left, right, .. } = *nodes[at].link();
        1 + depth(nodes, left).max(depth(nodes, right))
    }

    /// In whatever order they come, and also if all of them begin alike.
    #[test]
    fn is_flat() {
        let (mut slab, mut tree) = (Slab::default(), Intervals::new(1));
        for number in 0u16..10_000 {
            let end = Bytes::copy_from_slice(&number.to_be_bytes());
            let (key, end) = if number % 2 == 0 {
                (end, Bytes::new())
            } else {
                (Bytes::from_static(b"\0"), [b"x", &end[..]].concat().into())
            };
            let id = slab.insert(Value(KeyRange::new(key, end), Link::default()));
            tree.insert(&mut slab, id);
        }
        assert!(depth(&slab, tree.root) < 60, "{}", depth(&slab, tree.root));
    }
}
