//! What must be seen of HTTP/2 itself: where frames begin, and whether a client pings too often.

mod frames;
mod pings;

pub use frames::{FRAME_HEADER_LEN, FrameKind, FrameScanner, PREFACE, go_away_frame};
pub use pings::{PingPolicy, PingPolicyConfig, TooManyPings};
