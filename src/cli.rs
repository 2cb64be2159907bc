//! The command line: arguments → a command → an exit code.
//!
//! One file a verb. Exit codes of every verb: 0 done, 1 refused or failed, 2 wrong usage, 3 timed out waiting, 4 server
//! unreachable. The result of a verb goes to stdout, its errors and log lines to stderr.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::telemetry;

mod apply;
mod bootstrap;
mod check;
mod complete;
mod convert;
mod explain;
mod files;
mod folder;
mod freeze;
mod get;
mod history;
mod plan;
mod ps;
mod remote;
mod schema;
mod secret;
mod serve;
mod show;
mod status;
mod undo;
mod wait;
mod write;
mod xds;

/// Refused or failed.
const FAILED: u8 = 1;
/// Wrong usage: bad flags, bad configuration.
const WRONG_USAGE: u8 = 2;
/// The time for waiting is over.
const TIMED_OUT: u8 = 3;
/// No server was reached.
const UNREACHABLE: u8 = 4;

const ROLLOUT: &str = "rollout";

const LONG_ABOUT: &str = "Chancery is a management server (xDS control plane) for Envoy. It reads routes, clusters and \
listeners as documents from etcd or from a directory, compiles them, and streams them to every connected proxy.";

const AFTER_HELP: &str =
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 timed out waiting, 4 server unreachable.

Try it, with no etcd: chancery serve";

/// Run the command of the arguments; the first argument is the program's own name.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    match matches.subcommand() {
        Some((serve::NAME, matches)) => serve::run(matches),
        Some((secret::NAME, matches)) => secret::run(matches),
        Some((check::NAME, matches)) => check::run(matches),
        Some((convert::NAME, matches)) => convert::run(matches),
        Some((schema::NAME, matches)) => schema::run(matches),
        Some((get::NAME, matches)) => get::run(matches),
        Some((ps::NAME, matches)) => ps::run(matches),
        Some((explain::NAME, matches)) => explain::run(matches),
        Some((xds::NAME, matches)) => xds::run(matches),
        Some((status::NAME, matches)) => status::run(matches),
        Some((history::HISTORY, matches)) => history::run(matches),
        Some((history::DIFF, matches)) => history::diff(matches),
        Some((name @ (undo::UNDO | undo::RESTORE), matches)) => undo::run(name, matches),
        Some((plan::CONFIRM, matches)) => plan::confirm(matches),
        Some((wait::NAME, matches)) => wait::run(matches),
        Some((ROLLOUT, matches)) => rollout(matches),
        Some((name @ (freeze::FREEZE | freeze::FREEZES | freeze::UNFREEZE), matches)) => freeze::run(name, matches),
        Some((name @ (apply::APPLY | apply::PLAN | apply::IMPORT), matches)) => apply::run(name, matches),
        Some((folder::EXPORT, matches)) => folder::run(matches),
        Some((bootstrap::NAME, matches)) => bootstrap::run(matches),
        Some((name @ (complete::COMPLETION | complete::MAN), matches)) => complete::run(name, matches),
        Some((
            name @ (write::EDIT | write::DELETE | write::RELEASE | write::DRAIN | write::UNDRAIN | write::WEIGHT),
            matches,
        )) => write::run(name, matches),
        _ => ExitCode::from(WRONG_USAGE),
    }
}

/// The whole command line.
fn command() -> Command {
    Command::new("chancery")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A management server for Envoy")
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve::command())
        .subcommand(status::command())
        .subcommand(ps::command())
        .subcommands(history::commands())
        .subcommands(undo::commands())
        .subcommand(wait::command())
        .subcommand(rollout_command())
        .subcommands(freeze::commands())
        .subcommand(get::command())
        .subcommand(explain::command())
        .subcommand(xds::command())
        .subcommands(write::commands())
        .subcommands(apply::commands())
        .subcommand(plan::confirm_command())
        .subcommand(folder::command())
        .subcommand(check::command())
        .subcommand(convert::command())
        .subcommand(secret::command())
        .subcommand(schema::command())
        .subcommand(bootstrap::command())
        .subcommands(complete::commands())
}

/// The verbs of `kubectl rollout`, by their names there.
fn rollout_command() -> Command {
    let [undo, _] = undo::commands();
    let [history, _] = history::commands();
    Command::new(ROLLOUT)
        .about("The same as wait, history and undo, by the names of kubectl")
        .after_help("Examples:\n  chancery rollout status\n  chancery rollout history routes/orders\n  chancery rollout undo 1842")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(wait::command().name("status"))
        .subcommand(history)
        .subcommand(undo)
}

fn rollout(matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some((history::HISTORY, matches)) => history::run(matches),
        Some((undo::UNDO, matches)) => undo::run(undo::UNDO, matches),
        Some((_, matches)) => wait::run(matches),
        None => ExitCode::from(WRONG_USAGE),
    }
}

/// Help and version are results; everything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    // If stderr is closed, no error can be shown.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(WRONG_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Print the reason of an exit code other than 0 to stderr, with its control characters escaped. A reason of several
/// lines is a list.
fn complain(sentence: impl std::fmt::Display) {
    let lines: Vec<String> = sentence.to_string().lines().map(telemetry::escaped).collect();
    to_stderr(format_args!("chancery: {}", lines.join("\n")));
}

/// Print the next command to stderr.
fn hint(command: impl std::fmt::Display) {
    to_stderr(format_args!("next: {}", telemetry::escaped(&command.to_string())));
}

/// If stderr is closed, no error can be shown.
fn to_stderr(line: std::fmt::Arguments<'_>) {
    drop(writeln!(anstream::stderr().lock(), "{line}"));
}

/// Print the result of a verb to stdout. Colours are left out where `NO_COLOR` or a pipe asks for it. If the reader of a
/// pipe has read enough, the rest is left out, too.
fn print(result: impl std::fmt::Display) {
    drop(writeln!(anstream::stdout().lock(), "{result}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
