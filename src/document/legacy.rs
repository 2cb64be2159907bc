//! The two older forms of a route document, accepted unchanged at the same keys.
//!
//! In: an object with `path` and neither `match` nor `to`, or a list of such objects. Out: the same [`Route`] as from
//! the present form, and a warning for each unknown field and each path that looks like a pattern. One bad entry
//! rejects the list. An empty text counts as absent, because programs that wrote these documents wrote empty texts;
//! `timeout_ms` absent or 0 is 3000.

use std::time::Duration;

use super::decode::{Cursor, Field, Fields, Shape};
use super::field::STRING;
use super::key::DocumentKey;
use super::policy::Items;
use super::route::{Action, HostPattern, Limit, Match, PathMatch, Rewrite, Route, Rule, Settings, Target, Upstream};
use super::route::{matching, path, read, target};
use super::sentence::did_you_mean;
use super::{Rejection, name};

/// An older form, as a shape.
pub(super) const SHAPE: Shape = Shape::Object(&FIELDS);
/// Several of them, as a shape.
pub(super) const LIST: Shape = Shape::list(&SHAPE);
const FIELDS: Fields = Fields::of(&[
    Field::new("service", STRING, "The cluster, if there is no `upstream`").or("SERVICE of the key"),
    Field::new("method", STRING, "A method in any case; `*`, `ANY` and `\"\"`: any").or("any"),
    Field::new("host", STRING, "As in [Hosts](routes.md#hosts)").or("any"),
    Field::new(
        "path",
        Shape::Text("path that begins with `/`", Some("^/")),
        "Taken letter by letter: `*`, `{` and `}` are no patterns (a warning). Normalised as in \
         [Paths](routes.md#paths). The whole path, or a segment prefix: `legacy_path` of [defaults](defaults.md)",
    )
    .required(),
    Field::new(
        "upstream",
        STRING,
        "URL without a path, as in [Target](routes.md#target)",
    ),
    Field::new(
        "timeout_ms",
        Shape::Whole(0, MAX_TIMEOUT_MS),
        "Limit of the whole response in milliseconds, a year at most. 0 means 3000",
    )
    .or("`3000`"),
    Field::new(
        "enable",
        Shape::Flag,
        "`false`: not served. If no entry is enabled, the document is `disabled`",
    )
    .or("`true`"),
])
.later(&["match", "to"])
.open();
/// `timeout_ms` where it is absent or 0.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(3000);
/// Longest timeout: a year.
const MAX_TIMEOUT_MS: i64 = 365 * 24 * 3600 * 1000;
/// The place of the rule of a lone object.
const PLACE: &str = "path";

/// Whether a document is in an older form.
pub(super) fn recognises(cursor: &Cursor<'_>) -> bool {
    match cursor.value().as_object() {
        Some(object) => object.contains_key("path") && !object.contains_key("match") && !object.contains_key("to"),
        None => cursor.value().is_array(),
    }
}

