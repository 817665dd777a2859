//! An answer that is there as a whole, on its way to the client.

use core::future::poll_fn;
use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;

use super::{Body, Outcome};

/// An answer within this many bytes is handed to the client's connection at once, whatever its window; a longer one
/// as fast as the client reads.
const BURST_BYTES_MAX: usize = 16 * 1024;

/// Sends a body and its trailers as fast as the client reads, and ends early when the client has gone.
pub(crate) async fn send_all(mut body: Body, mut chunks: VecDeque<Bytes>, trailers: Option<HeaderMap>) {
    let stream = &mut body.stream;
    let all_at_once = chunks.iter().map(Bytes::len).sum::<usize>() <= BURST_BYTES_MAX;
    while let Some(mut chunk) = chunks.pop_front() {
        loop {
            let mut part = chunk.len();
            if !all_at_once && part > 0 {
                stream.reserve_capacity(part);
                let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                part = part.min(room);
            }
            let part = chunk.split_to(part);
            let last = chunk.is_empty() && chunks.is_empty() && trailers.is_none();
            let bytes = part.len() as u64;
            if stream.send_data(part, last).is_err() {
                return;
            }
            body.record.sent(bytes);
            if chunk.is_empty() {
                break;
            }
        }
    }
    match trailers {
        Some(trailers) => body.end(trailers),
        None => body.record.ends(Outcome::NoStatus),
    }
}
