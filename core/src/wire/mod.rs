//! Protobuf, read and written by hand: what passes by is not decoded into messages and encoded again.

pub(crate) mod header;
pub(crate) mod read;
pub(crate) mod write;
