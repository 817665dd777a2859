//! `MessageLimit` against a reader that has the whole stream at hand.
#![no_main]

use arbitrary::Arbitrary;
use etcd_proxy_core::grpc::{Code, MESSAGE_PREFIX_LEN, MessageLimit};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    bytes_max: u32,
    chunks: Vec<Piece>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    /// A whole message, so that the stream gets far.
    Message(u8),
    Cut,
}

fuzz_target!(|input: Input| {
    let chunks = chunks(&input.chunks);
    let bytes_max = u64::from(input.bytes_max);
    let mut limit = MessageLimit::new(bytes_max);
    let mut read = 0;
    let mut refused = None;
    for chunk in &chunks {
        read += chunk.len();
        if let Err(error) = limit.check(chunk) {
            assert_eq!(error.bytes_max, bytes_max);
            assert!(error.status().is(Code::ResourceExhausted));
            refused = Some((error.bytes, read));
            break;
        }
    }
    let expected = first_too_large(&chunks.concat(), bytes_max);
    match (refused, expected) {
        (None, None) => {}
        (Some((bytes, read)), Some((expected, prefix_end))) => {
            assert_eq!(bytes, expected);
            // Not before its prefix was complete, and with the chunk that completed it.
            let mut ends = chunks.iter().scan(0, |end, chunk| {
                *end += chunk.len();
                Some(*end)
            });
            assert_eq!(Some(read), ends.find(|end| *end >= prefix_end));
        }
        other => panic!("{other:?}"),
    }
});

fn chunks(pieces: &[Piece]) -> Vec<Vec<u8>> {
    let mut chunks = vec![Vec::new()];
    for piece in pieces {
        let last = chunks.last_mut().expect("there is one from the start");
        match piece {
            Piece::Bytes(bytes) => last.extend_from_slice(bytes),
            Piece::Message(len) => {
                last.extend_from_slice(&[0, 0, 0, 0, *len]);
                last.resize(last.len() + usize::from(*len), 0xff);
            }
            Piece::Cut => chunks.push(Vec::new()),
        }
    }
    chunks
}

/// The length of the first message above the limit, and where its prefix ends.
fn first_too_large(stream: &[u8], bytes_max: u64) -> Option<(u64, usize)> {
    let mut at = 0;
    while let Some(prefix) = stream.get(at..at + MESSAGE_PREFIX_LEN) {
        let bytes = u64::from(u32::from_be_bytes(prefix[1..].try_into().expect("four bytes")));
        at += MESSAGE_PREFIX_LEN;
        if bytes > bytes_max {
            return Some((bytes, at));
        }
        at += usize::try_from(bytes).expect("32 bits fit");
    }
    None
}
