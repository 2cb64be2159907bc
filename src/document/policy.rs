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
//! | `rate_limit`, `oidc`, `jwt`, `basic_auth`, `api_key`, `ext_authz`, `global_rate_limit`, `lua`, `ext_proc`, `grpc_json` | the kind of that name |
//! | `service` | parts that kinds with a service or a secret share |
//! | `upstreams` | the services that policies ask |

use std::fmt;
use std::sync::Arc;

use jwt::Jwks;
use rate_limit::By;
use serde_json::Value;
use service::SecretName;

use super::decode::{Cursor, Field, Fields, Shape};
use super::key::{DocumentKey, Kind};
use super::reference::Reference;
use super::sentence::{one_of, quote};
use super::{Document, Groups, Rejection, groups, name};

pub mod api_key;
pub mod app;
pub mod auth;
pub mod basic_auth;
pub mod edge;
pub mod ext_authz;
pub mod ext_proc;
pub mod global_rate_limit;
pub mod grpc_json;
pub mod jwt;
pub mod lua;
pub mod oidc;
pub mod rate_limit;
pub mod service;
mod upstreams;

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
    "rate_limit", rate_limit::EVERY_FIELD, "Token buckets of each Envoy; 429";
    "oidc", oidc::FIELDS, "A login at an OpenID provider, kept in cookies";
    "jwt", jwt::EVERY_FIELD, "Signed tokens; 401 without one";
    "basic_auth", basic_auth::FIELDS, "Users with passwords; 401 for others";
    "api_key", api_key::FIELDS, "Keys of clients; 401 without one, 403 for other clients";
    "ext_authz", ext_authz::FIELDS, "A service that decides about requests";
    "rbac", auth::RBAC_FIELDS, "Rules by method, path, headers and address; 403 if one denies";
    "global_rate_limit", global_rate_limit::FIELDS, "A service that counts the requests of all proxies; 429";
    "lua", lua::FIELDS, "A script for requests and answers";
    "ext_proc", ext_proc::FIELDS, "A service that changes requests and answers";
    "body_limit", app::LIMIT_FIELDS, "413 for a larger request body; nothing is held back";
    "buffer", app::LIMIT_FIELDS, "A request goes on when its body is complete; 413 for a larger one";
    "fault", app::FAULT_FIELDS, "Errors and delays on purpose";
    "grpc_json", grpc_json::FIELDS, "JSON for methods of gRPC";
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
    /// `rate_limit`
    RateLimit,
    /// `oidc`
    Oidc,
    /// `jwt`
    Jwt,
    /// `basic_auth`
    BasicAuth,
    /// `api_key`
    ApiKey,
    /// `ext_authz`
    ExtAuthz,
    /// `rbac`
    Rbac,
    /// `global_rate_limit`
    GlobalRateLimit,
    /// `lua`
    Lua,
    /// `ext_proc`
    ExtProc,
    /// `body_limit`
    BodyLimit,
    /// `buffer`
    Buffer,
    /// `fault`
    Fault,
    /// `grpc_json`
    GrpcJson,
    /// `sticky`
    Sticky,
    /// `maintenance`, a route instead of a filter.
    Maintenance,
}

impl PolicyKind {
    /// Whether a policy of this kind keeps requests out: its end on a route is a high risk.
    #[must_use]
    pub fn is_guarding(self) -> bool {
        matches!(
            self,
            Self::IpAccess
                | Self::Csrf
                | Self::Jwt
                | Self::Oidc
                | Self::BasicAuth
                | Self::ApiKey
                | Self::ExtAuthz
                | Self::Rbac
        )
    }

    /// Every kind, in order.
    pub const ALL: [Self; 22] = [
        Self::Compression,
        Self::Headers,
        Self::GrpcWeb,
        Self::Cors,
        Self::IpAccess,
        Self::Csrf,
        Self::RateLimit,
        Self::Oidc,
        Self::Jwt,
        Self::BasicAuth,
        Self::ApiKey,
        Self::ExtAuthz,
        Self::Rbac,
        Self::GlobalRateLimit,
        Self::Lua,
        Self::ExtProc,
        Self::BodyLimit,
        Self::Buffer,
        Self::Fault,
        Self::GrpcJson,
        Self::Sticky,
        Self::Maintenance,
    ];

