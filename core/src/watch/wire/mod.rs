//! The few messages of the Watch API, read and written by hand: what passes the hub is not decoded into messages and
//! encoded again.

pub(super) mod read;
pub(super) mod request;
pub(super) mod response;
pub(super) mod write;
