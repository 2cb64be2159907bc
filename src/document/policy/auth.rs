//! The kinds that decide who may do what: rbac.

use ipnet::IpNet;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{NOT_EMPTY, TEXT, words};
use super::super::listener::{NAME_FIELDS, NameKind, read_name};
use super::super::regex;
use super::super::route::condition::{self, HEADERS};
use super::super::route::matching::read_methods;
use super::super::route::path::{self, template_regex};
use super::super::route::{PathMatch, StringMatch};
use super::edge::{RANGES, read_ranges};

pub(super) const RBAC_FIELDS: Fields = Fields::of(&[
    Field::new(
        "rules",
        Shape::entries(&Shape::Object(&RULE_FIELDS), MAX_RULES),
        "The first rule that matches decides",
    )
    .required(),
    Field::new("default", Shape::Words(&words(&ACTIONS)), "If no rule matches").or("`\"deny\"`"),
]);
const RULE_FIELDS: Fields = Fields::of(&[
    Field::new(
        "action",
        Shape::Words(&words(&ACTIONS)),
        "What becomes of a request that matches",
    )
    .or("`\"allow\"`"),
    Field::new(
        "methods",
        Shape::entries(&Shape::Text("method", NOT_EMPTY), usize::MAX),
        "Any of these methods",
    )
    .or("any"),
    Field::new(
        "path",
        Shape::Text("path", Some("^[/~]")),
        "A path as in a `match`, without query",
    )
    .or("any"),
    Field::new("headers", HEADERS, "All of these conditions on headers"),
    Field::new("client_ip", RANGES, "The client is in one of these").or("any"),
    Field::new(
        "claims",
        Shape::FilledMap(&TEXT),
        "Claims of the token: `sub`, or `a.b` for `b` in `a`. Each is this text, or a list with it. Needs a policy `jwt` \
         that holds, too",
    )
    .or("any"),
    Field::new(
        "clients",
        Shape::entries(&TEXT, MAX_CLIENTS),
        "The client is one of these. Needs a policy `api_key` with `client_header`, or `basic_auth` with `user_header`, \
         that holds, too",
    )
    .or("any"),
    Field::new(
        "peer",
        Shape::Object(&NAME_FIELDS),
        "The client's certificate has such a name. The listener needs `client_ca`, else the document written last is \
         rejected",
    )
    .or("any"),
]);
/// Most rules of a policy.
const MAX_RULES: usize = 100;
/// Most claims and clients of a rule, and the longest text of one, in bytes.
const MAX_CLAIMS: usize = 20;
const MAX_CLIENTS: usize = 100;
const MAX_TEXT: usize = 256;
const ACTIONS: [(&str, bool); 2] = [("allow", true), ("deny", false)];

/// `rbac`: the first rule that matches decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Rbac {
    /// At least one.
    pub rules: Vec<RbacRule>,
    /// The decision if no rule matches.
    pub allows_by_default: bool,
}

/// One rule; all of its conditions must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct RbacRule {
    /// Whether a request that matches is allowed.
    pub allows: bool,
    /// Any of these; empty: every one.
    pub methods: Vec<String>,
    /// The path; never a template, which is a regex here.
    pub path: Option<PathMatch>,
    /// By lower-cased header name.
    pub headers: Vec<(String, StringMatch)>,
    /// The client is in one of these; empty: any client.
    pub client_ip: Vec<IpNet>,
    /// Claims of the token, segment by segment, each with its text.
    pub claims: Vec<(Vec<String>, String)>,
    /// The client is one of these; empty: any client.
    pub clients: Vec<String>,
    /// A name in the client's certificate.
    pub peer: Option<(NameKind, StringMatch)>,
}

pub(super) fn read_rbac(cursor: &Cursor<'_>) -> Result<Rbac, Rejection> {
    let object = cursor.object(&RBAC_FIELDS)?;
    let field = object.require("rules", "a list of rules")?;
    let entries = field.entries()?;
    if entries.len() > MAX_RULES {
        return Err(field.reject(format!("found {} rules, expected at most {MAX_RULES}", entries.len())));
    }
    Ok(Rbac {
        rules: entries.iter().map(read_rule).collect::<Result<_, _>>()?,
        allows_by_default: object.read("default", |field| field.word(&ACTIONS))?.unwrap_or(false),
    })
}

fn read_rule(cursor: &Cursor<'_>) -> Result<RbacRule, Rejection> {
    let object = cursor.object(&RULE_FIELDS)?;
    Ok(RbacRule {
        allows: object.read("action", |field| field.word(&ACTIONS))?.unwrap_or(true),
        methods: object
            .read("methods", |field| read_methods(&field))?
            .unwrap_or_default(),
        path: object.read("path", |field| read_path(&field))?,
        headers: object
            .read("headers", |field| condition::read_headers(&field))?
            .unwrap_or_default(),
        client_ip: object
            .read("client_ip", |field| read_ranges(&field))?
            .unwrap_or_default(),
        claims: object.read("claims", |field| read_claims(&field))?.unwrap_or_default(),
        clients: object
            .read("clients", |field| read_clients(&field))?
            .unwrap_or_default(),
        peer: object.read("peer", |field| read_name(&field))?,
    })
}

fn read_text(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    match cursor.text()? {
        text if text.len() <= MAX_TEXT && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(cursor.expected("a text of at most 256 bytes without control characters")),
    }
}

fn read_claims(cursor: &Cursor<'_>) -> Result<Vec<(Vec<String>, String)>, Rejection> {
    let mut claims = Vec::new();
    for (name, value) in cursor.map()? {
        let segments: Vec<String> = name.split('.').map(str::to_owned).collect();
        if name.len() > MAX_TEXT || segments.iter().any(String::is_empty) {
            return Err(value.reject("found a name that is no claim, expected one such as \"sub\" or \"a.b\""));
        }
        claims.push((segments, read_text(&value)?));
    }
    match claims.len() {
        0 => Err(cursor.expected("at least one claim")),
        count if count > MAX_CLAIMS => {
            Err(cursor.reject(format!("found {count} claims, expected at most {MAX_CLAIMS}")))
        }
        _ => Ok(claims),
    }
}

fn read_clients(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let entries = cursor.entries()?;
    match entries.len() {
        count if count > MAX_CLIENTS => {
            Err(cursor.reject(format!("found {count} clients, expected at most {MAX_CLIENTS}")))
        }
        _ => entries.iter().map(read_text).collect(),
    }
}

/// Envoy's rule knows no templates; its regex is bounded as every other one.
fn read_path(cursor: &Cursor<'_>) -> Result<PathMatch, Rejection> {
    match path::parse(cursor, cursor.string()?)? {
        PathMatch::Template(template) => {
            let pattern = template_regex(&template);
            regex::check(&pattern, cursor.limits()).map_err(|reason| cursor.reject(reason))?;
            Ok(PathMatch::Regex(pattern))
        }
        path => Ok(path),
    }
}
