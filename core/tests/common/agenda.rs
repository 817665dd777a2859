//! What will happen in a simulated world, and when.

use std::cmp::Ordering;

use etcd_proxy_core::time::Instant;

/// One thing that will happen. In order of time, and of their numbers at the same time, whatever they are.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) at: Instant,
    pub(crate) number: u64,
    pub(crate) what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
