//! A raw gRPC client on HTTP/2 frames.
//!
//! The tests compare what an etcd member and a proxy say byte for byte, so the client must not
//! tidy anything up: every response header, trailer, reset code and GOAWAY is kept as it came.
//! [`Wire`] is a connection, [`Call`] one stream of it, [`Reply`] everything that came back.
//!
//! The client knows messages only as bytes behind gRPC's 5-byte prefix (compression flag and
//! big-endian length, see "gRPC over HTTP2"); [`Wire::unary`] adds prost on top.

mod call;
mod end;
mod framing;
mod reply;
#[cfg(test)]
mod tests;

use std::{io, sync::Arc};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_TYPE, TE},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    task::AbortHandle,
};

use crate::everywhere;

pub(crate) use self::framing::Unframer;
pub use self::{
    call::Call,
    end::ConnectionEnd,
    framing::{frame, frame_message},
    reply::Reply,
};

/// One HTTP/2 connection to an etcd endpoint or a proxy.
///
/// Cheap to clone. The connection closes (GOAWAY, then FIN) when the last clone is dropped and
/// the last [`Call`] has ended.
#[derive(Clone, Debug)]
pub struct Wire {
    authority: Arc<str>,
    send: SendRequest<Bytes>,
    end: watch::Receiver<Option<ConnectionEnd>>,
    driver: AbortHandle,
}

impl Wire {
    /// Connects to `address` (`host:port`) with [`WireOptions::default`].
    ///
    /// # Errors
    /// When there is no TCP connection or the preface cannot be written.
    pub async fn connect(address: &str) -> io::Result<Self> {
        Self::connect_with(address, &WireOptions::default()).await
    }

    /// Connects to `address` (`host:port`) with the given windows.
    ///
    /// # Errors
    /// As [`Wire::connect`].
    pub async fn connect_with(address: &str, options: &WireOptions) -> io::Result<Self> {
        if let Some(tls) = everywhere::client_of(address) {
            return Self::connect_tls_with(address, tls, options).await;
        }
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Self::over(address, socket, options).await
    }

    /// Connects to `address` (`host:port`) with TLS.
    ///
    /// # Errors
    /// As [`Wire::connect`], and when the handshake fails. With TLS 1.3 a server's refusal may come with the first answer.
    pub async fn connect_tls(address: &str, tls: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        Self::connect_tls_with(address, tls, &WireOptions::default()).await
    }

