//! What the log says of those who reach the port and speak something else: a line now and then, however many they are.

use core::fmt::Display;
use std::net::SocketAddr;
use std::time::Instant;

use crate::logging::Seldom;

/// Of what was read instead of a protocol, so many bytes are shown.
const SHOWN_BYTES: usize = 16;

/// A client that believes that there is TLS here.
pub(super) fn speaks_tls(peer: Option<SocketAddr>) {
    static SELDOM: Seldom = Seldom::new();
    if let Some(left_out) = SELDOM.admit(Instant::now()) {
        tracing::warn!(
            peer = shown(peer),
            left_out = some(left_out),
            "a client speaks TLS, which this version of etcd-proxy doesn't yet; it must connect without"
        );
    }
}

/// A client whose first bytes are no protocol that is known here.
pub(super) fn speaks_gibberish(peer: Option<SocketAddr>, read: &[u8]) {
    static SELDOM: Seldom = Seldom::new();
    if let Some(left_out) = SELDOM.admit(Instant::now()) {
        let begins = read[..read.len().min(SHOWN_BYTES)].escape_ascii().to_string();
        tracing::warn!(
            peer = shown(peer),
            begins,
            left_out = some(left_out),
            "a client speaks neither HTTP/2, which gRPC needs, nor HTTP/1"
        );
    }
}

/// A client that begins as HTTP/1 and goes on as something else.
pub(super) fn breaks_http1(peer: Option<SocketAddr>, error: &dyn Display) {
    static SELDOM: Seldom = Seldom::new();
    if let Some(left_out) = SELDOM.admit(Instant::now()) {
        tracing::warn!(peer = shown(peer), error = %error, left_out = some(left_out), "a client doesn't keep to HTTP/1");
    }
}

/// A client that begins as HTTP/2 and goes on as something else.
pub(super) fn breaks_http2(peer: Option<SocketAddr>, error: &dyn Display) {
    static SELDOM: Seldom = Seldom::new();
    if let Some(left_out) = SELDOM.admit(Instant::now()) {
        tracing::warn!(peer = shown(peer), error = %error, left_out = some(left_out), "a client doesn't keep to HTTP/2");
    }
}

fn shown(peer: Option<SocketAddr>) -> String {
    // A connection that has broken already has no address any more.
    peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string())
}

/// No field for nothing.
fn some(left_out: u64) -> Option<u64> {
    (left_out > 0).then_some(left_out)
}
