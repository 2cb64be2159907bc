//! Single values: a text → its value, or a sentence with the found and the expected value.

use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use url::Url;

use super::{Listen, LogFormat, OnMassLoss};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub(super) fn text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("found nothing, expected a value".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// An id of a replica: up to 128 visible ASCII characters without a slash, of which it is a part of a key.
pub(super) fn replica_id(text: &str) -> Result<String, String> {
    let is_valid = |character: u8| character.is_ascii_graphic() && character != b'/';
    if (1..=128).contains(&text.len()) && text.bytes().all(is_valid) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "found `{text}`, expected 1 to 128 visible ASCII characters without a slash"
    ))
}

pub(super) fn path(given: &str) -> Result<PathBuf, String> {
    text(given)
        .map(PathBuf::from)
        .map_err(|_| "found nothing, expected a path".to_owned())
}

/// An absolute folder on another host, without a slash at its end.
pub(super) fn remote_folder(given: &str) -> Result<String, String> {
    let folder = given.trim_end_matches('/');
    let is_plain = |segment: &str| !matches!(segment, "" | "." | "..");
    match folder.strip_prefix('/') {
        Some(rest) if rest.split('/').all(is_plain) => Ok(folder.to_owned()),
        _ => Err(format!("found `{given}`, expected an absolute folder such as /var/log")),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("found `{text}`, expected true or false")),
    }
}

/// A duration with a unit; a bare `0` needs none.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("found `{text}`, expected a duration with a unit such as 30s or 250ms"))
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("found `{text}`, expected a duration longer than 0")),
        duration => Ok(duration),
    }
}

/// A whole number from 1.
pub(super) fn count<Number: TryFrom<u64>>(text: &str) -> Result<Number, String> {
    let expected = || format!("found `{text}`, expected a whole number from 1");
    let number: u64 = text.parse().map_err(|_| expected())?;
    if number == 0 {
        return Err(expected());
    }
    Number::try_from(number).map_err(|_| format!("found `{text}`, which is too large"))
}

/// A number of operations in a transaction: a document, and the key that tells of its write.
pub(super) fn txn_ops(text: &str) -> Result<usize, String> {
    match count(text)? {
        1 => Err(format!("found `{text}`, expected a whole number from 2")),
        number => Ok(number),
    }
}

/// A number of bytes, with or without a unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit));
    let bytes = bytes.filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| format!("found `{text}`, expected a number of bytes such as 64MiB"))
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=100.0).contains(&number) => Ok(number),
        _ => Err(format!("found `{text}`, expected a number from 0 to 100")),
    }
}

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    listen_or(text, "0.0.0.0:18000")
}

pub(super) fn admin_listen(text: &str) -> Result<Listen, String> {
    listen_or(text, "127.0.0.1:18001")
}

fn listen_or(text: &str, example: &str) -> Result<Listen, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("found `unix:`, expected unix:PATH".to_owned()),
        Some(path) => Ok(Listen::Unix(PathBuf::from(path))),
        None => text
            .parse()
            .map(Listen::Tcp)
            .map_err(|_| format!("found `{text}`, expected an IP address and a port such as {example}, or unix:PATH")),
    }
}

/// A key prefix. It always ends with a slash, so that `/gateway` does not include `/gateway-2/x`.
pub(super) fn prefix(given: &str) -> Result<String, String> {
    match given.trim_end_matches('/') {
        "" => Err(format!("found `{given}`, expected a key prefix such as /gateway/")),
        stem => Ok(format!("{stem}/")),
    }
}

/// A name that a `Host` header may have, without its port.
pub(super) fn host(given: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let name = given.strip_suffix('.').unwrap_or(given);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!(
            "found `{given}`, expected a name without a port, such as chancery.internal"
        ));
    }
    Ok(name.to_ascii_lowercase())
}

/// An etcd endpoint. No error repeats the text, because a URL may contain a password.
pub(super) fn etcd_endpoint(text: &str, default_scheme: &str) -> Result<String, String> {
    let written = if text.contains("://") {
        text.to_owned()
    } else {
        format!("{default_scheme}://{text}")
    };

    let url = Url::parse(&written).map_err(|error| format!("not a URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL are not accepted, use --etcd-user and --etcd-password-file".to_owned());
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("found the scheme `{}`, expected http or https", url.scheme()));
    }
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return Err("found no host, expected a URL such as http://127.0.0.1:2379".to_owned());
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(
            "found a path, query or fragment after the port, expected a URL such as http://127.0.0.1:2379".to_owned(),
        );
    }

    let port = url.port().unwrap_or(2379);
    Ok(format!("{}://{host}:{port}", url.scheme()))
}

pub(super) fn collector(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(text.to_owned()),
        _ => Err("expected a URL such as http://127.0.0.1:4317".to_owned()),
    }
}

pub(super) fn on_mass_loss(text: &str) -> Result<OnMassLoss, String> {
    match text {
        "auto" => Ok(OnMassLoss::Auto),
        "confirm" => Ok(OnMassLoss::Confirm),
        _ => Err(format!("found `{text}`, expected auto or confirm")),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("found `{text}`, expected text or json")),
    }
}

/// A level or a filter. `EnvFilter` takes a bare word that is no level for the name of a target, so such a word is a
/// mistake.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    let is_level = |word: &str| LEVELS.contains(&word.to_lowercase().as_str());
    let bare = |part: &&str| !part.contains(['=', '[', ']']) && !is_level(part);
    if text.is_empty() || text.split(',').map(str::trim).any(|part| bare(&part)) {
        return Err(format!(
            "found `{text}`, expected error, warn, info, debug or trace, or parts such as info,chancery::xds=debug"
        ));
    }
    EnvFilter::try_new(text).map_err(|error| format!("found `{text}`, which is not a filter: {error}"))?;
    Ok(text.to_owned())
}
