//! TLS on both sides, with rustls, over the streams of any runtime.
//!
//! [`Acceptance`] is all that it takes to accept clients, [`Outgoing`] all that it takes to connect to members. Each is made of
//! files as a whole, and as a whole replaced when they have changed ([`Live`]), so that no connection ever sees half of a
//! change; connections that are open keep what they began with. [`Handshakes`] bounds what clients can cost before they are
//! let in. [`Wire`] is what comes out on either side.

mod client;
mod crl;
mod explain;
mod files;
mod handshake;
mod identity;
mod reload;
mod self_signed;
mod server;
mod suites;
#[cfg(test)]
mod tests;
mod verify;
mod wire;

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;

pub(crate) use client::Outgoing;
pub(crate) use handshake::{Accepted, Handshakes, Refusal, connect};
pub(crate) use identity::Expiry;
pub(crate) use server::Acceptance;
pub(crate) use wire::Wire;

use self::reload::{Outcome, Rereader};
use crate::logging;
use crate::settings::{ClientTls, KeyPair, ServerCertificate, ServerTls};

/// What clients may go on to speak, best first.
const NAMES_HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How often files are read again.
const REREAD_EVERY: Duration = Duration::from_secs(2);

/// The cryptography that is used.
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// What was made of files.
struct Built<T> {
    made: T,
    expiries: Vec<Expiry>,
    /// To be logged.
    notes: Vec<String>,
}

/// When the certificates end that are in use on either side.
#[derive(Debug, Default)]
pub(crate) struct Expiries(Mutex<[Vec<Expiry>; 2]>);

/// The sides of the proxy.
#[derive(Clone, Copy, Debug)]
enum Side {
    Clients,
    Cluster,
}

impl Expiries {
    /// All of them.
    pub(crate) fn all(&self) -> Vec<Expiry> {
        self.0.lock().concat()
    }

    fn set(&self, side: Side, expiries: Vec<Expiry>) {
        self.0.lock()[side as usize] = expiries;
    }
}