    /// Every kind with its word, in order.
    pub(super) const WORDS: [(&'static str, Self); 22] = {
        let mut words = [("", Self::Compression); 22];
        let mut index = 0;
        while index < words.len() {
            words[index] = (Self::ALL[index].as_str(), Self::ALL[index]);
            index += 1;
        }
        words
    };

    /// The effect, in a few words.
    #[must_use]
    pub fn about(self) -> &'static str {
        let field = KINDS.iter().find(|field| field.name == self.as_str());
        field.map_or("", |field| field.about)
    }

    /// Whether a policy of the kind holds on routes that answer without an upstream. Envoy's filter for CORS reads its
    /// policy from routes that forward, and from no other.
    #[must_use]
    pub const fn holds_on_own_answers(self) -> bool {
        !matches!(self, Self::Cors)
    }

    /// The word in documents, and the name of the filter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compression => "compression",
            Self::Headers => "headers",
            Self::GrpcWeb => "grpc_web",
            Self::Cors => "cors",
            Self::IpAccess => "ip_access",
            Self::Csrf => "csrf",
            Self::RateLimit => "rate_limit",
            Self::Oidc => "oidc",
            Self::Jwt => "jwt",
            Self::BasicAuth => "basic_auth",
            Self::ApiKey => "api_key",
            Self::ExtAuthz => "ext_authz",
            Self::Rbac => "rbac",
            Self::GlobalRateLimit => "global_rate_limit",
            Self::Lua => "lua",
            Self::ExtProc => "ext_proc",
            Self::BodyLimit => "body_limit",
            Self::Buffer => "buffer",
            Self::Fault => "fault",
            Self::GrpcJson => "grpc_json",
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
            PolicyRule::RateLimit(_) => PolicyKind::RateLimit,
            PolicyRule::Oidc(_) => PolicyKind::Oidc,
            PolicyRule::Jwt(_) => PolicyKind::Jwt,
            PolicyRule::BasicAuth(_) => PolicyKind::BasicAuth,
            PolicyRule::ApiKey(_) => PolicyKind::ApiKey,
            PolicyRule::ExtAuthz(_) => PolicyKind::ExtAuthz,
            PolicyRule::Rbac(_) => PolicyKind::Rbac,
            PolicyRule::GlobalRateLimit(_) => PolicyKind::GlobalRateLimit,
            PolicyRule::Lua(_) => PolicyKind::Lua,
            PolicyRule::ExtProc(_) => PolicyKind::ExtProc,
            PolicyRule::BodyLimit(_) => PolicyKind::BodyLimit,
            PolicyRule::Buffer(_) => PolicyKind::Buffer,
            PolicyRule::Fault(_) => PolicyKind::Fault,
            PolicyRule::GrpcJson(_) => PolicyKind::GrpcJson,
            PolicyRule::Sticky(_) => PolicyKind::Sticky,
            PolicyRule::Maintenance(_) => PolicyKind::Maintenance,
        }
    }

    /// The secrets that the policy names.
    #[must_use]
    pub fn secrets(&self) -> Vec<&SecretName> {
        match &self.rule {
            PolicyRule::BasicAuth(basic) => vec![&basic.users],
            PolicyRule::ApiKey(api_key) => api_key.keys.iter().collect(),
            PolicyRule::Oidc(oidc) => vec![&oidc.client_secret, &oidc.cookie_secret],
            PolicyRule::Jwt(jwt) => {
                let named = jwt.providers.iter().filter_map(|provider| match &provider.jwks {
                    Jwks::Secret(secret) => Some(secret),
                    Jwks::Remote { .. } | Jwks::Inline(_) => None,
                });
                named.collect()
            }
            _ => Vec::new(),
        }
    }

    /// The file on the server that the policy names.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match &self.rule {
            PolicyRule::GrpcJson(json) => json.file.as_deref(),
            _ => None,
        }
    }

    /// Whether the policy looks at the claims of a token.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        self.limits_by(|by| matches!(by, By::Claim(_)))
            || matches!(&self.rule, PolicyRule::Rbac(rbac) if rbac.rules.iter().any(|rule| !rule.claims.is_empty()))
    }

    /// Whether the policy looks at the client that another policy found.
    #[must_use]
    pub fn needs_client(&self) -> bool {
        self.limits_by(|by| *by == By::Client)
            || matches!(&self.rule, PolicyRule::Rbac(rbac) if rbac.rules.iter().any(|rule| !rule.clients.is_empty()))
    }

    /// Whether the policy counts requests by such a value.
    fn limits_by(&self, is_such: impl Fn(&By) -> bool) -> bool {
        match &self.rule {
            PolicyRule::RateLimit(limit) => limit.rules.iter().filter_map(|rule| rule.by.as_ref()).any(is_such),
            PolicyRule::GlobalRateLimit(limit) => limit.values().any(is_such),
            _ => false,
        }
    }

    /// The header in which the policy writes the client that it found.
    #[must_use]
    pub fn client_header(&self) -> Option<&str> {
        match &self.rule {
            PolicyRule::ApiKey(api_key) => api_key.client_header.as_deref(),
            PolicyRule::BasicAuth(basic) => basic.user_header.as_deref(),
            _ => None,
        }
    }

    /// The references of a policy at a place, which is empty in a document of its own.
    pub(super) fn references(&self, place: &str) -> Vec<Reference> {
        let kind = self.kind();
        let place = match place {
            "" => kind.to_string(),
            place => format!("{place}.{kind}"),
        };
        self.secrets().iter().map(|secret| secret.reference(&place)).collect()
    }

    /// Sentences about a policy that is valid and perhaps not meant.
    fn warnings(&self) -> Vec<String> {
        match &self.rule {
            PolicyRule::BasicAuth(_) => vec![basic_auth::WARNING.to_owned()],
            PolicyRule::Oidc(oidc) => oidc.warnings(),
            PolicyRule::Jwt(jwt) => jwt.warnings(),
            PolicyRule::Sticky(_) => vec![app::STICKY_WARNING.to_owned()],
            _ => Vec::new(),
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
    /// Token buckets of each Envoy.
    RateLimit(rate_limit::RateLimit),
    /// A login at a provider. Boxed: larger than the others.
    Oidc(Box<oidc::Oidc>),
    /// Signed tokens.
    Jwt(jwt::Jwt),
    /// Users with passwords.
    BasicAuth(basic_auth::BasicAuth),
    /// Keys of clients.
    ApiKey(api_key::ApiKey),
    /// A service that decides about requests.
    ExtAuthz(ext_authz::ExtAuthz),
    /// Rules by method, path, headers and address.
    Rbac(auth::Rbac),
    /// A service that counts requests.
    GlobalRateLimit(global_rate_limit::GlobalRateLimit),
    /// A script for requests and answers.
    Lua(lua::Lua),
    /// A service that changes requests and answers.
    ExtProc(ext_proc::ExtProc),
    /// Largest request body, in bytes; nothing is held back.
    BodyLimit(u32),
    /// Largest request body, in bytes; the request goes on when its body is complete.
    Buffer(u32),
    /// Errors and delays on purpose.
    Fault(app::Fault),
    /// JSON for methods of gRPC.
    GrpcJson(grpc_json::GrpcJson),
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
    /// The policy that stands in the list itself.
    #[must_use]
    pub fn inline(&self) -> Option<&Arc<Policy>> {
        match &self.choice {
            Choice::Inline(policy) => Some(policy),
            Choice::Named(_) | Choice::Off(_) => None,
        }
    }

    /// The kind; `None`: the compiler finds that of a name.
    #[must_use]
    pub fn kind(&self) -> Option<PolicyKind> {
        match &self.choice {
            Choice::Named(_) => None,
            Choice::Inline(policy) => Some(policy.kind()),
            Choice::Off(kind) => Some(*kind),
        }
    }

    /// The reference to the policies document of a name, and those of a policy in the list.
    pub(super) fn references(&self) -> Vec<Reference> {
        match &self.choice {
            Choice::Named(name) => vec![Reference::policy(&*self.place, name)],
            Choice::Inline(policy) => policy.references(&self.place),
            Choice::Off(_) => Vec::new(),
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

/// Sentences about the policies of a document, with their place.
pub(super) fn warnings(document: &Document) -> Vec<String> {
    if let Document::Policy(document) = document {
        let kind = document.policy.kind();
        let sentences = document.policy.warnings().into_iter();
        return sentences.map(|sentence| format!("{kind}: {sentence}")).collect();
    }
    let items = document.policy_lists().flat_map(|items| items.iter());
    items
        .filter_map(|item| Some((item, item.inline()?)))
        .flat_map(|(item, policy)| {
            let place = format!("{}.{}", item.place, policy.kind());
            policy
                .warnings()
                .into_iter()
                .map(move |sentence| format!("{place}: {sentence}"))
        })
        .collect()
}

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
        let item = Item {
            place: entry.path().to_owned(),
            choice: read_choice(entry)?,
        };
        if let Some(other) = items.iter().find(|other| is_a_second(other, &item)) {
            return Err(entry.reject(format!(
                "found the policy of {} once more, expected it once",
                other.place
            )));
        }
        items.push(item);
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
fn is_a_second(one: &Item, other: &Item) -> bool {
    match (&one.choice, &other.choice) {
        (Choice::Named(one), Choice::Named(other)) => one == other,
        _ => one.kind().is_some() && one.kind() == other.kind(),
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
        PolicyKind::RateLimit => PolicyRule::RateLimit(rate_limit::read(cursor)?),
        PolicyKind::Oidc => PolicyRule::Oidc(Box::new(oidc::read(cursor)?)),
        PolicyKind::Jwt => PolicyRule::Jwt(jwt::read(cursor)?),
        PolicyKind::BasicAuth => PolicyRule::BasicAuth(basic_auth::read(cursor)?),
        PolicyKind::ApiKey => PolicyRule::ApiKey(api_key::read(cursor)?),
        PolicyKind::ExtAuthz => PolicyRule::ExtAuthz(ext_authz::read(cursor)?),
        PolicyKind::Rbac => PolicyRule::Rbac(auth::read_rbac(cursor)?),
        PolicyKind::GlobalRateLimit => PolicyRule::GlobalRateLimit(global_rate_limit::read(cursor)?),
        PolicyKind::Lua => PolicyRule::Lua(lua::read(cursor)?),
        PolicyKind::ExtProc => PolicyRule::ExtProc(ext_proc::read(cursor)?),
        PolicyKind::BodyLimit => PolicyRule::BodyLimit(app::read_body_limit(cursor)?),
        PolicyKind::Buffer => PolicyRule::Buffer(app::read_body_limit(cursor)?),
        PolicyKind::Fault => PolicyRule::Fault(app::read_fault(cursor)?),
        PolicyKind::GrpcJson => PolicyRule::GrpcJson(grpc_json::read(cursor)?),
        PolicyKind::Sticky => PolicyRule::Sticky(app::read_sticky(cursor)?),
        PolicyKind::Maintenance => PolicyRule::Maintenance(app::read_maintenance(cursor)?),
    };
    let mut written = cursor.value().clone();
    if let PolicyRule::GrpcJson(json) = &rule
        && json.file.is_some()
        && let Some(fields) = written.as_object_mut()
    {
        // The content of the file.
        fields.remove("descriptor");
    }
    Ok(Policy { rule, written })
}

/// The key of the policies document of a name.
#[must_use]
pub fn key_of(name: &Arc<str>) -> DocumentKey {
    DocumentKey::new(Kind::Policies, Arc::clone(name))
}

#[cfg(test)]
mod tests;
