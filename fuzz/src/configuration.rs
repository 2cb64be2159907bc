//! The configuration: flags, variables and a file.
//!
//! An input has three parts: flags, one a line; variables, `NAME=VALUE`, one a line; the text of every file.

use std::collections::BTreeMap;

use chancery::config::setting::{CONFIG, SETTINGS, Setting};
use chancery::config::{Config, Flags};
use clap::Command;

use crate::{check_sentence, parts};

pub(crate) fn run(input: &[u8]) {
    let texts: Vec<String> = parts(input)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let part = |number: usize| texts.get(number).map_or("", String::as_str);

    let command = Command::new("serve")
        .no_binary_name(true)
        .arg(CONFIG.arg())
        .args(SETTINGS.iter().map(Setting::arg));
    // An argument that is no flag is wrong usage; clap reports it.
    let Ok(matches) = command.try_get_matches_from(part(0).lines()) else {
        return;
    };
    let flags = Flags::from_matches(&matches);
    let environment: BTreeMap<String, String> = part(1)
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (format!("CHANCERY_{name}"), value.to_owned()))
        .collect();

    let load = || Config::load(&flags, &environment, |_| Ok(part(2).to_owned()));
    match (load(), load()) {
        (Ok(one), Ok(other)) => {
            assert!(
                one.differences(&other).is_empty(),
                "the same sources make another configuration"
            );
        }
        (Err(error), Err(_)) => {
            assert!(!error.mistakes.is_empty(), "no mistake is named");
            for mistake in &error.mistakes {
                check_sentence(&format!("{}: {}", mistake.found_in, mistake.reason));
            }
        }
        _ => panic!("the same sources are good and bad"),
    }
}