/// What is in use now, of what is replaced when files change.
#[derive(Debug)]
pub(crate) struct Live<T>(watch::Receiver<Arc<T>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Live<T> {
    /// What is in use.
    pub(crate) fn get(&self) -> Arc<T> {
        self.0.borrow().clone()
    }

    /// Waits for another one.
    pub(crate) async fn next(&mut self) -> Arc<T> {
        if self.0.changed().await.is_err() {
            // Nobody reads files any more: the process is ending.
            core::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}

/// TLS towards clients. Its files are read now, and again for as long as anybody uses it. `host` is where it listens.
///
/// # Errors
/// What is wrong with which file or flag.
pub(crate) fn serve(
    options: ServerTls,
    host: &str,
    expiries: &Arc<Expiries>,
) -> Result<Live<Acceptance>, String> {
    let pair = match &options.certificate {
        ServerCertificate::Files(pair) => pair.clone(),
        ServerCertificate::SelfSigned { data_dir, years } => {
            self_signed::find_or_make(data_dir, *years, &hosts(host))?
        }
    };
    let (ca, crl) = (options.client_ca.as_deref(), options.client_crl.as_deref());
    let tls_info = tls_info(Some(&pair), ca, ca.is_some(), crl);
    tracing::info!(tls_info, "gRPC proxy server TLS");
    let read = {
        let options = options.clone();
        move || server::Files::read(&options, &pair)
    };
    follow(Side::Clients, expiries, read, move |files: &server::Files| {
        files.build(&options)
    })
}

/// TLS towards the cluster. Its files are read now, and again for as long as anybody uses it.
///
/// # Errors
/// What is wrong with which file.
pub(crate) fn dial(options: ClientTls, expiries: &Arc<Expiries>) -> Result<Live<Outgoing>, String> {
    let tls_info = tls_info(options.certificate.as_ref(), options.ca.as_deref(), false, None);
    tracing::info!(tls_info, "gRPC proxy client TLS");
    if options.skip_verify {
        tracing::warn!(
            "--insecure-skip-tls-verify was given: members' certificates are not verified, and whoever is in between can read \
             and change everything"
        );
    }
    let read = {
        let options = options.clone();
        move || client::Files::read(&options)
    };
    follow(Side::Cluster, expiries, read, move |files: &client::Files| {
        files.build(&options)
    })
}

/// Reads files that nothing is done with: whoever named them believes that they are used, and hears of mistakes in them.
///
/// # Errors
/// What is wrong with which file.
pub(crate) fn check(options: &ClientTls) -> Result<(), String> {
    client::Files::read(options)?.build(options).map(|_| ())
}

/// The files of a side as etcd's log shows them.
fn tls_info(pair: Option<&KeyPair>, ca: Option<&Path>, asks_clients: bool, crl: Option<&Path>) -> String {
    let shown = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
    format!(
        "cert = {}, key = {}, client-cert=, client-key=, trusted-ca = {}, client-cert-auth = {asks_clients}, crl-file = {}",
        shown(pair.map(|pair| pair.cert.as_path())),
        shown(pair.map(|pair| pair.key.as_path())),
        shown(ca),
        shown(crl),
    )
}

/// Names and addresses for a certificate of a proxy that listens there.
fn hosts(host: &str) -> Vec<String> {
    let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let is_all = host.is_empty() || host == "0.0.0.0" || host == "::";
    let own = Some(host.to_owned()).filter(|host| !is_all && !local.contains(host));
    own.into_iter().chain(local).collect()
}

/// Makes something of files, and makes it anew whenever they have changed.
fn follow<C, T>(
    side: Side,
    expiries: &Arc<Expiries>,
    read: impl Fn() -> Result<C, String> + Send + 'static,
    build: impl Fn(&C) -> Result<Built<T>, String> + Send + 'static,
) -> Result<Live<T>, String>
where
    C: Clone + PartialEq + Send + 'static,
    T: Send + Sync + 'static,
{
    let files = read()?;
    let made = take(side, expiries, build(&files)?);
    let mut rereader = Rereader::new(files);
    let (sender, receiver) = watch::channel(Arc::new(made));
    let expiries = expiries.clone();
    // A disk may be slow, or far away: nobody who serves clients waits for it.
    let spawned = thread::Builder::new().name("tls-files".to_owned()).spawn(move || {
        while !sender.is_closed() {
            thread::sleep(REREAD_EVERY);
            match rereader.read(Instant::now(), read(), &build) {
                Outcome::Same => {}
                Outcome::New(built) => {
                    tracing::info!(side = side.name(), "files of certificates have changed; the new ones are in use");
                    sender.send_replace(Arc::new(take(side, &expiries, built)));
                }
                Outcome::Broken(error) => {
                    tracing::error!(
                        side = side.name(),
                        error,
                        "files of certificates have changed and can't be used; what was read before stays in use"
                    );
                }
            }
        }
    });
    spawned.map_err(|error| format!("cannot start a thread that reads certificates: {error}"))?;
    Ok(Live(receiver))
}

impl Side {
    /// For logs.
    fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Cluster => "cluster",
        }
    }
}

/// Logs what there is to say, and gives what was made.
fn take<T>(side: Side, expiries: &Expiries, built: Built<T>) -> T {
    for note in built.notes {
        tracing::warn!(side = side.name(), "{note}");
    }
    let now = UnixTime::now().as_secs();
    for expiry in &built.expiries {
        let Expiry {
            flag,
            path,
            subject,
            at,
        } = expiry;
        let at = u64::try_from(*at).unwrap_or_default();
        let not_after = logging::at(at);
        let side = side.name();
        if at < now {
            tracing::warn!(
                side,
                flag,
                file = path,
                subject,
                not_after,
                "certificate has expired"
            );
        } else {
            tracing::info!(side, flag, file = path, subject, not_after, "certificate");
        }
    }
    expiries.set(side, built.expiries);
    built.made
}
