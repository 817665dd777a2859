//! An answer that is there as a whole, on its way to the client.

use core::future::poll_fn;
use std::collections::VecDeque;

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

/// An answer within this many bytes is handed to the client's connection at once, whatever its window; a longer one
/// as fast as the client reads.
const BURST_BYTES_MAX: usize = 16 * 1024;

/// Sends a body and its trailers as fast as the client reads, and ends early when the client has gone.
pub(crate) async fn send_all(
    stream: &mut SendStream<Bytes>,
    mut chunks: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
) {
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
            if stream.send_data(part, last).is_err() {
                return;
            }
            if chunk.is_empty() {
                break;
            }
        }
    }
    if let Some(trailers) = trailers {
        let _ = stream.send_trailers(trailers);
    }
}
