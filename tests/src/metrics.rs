//! What a member tells of itself at `/metrics`.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A member that is busy may take its time.
const LIMIT: Duration = Duration::from_secs(10);

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
    let asked = async {
        let mut stream = TcpStream::connect(member).await?;
        // In version 1.0 the body comes in one piece: chunks may tear a line.
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {member}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok::<_, io::Error>(bytes)
    };
    let bytes = tokio::time::timeout(LIMIT, asked).await??;
    sum(&String::from_utf8_lossy(&bytes), name)
        .ok_or_else(|| io::Error::other(format!("{member} has no metric {name}")))
}

/// The text is Prometheus' exposition format.
fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
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
    }
}
