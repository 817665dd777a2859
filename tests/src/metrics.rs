//! What a member tells of itself at `/metrics`.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::everywhere;

/// A member that is busy may take its time.
const LIMIT: Duration = Duration::from_secs(10);

/// Where members serve their metrics.
pub const MEMBER: &str = "/metrics";

/// Where the proxy serves its own.
pub const PROXY: &str = "/proxy/metrics";

/// Watchers that the member at `host:port` holds.
///
/// # Errors
/// As [`metric`].
pub async fn watchers(member: &str) -> io::Result<u64> {
    Ok(metric(member, "etcd_debugging_mvcc_watcher_total").await? as u64)
}

/// The value of a metric of the member at `host:port`; the sum over its labels.
///
/// # Errors
/// When the member can't be asked, or has no such metric.
pub async fn metric(member: &str, name: &str) -> io::Result<f64> {
    sum(&text(member, MEMBER).await?, name)
        .ok_or_else(|| io::Error::other(format!("{member} has no metric {name}")))
}

/// All metrics that are served at `host:port` under a path.
///
/// # Errors
/// When nothing answers.
pub async fn text(address: &str, path: &str) -> io::Result<String> {
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        match everywhere::client_of(address) {
            None => get(stream, address, path).await,
            Some(tls) => {
                let mut tls = (*tls).clone();
                tls.alpn_protocols = vec![b"http/1.1".to_vec()];
                let name = rustls::pki_types::ServerName::try_from("localhost").map_err(io::Error::other)?;
                let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
                get(connector.connect(name, stream).await?, address, path).await
            }
        }
    };
    let bytes = tokio::time::timeout(LIMIT, asked).await??;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &str,
    path: &str,
) -> io::Result<Vec<u8>> {
    // In version 1.0 the body comes in one piece: chunks may tear a line.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The value of a metric in a text of Prometheus' exposition format; the sum over its labels.
fn sum(text: &str, name: &str) -> Option<f64> {
    sum_where(text, name, |_| true)
}

/// The same, of those values alone whose labels are wanted: all of them as they stand there.
#[must_use]
pub fn sum_where(text: &str, name: &str, is_wanted: impl Fn(&str) -> bool) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        if !is_wanted(labels) {
            return None;
        }
        value.trim().parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_labels() {
        let text = "# HELP a b\n# TYPE a gauge\na 3\na_total 9\nb{c=\"} 7\"} 1e+03\nb{c=\"e\"} 2\n";
        assert_eq!(sum(text, "a"), Some(3.0));
        assert_eq!(sum(text, "b"), Some(1002.0));
        assert_eq!(sum(text, "c"), None);
        assert_eq!(sum_where(text, "b", |labels| labels.contains('e')), Some(2.0));
    }
}
