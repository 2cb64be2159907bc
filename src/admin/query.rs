//! Query parameters. An unknown parameter is an error, never ignored.

use super::problem::{Code, Problem};

/// The decoded parameters, in the order of the request.
pub(super) type Pairs = axum::extract::Query<Vec<(String, String)>>;

/// Reject a request with a parameter that is not one of `known`.
pub(super) fn reject_unknown_params(pairs: &[(String, String)], known: &[&str]) -> Result<(), Problem> {
    let Some((name, _)) = pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) else {
        return Ok(());
    };
    let expected = if known.is_empty() {
        "none is supported here".to_owned()
    } else {
        format!("expected {}", known.join(", "))
    };
    Err(Problem::new(
        Code::InvalidRequest,
        format!("unknown query parameter `{name}`, {expected}"),
    ))
}

/// Every value of a parameter.
pub(super) fn values<'a>(pairs: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    pairs
        .iter()
        .filter(move |(given, _)| given == name)
        .map(|(_, value)| value.as_str())
}

/// The value of a parameter, `true` or `false`; false if absent.
pub(super) fn parse_flag(pairs: &[(String, String)], name: &str) -> Result<bool, Problem> {
    match values(pairs, name).last() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            let detail = format!("query parameter `{name}`: found `{other}`, expected true or false");
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}
