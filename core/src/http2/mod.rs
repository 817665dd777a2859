//! What must be seen of HTTP/2 itself: where frames begin, whether a client pings too often, and how much a member may
//! send ahead.

mod frames;
mod pings;
mod window;

pub use frames::{FRAME_HEADER_LEN, FrameKind, FrameScanner, PREFACE, go_away_frame};
pub use pings::{PingPolicy, PingPolicyConfig, TooManyPings};
pub use window::{CALL_WINDOW_MAX, CALL_WINDOW_MIN, CallWindow, LONG_FRAME};
