//! Why a handshake failed, in words that say who didn't like what, and what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::logging;

/// An error of a handshake in words.
pub(super) fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(error) => of_tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the peer closed the connection in the middle of the TLS handshake".to_owned()
        }
        None => error.to_string(),
    }
}

pub(super) fn of_tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => {
            format!("the peer's certificate is refused: {}", of_certificate(error))
        }
        Error::NoCertificatesPresented => "the peer has shown no certificate, and one is required".to_owned(),
        Error::InvalidMessage(_) => "the peer doesn't speak TLS".to_owned(),
        Error::AlertReceived(alert) => format!("the peer has refused the handshake: {}", of_alert(*alert)),
        Error::PeerIncompatible(why) => {
            format!("the peer and this side have nothing in common: {}", of_peer(why))
        }
        other => other.to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it has expired, at {}", logging::at(not_after.as_secs()))
        }
        CertificateError::NotValidYet => "it isn't valid yet; compare the clocks".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "it isn't valid before {}; compare the clocks",
            logging::at(not_before.as_secs())
        ),
        CertificateError::Revoked => "it is revoked".to_owned(),
        CertificateError::UnknownIssuer => "it is signed by an authority that isn't trusted here".to_owned(),
        CertificateError::NotValidForName => "it isn't for the name or address that was dialled".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "it isn't for {}, but for {}",
            expected.to_str(),
            if presented.is_empty() {
                "no name at all; names must be subject alternative names".to_owned()
            } else {
                presented.join(", ")
            }
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its extended key usage isn't for this side: serverAuth for servers, clientAuth for clients"
                .to_owned()
        }
        CertificateError::BadEncoding => "it isn't well-formed".to_owned(),
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        other => other.to_string(),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it doesn't take the certificate of this side".to_owned()
        }
        AlertDescription::CertificateExpired => "the certificate of this side has expired".to_owned(),
        AlertDescription::CertificateRevoked => "the certificate of this side is revoked".to_owned(),
        AlertDescription::UnknownCA => {
            "it doesn't know the authority that signed the certificate of this side".to_owned()
        }
        AlertDescription::CertificateRequired => "it requires a certificate of this side".to_owned(),
        AlertDescription::HandshakeFailure => {
            "no cipher suite or signature in common, or no certificate where one is required".to_owned()
        }
        AlertDescription::ProtocolVersion => "no version of TLS in common".to_owned(),
        AlertDescription::NoApplicationProtocol => "no application protocol (ALPN) in common".to_owned(),
        other => format!("alert {other:?}"),
    }
}

fn of_peer(why: &PeerIncompatible) -> String {
    match why {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerDoesNotSupportTls12Or13 => "no version of TLS".to_owned(),
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher suite".to_owned(),
        PeerIncompatible::NoSignatureSchemesInCommon => "no signature algorithm".to_owned(),
        other => format!("{other:?}"),
    }
}
