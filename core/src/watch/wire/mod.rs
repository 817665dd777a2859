//! The few messages of the Watch API.

pub(crate) mod request;
pub(crate) mod response;
pub(super) mod write;
