//! `FrameScanner` against a reader that has the whole stream at hand, and `PingPolicy` against the rule
//! told over the whole history.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use etcd_proxy_core::http2::{
    FRAME_HEADER_LEN, FrameKind, FrameScanner, PingPolicy, PingPolicyConfig, go_away_frame,
};
use etcd_proxy_core::time::Instant;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    pieces: Vec<Piece>,
    interval_min_s: u16,
    permit_without_stream: bool,
    story: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Frame { kind: u8, flags: u8, len: u8 },
    GoAway { error_code: u32, debug_len: u8 },
    Cut,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Wait { seconds: u16 },
    Ping { calls_open: u8 },
    Sent,
}

fuzz_target!(|input: Input| {
    scanner(&input.pieces);
    pings(&input);
});

fn scanner(pieces: &[Piece]) {
    let mut scanner = FrameScanner::default();
    let (mut stream, mut chunk, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => chunk.extend_from_slice(bytes),
            Piece::Frame { kind, flags, len } => {
                chunk.extend_from_slice(&[0, 0, *len, *kind, *flags, 0, 0, 0, 1]);
                chunk.resize(chunk.len() + usize::from(*len), 0x6);
            }
            Piece::GoAway {
                error_code,
                debug_len,
            } => {
                let frame = go_away_frame(*error_code, &vec![b'x'; usize::from(*debug_len)]);
                assert_eq!(frame[13..17], error_code.to_be_bytes());
                chunk.extend_from_slice(&frame);
            }
            Piece::Cut => {
                scanner.scan(&chunk, |kind, _| seen.push(kind));
                stream.append(&mut chunk);
                let (expected, at_boundary) = frames(&stream);
                assert_eq!((&seen, scanner.at_boundary()), (&expected, at_boundary));
            }
        }
    }
}

/// The frames whose headers are complete, and whether the stream ends at the end of one.
fn frames(stream: &[u8]) -> (Vec<FrameKind>, bool) {
    let (mut kinds, mut at) = (Vec::new(), 0);
    while let Some(header) = stream.get(at..at + FRAME_HEADER_LEN) {
        kinds.push(match (header[3], header[4] & 1) {
            (0 | 1, _) => FrameKind::Message,
            (6, 0) => FrameKind::Ping,
            (7, _) => FrameKind::GoAway,
            _ => FrameKind::Other,
        });
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        at += FRAME_HEADER_LEN + usize::try_from(len).expect("24 bits fit");
    }
    (kinds, at == stream.len())
}

fn pings(input: &Input) {
    let mut policy = PingPolicy::new(PingPolicyConfig {
        interval_min: Duration::from_secs(input.interval_min_s.into()),
        permit_without_stream: input.permit_without_stream,
    });
    let mut now = 0u64;
    // Since the account was last cleared: the time of each ping, and the pause that was owed before it.
    let mut since_cleared: Vec<(u64, u64)> = Vec::new();
    let mut sent = false;
    for step in &input.story {
        match step {
            Step::Wait { seconds } => now += u64::from(*seconds),
            Step::Sent => {
                policy.sent_message();
                sent = true;
            }
            Step::Ping { calls_open } => {
                let idle = *calls_open == 0 && !input.permit_without_stream;
                let owed = if idle {
                    7200
                } else {
                    u64::from(input.interval_min_s)
                };
                if std::mem::take(&mut sent) {
                    since_cleared.clear();
                }
                since_cleared.push((now, owed));
                let strikes = since_cleared
                    .windows(2)
                    .filter(|pair| pair[1].0 - pair[0].0 < pair[1].1)
                    .count();
                let now = Instant::ZERO + Duration::from_secs(now);
                let result = policy.received_ping(now, usize::from(*calls_open));
                assert_eq!(result.is_err(), strikes > 2);
                if result.is_err() {
                    break;
                }
            }
        }
    }
}
