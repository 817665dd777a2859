//! Splits responses that are too large for the clients that can put them together.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use etcd_proxy_proto::etcdserverpb::WatchResponse;
use prost::Message;
use prost::encoding::{encoded_len_varint, key_len};

/// The field number of a response's events.
const EVENTS: u32 = 11;

/// Splits a response so that every fragment is smaller than `bytes_max`, or has one event. All but the last say that
/// more follows.
pub(super) fn split(mut response: WatchResponse, bytes_max: usize) -> VecDeque<WatchResponse> {
    if response.events.len() < 2 || response.encoded_len() < bytes_max {
        return VecDeque::from([response]);
    }
    let events = core::mem::take(&mut response.events);
    response.fragment = true;
    let empty = response.encoded_len();
    let mut fragments = VecDeque::new();
    let (mut part, mut size) = (Vec::new(), empty);
    for event in events {
        let length = event.encoded_len();
        let length = key_len(EVENTS) + encoded_len_varint(length as u64) + length;
        if !part.is_empty() && size + length >= bytes_max {
            fragments.push_back(WatchResponse {
                events: core::mem::take(&mut part),
                ..response.clone()
            });
            size = empty;
        }
        size += length;
        part.push(event);
    }
    response.events = part;
    response.fragment = false;
    fragments.push_back(response);
    fragments
}
