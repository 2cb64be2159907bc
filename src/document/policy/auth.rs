//! The kinds that decide who may do what: rbac.

use ipnet::IpNet;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{NOT_EMPTY, words};
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
        "peer",
        Shape::Object(&NAME_FIELDS),
        "The client's certificate has such a name. The listener needs `client_ca`, else the document written last is \
         rejected",
    )
    .or("any"),
]);
/// Most rules of a policy.
const MAX_RULES: usize = 100;
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
        peer: object.read("peer", |field| read_name(&field))?,
    })
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
