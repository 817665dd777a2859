//! Help and shell completions, by clap, from the table of flags.

use clap::builder::styling::Styles;
use clap::{Arg, ArgAction, Command, ValueHint};
use clap_complete::Shell;

use super::flags::{FLAGS, Flag, IN_MEMORY_ETCD_FLAGS, Kind};

/// The help of the program, or of one of its subcommands.
pub(super) fn help(program: &str, subcommand: Option<&str>) -> String {
    let mut command = command(program);
    // Fills in the names of subcommands ("etcd-proxy start") for the usage lines.
    command.build();
    match subcommand.and_then(|name| command.find_subcommand_mut(name)) {
        Some(flags) if [START, IN_MEMORY_ETCD].contains(&flags.get_name()) => {
            flags.render_long_help().to_string()
        }
        Some(subcommand) => subcommand.render_help().to_string(),
        None => command.render_help().to_string(),
    }
}

/// A completion script.
///
/// # Errors
///
/// The message for a shell that is not supported.
pub(super) fn completion(program: &str, shell: &str) -> Result<String, String> {
    let shell: Shell = shell.parse().map_err(|_| {
        format!(
            "unknown shell {}; must be one of: {SHELLS}",
            crate::settings::quote(shell)
        )
    })?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(program), program, &mut script);
    Ok(String::from_utf8_lossy(&script).into_owned())
}

fn command(program: &str) -> Command {
    let start = start(program);
    Command::new(program.to_owned())
        .about("Reverse proxy for the etcd v3 API")
        .styles(Styles::plain())
        .term_width(HELP_COLUMNS)
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .arg(help_flag())
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Print the version"),
        )
        .subcommand(start.clone())
        .subcommand(
            Command::new("grpc-proxy")
                .about("For scripts written for etcd: `grpc-proxy start` is `start`")
                .disable_help_flag(true)
                .disable_help_subcommand(true)
                .arg(help_flag())
                .subcommand(start),
        )
        .subcommand(in_memory_etcd(program))
        .subcommand(
            Command::new("completion")
                .about("Print a completion script for a shell")
                .disable_help_flag(true)
                .arg(help_flag())
                .arg(
                    Arg::new("shell")
                        .required(true)
                        .value_parser(clap::value_parser!(Shell)),
                ),
        )
        .subcommand(
            Command::new("version")
                .about("Print the version")
                .disable_help_flag(true),
        )
        .subcommand(
            Command::new("help")
                .about("Print the help of the program or of a command")
                .disable_help_flag(true)
                .arg(Arg::new("command").value_parser([START, "grpc-proxy", IN_MEMORY_ETCD, "completion"])),
        )
}

fn start(program: &str) -> Command {
    with_flags(program, START, FLAGS).about("Start the proxy")
}

fn in_memory_etcd(program: &str) -> Command {
    with_flags(program, IN_MEMORY_ETCD, IN_MEMORY_ETCD_FLAGS)
        .about("Start an in-memory etcd for trying out and tests; data is lost at exit")
        .long_about(
            "Start an in-memory etcd for trying out and tests; data is lost at exit\n\n\
             It is the etcd of `start --embedded` by itself: one member, everything in memory.",
        )
}

fn with_flags(program: &str, name: &'static str, flags: &'static [Flag]) -> Command {
    Command::new(name)
        .after_help(
            "Lists are comma separated and repeatable. Durations are numbers with units: 100ms, 1.5h, 1m30s.\n\
             Every flag has an environment variable, named in its help; the flag wins over the variable.",
        )
        .disable_help_flag(true)
        .override_usage(format!("{program} {name} [flags]"))
        .args(flags.iter().map(argument))
        .arg(help_flag().help_heading("Help"))
}

fn help_flag() -> Arg {
    Arg::new("help")
        .long("help")
        .short('h')
        .action(ArgAction::SetTrue)
        .help("Print help")
}

fn argument(flag: &'static Flag) -> Arg {
    let mut help = format!("{}\n[", flag.help);
    if !flag.default.is_empty() {
        help.push_str(&format!("default: {}, ", flag.default));
    }
    help.push_str(&format!("env: {}]", flag.variable()));
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .help(help)
        .help_heading(flag.group.title());
    match flag.kind {
        // The value behind the equals sign is optional.
        Kind::Bool => argument
            .num_args(0..=1)
            .require_equals(true)
            .value_name("bool")
            .value_parser(["true", "false"])
            .hide_possible_values(true),
        Kind::Choice(words) => argument
            .value_name("word")
            .value_parser(words.to_vec())
            .hide_possible_values(true),
        Kind::Duration => argument.value_name("duration"),
        Kind::Int => argument.value_name("int"),
        Kind::List => argument.value_name("list").action(ArgAction::Append),
        Kind::Text if FILES.contains(&flag.name) => {
            argument.value_name("path").value_hint(ValueHint::AnyPath)
        }
        Kind::Text => argument.value_name("string"),
        Kind::Uint(_) => argument.value_name("uint"),
    }
}

const START: &str = "start";
const IN_MEMORY_ETCD: &str = "in-memory-etcd";
/// Width of the help: fixed, so that the same version prints the same help everywhere.
const HELP_COLUMNS: usize = 100;
/// Shells that have a completion script.
pub(super) const SHELLS: &str = "bash, elvish, fish, powershell, zsh";
/// Flags whose value is a path, for completion.
const FILES: [&str; 8] = [
    "cert",
    "key",
    "cacert",
    "cert-file",
    "key-file",
    "trusted-ca-file",
    "client-crl-file",
    "data-dir",
];
