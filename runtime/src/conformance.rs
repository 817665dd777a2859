//! What every [`Runtime`] must do, as checks that an adapter's tests run.

use core::future::poll_fn;
use core::pin::Pin;
use core::time::Duration;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use crate::rt::{Elapsed, Runtime, Signal, Signals as _, timeout_at};
use crate::settings::Endpoint;

/// A hang is a failure.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs all checks.
///
/// # Panics
/// If one fails.
pub fn check<R: Runtime>()
where
    R::Stream: AsFd,
{
    spawned_tasks_run_and_end_with_their_executor::<R>();
    executors_of_two_threads_wake_each_other::<R>();
    sleeping_is_never_early_and_can_be_given_up::<R>();
    an_accepted_socket_is_adopted_by_another_thread::<R>();
    writing_ends_before_reading_does::<R>();
    a_full_socket_waits_for_its_reader::<R>();
    connects_by_name_and_says_when_it_cannot::<R>();
    connecting_can_be_given_up::<R>();
    connections_to_members_have_their_options::<R>();
    connects_to_a_unix_socket::<R>();
    signals_are_told_and_none_is_lost::<R>();
}

/// Runs `future` on a new executor of this thread.
fn run<R: Runtime, F: Future>(future: F) -> F::Output {
    let bounded = async { timeout_at::<R, _>(Instant::now() + LIMIT, future).await };
    match R::block_on(bounded).expect("an executor") {
        Ok(output) => output,
        Err(Elapsed) => panic!("not done within {LIMIT:?}"),
    }
}

fn spawned_tasks_run_and_end_with_their_executor<R: Runtime>() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let thread = thread::current().id();
    run::<R, _>(async {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for number in 0..100 {
            let sender = sender.clone();
            R::spawn(async move {
                assert_eq!(thread::current().id(), thread);
                let _ = sender.send(number);
            });
            let held = Dropped(dropped.clone());
            R::spawn(async move {
                core::future::pending::<()>().await;
                drop(held);
            });
        }
        drop(sender);
        let mut sum = 0;
        while let Some(number) = receiver.recv().await {
            sum += number;
        }
        assert_eq!(sum, 4950);
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
    });
    assert_eq!(
        dropped.load(Ordering::SeqCst),
        100,
        "tasks outlive their executor"
    );
}

fn executors_of_two_threads_wake_each_other<R: Runtime>() {
    let (to_there, mut from_here) = mpsc::unbounded_channel::<u32>();
    let (to_here, mut from_there) = mpsc::unbounded_channel::<u32>();
    let there = thread::spawn(move || {
        run::<R, _>(async {
            while let Some(number) = from_here.recv().await {
                to_here.send(number + 1).expect("the other side waits");
            }
        });
    });
    run::<R, _>(async {
        for number in 0..1000 {
            to_there.send(number).expect("the other side listens");
            assert_eq!(from_there.recv().await, Some(number + 1));
        }
        drop(to_there);
    });
    there.join().expect("the other thread");
}

fn sleeping_is_never_early_and_can_be_given_up<R: Runtime>() {
    run::<R, _>(async {
        for millis in [0, 1, 5, 20] {
            let deadline = Instant::now() + Duration::from_millis(millis);
            R::sleep_until(deadline).await;
            assert!(Instant::now() >= deadline, "{millis} ms");
        }
        let far = Instant::now() + Duration::from_secs(3600);
        let given_up = timeout_at::<R, _>(Instant::now(), R::sleep_until(far)).await;
        assert_eq!(given_up, Err(Elapsed));
        R::sleep_until(
            Instant::now()
                .checked_sub(Duration::from_millis(1))
                .unwrap_or_else(Instant::now),
        )
        .await;
    });
}

/// A connected pair: the adapter's end, and a plain one.
async fn pair<R: Runtime>() -> (R::Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("bound address");
    let stream = R::connect(&tcp("127.0.0.1", address.port()))
        .await
        .expect("connect");
    let (peer, _) = listener.accept().expect("accept");
    (stream, peer)
}

fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp {
        host: host.to_owned(),
        port,
    }
}

fn an_accepted_socket_is_adopted_by_another_thread<R: Runtime>() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("bound address");
    let client = thread::spawn(move || {
        let mut client = TcpStream::connect(address).expect("connect");
        client.write_all(b"ping").expect("write");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("read");
        (client.local_addr().expect("own address"), answer)
    });
    listener
        .set_nonblocking(true)
        .expect("a listener that doesn't block");
    let (socket, peer) = run::<R, _>(async {
        let listener = R::listener(listener).expect("register");
        R::accept(&listener).await.expect("accept")
    });
    let worker = thread::spawn(move || {
        run::<R, _>(async {
            let mut stream = R::adopt(socket).expect("adopt");
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.expect("read");
            assert_eq!(&request, b"ping");
            stream.write_all(b"pong").await.expect("write");
            stream.flush().await.expect("flush");
        });
    });
    worker.join().expect("the worker");
    let (from, answer) = client.join().expect("the client");
    assert_eq!((from, answer.as_str()), (peer, "pong"));
}

