//! Handshakes: with clients, in between the work for others and never too many at a time; and with members.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use super::client::{self, Outgoing};
use super::explain::{explain, of_tls};
use super::server::Acceptance;
use super::verify::take_last_subject;
use super::wire::Wire;
use crate::rt::{self, Runtime};
use crate::settings::Endpoint;

/// How long a client may take for its handshake (etcd's current patch releases).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes that one worker has under way. One more ends the oldest of them, which is the one that is least likely to come
/// to an end: a client that means it needs milliseconds.
const UNDER_WAY_MAX: usize = 512;

/// Handshakes of one worker that may compute before others of its tasks have had their turn.
const COMPUTING_MAX: usize = 2;

/// How long a member may take to say that it doesn't want the certificate that it has asked for. Some say nothing if they do.
const VERDICT_PATIENCE: Duration = Duration::from_millis(250);

/// Why a client isn't let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// In words.
    pub(crate) why: String,
    /// The subject of its certificate, if it is that.
    pub(crate) subject: Option<String>,
}

impl Refusal {
    fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            subject: None,
        }
    }
}

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Accepted<S> {
    pub(crate) wire: Wire<S>,
    /// The client's certificate and what vouches for it, if one was asked for.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// The handshakes of one worker with clients.
#[derive(Debug)]
pub(crate) struct Handshakes {
    computing: Semaphore,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    /// By age.
    open: BTreeMap<u64, Arc<Notify>>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            computing: Semaphore::new(COMPUTING_MAX),
            under_way: Mutex::default(),
        }
    }
}

/// One that is under way for as long as this lives.
struct Entry<'a> {
    of: &'a Handshakes,
    number: u64,
    crowded_out: Arc<Notify>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.of.under_way.lock().open.remove(&self.number);
    }
}

impl Handshakes {
    fn begin(&self) -> Entry<'_> {
        let mut under_way = self.under_way.lock();
        let oldest = (under_way.open.len() >= UNDER_WAY_MAX)
            .then(|| under_way.open.pop_first())
            .flatten();
        let number = under_way.next;
        under_way.next += 1;
        let crowded_out = Arc::<Notify>::default();
        under_way.open.insert(number, crowded_out.clone());
        drop(under_way);
        if let Some((_, oldest)) = oldest {
            oldest.notify_one();
        }
        Entry {
            of: self,
            number,
            crowded_out,
        }
    }

    /// Takes a client's handshake to its end.
    ///
    /// # Errors
    /// Why the client isn't let in. It has been told as far as TLS can.
    pub(crate) async fn accept<R: Runtime, S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        acceptance: &Acceptance,
        stream: S,
    ) -> Result<Accepted<S>, Refusal> {
        let entry = self.begin();
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let handshake = rt::timeout_at::<R, _>(deadline, self.shake_hands(acceptance, stream));
        tokio::select! {
            done = handshake => done.unwrap_or_else(|rt::Elapsed| {
                Err(Refusal::new("the client has not ended its TLS handshake within 10s"))
            }),
            () = entry.crowded_out.notified() => {
                Err(Refusal::new("too many TLS handshakes are under way; the oldest is given up"))
            }
        }
    }

    async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        acceptance: &Acceptance,
        stream: S,
    ) -> Result<Accepted<S>, Refusal> {
        // Up to here nothing is computed.
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
        let hello = hello.map_err(|error| Refusal::new(explain(&error)))?;
        let stream = self
            .in_turn(hello.into_stream(acceptance.config.clone()))
            .await
            .map_err(|(error, subject)| Refusal {
                why: explain(&error),
                subject,
            })?;
        let connection = stream.get_ref().1;
        if let Err(error) = acceptance.verify_resumed(connection) {
            return Err(Refusal {
                why: of_tls(&error),
                subject: take_last_subject(),
            });
        }
        let chain = connection.peer_certificates().unwrap_or_default().to_vec();
        Ok(Accepted {
            wire: Wire::Tls(Box::new(TlsStream::Server(stream))),
            chain,
        })
    }

    /// Polls a handshake, but only together with few others; between two polls other tasks of the worker have their turn. An
    /// error comes with the subject of the certificate that it is about.
    async fn in_turn<T>(
        &self,
        handshake: impl Future<Output = io::Result<T>>,
    ) -> Result<T, (io::Error, Option<String>)> {
        let mut handshake = core::pin::pin!(handshake);
        loop {
            let turn = self.computing.acquire().await;
            let polled = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
            drop(turn);
            match polled {
                Poll::Ready(Ok(done)) => return Ok(done),
                // Nothing has come between: the verification was part of this very poll.
                Poll::Ready(Err(error)) => return Err((error, take_last_subject())),
                Poll::Pending => woken().await,
            }
        }
    }
}

