//! Tables of given flags, variables and files, with the expected configuration or mistakes.

use clap::Command;

use super::setting::{CONFIG, SETTINGS, Setting};
use super::*;

const FILE: &str = "/etc/chancery.toml";
const PASSWORD_FILE: &str = "/run/secrets/etcd";

/// The given sources; empty by default.
#[derive(Default)]
struct Given<'a> {
    flags: &'a [&'a str],
    environment: &'a [(&'a str, &'a str)],
    /// The text of [`FILE`].
    file: Option<&'a str>,
}

fn load(given: &Given<'_>) -> Result<Config, Error> {
    let command = Command::new("serve")
        .no_binary_name(true)
        .arg(CONFIG.arg())
        .args(SETTINGS.iter().map(Setting::arg));
    let flags = Flags::from_matches(&command.try_get_matches_from(given.flags).unwrap());
    let environment = given
        .environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::load(&flags, &environment, |path| match (path.to_str(), given.file) {
        (Some(FILE), Some(text)) => Ok(text.to_owned()),
        (Some(PASSWORD_FILE), _) => Ok("hunter2\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    })
}

fn flags(flags: &[&str]) -> Config {
    load(&Given {
        flags,
        ..Given::default()
    })
    .unwrap()
}

/// `found_in: reason`, one a mistake.
fn mistakes(given: &Given<'_>) -> Vec<String> {
    let error = load(given).unwrap_err();
    error
        .mistakes
        .iter()
        .map(|mistake| format!("{}: {}", mistake.found_in, mistake.reason))
        .collect()
}

fn mistakes_of_flags(flags: &[&str]) -> Vec<String> {
    mistakes(&Given {
        flags,
        ..Given::default()
    })
}

#[test]
fn nothing_given_is_the_try_out_mode_with_every_default_of_the_table() {
    let expected = Config {
        file: None,
        documents: Documents::Directory("./gateway".into()),
        try_out: true,
        prefix: "/gateway/".to_owned(),
        registry_prefix: "/services/".to_owned(),
        state_prefix: "/chancery/".to_owned(),
        routes_prefixes: Vec::new(),
        max_txn_ops: 128,
        state_dir: "./state".into(),
        xds_listen: Listen::Tcp(([127, 0, 0, 1], 18000).into()),
        admin_listen: Listen::Tcp(([127, 0, 0, 1], 18001).into()),
        admin_hosts: Vec::new(),
        xds_tls: None,
        grace: Duration::from_secs(30),
        max_streams: 50_000,
        max_connection_age: None,
        stall_timeout: Duration::from_secs(60),
        allow_empty: false,
        on_mass_loss: OnMassLoss::Auto,
        plaintext_secrets: false,
        secret_dirs: Vec::new(),
        secret_keys: None,
        require_sealed_secrets: false,
        ca_bundle: None,
        replica_id: None,
        advertise_admin: None,
        access_log_dir: "/var/log".to_owned(),
        re2_max_program_size: 100,
        publish_distance: Duration::from_millis(100),
        journal_revisions: 10_000,
        journal_age: Duration::from_secs(90 * 24 * 3600),
        journal_bytes: 64 << 20,
        telemetry: Telemetry {
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            otlp_endpoint: None,
            trace_sample_percent: 100.0,
        },
    };
    assert_eq!(load(&Given::default()), Ok(expected));
}

#[test]
fn proxies_elsewhere_may_connect_once_a_place_for_documents_is_named() {
    let everywhere = Listen::Tcp(([0, 0, 0, 0], 18000).into());
    for given in [["--dir", "documents"], ["--etcd", "http://10.0.0.1:2379"]] {
        let config = flags(&given);
        assert_eq!((config.try_out, config.xds_listen), (false, everywhere.clone()));
    }
}

#[test]
fn names_and_values_are_quoted_without_their_control_characters() {
    let found = mistakes(&Given {
        environment: &[
            ("CHANCERY_CONFIG", FILE),
            ("CHANCERY_\u{1b}", "x"),
            ("CHANCERY_GRACE", "5s\u{6}\n"),
        ],
        file: Some("\"\\u001b\" = 1"),
        ..Given::default()
    });
    let expected = [
        format!("\\u{{1b}} in {FILE}: unknown key"),
        "CHANCERY_\\u{1b}: unknown variable".to_owned(),
        "CHANCERY_GRACE: found `5s\\u{6}\\n`, expected a duration".to_owned(),
    ];
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found.starts_with(expected), "{found:?}");
        assert!(!found.contains(char::is_control), "{found:?}");
    }
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let file = Some("grace = '1s'\nmax_streams = 1\nstall-timeout = '1s'\nallow_empty = true");
    let environment = &[
        ("CHANCERY_GRACE", "2s"),
        ("CHANCERY_MAX_STREAMS", "2"),
        ("CHANCERY_CONFIG", FILE),
    ];
    let config = load(&Given {
        flags: &["--grace", "3s"],
        environment,
        file,
    })
    .unwrap();
    let found = (
        config.grace,
        config.max_streams,
        config.stall_timeout,
        config.allow_empty,
    );
    assert_eq!(found, (Duration::from_secs(3), 2, Duration::from_secs(1), true));
    assert_eq!(config.file, Some(FILE.into()));
}

#[test]
fn a_switch_can_be_turned_off_again() {
    let environment = &[("CHANCERY_ALLOW_EMPTY", "true"), ("CHANCERY_PLAINTEXT_SECRETS", "1")];
    let config = load(&Given {
        flags: &["--allow-empty=false"],
        environment,
        file: None,
    })
    .unwrap();
    assert_eq!((config.allow_empty, config.plaintext_secrets), (false, true));
}

#[test]
fn lists_are_comma_separated_repeated_or_lists_in_the_file() {
    let expected = vec![
        "http://a:2379".to_owned(),
        "http://b:2380".to_owned(),
        "http://[::1]:2379".to_owned(),
    ];
    let given = [
        Given {
            flags: &["--etcd", "a, http://b:2380", "--etcd", "http://[::1]:2379/"],
            ..Given::default()
        },
        Given {
            environment: &[("CHANCERY_ETCD", "a,b:2380,[::1]:2379")],
            ..Given::default()
        },
        Given {
            flags: &["--config", FILE],
            file: Some("etcd = ['a', 'b:2380', '[::1]']"),
            ..Given::default()
        },
    ];
    for given in given {
        let Documents::Etcd(etcd) = load(&given).unwrap().documents else {
            panic!("etcd was given")
        };
        assert_eq!(etcd.endpoints, expected);
    }
}

#[test]
fn etcd_takes_a_user_and_tls_files() {
    let config = flags(&[
        "--etcd=e1:2379",
        "--etcd-user=gateway",
        "--etcd-password-file",
        PASSWORD_FILE,
        "--etcd-ca=ca.pem",
        "--etcd-cert=client.pem",
        "--etcd-key=client.key",
    ]);
    let expected = Etcd {
        endpoints: vec!["https://e1:2379".to_owned()],
        user: Some(("gateway".to_owned(), PASSWORD_FILE.into())),
        ca: Some("ca.pem".into()),
        identity: Some(("client.pem".into(), "client.key".into())),
    };
    assert_eq!(config.documents, Documents::Etcd(expected));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn prefixes_end_with_one_slash() {
    let config = flags(&[
        "--etcd",
        "http://h:2379",
        "--prefix",
        "/edge",
        "--routes-prefix",
        "/old-routes//",
        "--routes-prefix",
        "legacy/",
    ]);
    assert_eq!(config.prefix, "/edge/");
    assert_eq!(config.routes_prefixes, ["/old-routes/", "legacy/"]);
}

#[test]
fn values_of_every_shape_are_taken() {
    let config = flags(&[
        "--xds-listen=unix:/run/xds.sock",
        "--admin-listen=[::1]:0",
        "--xds-tls-cert=a",
        "--xds-tls-key=b",
        "--xds-tls-client-ca=c",
        "--max-connection-age=1h 30m",
        "--on-mass-loss=confirm",
        "--log-format=json",
        "--log-level=info,chancery::xds=debug",
        "--otlp-endpoint=http://127.0.0.1:4317",
        "--trace-sample-percent=0.5",
        "--publish-distance=0",
    ]);
    assert_eq!(config.xds_listen, Listen::Unix("/run/xds.sock".into()));
    assert_eq!(config.admin_listen, Listen::Tcp("[::1]:0".parse().unwrap()));
    let tls = TlsFiles {
        certificate: "a".into(),
        key: "b".into(),
        client_ca: Some("c".into()),
    };
    assert_eq!(config.xds_tls, Some(tls));
    assert_eq!(config.max_connection_age, Some(Duration::from_secs(5400)));
    assert_eq!(config.on_mass_loss, OnMassLoss::Confirm);
    assert_eq!(config.publish_distance, Duration::ZERO);
    let telemetry = Telemetry {
        log_format: LogFormat::Json,
        log_level: "info,chancery::xds=debug".to_owned(),
        otlp_endpoint: Some("http://127.0.0.1:4317".to_owned()),
        trace_sample_percent: 0.5,
    };
    assert_eq!(config.telemetry, telemetry);

    let config = flags(&["--admin-host=Chancery.internal.", "--admin-host=admin"]);
    assert_eq!(config.admin_hosts, ["chancery.internal", "admin"]);
    let config = flags(&["--admin-listen=unix:/run/chancery/admin.sock"]);
    assert_eq!(config.admin_listen, Listen::Unix("/run/chancery/admin.sock".into()));
}

#[test]
fn all_mistakes_come_in_one_report_that_names_where_each_was_found() {
    let given = Given {
        flags: &[
            "--config",
            FILE,
            "--grace",
            "30",
            "--etcd",
            "http://root:pw@h:2379",
            "--dir",
            "x",
        ],
        environment: &[("CHANCERY_STATEDIR", "/var"), ("CHANCERY_MAX_STREAMS", "0")],
        file: Some("log_lvl = 'debug'\nprefix = '/services/gateway'\n[etcd-user]\nname = 'x'\n"),
    };
    let expected = "8 mistakes in the configuration:
  etcd-user in /etc/chancery.toml: found a table, expected a string, a number, true, false or a list
  log_lvl in /etc/chancery.toml: unknown key, did you mean `log-level`?
  CHANCERY_STATEDIR: unknown variable, did you mean `CHANCERY_STATE_DIR`?
  --dir: cannot be combined with --etcd: documents live in one place
  --etcd: credentials in a URL are not accepted, use --etcd-user and --etcd-password-file
  --grace: found `30`, expected a duration with a unit such as 30s or 250ms
  CHANCERY_MAX_STREAMS: found `0`, expected a whole number from 1
  --registry-prefix: `/services/` overlaps --prefix `/services/gateway/`";
    assert_eq!(load(&given).unwrap_err().to_string(), expected);
}

#[test]
fn what_belongs_together_is_missed() {
    let cases: &[(&[&str], &str)] = &[
        (&["--xds-tls-cert=a"], "--xds-tls-cert: needs --xds-tls-key"),
        (&["--xds-tls-key=a"], "--xds-tls-key: needs --xds-tls-cert"),
        (
            &["--xds-tls-client-ca=a"],
            "--xds-tls-client-ca: needs --xds-tls-cert and --xds-tls-key",
        ),
        (&["--etcd-user=a"], "--etcd-user: has no effect without --etcd"),
        (
            &["--etcd=h", "--etcd-user=a"],
            "--etcd-user: needs --etcd-password-file",
        ),
        (&["--etcd=h", "--etcd-cert=a"], "--etcd-cert: needs --etcd-key"),
        (
            &["--etcd=http://h", "--etcd-ca=a"],
            "--etcd: found http, but --etcd-ca needs https",
        ),
        (
            &["--etcd=http://h,https://h"],
            "--etcd: found http and https, expected one of them",
        ),
    ];
    for (given, expected) in cases {
        assert_eq!(mistakes_of_flags(given), [*expected], "{given:?}");
    }
}

#[test]
fn a_bad_value_is_quoted_beside_what_is_expected() {
    let cases: &[(&str, &str)] = &[
        (
            "--xds-listen=18000",
            "found `18000`, expected an IP address and a port such as 0.0.0.0:18000, or unix:PATH",
        ),
        ("--xds-listen=unix:", "found `unix:`, expected unix:PATH"),
        (
            "--admin-listen=localhost:1",
            "found `localhost:1`, expected an IP address and a port such as 127.0.0.1:18001, or unix:PATH",
        ),
        ("--grace=0", "found `0`, expected a duration longer than 0"),
        ("--max-streams=-1", "found `-1`, expected a whole number from 1"),
        (
            "--re2-max-program-size=5000000000",
            "found `5000000000`, which is too large",
        ),
        (
            "--trace-sample-percent=101",
            "found `101`, expected a number from 0 to 100",
        ),
        ("--allow-empty=yes", "found `yes`, expected true or false"),
        ("--on-mass-loss=never", "found `never`, expected auto or confirm"),
        ("--log-format=xml", "found `xml`, expected text or json"),
        (
            "--otlp-endpoint=localhost",
            "expected a URL such as http://127.0.0.1:4317",
        ),
        ("--prefix=/", "found `/`, expected a key prefix such as /gateway/"),
        (
            "--state-prefix=/gateway/x",
            "`/gateway/x/` overlaps --prefix `/gateway/`",
        ),
        (
            "--routes-prefix=/old",
            "needs --etcd: in a directory every route is below routes/",
        ),
        (
            "--registry-prefix=/gateway",
            "`/gateway/` overlaps --prefix `/gateway/`",
        ),
        ("--dir=", "found nothing, expected a path"),
        ("--etcd=ftp://h", "found the scheme `ftp`, expected http or https"),
        (
            "--etcd=http://h/v3",
            "found a path, query or fragment after the port, expected a URL such as http://127.0.0.1:2379",
        ),
        ("--etcd=", "not a URL: empty host"),
        (
            "--log-level=verbose",
            "found `verbose`, expected error, warn, info, debug or trace, or parts such as info,chancery::xds=debug",
        ),
    ];
    for (flag, reason) in cases {
        let name = flag.split('=').next().unwrap();
        assert_eq!(mistakes_of_flags(&[flag]), [format!("{name}: {reason}")], "{flag}");
    }
}

#[test]
fn another_place_of_routes_must_not_overlap() {
    assert_eq!(
        mistakes_of_flags(&["--etcd=http://h", "--routes-prefix=/services"]),
        ["--routes-prefix: `/services/` overlaps --registry-prefix `/services/`"]
    );
}

#[test]
fn a_file_that_cannot_be_read_or_is_not_toml_is_named() {
    let given = Given {
        flags: &["--config", "/nowhere.toml"],
        ..Given::default()
    };
    assert_eq!(
        mistakes(&given),
        ["--config: cannot read /nowhere.toml: entity not found"]
    );
    let given = Given {
        environment: &[("CHANCERY_CONFIG", FILE)],
        file: Some("\ngrace = 30s"),
        ..Given::default()
    };
    let found = mistakes(&given);
    assert!(
        found[0].starts_with("CHANCERY_CONFIG: /etc/chancery.toml is not TOML, line 2: "),
        "{found:?}"
    );
}

#[test]
fn a_key_written_twice_is_a_mistake() {
    let given = Given {
        flags: &["--config", FILE],
        file: Some("state-dir = 'a'\nstate_dir = 'b'"),
        ..Given::default()
    };
    assert_eq!(
        mistakes(&given),
        ["state_dir in /etc/chancery.toml: `state-dir` is written twice, with `-` and with `_`"]
    );
}

#[test]
fn every_setting_is_documented() {
    let page = include_str!("../../docs/configuration.md");
    for setting in SETTINGS {
        let row = format!("| `{}`", setting.flag());
        let line = page
            .lines()
            .find(|line| line.starts_with(&row))
            .unwrap_or_else(|| panic!("{row} is missing"));
        // The page has the default in a column of its own.
        let help = setting.help.split(" [default:").next().unwrap_or_default();
        assert!(line.contains(&help.replace('|', "\\|")), "{line}, expected {help}");
        assert!(line.contains(&format!("`{}`", setting.variable())), "{line}");
        assert!(
            line.contains(&format!("`{}`", setting.default.unwrap_or("–"))),
            "{line}"
        );
    }
}

#[test]
fn a_reload_names_the_flags_that_differ() {
    let running = flags(&["--dir=a", "--grace=1s", "--log-format=json"]);
    assert_eq!(running.differences(&running.clone()), Vec::<&str>::new());
    let reloaded = flags(&["--dir=b", "--grace=2s"]);
    assert_eq!(running.differences(&reloaded), ["--etcd", "--grace", "--log-level"]);
}