/// Reads an object or a list of them.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<(Route, Vec<String>), Rejection> {
    let mut warnings = Vec::new();
    let mut route = Route {
        rules: Vec::new(),
        listeners: None,
        groups: None,
        priority: 0,
        enabled: true,
        tests: Vec::new(),
    };
    if root.value().is_array() {
        for entry in root.list()? {
            if !recognises(&entry) || entry.value().is_array() {
                return Err(entry
                    .expected(r#"an object with "path" and neither "match" nor "to": a list holds older forms only"#));
            }
            route.rules.push(read_entry(key, &entry, entry.path(), &mut warnings)?);
        }
        if route.rules.is_empty() {
            warnings.push("the list is empty: it has no route".to_owned());
        }
        route.enabled = route.rules.is_empty() || route.rules.iter().any(|rule| rule.enabled);
    } else {
        let mut rule = read_entry(key, root, PLACE, &mut warnings)?;
        route.enabled = std::mem::replace(&mut rule.enabled, true);
        route.rules.push(rule);
    }
    Ok((route, warnings))
}

fn read_entry(
    key: &DocumentKey,
    entry: &Cursor<'_>,
    place: &str,
    warnings: &mut Vec<String>,
) -> Result<Rule, Rejection> {
    for (name, field) in entry.map()? {
        if !FIELDS.contains(name) {
            warnings.push(format!(
                "{}: unknown field, ignored{}",
                field.path(),
                did_you_mean(name, FIELDS.names())
            ));
        }
    }

    let enabled = entry
        .get("enable")
        .map(|field| field.bool())
        .transpose()?
        .unwrap_or(true);

    let settings = Settings {
        timeout: Some(Limit::After(read_timeout(entry)?)),
        ..Settings::default()
    };
    Ok(Rule {
        place: place.to_owned(),
        matches: Match {
            hosts: vec![read_host(entry)?],
            path: read_path(entry, warnings)?,
            methods: read_methods(entry)?,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        },
        action: Action::Forward(vec![Target {
            upstream: read_upstream(key, entry)?,
            weight: 1,
        }]),
        rewrite: Rewrite::default(),
        mirrors: Vec::new(),
        settings,
        policies: Items::default(),
        enabled,
    })
}

/// A text field that may be absent; an empty one is.
fn text<'a>(entry: &Cursor<'a>, name: &str) -> Result<Option<(&'a str, Cursor<'a>)>, Rejection> {
    let Some(field) = entry.get(name) else { return Ok(None) };
    let text = field.string()?;
    Ok((!text.is_empty()).then_some((text, field)))
}

fn read_timeout(entry: &Cursor<'_>) -> Result<Duration, Rejection> {
    let Some(field) = entry.get("timeout_ms") else {
        return Ok(DEFAULT_TIMEOUT);
    };
    match field.integer(0..=MAX_TIMEOUT_MS)? {
        0 => Ok(DEFAULT_TIMEOUT),
        millis => Ok(Duration::from_millis(millis.unsigned_abs())),
    }
}

fn read_host(entry: &Cursor<'_>) -> Result<HostPattern, Rejection> {
    let Some((host, field)) = text(entry, "host")? else {
        return Ok(HostPattern::Any);
    };
    matching::parse_host_pattern(host).map_err(|reason| field.reject(reason))
}

fn read_path(entry: &Cursor<'_>, warnings: &mut Vec<String>) -> Result<PathMatch, Rejection> {
    let field = entry
        .get("path")
        .ok_or_else(|| entry.reject("path: missing, expected a path such as \"/v1/users\""))?;
    let text = field.string()?;
    if !text.starts_with('/') {
        return Err(field.expected("a path that starts with a slash"));
    }
    let seen = path::as_seen(text).map_err(|what| field.expected(what))?;
    if text.contains(['*', '{', '}']) {
        warnings.push(format!(
            "{}: this form has no patterns, {text:?} is taken letter by letter",
            field.path()
        ));
    }
    Ok(PathMatch::Legacy(seen))
}

fn read_methods(entry: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let Some((method, field)) = text(entry, "method")? else {
        return Ok(Vec::new());
    };
    let method = method.to_ascii_uppercase();
    if matches!(method.as_str(), "*" | "ANY") {
        return Ok(Vec::new());
    }
    if method == "CONNECT" || !matching::is_method(&method) {
        return Err(field.expected(r#"a method such as "GET", or "ANY""#));
    }
    Ok(vec![method])
}

fn read_upstream(key: &DocumentKey, entry: &Cursor<'_>) -> Result<Upstream, Rejection> {
    let service = text(entry, "service")?;
    if let Some((_, field)) = text(entry, "upstream")? {
        return target::read_url(&field).map(Upstream::Url);
    }
    match service {
        Some((_, field)) => name::read(&field).map(Upstream::Cluster),
        None => match read::service_of(key) {
            cluster if name::is_name(&cluster) => Ok(Upstream::Cluster(cluster)),
            other => Err(entry.reject(format!(
                r#"found neither "upstream" nor "service", and {other:?} in the key is no cluster's name"#
            ))),
        },
    }
}
