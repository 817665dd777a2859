//! Addresses on the command line: where to listen, and which members to forward to.

use core::fmt::{self, Display, Formatter};

use super::number::{self, plain};

#[cfg(test)]
mod tests;

/// Longest path of a Unix socket in bytes: Linux has 108 in `sockaddr_un`, and the last is a NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Whether an endpoint says that there is TLS, in clientv3's ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// `http://` and `unix:`: there is none.
    Plain,
    /// `https://` and `unixs:`: there is.
    Tls,
    /// Without a scheme: certificates on the command line say so.
    Unsaid,
}

/// One upstream member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP address.
    Tcp {
        /// DNS name or IP address; IPv6 without brackets, with its zone if it was given one. Never empty.
        host: String,
        /// TCP port, never 0.
        port: u16,
    },
    /// A Unix stream socket.
    Unix {
        /// Path in the file system, 1 to 107 bytes; a relative one counts from the working directory.
        path: String,
    },
}

impl Endpoint {
    /// Reads one element of `--endpoints`, in the forms etcd's clientv3 takes: `host:port`, `http://host:port`, `unix:path`
    /// and `unix://path`, and those with TLS: `https://host:port`, `unixs:path` and `unixs://path`. Blanks around it are
    /// ignored. What clientv3 ignores behind `http://host:port`, but for a slash, is refused: whoever writes a path expects it
    /// to be used.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, as words to follow it.
    pub(crate) fn parse(text: &str) -> Result<(Self, Security), String> {
        let text = text.trim();
        for (scheme, security) in [("unix:", Security::Plain), ("unixs:", Security::Tls)] {
            if let Some(rest) = text.strip_prefix(scheme) {
                let endpoint = Self::parse_unix(rest.strip_prefix("//").unwrap_or(rest))?;
                return Ok((endpoint, security));
            }
        }
        let mut security = Security::Unsaid;
        let address = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                scheme @ ("http" | "https") => {
                    security = if scheme == "http" {
                        Security::Plain
                    } else {
                        Security::Tls
                    };
                    let (address, more) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                    if !["", "/"].contains(&more) {
                        return Err(format!(
                            "etcd's gRPC API has no path; leave out {}",
                            number::quote(more)
                        ));
                    }
                    address
                }
                other => {
                    return Err(format!(
                        "unknown scheme {}; use http://, https://, unix:// or unixs://",
                        number::quote(other)
                    ));
                }
            },
        };
        let (host, port) = split_host_port(address)?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err("the port must be a number from 1 to 65535".into()),
            Ok(port) => port,
        };
        // Go dials the local machine when the host is left out.
        let host = if host.is_empty() { "localhost" } else { host };
        let (name, zone) = host.split_once('%').unwrap_or((host, ""));
        let is_ipv6 = host.contains(':');
        let valid = if is_ipv6 {
            name.parse::<core::net::Ipv6Addr>().is_ok()
        } else {
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
                && !host.contains('%')
        };
        if !valid
            || !zone
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        {
            return Err("the host must be a DNS name, an IPv4 address or an IPv6 address in brackets".into());
        }
        let host = host.into();
        Ok((Self::Tcp { host, port }, security))
    }

    fn parse_unix(path: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Err("the path of the socket is missing".into());
        }
        if path.len() > UNIX_PATH_BYTES_MAX {
            return Err(format!(
                "the path of the socket is longer than {UNIX_PATH_BYTES_MAX} bytes"
            ));
        }
        if path.starts_with(['@', '\0']) {
            return Err("abstract sockets are not supported".into());
        }
        if path.contains('\0') {
            return Err("the path of the socket contains a NUL".into());
        }
        Ok(Self::Unix { path: path.into() })
    }

    /// What the `:authority` of a request to this member says: `host:port`, or `localhost` for a Unix socket, as
    /// grpc-go. A zone of an IPv6 address means something only on this machine and is left out (RFC 6874, section 4).
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } => join_host_port(
                host.split_once('%').map_or(host.as_str(), |(name, _)| name),
                *port,
            ),
            Self::Unix { .. } => "localhost".into(),
        }
    }
}

/// `host:port`, with brackets around IPv6, or `unix:path`: the form that the command line takes.
impl Display for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => f.write_str(&join_host_port(host, *port)),
            Self::Unix { path } => write!(f, "unix:{path}"),
        }
    }
}

/// The address of the one port that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// DNS name or IP address, IPv6 without brackets; empty for all addresses of the machine, both families.
    pub host: String,
    /// TCP port; 0 lets the operating system choose.
    pub port: u16,
}

impl ListenAddress {
    /// Reads `--listen-addr` as Go's `net.Listen("tcp", …)` does, but for names of ports (`:http`), which nobody has
    /// here: they get Go's answer for an unknown one.
    ///
    /// # Errors
    ///
    /// Go's message, whole, and what to do where that doesn't say it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if ["unix:", "unixs:"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(format!(
                "--listen-addr: cannot use {}: listening on unix sockets is not supported by this version of \
                 etcd-proxy yet",
                number::quote(text)
            ));
        }
        if text.is_empty() {
            return Ok(Self {
                host: String::new(),
                port: 0,
            });
        }
        let (host, port) = split_host_port(text).map_err(|problem| {
            let more = if text.contains("://") {
                "; leave out the scheme"
            } else if text.contains(',') {
                "; listening on several addresses is not supported by this version of etcd-proxy yet"
            } else {
                ""
            };
            format!("listen tcp: address {}: {problem}{more}", plain(text))
        })?;
        let digits = port.strip_prefix(['+', '-']).unwrap_or(port);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("listen tcp: lookup tcp/{}: unknown port", plain(port)));
        }
        let out_of_range = || {
            let range = number::from_to("0", "65535");
            format!("listen tcp: address {}: invalid port{range}", plain(port))
        };
        let port = match digits {
            "" => 0,
            _ if port.starts_with('-') && digits.bytes().any(|byte| byte != b'0') => {
                return Err(out_of_range());
            }
            _ => digits.parse().map_err(|_| out_of_range())?,
        };
        Ok(Self {
            host: host.into(),
            port,
        })
    }
}

/// `host:port`, with brackets around IPv6.
impl Display for ListenAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&join_host_port(&self.host, self.port))
    }
}

fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Splits `host:port` or `[host]:port` by the rules, and with the messages, of Go's `net.SplitHostPort`.
fn split_host_port(text: &str) -> Result<(&str, &str), &'static str> {
    let (left, port) = text.rsplit_once(':').ok_or("missing port in address")?;
    let (host, outside) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or("missing ']' in address")?;
            match behind.strip_prefix(':') {
                Some(last) if last == port => {}
                Some(_) => return Err("too many colons in address"),
                None => return Err("missing port in address"),
            }
            (host, behind)
        }
        None if left.contains(':') => return Err("too many colons in address"),
        None => (left, text),
    };
    if host.contains('[') || outside.contains('[') {
        return Err("unexpected '[' in address");
    }
    if outside.contains(']') {
        return Err("unexpected ']' in address");
    }
    Ok((host, port))
}
