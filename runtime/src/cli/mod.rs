//! The command line: `etcd-proxy start` with the flags, defaults and messages of `etcd grpc-proxy start`.
//!
//! # Examples
//!
//! ```
//! use etcd_proxy_runtime::cli::{self, Command, Upstream};
//!
//! let arguments = ["start", "--endpoints", "10.0.0.1:2379,10.0.0.2:2379"].map(Into::into);
//! let Ok(Command::Start(options)) = cli::parse("etcd-proxy", arguments, []) else { unreachable!() };
//! let Upstream::Endpoints(endpoints) = options.upstream else { unreachable!() };
//! assert_eq!(endpoints.len(), 2);
//! ```
//!
//! Syntax and error texts are those of pflag, which etcd uses, in `syntax`; `flags` is the one table of all flags,
//! from which clap renders the help and the shell completions in `render`. clap does not parse: it takes neither
//! `--flag -value` nor `--bool=F`, and scripts that read etcd's messages expect etcd's words.

mod check;
mod csv;
mod duration;
mod flags;
mod options;
mod render;
mod suggest;
mod syntax;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::ffi::OsString;

pub use options::{CacheMode, CacheOptions, ClusterTls, InMemoryEtcdOptions, StartOptions, Upstream};

use crate::settings::quote;

/// What the command line asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run an etcd in memory, for trying out and tests, without a proxy.
    InMemoryEtcd(InMemoryEtcdOptions),
    /// Run the proxy.
    Start(Box<StartOptions>),
}

/// A command line that is answered with text alone: print it and exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code of the process: 0 for what was asked for (help, version, completions), 1 for a mistake, as etcd.
    pub code: u8,
    /// Text for standard output, with its line ends.
    pub stdout: String,
    /// Text for standard error, with its line ends.
    pub stderr: String,
}

impl Exit {
    fn printed(stdout: String) -> Self {
        Self {
            code: 0,
            stdout,
            stderr: String::new(),
        }
    }

    /// A mistake in the use of the command line, as cobra prints it: the message, then how it is meant.
    fn usage(message: &str, usage: &str) -> Self {
        Self {
            code: 1,
            stdout: String::new(),
            stderr: format!("Error: {message}\n{usage}\n"),
        }
    }

    /// A value that does not do, as etcd prints it: the bare message.
    fn refused(message: &str) -> Self {
        Self {
            code: 1,
            stdout: String::new(),
            stderr: format!("{message}\n"),
        }
    }
}

/// Reads a command line.
///
/// `program` is the name to print in usage lines, `arguments` are those behind the program's name, `environment` are
/// all environment variables (of which those that begin with `ETCD_PROXY_` count). Reads nothing else.
///
/// # Errors
///
/// An [`Exit`] when there is nothing to run: help, version and completions as well as mistakes. Syntax, order of the
/// checks and messages are those of `etcd grpc-proxy start` 3.5 for the flags that it has.
pub fn parse(
    program: &str,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Command, Exit> {
    let arguments = text_arguments(program, arguments)?;
    let mut rest = arguments.iter().map(String::as_str);
    match rest.next() {
        Some("start") => start(program, rest, environment),
        Some("grpc-proxy") => match rest.next() {
            Some("start") => start(program, rest, environment),
            Some(flag) if is_flag(flag) => Err(lone_flag(program, "grpc-proxy", flag)),
            Some(other) => Err(unknown_command(program, "grpc-proxy", other, &["start"])),
            None => Err(Exit::printed(render::help(program, Some("grpc-proxy")))),
        },
        Some("in-memory-etcd") => in_memory_etcd(program, rest, environment),
        Some("completion") => Err(completion(program, rest)),
        Some("version" | "--version") => Err(version(program, rest)),
        Some("help") => Err(help(program, rest)),
        Some(flag) if is_flag(flag) => Err(lone_flag(program, "", flag)),
        Some(other) => Err(unknown_command(program, "", other, &COMMANDS)),
        None => Err(Exit::printed(render::help(program, None))),
    }
}

/// The environment variable that one with an unknown name was probably meant to be.
#[must_use]
pub fn variable_meant_by(unknown: &str) -> Option<String> {
    let word = unknown.strip_prefix(flags::VARIABLE_PREFIX)?;
    let name = suggest::closest(word, flags::FLAGS.iter().map(|flag| flag.name))?;
    flags::FLAGS
        .iter()
        .find(|flag| flag.name == name)
        .map(flags::Flag::variable)
}

/// What the program can be told to do.
const COMMANDS: [&str; 6] = [
    "start",
    "grpc-proxy",
    "in-memory-etcd",
    "completion",
    "version",
    "help",
];

fn start<'a>(
    program: &str,
    arguments: impl Iterator<Item = &'a str>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Command, Exit> {
    let (values, unknown) = read(program, "start", flags::FLAGS, arguments, environment)?;
    let options = check::check(&values, unknown).map_err(|message| Exit::refused(&message))?;
    Ok(Command::Start(Box::new(options)))
}

fn in_memory_etcd<'a>(
    program: &str,
    arguments: impl Iterator<Item = &'a str>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Command, Exit> {
    let flags = flags::IN_MEMORY_ETCD_FLAGS;
    let (values, unknown) = read(program, "in-memory-etcd", flags, arguments, environment)?;
    let options = check::check_in_memory_etcd(&values, unknown).map_err(|message| Exit::refused(&message))?;
    Ok(Command::InMemoryEtcd(options))
}

