//! The few messages of the Watch API.

pub(super) mod request;
pub(super) mod response;
pub(super) mod write;
