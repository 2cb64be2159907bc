//! An example request for a match.

use regex_syntax::hir::{Class, Hir, HirKind};

use crate::document::route::{HostPattern, Match, PathMatch, StringMatch};
use crate::resource::matcher::{Request, Seen};

/// A request that a match takes, as far as its conditions can be met by one value each.
#[derive(Debug)]
pub(super) struct Example {
    method: String,
    host: String,
    target: String,
    headers: Vec<(String, String)>,
    /// The request as Envoy sees it.
    pub(super) seen: Seen,
}

impl Example {
    /// `None`: no example is found, or Envoy refuses it.
    pub(super) fn of(host: &HostPattern, matches: &Match) -> Option<Self> {
        let method = matches.methods.first().map_or("GET", String::as_str);
        let method = if matches.grpc { "POST" } else { method };
        let host = match host {
            HostPattern::Exact(host) => host.to_string(),
            HostPattern::Wildcard(pattern) => format!("x{}", &pattern[1..]),
            HostPattern::Any => "example.com".to_owned(),
        };

        let mut headers = Vec::new();
        for (name, condition) in &matches.headers {
            headers.extend(value_of(condition)?.map(|value| (name.clone(), value)));
        }
        let mut query = Vec::new();
        for (name, condition) in &matches.query {
            query.extend(value_of(condition)?.map(|value| format!("{name}={value}")));
        }
        let mut target = path_of(&matches.path)?;
        if !query.is_empty() {
            target = format!("{target}?{}", query.join("&"));
        }

        let given: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value): &(String, String)| (name.as_str(), value.as_str()))
            .collect();
        let seen = Seen::of(&Request {
            method,
            host: &host,
            target: &target,
            headers: &given,
        })?;
        Some(Self {
            method: method.to_owned(),
            host,
            target,
            headers,
            seen,
        })
    }

    /// `GET http://api.example.com/v1 (x-canary: 1)`
    pub(super) fn shown(&self, scheme: &str) -> String {
        let Self {
            method, host, target, ..
        } = self;
        let headers: Vec<String> = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        match headers.is_empty() {
            true => format!("{method} {scheme}://{host}{target}"),
            false => format!("{method} {scheme}://{host}{target} ({})", headers.join(", ")),
        }
    }
}

fn path_of(path: &PathMatch) -> Option<String> {
    match path {
        PathMatch::Exact(path) | PathMatch::Legacy(path) => Some(path.clone()),
        PathMatch::Prefix(prefix) => Some(format!("{}/x", prefix.trim_end_matches('/'))),
        PathMatch::Template(template) => {
            let segments = template.split('/').map(|segment| match segment.split_once('{') {
                Some((before, rest)) => {
                    let after = rest.split_once('}').map_or("", |(_, after)| after);
                    format!("{before}x{after}")
                }
                None => segment.to_owned(),
            });
            Some(segments.collect::<Vec<_>>().join("/"))
        }
        PathMatch::Regex(regex) => text_of(regex),
    }
}

/// A value that fulfils a condition; `Some(None)`: the header or parameter is to be absent. `None`: none is found.
fn value_of(condition: &StringMatch) -> Option<Option<String>> {
    Some(match condition {
        StringMatch::Exact(text)
        | StringMatch::Prefix(text)
        | StringMatch::Suffix(text)
        | StringMatch::Contains(text) => Some(text.clone()),
        StringMatch::Regex(regex) => Some(text_of(regex)?),
        StringMatch::Present(true) => Some("x".to_owned()),
        StringMatch::Present(false) => None,
        StringMatch::Not(opposite) => match &**opposite {
            StringMatch::Present(true) => None,
            _ => Some("other".to_owned()),
        },
    })
}

/// A short text that a regex matches.
fn text_of(regex: &str) -> Option<String> {
    let mut text = String::new();
    append(&regex_syntax::parse(regex).ok()?, &mut text)?;
    Some(text)
}

fn append(hir: &Hir, text: &mut String) -> Option<()> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(class) => text.push(character(class)?),
        HirKind::Repetition(repetition) => {
            let least = repetition.min.max(u32::from(repetition.max != Some(0)));
            for _ in 0..least {
                append(&repetition.sub, text)?;
            }
        }
        HirKind::Capture(capture) => append(&capture.sub, text)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| append(part, text))?,
        HirKind::Alternation(parts) => append(parts.first()?, text)?,
    }
    Some(())
}

/// A character of a class that may stand in a path.
fn character(class: &Class) -> Option<char> {
    let has = |character: char| match class {
        Class::Unicode(class) => class
            .ranges()
            .iter()
            .any(|range| (range.start()..=range.end()).contains(&character)),
        Class::Bytes(class) => {
            let byte = u8::try_from(character).ok();
            byte.is_some_and(|byte| {
                class
                    .ranges()
                    .iter()
                    .any(|range| (range.start()..=range.end()).contains(&byte))
            })
        }
    };
    let likely = "x1-_.~A/".chars();
    likely
        .chain('0'..='9')
        .chain('a'..='z')
        .chain('A'..='Z')
        .find(|character| has(*character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_has_an_example() {
        for regex in [
            "/v[0-9]+/orders/[^/]+",
            "/(a|b)/.*",
            "/x{2,3}",
            "/[[:alpha:]]+\\.json",
            "(?i)/ABC",
        ] {
            let text = text_of(regex).unwrap();
            let whole = regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
            assert!(whole.is_match(&text), "{regex}: {text}");
        }
    }

    #[test]
    fn a_template_has_an_example() {
        let path = PathMatch::Template("/v1/{id}/items/{rest=**}".to_owned());
        assert_eq!(path_of(&path).unwrap(), "/v1/x/items/x");
        assert_eq!(path_of(&PathMatch::Prefix(String::new())).unwrap(), "/x");
    }
}