    async fn connect_tls_with(
        address: &str,
        tls: Arc<rustls::ClientConfig>,
        options: &WireOptions,
    ) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let host = address
            .rsplit_once(':')
            .map_or(address, |(host, _)| host)
            .to_owned();
        let name = rustls::pki_types::ServerName::try_from(host).map_err(invalid)?;
        let stream = tokio_rustls::TlsConnector::from(tls)
            .connect(name, socket)
            .await?;
        Self::over(address, stream, options).await
    }

    async fn over(
        address: &str,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        options: &WireOptions,
    ) -> io::Result<Self> {
        let (send, connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(options.stream_window_bytes)
            .initial_connection_window_size(options.connection_window_bytes)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        let (sender, end) = watch::channel(None);
        let driver = tokio::spawn(async move {
            let end = ConnectionEnd::of(connection.await);
            sender.send_replace(Some(end));
        })
        .abort_handle();
        Ok(Self {
            authority: address.into(),
            send,
            end,
            driver,
        })
    }

    /// Sends the messages, half-closes and collects everything until the stream ends.
    ///
    /// Sending and receiving go on side by side, and an answer that ends before everything was
    /// sent ends the call. Never fails: what went wrong is in the reply.
    pub async fn call(&self, path: &str, metadata: &[(&str, &str)], messages: &[Bytes]) -> Reply {
        let call = match self.open(path, metadata).await {
            Ok(call) => call,
            Err(error) => return Reply::failed(&error),
        };
        call.run(messages).await
    }

    /// A unary call with prost messages.
    ///
    /// # Errors
    /// The whole reply, unless it is OK and has exactly one message, which decodes. A message
    /// that does not decode is told in [`Reply::error`].
    pub async fn unary<Q, R>(&self, path: &str, metadata: &[(&str, &str)], request: &Q) -> Result<R, Reply>
    where
        Q: prost::Message,
        R: prost::Message + Default,
    {
        let message = Bytes::from(request.encode_to_vec());
        self.call(path, metadata, &[message]).await.into_message()
    }

    /// Opens a call in any shape, for tests that steer half-close, cancellation or flow control.
    ///
    /// # Errors
    /// When the connection has ended, or a path or a metadata entry is not valid HTTP.
    pub async fn open(&self, path: &str, metadata: &[(&str, &str)]) -> io::Result<Call> {
        self.open_template(&self.template(path, metadata)?).await
    }

    /// The part of a call that is the same every time, to be made once and used often.
    ///
    /// `content-type` and `te` are set as gRPC wants them unless the metadata names them.
    ///
    /// # Errors
    /// When the path or a metadata entry is not valid HTTP.
    pub fn template(&self, path: &str, metadata: &[(&str, &str)]) -> io::Result<Template> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(&*self.authority)
            .path_and_query(path)
            .build()
            .map_err(invalid)?;
        let mut headers = HeaderMap::with_capacity(metadata.len() + 2);
        for (name, value) in metadata {
            headers.append(
                HeaderName::try_from(*name).map_err(invalid)?,
                HeaderValue::try_from(*value).map_err(invalid)?,
            );
        }
        for (name, value) in [(CONTENT_TYPE, "application/grpc"), (TE, "trailers")] {
            if !headers.contains_key(&name) {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        Ok(Template { uri, headers })
    }

    /// As [`Wire::open`], with a ready-made template.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn open_template(&self, template: &Template) -> io::Result<Call> {
        let mut send = self.send.clone().ready().await.map_err(io::Error::other)?;
        let (response, stream) = send
            .send_request(template.request(), false)
            .map_err(io::Error::other)?;
        Ok(Call::new(response, stream))
    }

    /// A unary call as cheap as it gets: one framed message (see [`frame_message`]) out, one
    /// message back, nothing collected unless it fails.
    ///
    /// The request is handed to the connection at once, without waiting for window: meant for
    /// messages far smaller than the peer's window.
    ///
    /// # Errors
    /// The whole reply, unless it is OK and has exactly one message.
    pub async fn exchange(&self, template: &Template, framed: Bytes) -> Result<Bytes, Reply> {
        let opened = async {
            let mut send = self.send.clone().ready().await?;
            let (response, mut stream) = send.send_request(template.request(), false)?;
            stream.send_data(framed, true)?;
            Ok::<_, h2::Error>(Call::new(response, stream))
        };
        match opened.await {
            Ok(call) => call.finish_unary().await,
            Err(error) => Err(Reply::failed(&error)),
        }
    }

    /// Resolves when the connection has ended, whoever ended it.
    pub async fn closed(&self) -> ConnectionEnd {
        let mut end = self.end.clone();
        let Ok(end) = end.wait_for(Option::is_some).await.map(|end| (*end).clone()) else {
            // The driver was aborted before it could tell.
            return ConnectionEnd {
                goaway: None,
                error: Some("killed by this client".into()),
            };
        };
        let mut end = end.expect("waited until it is there");
        if end.goaway.is_none() {
            // A GOAWAY with NO_ERROR is a clean end to the driver; new requests still see it.
            if let Err(error) = self.send.clone().ready().await {
                end.goaway = ConnectionEnd::of(Err(error)).goaway;
            }
        }
        end
    }

    /// Drops the socket at once, in the middle of whatever is going on: the peer sees the
    /// connection end without a GOAWAY.
    pub fn kill(&self) {
        self.driver.abort();
    }
}

/// Flow-control windows this client offers, in bytes.
#[derive(Clone, Debug)]
pub struct WireOptions {
    /// Of each stream, 0 to 2^31 - 1. A call that is not read takes this much in and no more.
    pub stream_window_bytes: u32,
    /// Of the whole connection, 65,535 to 2^31 - 1.
    pub connection_window_bytes: u32,
}

impl Default for WireOptions {
    /// HTTP/2's own 65,535 bytes a stream, and a connection window that many unread streams do
    /// not exhaust.
    fn default() -> Self {
        Self {
            stream_window_bytes: 65_535,
            connection_window_bytes: 16 << 20,
        }
    }
}

/// Path and headers of a call; see [`Wire::template`].
#[derive(Clone, Debug)]
pub struct Template {
    uri: Uri,
    headers: HeaderMap,
}

impl Template {
    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn invalid<E: std::error::Error + Send + Sync + 'static>(error: E) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// etcd's error details and long messages travel in trailers; accept far more than it sends.
const HEADER_LIST_BYTES_MAX: u32 = 1 << 20;
