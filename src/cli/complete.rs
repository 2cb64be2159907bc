//! `chancery completion` and `chancery man`: from the command line itself.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::{FAILED, WRONG_USAGE, complain};

pub(super) const COMPLETION: &str = "completion";
pub(super) const MAN: &str = "man";

pub(super) fn commands() -> [Command; 2] {
    [
        Command::new(COMPLETION)
            .about("Print the completions of a shell")
            .after_help(
                "Examples:\n  source <(chancery completion bash)\n  chancery completion zsh > ~/.zfunc/_chancery\n  chancery completion fish > ~/.config/fish/completions/chancery.fish",
            )
            .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("The shell")),
        Command::new(MAN)
            .about("Print the manual page of the program, or of a verb")
            .after_help("Examples:\n  chancery man | man -l -\n  chancery man apply > chancery-apply.1")
            .arg(Arg::new("verb").value_name("VERB").help("A verb")),
    ]
}

pub(super) fn run(name: &str, matches: &ArgMatches) -> ExitCode {
    let mut text = Vec::new();
    let made = match (name, matches.try_get_one::<Shell>("shell")) {
        (COMPLETION, Ok(Some(shell))) => {
            clap_complete::generate(*shell, &mut super::command(), "chancery", &mut text);
            Ok(())
        }
        _ => {
            let verb = matches.try_get_one::<String>("verb").ok().flatten();
            let Some(page) = page(verb) else {
                complain(format_args!(
                    "found {:?}, expected a verb of chancery --help",
                    verb.map_or("", String::as_str)
                ));
                return ExitCode::from(WRONG_USAGE);
            };
            clap_mangen::Man::new(page).render(&mut text)
        }
    };
    let written = made.and_then(|()| std::io::stdout().lock().write_all(&text));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        // A pager that was closed has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::from(FAILED)
        }
    }
}

/// The program, or one of its verbs.
fn page(verb: Option<&String>) -> Option<Command> {
    let mut program = super::command();
    program.build();
    match verb {
        None => Some(program),
        Some(verb) => program.find_subcommand(verb).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_an_example_and_completions() {
        let program = super::super::command();
        let mut bash = Vec::new();
        clap_complete::generate(Shell::Bash, &mut super::super::command(), "chancery", &mut bash);
        let bash = String::from_utf8(bash).unwrap();
        for verb in program.get_subcommands() {
            let name = verb.get_name().to_owned();
            let mut text = Vec::new();
            clap_mangen::Man::new(page(Some(&name)).unwrap())
                .render(&mut text)
                .unwrap();
            let help = verb.clone().render_long_help().to_string();
            assert!(
                help.contains(&format!("chancery {name}")) && help.contains("xample"),
                "{name} has no example: {help}"
            );
            assert!(bash.contains(&name), "{name}");
        }
    }
}
