use core::task::Waker;
use core::time::Duration;
use std::sync::atomic::AtomicUsize;

use etcd_proxy_core::http2::{PREFACE, PingPolicyConfig, go_away_frame};
use proptest::prelude::*;

use super::*;

/// A socket that takes at most `room` bytes until it is given more, and counts system calls.
#[derive(Default)]
struct Script {
    incoming: Vec<u8>,
    written: Vec<u8>,
    room: usize,
    writes: usize,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.incoming.len().min(buf.remaining());
        if len == 0 {
            return Poll::Pending;
        }
        buf.put_slice(&self.incoming.drain(..len).collect::<Vec<u8>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.room == 0 {
            return Poll::Pending;
        }
        self.writes += 1;
        let mut taken = 0;
        for slice in slices {
            let len = slice.len().min(self.room);
            self.written.extend_from_slice(&slice[..len]);
            self.room -= len;
            taken += len;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn read(transport: &mut Transport<Script>) -> Poll<Vec<u8>> {
    let mut bytes = [0; 256];
    let mut buf = ReadBuf::new(&mut bytes);
    match Pin::new(transport).poll_read(&mut cx(), &mut buf) {
        Poll::Ready(result) => {
            result.unwrap();
            Poll::Ready(buf.filled().to_vec())
        }
        Poll::Pending => Poll::Pending,
    }
}

proptest! {
    #[test]
    fn bytes_arrive_once_and_in_order(
        parts in prop::collection::vec((prop_oneof![0usize..50, 3000usize..9000], any::<bool>()), 1..20),
        rooms in prop::collection::vec(1usize..5000, 1..20),
    ) {
        let mut transport = Transport::new(Script::default(), Bytes::new());
        let mut rooms = rooms.iter().cycle();
        let mut sent = Vec::new();
        let mut next = 0u8;
        for (len, flush) in parts {
            let part: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
            let mut left = &part[..];
            while !left.is_empty() {
                match Pin::new(&mut transport).poll_write(&mut cx(), left) {
                    Poll::Ready(accepted) => left = &left[accepted.unwrap()..],
                    Poll::Pending => transport.stream.room += rooms.next().unwrap(),
                }
            }
            sent.extend_from_slice(&part);
            while flush && Pin::new(&mut transport).poll_flush(&mut cx()).is_pending() {
                transport.stream.room += rooms.next().unwrap();
            }
            prop_assert!(transport.held.len() <= HELD_BYTES_MAX);
            prop_assert!(!flush || transport.stream.written == sent);
        }
        transport.stream.room = usize::MAX;
        prop_assert!(Pin::new(&mut transport).poll_shutdown(&mut cx()).is_ready());
        prop_assert_eq!(&transport.stream.written, &sent);
    }
}

#[test]
fn small_writes_travel_with_the_large_one_behind_them() {
    let mut transport = Transport::new(
        Script {
            room: usize::MAX,
            ..Script::default()
        },
        Bytes::new(),
    );
    for part in [&[1u8; 100][..], &[2; 9], &[3; 5000]] {
        assert!(Pin::new(&mut transport).poll_write(&mut cx(), part).is_ready());
    }
    assert!(Pin::new(&mut transport).poll_flush(&mut cx()).is_ready());
    assert_eq!(
        (transport.stream.writes, transport.stream.written.len()),
        (1, 5109)
    );
}

#[test]
fn replayed_bytes_come_first_and_count_as_life() {
    let stream = Script {
        incoming: b" world".to_vec(),
        ..Script::default()
    };
    let mut transport = Transport::new(stream, Bytes::from_static(b"hello"));
    let reads = transport.reads();
    assert_eq!(reads.get(), 0);
    assert_eq!(read(&mut transport), Poll::Ready(b"hello".to_vec()));
    assert_eq!(read(&mut transport), Poll::Ready(b" world".to_vec()));
    assert_eq!(reads.get(), 2);
    assert_eq!(read(&mut transport), Poll::Pending);
    assert_eq!(reads.get(), 2);
}

const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

fn guarded(incoming: Vec<u8>) -> Transport<Script> {
    let config = PingPolicyConfig {
        interval_min: Duration::from_secs(3600),
        permit_without_stream: false,
    };
    let guard = PingGuard::new(config, Arc::new(AtomicUsize::new(1)));
    Transport::new(
        Script {
            incoming,
            ..Script::default()
        },
        Bytes::new(),
    )
    .guarded(guard)
}

fn pings(count: usize) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(PING.repeat(count));
    bytes
}

#[test]
fn a_few_pings_are_forgiven() {
    let mut transport = guarded(pings(3));
    assert!(matches!(read(&mut transport), Poll::Ready(bytes) if bytes.len() == 24 + 3 * 17));
    assert!(!transport.condemned());
}

#[test]
fn too_many_pings_end_in_go_away_at_a_frame_boundary() {
    let mut transport = guarded(pings(4));
    // Half a SETTINGS frame of 6 bytes is on its way.
    let frame = [0, 0, 6, 4, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1];
    assert!(
        Pin::new(&mut transport)
            .poll_write(&mut cx(), &frame[..11])
            .is_ready()
    );
    assert!(read(&mut transport).is_ready());
    assert!(transport.condemned());
    transport.stream.room = usize::MAX;
    assert_eq!(
        read(&mut transport),
        Poll::Pending,
        "not in the middle of a frame"
    );
    assert!(
        Pin::new(&mut transport)
            .poll_write(&mut cx(), &frame[11..])
            .is_ready()
    );
    assert_eq!(read(&mut transport), Poll::Ready(Vec::new()), "the end");
    let mut expected = frame.to_vec();
    expected.extend_from_slice(&go_away_frame(0xb, b"too_many_pings"));
    assert_eq!(transport.stream.written, expected);
    let after = Pin::new(&mut transport).poll_write(&mut cx(), &frame);
    assert!(matches!(after, Poll::Ready(Err(_))), "nothing follows a GOAWAY");
    assert_eq!(transport.stream.written, expected);
}

#[test]
fn a_go_away_that_finds_no_room_is_finished_later() {
    let mut transport = guarded(pings(4));
    assert!(read(&mut transport).is_ready());
    transport.stream.room = 5;
    assert_eq!(read(&mut transport), Poll::Pending);
    transport.stream.room = usize::MAX;
    assert_eq!(read(&mut transport), Poll::Ready(Vec::new()));
    assert_eq!(transport.stream.written, go_away_frame(0xb, b"too_many_pings"));
}

#[test]
fn answered_calls_clear_the_account() {
    let mut transport = guarded(pings(1));
    transport.stream.room = usize::MAX;
    for _ in 0..20 {
        assert!(read(&mut transport).is_ready());
        let headers = [0, 0, 0, 1, 4, 0, 0, 0, 1];
        assert!(
            Pin::new(&mut transport)
                .poll_write(&mut cx(), &headers)
                .is_ready()
        );
        transport.stream.incoming = PING.to_vec();
    }
    assert!(!transport.condemned());
}

#[test]
fn a_go_away_and_long_frames_of_the_peer_are_seen() {
    let stream = Script {
        incoming: PING.to_vec(),
        ..Script::default()
    };
    let (mut transport, seen) = Transport::new(stream, Bytes::new()).watched();
    assert!(read(&mut transport).is_ready());
    assert!(!seen.go_away());
    transport.stream.incoming = go_away_frame(0, b"");
    assert!(read(&mut transport).is_ready());
    assert!(seen.go_away());
    assert!(!seen.take_long_frame());
    // The header of a DATA frame of 16 KiB.
    transport.stream.incoming = vec![0, 0x40, 0, 0, 0, 0, 0, 0, 1];
    assert!(read(&mut transport).is_ready());
    assert!(seen.take_long_frame());
    assert!(!seen.take_long_frame(), "it is told once");
    assert_eq!(
        seen.bytes() as usize,
        PING.len() + go_away_frame(0, b"").len() + 9
    );
}
