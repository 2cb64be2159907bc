//! Arguments of commands, as Envoy 1.40 reads them.
//!
//! In: a command that takes an argument, and an argument that is not empty. Out: nothing, or a sentence with the
//! accepted form. The argument may be a credential and is not quoted. The expression of `CEL` is not checked.
//! `tests/golden/edges` compares each rule with a real Envoy.

use serde_json::Value;

/// Most names of headers in one argument.
const MAX_HEADERS: usize = 2;
/// The accepted options of three commands, the second option after a colon.
const SERVER_NAME: [&[&str]; 2] = [
    &["SNI_FIRST", "SNI_ONLY", "HOST_FIRST"],
    &["ORIG", "HOST", "ORIG_OR_HOST"],
];
const PATH: [&[&str]; 2] = [&["WQ", "NQ"], &["ORIG", "PATH", "ORIG_OR_PATH"]];
const QUERY_PARAMS: &[&str] = &["ORIG", "DECODED"];
const GRPC_STATUS: &[&str] = &["CAMEL_STRING", "SNAKE_STRING", "NUMBER"];
/// Parts of `x-forwarded-client-cert`, in upper or lower case.
const CERTIFICATE: &[&str] = &["by", "hash", "cert", "chain", "subject", "uri", "dns"];
const METADATA: &[&str] = &[
    "DYNAMIC",
    "CLUSTER",
    "ROUTE",
    "UPSTREAM_HOST",
    "LISTENER",
    "LISTENER_FILTER_CHAIN",
    "VIRTUAL_HOST",
];
const PRECISIONS: &[&str] = &["ms", "us", "ns"];

/// Whether Envoy accepts an argument. The error is a sentence without its place.
pub(super) fn check(command: &str, argument: &str) -> Result<(), String> {
    let expected = |holds: bool, what: &str| {
        let reason = || format!("found another argument of the command {command}, expected {what}");
        holds.then_some(()).ok_or_else(reason)
    };
    match command {
        "REQ" | "REQUEST_HEADER" | "RESP" | "RESPONSE_HEADER" | "TRAILER" | "RESPONSE_TRAILER" | "STREAM_INFO_REQ" => {
            let names: Vec<&str> = argument.split('?').collect();
            let good = names.len() <= MAX_HEADERS && names.into_iter().all(is_header);
            expected(good, "a header's name, or two with \"?\" between them")
        }
        "START_TIME"
        | "START_TIME_LOCAL"
        | "EMIT_TIME"
        | "EMIT_TIME_LOCAL"
        | "DOWNSTREAM_PEER_CERT_V_START"
        | "DOWNSTREAM_PEER_CERT_V_END"
        | "UPSTREAM_PEER_CERT_V_START"
        | "UPSTREAM_PEER_CERT_V_END" => {
            expected(!has_line_break(argument), "a format of times without a line break (%n)")
        }
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => {
            expected(is_filter_state(argument), "KEY, KEY:PLAIN, KEY:TYPED or KEY:FIELD:NAME")
        }
        "METADATA" => {
            let kind = argument.split(':').next().unwrap_or_default();
            expected(
                METADATA.contains(&kind),
                &format!("one that starts with {}", METADATA.join(", ")),
            )
        }
        "COMMON_DURATION" => {
            let precision = argument.split(':').nth(2);
            let good =
                matches!(argument.split(':').count(), 2 | 3) && precision.is_none_or(|unit| PRECISIONS.contains(&unit));
            expected(
                good,
                "START:END or START:END:PRECISION, the precision one of ms, us and ns",
            )
        }
        "GRPC_STATUS" => expected(GRPC_STATUS.contains(&argument), &GRPC_STATUS.join(", ")),
        "QUERY_PARAMS" => expected(QUERY_PARAMS.contains(&argument), &QUERY_PARAMS.join(" or ")),
        "PATH" => expected(are_options(argument, PATH), &options(PATH)),
        "REQUESTED_SERVER_NAME" => expected(are_options(argument, SERVER_NAME), &options(SERVER_NAME)),
        "XFCC_VALUE" => expected(
            CERTIFICATE.contains(&argument.to_ascii_lowercase().as_str()),
            &CERTIFICATE.join(", "),
        ),
        "COALESCE" => coalesce(argument),
        _ => Ok(()),
    }
}

/// A header name, perhaps after a colon; Envoy accepts an empty one.
fn is_header(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let bare = name.strip_prefix(':').unwrap_or(name);
    (name.is_empty() || !bare.is_empty()) && bare.bytes().all(token)
}

/// Whether a time format has `%n` in any form: flags, one digit of a width, a modifier.
fn has_line_break(format: &str) -> bool {
    format.match_indices('%').any(|(at, _)| {
        let rest = format[at + 1..].trim_start_matches(['-', '_', '0', '^', '#']);
        let rest = rest.trim_start_matches(|letter: char| ('1'..='9').contains(&letter));
        rest.strip_prefix(['E', 'O']).unwrap_or(rest).starts_with('n')
    })
}

fn is_filter_state(argument: &str) -> bool {
    let mut parts = argument.split(':');
    let [key, form, field] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let good = match form {
        "" | "PLAIN" | "TYPED" => field.is_empty(),
        "FIELD" => !field.is_empty(),
        _ => false,
    };
    good && !key.is_empty()
}

/// Two options with a colon between them, each from its list or empty; Envoy ignores the rest.
fn are_options(argument: &str, lists: [&[&str]; 2]) -> bool {
    let mut options = argument.split(':');
    lists.into_iter().all(|list| {
        let option = options.next().unwrap_or_default();
        option.is_empty() || list.contains(&option)
    })
}

fn options([first, second]: [&[&str]; 2]) -> String {
    format!(
        "{}, optionally with \":\" and {} after it",
        first.join(", "),
        second.join(", ")
    )
}

/// JSON with commands inside. Envoy 1.40 crashes if the JSON is no object.
fn coalesce(argument: &str) -> Result<(), String> {
    let wrong =
        "found another argument of the command COALESCE, expected an object such as {\"operators\": [\"TRACE_ID\"]}";
    let json: Value = serde_json::from_str(argument).map_err(|_| wrong.to_owned())?;
    let operators = json.get("operators").and_then(Value::as_array);
    let operators = operators.filter(|operators| !operators.is_empty()).ok_or(wrong)?;
    for operator in operators {
        if let Some(name) = operator.as_str() {
            super::command(name, "", false)?;
            continue;
        }
        let name = operator.get("command").and_then(Value::as_str).ok_or(wrong)?;
        let parameter = operator.get("param").map_or(Some(""), Value::as_str).ok_or(wrong)?;
        let length = operator.get("max_length");
        if length.is_some_and(|length| length.as_i64().is_none_or(|length| length < 1)) {
            return Err("found another max_length of the command COALESCE, expected a whole number above 0".to_owned());
        }
        super::command(name, parameter, length.is_some())?;
    }

    Ok(())
}