/// The values of a subcommand's flags, and the names of those variables that no subcommand knows.
fn read<'a>(
    program: &str,
    subcommand: &str,
    table: &'static [flags::Flag],
    arguments: impl Iterator<Item = &'a str>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(syntax::Values, Vec<String>), Exit> {
    let arguments: Vec<String> = arguments.map(str::to_owned).collect();
    let mut variables: BTreeMap<String, OsString> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(flags::VARIABLE_PREFIX))
        .collect();
    let values = match syntax::read(table, &arguments, &variables) {
        Ok(values) => values,
        Err(syntax::Stop::Help) => return Err(Exit::printed(render::help(program, Some(subcommand)))),
        Err(syntax::Stop::Error(message)) => {
            return Err(Exit::usage(&message, &usage(program, subcommand)));
        }
    };
    for flag in flags::FLAGS.iter().chain(flags::IN_MEMORY_ETCD_FLAGS) {
        variables.remove(&flag.variable());
    }
    Ok((values, variables.into_keys().collect()))
}

fn completion<'a>(program: &str, mut arguments: impl Iterator<Item = &'a str>) -> Exit {
    let outcome = match (arguments.next(), arguments.next()) {
        (None, _) => Err(format!("completion needs a shell: {}", render::SHELLS)),
        (Some("-h" | "--help"), _) => return Exit::printed(render::help(program, Some("completion"))),
        (Some(_), Some(more)) => return unexpected(program, "completion", more),
        (Some(shell), None) => render::completion(program, shell),
    };
    match outcome {
        Ok(script) => Exit::printed(script),
        Err(message) => Exit::usage(&message, &usage(program, "completion")),
    }
}

fn version<'a>(program: &str, mut arguments: impl Iterator<Item = &'a str>) -> Exit {
    match arguments.next() {
        None => Exit::printed(format!("{program} {}\n", env!("CARGO_PKG_VERSION"))),
        Some("-h" | "--help") => Exit::printed(render::help(program, Some("version"))),
        Some(more) => unexpected(program, "", more),
    }
}

fn help<'a>(program: &str, mut arguments: impl Iterator<Item = &'a str>) -> Exit {
    match (arguments.next(), arguments.next()) {
        (None | Some("-h" | "--help"), _) => Exit::printed(render::help(program, None)),
        (Some("grpc-proxy"), Some("start")) => Exit::printed(render::help(program, Some("start"))),
        (Some(_), Some(more)) => unexpected(program, "", more),
        (Some(command), None) if COMMANDS.contains(&command) => {
            Exit::printed(render::help(program, Some(command)))
        }
        (Some(command), None) => unknown_command(program, "", command, &COMMANDS),
    }
}

fn unexpected(program: &str, subcommand: &str, argument: &str) -> Exit {
    let message = format!("unexpected argument {}", quote(argument));
    Exit::usage(&message, &usage(program, subcommand))
}

/// Refuses a word that should be a command, in cobra's words. `etcd grpc-proxy` prints its help and exits with 0, so that
/// a mistyped word in a unit file looks like success.
fn unknown_command(program: &str, parent: &str, command: &str, commands: &[&'static str]) -> Exit {
    let path = format!("{program} {parent}");
    let meant = suggest::closest(command, commands.iter().copied())
        .map(|meant| format!("; did you mean {meant}?"))
        .unwrap_or_default();
    let message = format!(
        "unknown command {} for \"{}\"{meant}",
        quote(command),
        path.trim_end()
    );
    Exit::usage(&message, &usage(program, parent))
}

fn is_flag(argument: &str) -> bool {
    argument.len() > 1 && argument.starts_with('-')
}

/// Answers a flag in front of any subcommand that would have it.
fn lone_flag(program: &str, subcommand: &str, flag: &str) -> Exit {
    let name = flag.trim_start_matches('-').split('=').next().unwrap_or_default();
    if flags::FLAGS.iter().any(|other| other.name == name) {
        let message =
            format!("unknown flag: --{name}; it belongs behind the command, as in {program} start --{name}");
        return Exit::usage(&message, &usage(program, subcommand));
    }
    match syntax::read(&[], &[flag.to_owned()], &BTreeMap::new()) {
        Ok(_) if flag == "--" => Exit::usage("unexpected argument \"--\"", &usage(program, subcommand)),
        Err(syntax::Stop::Error(message)) => Exit::usage(&message, &usage(program, subcommand)),
        Ok(_) | Err(syntax::Stop::Help) => Exit::printed(render::help(program, Some(subcommand))),
    }
}

/// How a command is used, in a few lines: all flags at once would bury the message above them.
fn usage(program: &str, subcommand: &str) -> String {
    let (command, arguments) = match subcommand {
        "" => (program.to_owned(), "[command]"),
        "start" | "in-memory-etcd" => (format!("{program} {subcommand}"), "[flags]"),
        "completion" => (format!("{program} completion"), "[shell]"),
        other => (format!("{program} {other}"), "[command]"),
    };
    format!("Usage:\n  {command} {arguments}\n\nUse \"{command} --help\" for more information.")
}

/// Arguments as text: Go takes any bytes, but no value here can hold what is not UTF-8.
fn text_arguments(program: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, Exit> {
    arguments
        .into_iter()
        .map(|argument| {
            argument.into_string().map_err(|argument| {
                let lossy = quote(&argument.to_string_lossy());
                Exit::usage(
                    &format!("argument {lossy} is not valid UTF-8"),
                    &usage(program, ""),
                )
            })
        })
        .collect()
}
