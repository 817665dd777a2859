//! The flag syntax of pflag (1.0), which etcd's commands use, with its error texts.
//!
//! `--flag=value`, `--flag value` (the next argument whatever it looks like), `--bool`, `--bool=false`, `--` to end the
//! flags. `-h` is the only short flag. What is not a flag is refused, where `etcd grpc-proxy start` skips it: nobody means
//! `--embedded false` to be `--embedded`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::flags::{Flag, Kind, Value};
use super::suggest;
use crate::settings::{parse_bool, plain, quote};

#[cfg(test)]
mod tests;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    Environment,
    Flag,
}

/// The value of every flag.
#[derive(Debug)]
pub(super) struct Values {
    of: BTreeMap<&'static str, (Value, Source)>,
    /// Flags that were given more than once with different values, of which the last one counts.
    pub(super) repeated: Vec<&'static str>,
}

impl Values {
    /// The value of a flag, and where it came from.
    ///
    /// # Panics
    ///
    /// When the table has no such flag: names here are literals, and a test reads all of them.
    pub(super) fn of(&self, name: &str) -> (&Value, Source) {
        let (value, source) = self
            .of
            .get(name)
            .unwrap_or_else(|| panic!("no flag is called {name}"));
        (value, *source)
    }
}

/// Why there are no values.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// `-h` or `--help`.
    Help,
    /// A mistake, in pflag's words.
    Error(String),
}

/// Reads arguments against a table of flags, then environment variables for those flags that were not given.
///
/// A variable that is set to nothing counts as not set, as etcd's own variables do.
///
/// # Errors
///
/// [`Stop::Help`] when help was asked for before any mistake; else the first mistake.
pub(super) fn read(
    flags: &'static [Flag],
    arguments: &[String],
    variables: &BTreeMap<String, OsString>,
) -> Result<Values, Stop> {
    let mut values = Values {
        of: flags
            .iter()
            .map(|flag| (flag.name, (flag.default_value(), Source::Default)))
            .collect(),
        repeated: Vec::new(),
    };
    let mut help = false;
    // As cobra, which refuses them when all flags have been read.
    let mut stray = None;
    let mut switch = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            stray = stray.or_else(|| rest.next().map(|argument| unexpected(argument, None)));
            break;
        }
        let before = switch.take();
        let Some(dashed) = argument.strip_prefix('-').filter(|dashed| !dashed.is_empty()) else {
            stray = stray.or_else(|| Some(unexpected(argument, before)));
            continue;
        };
        let Some(long) = dashed.strip_prefix('-') else {
            help |= read_short(flags, dashed)?;
            continue;
        };
        if long.starts_with(['-', '=']) {
            return Err(Stop::Error(format!("bad flag syntax: {}", plain(argument))));
        }
        let (name, text) = match long.split_once('=') {
            Some((name, text)) => (name, Some(text)),
            None => (long, None),
        };
        let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
            if name == "help" {
                help = text.map_or(Ok(true), read_help)?;
                continue;
            }
            return Err(Stop::Error(format!(
                "unknown flag: --{}{}",
                plain(name),
                did_you_mean(flags, name)
            )));
        };
        let text = match text {
            Some(text) => text,
            None if flag.is_bool() => {
                switch = Some(flag.name);
                "true"
            }
            None => rest
                .next()
                .ok_or_else(|| Stop::Error(format!("flag needs an argument: --{name}")))?,
        };
        set(&mut values, flag, text, Source::Flag)
            .map_err(|problem| invalid_argument(text, &format!("--{name}"), &problem))?;
    }
    if help {
        return Err(Stop::Help);
    }
    if let Some(message) = stray {
        return Err(Stop::Error(message));
    }
    for flag in flags {
        if values.of(flag.name).1 == Source::Flag {
            continue;
        }
        let variable = flag.variable();
        let Some(text) = variables.get(&variable).filter(|text| !text.is_empty()) else {
            continue;
        };
        let text = text
            .to_str()
            .ok_or_else(|| Stop::Error(format!("invalid value for {variable}: it is not valid UTF-8")))?;
        set(&mut values, flag, text, Source::Environment).map_err(|problem| {
            Stop::Error(format!("invalid value {} for {variable}: {problem}", quote(text)))
        })?;
    }
    Ok(values)
}

/// The message about an argument that is no flag. `switch` is the boolean flag before it, if that came without a value.
fn unexpected(argument: &str, switch: Option<&str>) -> String {
    let meant = match switch {
        Some(name) if parse_bool(argument).is_ok() => format!("; did you mean --{name}={argument}?"),
        _ => String::new(),
    };
    format!("unexpected argument {}{meant}", quote(argument))
}

/// The end of a message about a flag that there is not.
fn did_you_mean(flags: &[Flag], name: &str) -> String {
    let names = flags.iter().map(|flag| flag.name).chain(["help"]);
    suggest::closest(name, names)
        .map(|meant| format!("; did you mean --{meant}?"))
        .unwrap_or_default()
}

/// Reads the letters behind one dash, of which `h` is the only flag; true if help is asked for.
fn read_short(flags: &[Flag], letters: &str) -> Result<bool, Stop> {
    let mut rest = letters;
    while let Some(letter) = rest.chars().next() {
        if letter != 'h' {
            // Go's own flags take one dash, and so do etcd's.
            let name = letters.split('=').next().unwrap_or_default();
            let meant = if name.len() > 1 {
                did_you_mean(flags, name)
            } else {
                String::new()
            };
            return Err(Stop::Error(format!(
                "unknown shorthand flag: '{}' in -{}{meant}",
                letter.escape_debug(),
                plain(rest)
            )));
        }
        rest = &rest[1..];
        if let Some(text) = rest.strip_prefix('=').filter(|text| !text.is_empty()) {
            return read_help(text);
        }
    }
    Ok(true)
}

fn read_help(text: &str) -> Result<bool, Stop> {
    parse_bool(text).map_err(|problem| invalid_argument(text, "-h, --help", &problem))
}

fn invalid_argument(text: &str, flag: &str, problem: &str) -> Stop {
    Stop::Error(format!(
        "invalid argument {} for \"{flag}\" flag: {problem}",
        quote(text)
    ))
}

/// Sets one flag. The first use of a list replaces the default, a repeat appends.
fn set(values: &mut Values, flag: &Flag, text: &str, source: Source) -> Result<(), String> {
    let value = flag.parse(text)?;
    let (current, current_source) = values
        .of
        .get_mut(flag.name)
        .expect("every flag of the table has a value");
    let repeated = *current_source == source;
    if repeated && ONCE.contains(&flag.name) {
        return Err(
            "the flag was given before, and listening on several addresses is not supported by this version of \
             etcd-proxy yet"
                .into(),
        );
    }
    if repeated && flag.kind != Kind::List && *current != value && !values.repeated.contains(&flag.name) {
        values.repeated.push(flag.name);
    }
    match (current, value) {
        (Value::List(list), Value::List(more)) if repeated => list.extend(more),
        (current, value) => *current = value,
    }
    *current_source = source;
    Ok(())
}

/// Flags that can be given once: who gives one twice wants both.
const ONCE: [&str; 1] = ["listen-addr"];
