//! Listening sockets, and the options of accepted ones.

use core::time::Duration;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::rt::{self, Runtime};
use crate::settings::{ListenAddress, shorten};

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: i32 = 4096;

/// TCP keepalive of client connections, as Go's listeners set it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// How long to wait before the next connection is accepted when none can be, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address can't be listened on; in the words of Go's `net.Listen`, which scripts may look for.
#[derive(Debug, thiserror::Error)]
#[error("listen tcp {}: {reason}", shorten(&address.to_string()))]
pub(crate) struct ListenError {
    address: ListenAddress,
    reason: String,
}

/// Waits for the next connection, however many attempts that takes.
pub(crate) async fn accept<R: Runtime>(listener: &R::Listener) -> TcpStream {
    loop {
        match R::accept(listener).await {
            Ok((socket, _)) => {
                prepare(&socket);
                return socket;
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept connections");
                rt::sleep::<R>(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Socket options are wishes: a connection that is already broken fails at its first read.
fn prepare(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// Binds the first of the addresses that can be bound.
///
/// # Errors
/// When none can be.
pub(crate) fn listen(address: &ListenAddress) -> Result<(TcpListener, SocketAddr), ListenError> {
    let failure = |error: &io::Error| ListenError {
        address: address.clone(),
        reason: in_go_words(error),
    };
    let candidates: Vec<SocketAddr> = if address.host.is_empty() {
        // All addresses of both families with one socket, or of the one that the machine has.
        vec![
            SocketAddr::from(([0u16; 8], address.port)),
            SocketAddr::from(([0u8; 4], address.port)),
        ]
    } else {
        (address.host.as_str(), address.port)
            .to_socket_addrs()
            .map_err(|error| failure(&error))?
            .collect()
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "lookup: no address");
    for candidate in candidates {
        match bind(candidate) {
            Ok(listener) => {
                let address = listener.local_addr().map_err(|error| failure(&error))?;
                return Ok((listener, address));
            }
            Err(error) => last = error,
        }
    }
    Err(failure(&last))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// `bind: address already in use` for `Address already in use (os error 98)`.
fn in_go_words(error: &io::Error) -> String {
    let text = error.to_string();
    let Some((reason, _)) = text.split_once(" (os error") else {
        return text;
    };
    let mut letters = reason.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_lowercase().to_string())
        .unwrap_or_default();
    format!("bind: {first}{}", letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_in_go_words() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen(&ListenAddress {
            host: "127.0.0.1".into(),
            port,
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("listen tcp 127.0.0.1:{port}: bind: address already in use")
        );
    }

    #[test]
    fn an_empty_host_means_every_address() {
        let (_listener, address) = listen(&ListenAddress {
            host: String::new(),
            port: 0,
        })
        .unwrap();
        assert!(address.ip().is_unspecified());
        let loopback = SocketAddr::from(([127, 0, 0, 1], address.port()));
        TcpStream::connect(loopback).unwrap();
    }
}
