//! The lock of an [outbox](super::outbox). The tests under loom have their own.

pub(super) use parking_lot::Mutex;
