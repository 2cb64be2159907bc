//! Envoy's format of header values: text with commands between percent signs.
//!
//! `%COMMAND%`, `%COMMAND(argument)%` and `%COMMAND(argument):length%`; `%%` is a percent sign. Only commands whose
//! argument has no grammar of its own are accepted, from a list that every supported Envoy knows: Envoy accepts every
//! value that passes here.

use super::super::sentence::did_you_mean;

/// Commands without an argument.
const PLAIN: &[&str] = &[
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DURATION",
    "FILTER_CHAIN_NAME",
    "HOSTNAME",
    "PROTOCOL",
    "REQUESTED_SERVER_NAME",
    "REQUEST_DURATION",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS",
    "ROUTE_NAME",
    "START_TIME",
    "STREAM_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_HOST",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "VIRTUAL_CLUSTER_NAME",
];
/// Commands with the name of a header.
const OF_HEADER: &[&str] = &["REQ", "RESP", "TRAILER"];

/// Checks a value. The error is the end of a sentence.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        let after = &rest[start + 1..];
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let Some(end) = after.find('%') else {
            return Err(
                "found a lone \"%\", expected it doubled (\"%%\") or around a command (\"%REQ(x-id)%\")".to_owned(),
            );
        };
        check_command(&after[..end])?;
        rest = &after[end + 1..];
    }
    Ok(())
}

fn check_command(command: &str) -> Result<(), String> {
    let (name, argument) = match command.split_once('(') {
        Some((name, rest)) => (name, Some(rest)),
        None => (command, None),
    };
    let known = match argument {
        None => PLAIN.contains(&name),
        Some(argument) => OF_HEADER.contains(&name) && is_argument(argument),
    };
    if known {
        return Ok(());
    }
    // Only the name of a near command is quoted: the text between two stray signs may be anything.
    let hint = did_you_mean(&name.to_ascii_uppercase(), PLAIN.iter().chain(OF_HEADER).copied());
    Err(format!(
        "found \"%…%\" that is no command of Envoy, expected one (\"%%\" is a percent sign){hint}"
    ))
}

/// `name)`, `name?other)` or `name):length`.
fn is_argument(argument: &str) -> bool {
    let Some((names, length)) = argument.split_once(')') else {
        return false;
    };
    let name = |name: &str| {
        let name = name.strip_prefix(':').unwrap_or(name);
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let length_is_good = match length.strip_prefix(':') {
        None => length.is_empty(),
        Some(digits) => {
            digits.parse::<u16>().is_ok_and(|length| length > 0) && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
    };
    names.split('?').count() <= 2 && names.split('?').all(name) && length_is_good
}
