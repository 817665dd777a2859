//! What the log says of those who reach the port and speak something else: a line now and then, however many they are.

use core::fmt::Display;
use std::net::SocketAddr;
use std::time::Instant;

use crate::logging::Seldom;
use crate::tls::Refusal;

/// Of what was read instead of a protocol, so many bytes are shown.
const SHOWN_BYTES: usize = 16;

/// A client that believes that there is TLS here.
pub(super) fn speaks_tls(peer: Option<SocketAddr>) {
    static SELDOM: Seldom = Seldom::new();
    if let Some(left_out) = SELDOM.admit(Instant::now()) {
        tracing::warn!(
            peer = shown(peer),
            left_out = some(left_out),
            "a client speaks TLS, and there is none here: it must connect without, or the proxy be given --cert-file and --key-file"
        );
    }
}

/// A client whose TLS handshake failed.
pub(super) fn is_refused(peer: Option<SocketAddr>, refusal: &Refusal) {
    static SELDOM: Seldom = Seldom::new();
    if let Some(left_out) = SELDOM.admit(Instant::now()) {
        tracing::warn!(
            peer = shown(peer),
            error = refusal.why,
            subject = refusal.subject,
            left_out = some(left_out),
            "a client's TLS handshake has failed"
        );
    }
}

/// A client whose certificate was revoked while it was connected.
pub(super) fn is_revoked(peer: Option<SocketAddr>, subject: Option<String>) {
    tracing::warn!(
        peer = shown(peer),
        subject,
        "a client's certificate has been revoked; its connection is closed"
    );
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
