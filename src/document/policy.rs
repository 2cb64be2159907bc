//! `policies/{name}`, and the lists `policies` of other documents: rules for requests beside their route.
//!
//! A policy has one kind ([`PolicyKind`]). It stands in a document of its own, which lists name, or inside a list. A
//! list belongs to one of four levels: `defaults`, a listener, a cluster, a route (or its override). The compiler
//! decides which policy of a kind holds for a request.
//!
//! | module | kinds |
//! |---|---|
//! | `edge` | compression, headers, `grpc_web`, cors, `ip_access`, csrf |
//! | `auth` | rbac |
//! | `app` | `body_limit`, buffer, fault, sticky, maintenance |

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::decode::{Cursor, Field, Fields, Shape};
use super::key::{DocumentKey, Kind};
use super::reference::Reference;
use super::sentence::{one_of, quote};
use super::{Groups, Rejection, groups, name};

pub mod app;
pub mod auth;
pub mod edge;

/// Most entries of a list.
const MAX_ITEMS: usize = 20;
/// A list of policies, as a shape.
pub(super) const LIST: Shape = Shape::List {
    of: &Shape::AnyOf(&[name::NAME, Shape::Object(&ITEM_FIELDS)]),
    least: 0,
    most: MAX_ITEMS,
    once: true,
};
const OFF: Shape = Shape::Words(&["off"]);

/// The kinds, each with its fields: as fields of a document, and of an entry of a list, where `"off"` may stand.
macro_rules! kinds {
    ($($name:literal, $fields:expr, $about:literal;)*) => {
        const KINDS: &[Field] = &[$(Field::new($name, Shape::Object(&$fields), $about)),*];
        const CHOICES: &[Field] = &[$(Field::new($name, Shape::AnyOf(&[Shape::Object(&$fields), OFF]), $about)),*];
    };
}
kinds! {
    "compression", edge::COMPRESSION_FIELDS, "Compressed answers";
    "headers", edge::HEADERS_FIELDS, "Edits of headers, also on answers that a policy makes";
    "grpc_web", NO_FIELDS, "gRPC-Web for a gRPC upstream";
    "cors", edge::CORS_FIELDS, "Answers to preflights, and headers for other origins";
    "ip_access", edge::IP_ACCESS_FIELDS, "Addresses of clients; 403 for others";
    "csrf", edge::CSRF_FIELDS, "Origins of requests that change something; 403 for others";
    "rbac", auth::RBAC_FIELDS, "Rules by method, path, headers and address; 403 if one denies";
    "body_limit", app::LIMIT_FIELDS, "413 for a larger request body; nothing is held back";
    "buffer", app::LIMIT_FIELDS, "A request goes on when its body is complete; 413 for a larger one";
    "fault", app::FAULT_FIELDS, "Errors and delays on purpose";
    "sticky", app::STICKY_FIELDS, "One endpoint for all requests of a session, by a cookie";
    "maintenance", app::MAINTENANCE_FIELDS, "A fixed answer instead of the route";
}
/// The fields of a policies document.
pub(super) const FIELDS: Fields = Fields::joined(&[KINDS, AROUND]);
/// An entry of a list has a kind and nothing else.
const ITEM_FIELDS: Fields = Fields::of(CHOICES).filled();
const NO_FIELDS: Fields = Fields::of(&[]);
const AROUND: &[Field] = &[
    name::FIELD,
    Field::new(
        "final",
        Shape::Flag,
        "`true`: no nearer level can change the kind, not even by `\"off\"`",
    )
    .or("`false`"),
    groups::FIELD,
];

/// The kind of a policy, in the order in which requests pass the kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// `compression`
    Compression,
    /// `headers`
    Headers,
    /// `grpc_web`
    GrpcWeb,
    /// `cors`
    Cors,
    /// `ip_access`
    IpAccess,
    /// `csrf`
    Csrf,
    /// `rbac`
    Rbac,
    /// `body_limit`
    BodyLimit,
    /// `buffer`
    Buffer,
    /// `fault`
    Fault,
    /// `sticky`
    Sticky,
    /// `maintenance`, a route instead of a filter.
    Maintenance,
}

impl PolicyKind {
    /// Every kind, in order.
    pub const ALL: [Self; 12] = [
        Self::Compression,
        Self::Headers,
        Self::GrpcWeb,
        Self::Cors,
        Self::IpAccess,
        Self::Csrf,
        Self::Rbac,
        Self::BodyLimit,
        Self::Buffer,
        Self::Fault,
        Self::Sticky,
        Self::Maintenance,
    ];

