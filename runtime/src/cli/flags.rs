//! The tables of flags: the one place that knows their names, types, defaults and words.

use super::{csv, duration};
use crate::settings::{parse_bool, parse_int, parse_uint};

mod table;
#[cfg(test)]
mod tests;

pub(super) use table::{FLAGS, IN_MEMORY_ETCD_FLAGS};

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As one would write it on the command line; empty for an empty text or list.
    pub(super) default: &'static str,
    pub(super) group: Group,
    pub(super) help: &'static str,
    pub(super) support: Support,
}

/// Type of a flag's value, named as pflag's help names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// One of a few words, in lower or upper case.
    Choice(&'static [&'static str]),
    Duration,
    Int,
    /// Comma separated, repeatable.
    List,
    Text,
    /// Up to and including the maximum.
    Uint(u64),
}

/// A value of each [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    /// In nanoseconds; negative ones parse.
    Duration(i64),
    Int(i64),
    List(Vec<String>),
    /// A text, or a choice in lower case.
    Text(String),
    Uint(u64),
}

/// Heading of the help that a flag stands under, in the order of the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Listening,
    Upstream,
    Limits,
    Cache,
    Keepalive,
    ClientTls,
    ClusterTls,
    Workers,
    Logging,
    NotYet,
    Never,
}

impl Group {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Listening => "Listening",
            Self::Upstream => "Upstream",
            Self::Limits => "Limits",
            Self::Cache => "Read cache",
            Self::Keepalive => "Keepalive",
            Self::ClientTls => "TLS towards clients",
            Self::ClusterTls => "TLS towards the cluster",
            Self::Workers => "Workers and shutdown",
            Self::Logging => "Logging",
            Self::NotYet => "Not yet: refused when set to something else than the default",
            Self::Never => "Never: refused",
        }
    }
}

/// What setting the flag does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    Full,
    /// Refused when it differs from its default, until the feature exists: "TLS is", "profiling is".
    NotYet(&'static str),
    /// Refused for good when it differs from its default, with the reason.
    Never(&'static str),
}

impl Flag {
    pub(super) fn is_bool(&self) -> bool {
        self.kind == Kind::Bool
    }

    /// Name of the environment variable: `ETCD_PROXY_LISTEN_ADDR`.
    pub(super) fn variable(&self) -> String {
        format!(
            "{VARIABLE_PREFIX}{}",
            self.name.to_ascii_uppercase().replace('-', "_")
        )
    }

    /// # Panics
    ///
    /// When the table holds a default that does not parse; a test reads them all.
    pub(super) fn default_value(&self) -> Value {
        self.parse(self.default)
            .unwrap_or_else(|problem| panic!("default of --{}: {problem}", self.name))
    }

    /// Reads a value of this flag.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in Go's words where Go has some.
    pub(super) fn parse(&self, text: &str) -> Result<Value, String> {
        Ok(match self.kind {
            Kind::Bool => Value::Bool(parse_bool(text)?),
            Kind::Choice(words) => {
                // zap takes the names of its levels in either case, but not mixed.
                let word = words
                    .iter()
                    .find(|word| **word == text || word.to_ascii_uppercase() == text);
                match word {
                    Some(word) => Value::Text((*word).into()),
                    None => return Err(format!("must be one of: {}", words.join(", "))),
                }
            }
            Kind::Duration => Value::Duration(duration::parse(text)?),
            Kind::Int => Value::Int(parse_int(text)?),
            Kind::List => Value::List(csv::parse(text)?),
            Kind::Text => Value::Text(text.into()),
            Kind::Uint(max) => Value::Uint(parse_uint(text, max)?),
        })
    }
}

/// What the names of our environment variables begin with.
pub(super) const VARIABLE_PREFIX: &str = "ETCD_PROXY_";
