//! `chancery serve`: configuration, telemetry, runtime, and then the app until it ends.

use std::process::ExitCode;

use clap::{ArgMatches, Command};
use tokio::runtime::Runtime;

use super::{FAILED, WRONG_USAGE, complain};
use crate::config::setting::{CONFIG, SETTINGS, Setting};
use crate::config::{Config, Flags, LogFormat, Telemetry};
use crate::{app, telemetry};

pub(super) const NAME: &str = "serve";

const LONG_ABOUT: &str = "Read documents, compile them, and serve them to proxies until a signal comes.

Every flag is also a variable (CHANCERY_…) and a key of the TOML file that --config names. A flag wins over a \
variable, a variable over the file.

With neither --etcd nor --dir the server runs in try-out mode: documents are in ./gateway (if the folder is missing, \
it is created with a sample), and the xDS port is open on 127.0.0.1 only.

SIGTERM and SIGINT drain the streams and stop the server; a second signal stops at once. SIGHUP reads the \
configuration file, the password and the certificates again.";

const AFTER_HELP: &str = "Examples:
  chancery serve
  chancery serve --dir ./gateway --xds-listen 127.0.0.1:18000
  chancery serve --etcd http://10.0.0.1:2379,http://10.0.0.2:2379 --log-format json
  CHANCERY_ETCD=http://10.0.0.1:2379 chancery serve --config /etc/chancery.toml";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Serve documents to proxies")
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .arg(CONFIG.arg().short('c'))
        .args(SETTINGS.iter().map(Setting::arg))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let flags = Flags::from_matches(matches);
    let config = match Config::load_from_process(&flags) {
        Ok(config) => config,
        Err(error) => {
            complain(error);
            return ExitCode::from(WRONG_USAGE);
        }
    };
    match serve(config, flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn serve(config: Config, flags: Flags) -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    let guard = {
        let _inside = runtime.enter();
        telemetry::init(&options(&config.telemetry))?
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = app::serve(config, flags) => outcome,
            never = guard.summaries() => match never {},
        }
    });
    guard.finish();
    // The process does not wait for blocking reads that still run.
    runtime.shutdown_background();
    outcome
}

fn options(config: &Telemetry) -> telemetry::Options {
    telemetry::Options {
        json: config.log_format == LogFormat::Json,
        filter: config.log_level.clone(),
        otlp_endpoint: config.otlp_endpoint.clone(),
        trace_sample_percent: config.trace_sample_percent,
    }
}