    /// The word in documents, and the name of the filter.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compression => "compression",
            Self::Headers => "headers",
            Self::GrpcWeb => "grpc_web",
            Self::Cors => "cors",
            Self::IpAccess => "ip_access",
            Self::Csrf => "csrf",
            Self::Rbac => "rbac",
            Self::BodyLimit => "body_limit",
            Self::Buffer => "buffer",
            Self::Fault => "fault",
            Self::Sticky => "sticky",
            Self::Maintenance => "maintenance",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A policies document.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyDocument {
    /// The policy.
    pub policy: Arc<Policy>,
    /// `true`: no nearer level can change the kind.
    pub is_final: bool,
    /// The groups of proxies that have it.
    pub groups: Groups,
}

/// One policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its settings.
    pub rule: PolicyRule,
    /// Its fields as written, without the kind.
    pub written: Value,
}

impl Policy {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> PolicyKind {
        match self.rule {
            PolicyRule::Compression(_) => PolicyKind::Compression,
            PolicyRule::Headers(_) => PolicyKind::Headers,
            PolicyRule::GrpcWeb => PolicyKind::GrpcWeb,
            PolicyRule::Cors(_) => PolicyKind::Cors,
            PolicyRule::IpAccess(_) => PolicyKind::IpAccess,
            PolicyRule::Csrf(_) => PolicyKind::Csrf,
            PolicyRule::Rbac(_) => PolicyKind::Rbac,
            PolicyRule::BodyLimit(_) => PolicyKind::BodyLimit,
            PolicyRule::Buffer(_) => PolicyKind::Buffer,
            PolicyRule::Fault(_) => PolicyKind::Fault,
            PolicyRule::Sticky(_) => PolicyKind::Sticky,
            PolicyRule::Maintenance(_) => PolicyKind::Maintenance,
        }
    }
}

/// The settings of each kind.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicyRule {
    /// Compressed responses.
    Compression(edge::Compression),
    /// Edits of headers, also on answers that a filter makes.
    Headers(edge::Headers),
    /// gRPC-Web for a gRPC upstream.
    GrpcWeb,
    /// Answers to preflights, and headers for other origins.
    Cors(edge::Cors),
    /// Addresses of clients.
    IpAccess(edge::IpAccess),
    /// Origins of requests that change something.
    Csrf(edge::Csrf),
    /// Rules by method, path, headers and address.
    Rbac(auth::Rbac),
    /// Largest request body, in bytes; nothing is held back.
    BodyLimit(u32),
    /// Largest request body, in bytes; the request goes on when its body is complete.
    Buffer(u32),
    /// Errors and delays on purpose.
    Fault(app::Fault),
    /// One endpoint for all requests of a session.
    Sticky(app::Sticky),
    /// A fixed answer instead of the route.
    Maintenance(app::Maintenance),
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The place in its document, `policies[0]`.
    pub place: String,
    /// The entry.
    pub choice: Choice,
}

impl Item {
    /// The reference to the policies document of a name.
    pub(super) fn reference(&self) -> Option<Reference> {
        match &self.choice {
            Choice::Named(name) => Some(Reference::policy(&*self.place, name)),
            Choice::Inline(_) | Choice::Off(_) => None,
        }
    }
}

/// The content of an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// The name of a policies document.
    Named(Arc<str>),
    /// A policy.
    Inline(Arc<Policy>),
    /// `"off"`: no policy of the kind.
    Off(PolicyKind),
}

/// A list of policies. Cheap to clone; empty if the document has none.
pub type Items = Arc<[Item]>;

/// Reads a policies document.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<PolicyDocument, Rejection> {
    let object = root.object(&FIELDS)?;
    name::check_inner(&object, key)?;
    let kind = only_kind(root)?;
    let field = object.require(kind.as_str(), "a policy")?;
    Ok(PolicyDocument {
        policy: Arc::new(read_policy(kind, &field)?),
        is_final: object.read("final", |field| field.bool())?.unwrap_or(false),
        groups: groups::read(&object)?,
    })
}