/// Completes when the task is polled again.
async fn woken() {
    let mut is_first = true;
    poll_fn(|_| {
        if core::mem::replace(&mut is_first, false) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// Waits until it is known what a member that asked for a certificate thinks of it. With TLS 1.3 the handshake is over before,
/// and a refusal that meets bytes on their way to the member is lost: its connection is reset.
async fn verdict<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut tokio_rustls::client::TlsStream<S>,
) -> io::Result<()> {
    poll_fn(|cx| {
        if stream.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Poll::Ready(Ok(()));
        }
        // An empty buffer takes nothing of what is for HTTP/2, and what is TLS's own is looked at all the same.
        let mut nothing = ReadBuf::new(&mut []);
        match Pin::new(&mut *stream).poll_read(cx, &mut nothing) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // Who sends tickets, or speaks, has let the proxy in.
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending if stream.get_ref().1.tls13_tickets_received() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Takes the handshake with a member to its end. Whoever waits for it sets the deadline.
///
/// # Errors
/// Why there is none, in words.
pub(crate) async fn connect<R: Runtime, S: AsyncRead + AsyncWrite + Unpin>(
    outgoing: &Outgoing,
    endpoint: &Endpoint,
    stream: S,
) -> io::Result<Wire<S>> {
    let failed = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {why}"));
    let name = client::name_of(endpoint).map_err(failed)?;
    let connector = TlsConnector::from(outgoing.config.clone());
    let mut handshake = Box::pin(connector.connect(name.clone(), stream));
    let mut was_asked = false;
    let shaken = poll_fn(|cx| {
        client::take_was_asked();
        let polled = handshake.as_mut().poll(cx);
        was_asked |= client::take_was_asked();
        polled
    });
    let mut stream = shaken.await.map_err(|error| failed(explain(&error)))?;
    if was_asked {
        let verdict = rt::timeout_at::<R, _>(Instant::now() + VERDICT_PATIENCE, verdict(&mut stream));
        if let Ok(Err(error)) = verdict.await {
            return Err(failed(explain(&error)));
        }
    }
    let connection = stream.get_ref().1;
    if let Err(error) = outgoing.verify_resumed(connection, &name) {
        return Err(failed(of_tls(&error)));
    }
    Ok(Wire::Tls(Box::new(TlsStream::Client(stream))))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_is_crowded_out() {
        let handshakes = Handshakes::default();
        let mut entries: Vec<_> = (0..UNDER_WAY_MAX).map(|_| handshakes.begin()).collect();
        let is_given_up = |entry: &Entry<'_>| entry.crowded_out.notified().now_or_never().is_some();
        assert!(!entries.iter().any(is_given_up), "there is room for all of them");
        let one_more = handshakes.begin();
        assert!(is_given_up(&entries[0]), "the oldest");
        assert!(!entries[1..].iter().any(is_given_up) && !is_given_up(&one_more));
        // Whoever is done makes room.
        entries.remove(1);
        let _another = handshakes.begin();
        assert!(!entries[1..].iter().any(is_given_up));
        drop(entries);
        assert_eq!(handshakes.under_way.lock().open.len(), 2);
    }
}
