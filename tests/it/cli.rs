//! The built binary: its output and its exit codes.

use std::process::{Command, Output};

/// Run `chancery` with nothing but these arguments and variables.
fn chancery(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chancery"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// Code, stdout, stderr.
fn outcome(output: Output) -> (Option<i32>, String, String) {
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn without_a_verb_it_shows_its_help_as_wrong_usage() {
    let (code, stdout, stderr) = outcome(chancery(&[], &[]));
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("Usage: chancery <COMMAND>"), "{stderr}");
    assert!(stderr.contains("Serve documents to proxies"), "{stderr}");
}

#[test]
fn version_and_help_are_answers() {
    let version = format!("chancery {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        outcome(chancery(&["--version"], &[])),
        (Some(0), version, String::new())
    );
    for arguments in [["--help"].as_slice(), &["serve", "--help"], &["serve", "-h"]] {
        let (code, stdout, stderr) = outcome(chancery(arguments, &[]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(stdout.contains("chancery serve"), "{stdout}");
    }
}

#[test]
fn the_help_of_serve_tells_every_default_variable_and_an_example() {
    let (_, stdout, _) = outcome(chancery(&["serve", "--help"], &[]));
    for part in [
        "Where documents are:",
        "[default: /gateway/]",
        "[env: CHANCERY_STATE_PREFIX]",
        "chancery serve --etcd http://10.0.0.1:2379",
        "SIGHUP",
    ] {
        assert!(stdout.contains(part), "{part} is missing in {stdout}");
    }
}

#[test]
fn an_unknown_verb_or_flag_is_wrong_usage_with_a_suggestion() {
    for (arguments, suggestion) in [(["serv", ""], "'serve'"), (["serve", "--state-dri"], "'--state-dir'")] {
        let arguments: Vec<&str> = arguments.into_iter().filter(|argument| !argument.is_empty()).collect();
        let (code, stdout, stderr) = outcome(chancery(&arguments, &[]));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains(suggestion), "{stderr}");
    }
}

#[test]
fn all_configuration_mistakes_come_in_one_report() {
    let arguments = ["serve", "--etcd", "http://user:hunter2@etcd:2379", "--grace", "soon"];
    let environment = [("CHANCERY_LOG_FORMT", "json"), ("CHANCERY_XDS_TLS_CERT", "server.pem")];
    let expected = "chancery: 4 mistakes in the configuration:
  CHANCERY_LOG_FORMT: unknown variable, did you mean `CHANCERY_LOG_FORMAT`?
  --etcd: credentials in a URL are not accepted, use --etcd-user and --etcd-password-file
  CHANCERY_XDS_TLS_CERT: needs --xds-tls-key
  --grace: found `soon`, expected a duration with a unit such as 30s or 250ms
";
    let found = outcome(chancery(&arguments, &environment));
    assert_eq!(found, (Some(2), String::new(), expected.to_owned()));
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told_with_its_flag() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml/state");
    let ports = ["--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let arguments = [&["serve", "--dir", "gateway", "--state-dir", file], &ports[..]].concat();
    let (code, _, stderr) = outcome(chancery(&arguments, &[]));
    assert_eq!(code, Some(1), "{stderr}");
    let expected = format!("use {file} as --state-dir (the working directory is ");
    assert!(stderr.contains(&expected), "{stderr}");
    assert!(stderr.contains("create the state directory"), "{stderr}");
}