/// Reads the list `policies` of another document.
pub(super) fn read_list(cursor: &Cursor<'_>) -> Result<Items, Rejection> {
    let entries = cursor.list()?;
    if entries.len() > MAX_ITEMS {
        return Err(cursor.reject(format!(
            "found {} policies, expected at most {MAX_ITEMS}",
            entries.len()
        )));
    }

    let mut items: Vec<Item> = Vec::new();
    for entry in &entries {
        let choice = read_choice(entry)?;
        if let Some(other) = items.iter().find(|item| is_a_second(&item.choice, &choice)) {
            return Err(entry.reject(format!(
                "found the policy of {} once more, expected it once",
                other.place
            )));
        }
        items.push(Item {
            place: entry.path().to_owned(),
            choice,
        });
    }
    Ok(items.into())
}

fn read_choice(entry: &Cursor<'_>) -> Result<Choice, Rejection> {
    if entry.value().is_string() {
        return name::read(entry).map(Choice::Named);
    }
    if !entry.value().is_object() {
        return Err(entry.expected("the name of a policies document or an object with a kind"));
    }

    let object = entry.object(&ITEM_FIELDS)?;
    let kind = only_kind(entry)?;
    let field = object.require(kind.as_str(), "a policy")?;
    match field.value().as_str() {
        Some("off") => Ok(Choice::Off(kind)),
        Some(_) => Err(field.expected("an object, or \"off\"")),
        None => Ok(Choice::Inline(Arc::new(read_policy(kind, &field)?))),
    }
}

/// Whether both entries are about one name or one kind. The compiler finds the kind of a name.
fn is_a_second(one: &Choice, other: &Choice) -> bool {
    let kind = |choice: &Choice| match choice {
        Choice::Named(_) => None,
        Choice::Inline(policy) => Some(policy.kind()),
        Choice::Off(kind) => Some(*kind),
    };
    match (one, other) {
        (Choice::Named(one), Choice::Named(other)) => one == other,
        _ => kind(one).is_some() && kind(one) == kind(other),
    }
}

/// The one kind of an object.
fn only_kind(cursor: &Cursor<'_>) -> Result<PolicyKind, Rejection> {
    let found: Vec<PolicyKind> = PolicyKind::ALL
        .into_iter()
        .filter(|kind| cursor.get(kind.as_str()).is_some())
        .collect();
    match found[..] {
        [kind] => Ok(kind),
        [] => {
            let kinds: Vec<String> = PolicyKind::ALL.iter().map(|kind| quote(kind.as_str())).collect();
            Err(cursor.reject(format!("found no kind of policy, expected {}", one_of(&kinds))))
        }
        [first, second, ..] => Err(cursor.reject(format!("found {first} and {second}, expected one kind of policy"))),
    }
}

fn read_policy(kind: PolicyKind, cursor: &Cursor<'_>) -> Result<Policy, Rejection> {
    let rule = match kind {
        PolicyKind::Compression => PolicyRule::Compression(edge::read_compression(cursor)?),
        PolicyKind::Headers => PolicyRule::Headers(edge::read_headers(cursor)?),
        PolicyKind::GrpcWeb => {
            cursor.object(&NO_FIELDS)?;
            PolicyRule::GrpcWeb
        }
        PolicyKind::Cors => PolicyRule::Cors(edge::read_cors(cursor)?),
        PolicyKind::IpAccess => PolicyRule::IpAccess(edge::read_ip_access(cursor)?),
        PolicyKind::Csrf => PolicyRule::Csrf(edge::read_csrf(cursor)?),
        PolicyKind::Rbac => PolicyRule::Rbac(auth::read_rbac(cursor)?),
        PolicyKind::BodyLimit => PolicyRule::BodyLimit(app::read_body_limit(cursor)?),
        PolicyKind::Buffer => PolicyRule::Buffer(app::read_body_limit(cursor)?),
        PolicyKind::Fault => PolicyRule::Fault(app::read_fault(cursor)?),
        PolicyKind::Sticky => PolicyRule::Sticky(app::read_sticky(cursor)?),
        PolicyKind::Maintenance => PolicyRule::Maintenance(app::read_maintenance(cursor)?),
    };
    Ok(Policy {
        rule,
        written: cursor.value().clone(),
    })
}

/// The key of the policies document of a name.
#[must_use]
pub fn key_of(name: &Arc<str>) -> DocumentKey {
    DocumentKey::new(Kind::Policies, Arc::clone(name))
}

#[cfg(test)]
mod tests;