fn writing_ends_before_reading_does<R: Runtime>() {
    run::<R, _>(async {
        let (mut stream, mut peer) = pair::<R>().await;
        let slices = [IoSlice::new(b"one "), IoSlice::new(b"two")];
        let written = poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &slices)).await;
        assert_eq!(written.expect("write"), 7, "slices must go out together");
        stream.shutdown().await.expect("shut down");
        let (said, heard) = oneshot::channel();
        thread::spawn(move || {
            let mut all = String::new();
            // Ends only if the end of the stream was sent.
            peer.read_to_string(&mut all).expect("read");
            peer.write_all(b"late").expect("write");
            let _ = said.send(all);
        });
        assert_eq!(heard.await.expect("the peer"), "one two");
        let mut late = String::new();
        stream.read_to_string(&mut late).await.expect("read");
        assert_eq!(late, "late");
    });
}

fn a_full_socket_waits_for_its_reader<R: Runtime>() {
    const BYTES: usize = 32 * 1024 * 1024;
    run::<R, _>(async {
        let (mut stream, mut peer) = pair::<R>().await;
        let chunk = vec![7; 64 * 1024];
        let mut written = 0;
        loop {
            let wrote = poll_fn(|cx| match Pin::new(&mut stream).poll_write(cx, &chunk) {
                core::task::Poll::Pending => core::task::Poll::Ready(None),
                core::task::Poll::Ready(result) => core::task::Poll::Ready(Some(result.expect("write"))),
            });
            let Some(bytes) = wrote.await else { break };
            written += bytes;
            assert!(written < BYTES, "nobody reads, and all was taken");
        }
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).expect("read");
            all.len()
        });
        while written < BYTES {
            written += stream.write(&chunk).await.expect("write");
        }
        drop(stream);
        assert_eq!(reader.join().expect("the reader"), written);
    });
}

fn connects_by_name_and_says_when_it_cannot<R: Runtime>() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("bound address").port();
    run::<R, _>(async {
        // The name may have an IPv6 address first, on which nobody listens.
        R::connect(&tcp("localhost", port)).await.expect("connect");
        drop(listener);
        let refused = R::connect(&tcp("127.0.0.1", port))
            .await
            .err()
            .expect("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(R::connect(&tcp("no-such-host.invalid", port)).await.is_err());
    });
}

/// A listener that takes no more connections leaves whoever connects without an answer.
fn connecting_can_be_given_up<R: Runtime>() {
    const PATIENCE: Duration = Duration::from_millis(100);
    /// The kernel of whoever still connects would try again within this time.
    const TRIED_AGAIN: Duration = Duration::from_millis(1500);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any_port.into()).expect("bind");
    listener.listen(0).expect("listen");
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().expect("bound address");
    let mut waiting = Vec::new();
    while let Ok(taken) = TcpStream::connect_timeout(&address, PATIENCE) {
        waiting.push(taken);
        assert!(waiting.len() < 100, "the queue of a listener has an end");
    }
    run::<R, _>(async {
        let began = Instant::now();
        let endpoint = tcp("127.0.0.1", address.port());
        let ended = timeout_at::<R, _>(began + PATIENCE, R::connect(&endpoint)).await;
        assert!(matches!(ended, Err(Elapsed)), "nobody answers");
        assert!(began.elapsed() < 10 * PATIENCE, "the thread has waited");
        listener
            .set_nonblocking(true)
            .expect("a listener that doesn't block");
        let until = Instant::now() + TRIED_AGAIN;
        let mut accepted = 0;
        while Instant::now() < until {
            accepted += usize::from(listener.accept().is_ok());
            R::sleep_until(Instant::now() + Duration::from_millis(5)).await;
        }
        assert_eq!(accepted, waiting.len(), "it was not given up");
    });
}

fn connections_to_members_have_their_options<R: Runtime>()
where
    R::Stream: AsFd,
{
    run::<R, _>(async {
        let (stream, _peer) = pair::<R>().await;
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().expect("an option"), "TCP_NODELAY");
        assert!(socket.keepalive().expect("an option"), "SO_KEEPALIVE");
        let quarter = Duration::from_secs(15);
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), quarter);
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), quarter);
        assert_eq!(socket.tcp_keepalive_retries().expect("an option"), 9);
    });
}

fn signals_are_told_and_none_is_lost<R: Runtime>() {
    run::<R, _>(async {
        let mut signals = R::signals().expect("handlers");
        for (name, signal) in [
            ("HUP", Signal::Hangup),
            ("INT", Signal::Interrupt),
            ("TERM", Signal::Terminate),
        ] {
            raise(name);
            assert_eq!(signals.next().await, signal);
        }
        // While nobody waits.
        raise("INT");
        raise("HUP");
        let mut both = [signals.next().await, signals.next().await];
        both.sort_by_key(|signal| signal.number());
        assert_eq!(both, [Signal::Hangup, Signal::Interrupt]);
    });
}

/// Sends this process a signal.
fn raise(signal: &str) {
    let kill = format!("kill -{signal} {}", std::process::id());
    let sent = Command::new("sh").args(["-c", &kill]).status();
    assert!(sent.expect("a shell").success(), "{kill}");
}

fn connects_to_a_unix_socket<R: Runtime>() {
    let path = std::env::temp_dir().join(format!("etcd-proxy-conformance-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("listen");
    let endpoint = Endpoint::Unix {
        path: path.to_str().expect("a path in UTF-8").to_owned(),
    };
    run::<R, _>(async {
        let mut stream = R::connect(&endpoint).await.expect("connect");
        let (mut peer, _) = listener.accept().expect("accept");
        peer.write_all(b"hello").expect("write");
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.expect("read");
        assert_eq!(&hello, b"hello");
    });
    std::fs::remove_file(&path).expect("remove the socket");
    run::<R, _>(async { assert!(R::connect(&endpoint).await.is_err()) });
}
