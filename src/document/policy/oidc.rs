//! `oidc`: a login at an `OpenID` provider, kept in cookies.

use std::time::Duration;

use url::Url;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Shape};
use super::super::field::{HEADER, TEXT, words};
use super::super::name::NAME;
use super::super::route::condition::{self, FILLED_HEADERS};
use super::super::route::matching::parse_host_pattern;
use super::super::route::path::as_seen;
use super::super::route::{HostPattern, StringMatch, Upstream};
use super::super::secret::Shape as SecretShape;
use super::jwt::read_endpoint;
use super::service::{SecretName, read_header_name};

pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "authorization_endpoint",
        URL,
        "The provider's page for logins. Envoy does no discovery",
    )
    .required(),
    Field::new("token_endpoint", URL, "Envoy fetches tokens there").required(),
    Field::new("end_session_endpoint", URL, "The provider's page for logouts").or("none"),
    Field::new("client_id", TEXT, "The name of the client at the provider").required(),
    Field::new("client_secret", NAME, "Secret with a generic text: the client's").required(),
    Field::new(
        "cookie_secret",
        NAME,
        "Secret with a generic text of at least 32 bytes, which signs and encrypts the cookies",
    )
    .required(),
    Field::new("scopes", Shape::entries(&TEXT, MAX_SCOPES), "The scopes to ask for").or("`[\"openid\"]`"),
    Field::new("callback_path", PATH, "The provider sends browsers back to this path").or("`\"/oauth2/callback\"`"),
    Field::new("logout_path", PATH, "A request for this path deletes the cookies").or("`\"/logout\"`"),
    Field::new("cookie_domain", TEXT, "Domain of the cookies").or("the host of the request"),
    Field::new(
        "same_site",
        Shape::Words(&words(&SAME_SITE)),
        "`SameSite` of the cookies; those of a login that is under way have `lax` if this is `strict`",
    )
    .or("`\"lax\"`"),
    Field::new(
        "forward_access_token",
        Shape::Flag,
        "The upstream, and a policy `jwt`, get the access token in `authorization`",
    )
    .or("`false`"),
    Field::new(
        "forward_id_token",
        HEADER,
        "The upstream gets the ID token in this header",
    )
    .or("none"),
    Field::new(
        "no_redirect",
        CONDITIONS,
        "401 instead of a redirect to the provider for requests that fulfil one of these",
    )
    .or("`[]`"),
    Field::new(
        "pass",
        CONDITIONS,
        "Requests that fulfil one of these pass without a login",
    )
    .or("`[]`"),
    Field::new(
        "refresh",
        Shape::Flag,
        "Envoy renews tokens if the provider gives a token for it",
    )
    .or("`true`"),
    Field::new(
        "redirect_hosts",
        Shape::entries(&Shape::Text("host", Some("^(\\*\\.)?[A-Za-z0-9\\[]")), MAX_HOSTS),
        "Hosts to which the provider sends browsers back. Required where the policy holds for any host",
    )
    .or("the hosts of the route"),
]);
const URL: Shape = Shape::Text("URL", Some("^https?://"));
const PATH: Shape = Shape::Text("path", Some("^/."));
const CONDITIONS: Shape = Shape::List {
    of: &FILLED_HEADERS,
    least: 0,
    most: MAX_CONDITIONS,
    once: false,
};
const SAME_SITE: [(&str, SameSite); 3] = [
    ("lax", SameSite::Lax),
    ("strict", SameSite::Strict),
    ("none", SameSite::None),
];
/// The fewest bytes of the cookies' secret.
pub const MIN_COOKIE_SECRET: usize = 32;
/// Most entries of the lists.
const MAX_SCOPES: usize = 50;
const MAX_CONDITIONS: usize = 20;
const MAX_HOSTS: usize = 100;
/// Longest text, in bytes.
const MAX_TEXT: usize = 1024;
const CALLBACK: &str = "/oauth2/callback";
const LOGOUT: &str = "/logout";
const SCOPE: &str = "openid";

/// `oidc`.
#[derive(Debug, Clone, PartialEq)]
pub struct Oidc {
    /// The URL to which browsers without a login are sent.
    pub authorization_endpoint: String,
    /// The server with the tokens.
    pub token_server: Upstream,
    /// The whole URL.
    pub token_endpoint: String,
    /// The URL to which browsers are sent after a logout.
    pub end_session_endpoint: Option<String>,
    /// The name of the client at the provider.
    pub client_id: String,
    /// The secret of the client.
    pub client_secret: SecretName,
    /// The secret of the cookies.
    pub cookie_secret: SecretName,
    /// At least one.
    pub scopes: Vec<String>,
    /// An exact path.
    pub callback_path: String,
    /// An exact path.
    pub logout_path: String,
    /// Domain of the cookies; `None`: the host of the request.
    pub cookie_domain: Option<String>,
    /// `SameSite` of the cookies.
    pub same_site: SameSite,
    /// Whether the access token goes on in `authorization`.
    pub forwards_access_token: bool,
    /// The header in which the ID token goes on.
    pub forward_id_token: Option<String>,
    /// 401 instead of a redirect for requests with any of these.
    pub no_redirect: Vec<(String, StringMatch)>,
    /// No login for requests with any of these.
    pub pass: Vec<(String, StringMatch)>,
    /// Whether tokens are renewed.
    pub refreshes: bool,
    /// The hosts to which browsers may come back; `None`: those of the route.
    pub redirect_hosts: Option<Vec<HostPattern>>,
}

/// `SameSite` of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Sent when a browser follows a link from another site.
    Lax,
    /// Never sent on the way from another site.
    Strict,
    /// Always sent.
    None,
}

impl Oidc {
    /// Sentences about settings that may not be meant.
    pub(super) fn warnings(&self) -> Vec<String> {
        let is_plain = self.token_endpoint.starts_with("http://");
        let sentence =
            "\"token_endpoint\" is no https URL, so the secret of the client and the tokens travel in the clear";
        is_plain.then(|| sentence.to_owned()).into_iter().collect()
    }
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<Oidc, Rejection> {
    let object = cursor.object(&FIELDS)?;
    let url = r#"a URL such as "https://login.example.com/authorize""#;
    let token = object.require("token_endpoint", r#"a URL such as "https://login.example.com/token""#)?;
    let (token_server, token_endpoint) = read_endpoint(&token)?;
    let secret = |name: &str| {
        let field = object.require(name, "the name of a secrets document")?;
        SecretName::read(&field, "oidc", &[SecretShape::Generic])
    };
    let scopes = object.read("scopes", |field| {
        field.entries()?;
        bounded(&field, MAX_SCOPES)?
            .iter()
            .map(read_scope)
            .collect::<Result<Vec<_>, _>>()
    })?;
    let conditions = |name: &str| {
        let read = |field: Cursor<'_>| bounded(&field, MAX_CONDITIONS)?.iter().map(read_condition).collect();
        Ok::<_, Rejection>(object.read(name, read)?.unwrap_or_default())
    };
    let hosts = object.read("redirect_hosts", |field| {
        field.entries()?;
        bounded(&field, MAX_HOSTS)?.iter().map(read_host).collect()
    })?;
    let path = |name: &str, default: &str| {
        let path = object.read(name, |field| read_path(&field))?;
        Ok::<_, Rejection>(path.unwrap_or_else(|| default.to_owned()))
    };
    let oidc = Oidc {
        authorization_endpoint: read_page(&object.require("authorization_endpoint", url)?)?,
        token_server,
        token_endpoint,
        end_session_endpoint: object.read("end_session_endpoint", |field| read_page(&field))?,
        client_id: read_text(&object.require("client_id", "the name of the client at the provider")?)?,
        client_secret: secret("client_secret")?,
        cookie_secret: secret("cookie_secret")?,
        scopes: scopes.unwrap_or_else(|| vec![SCOPE.to_owned()]),
        callback_path: path("callback_path", CALLBACK)?,
        logout_path: path("logout_path", LOGOUT)?,
        cookie_domain: object.read("cookie_domain", |field| read_domain(&field))?,
        same_site: object
            .read("same_site", |field| field.word(&SAME_SITE))?
            .unwrap_or(SameSite::Lax),
        forwards_access_token: object
            .read("forward_access_token", |field| field.bool())?
            .unwrap_or(false),
        forward_id_token: object.read("forward_id_token", |field| read_header_name(&field))?,
        no_redirect: conditions("no_redirect")?,
        pass: conditions("pass")?,
        refreshes: object.read("refresh", |field| field.bool())?.unwrap_or(true),
        redirect_hosts: hosts,
    };
    if oidc.callback_path == oidc.logout_path {
        return Err(object.reject("found one path for callback and logout, expected two"));
    }
    if oidc.forwards_access_token && oidc.forward_id_token.as_deref() == Some("authorization") {
        return Err(object.reject("found both tokens for \"authorization\", expected one"));
    }
    let has_openid = oidc.scopes.iter().any(|scope| scope == SCOPE);
    if oidc.end_session_endpoint.is_some() && !has_openid {
        return Err(object.reject("found \"end_session_endpoint\" without the scope \"openid\", expected it"));
    }
    Ok(oidc)
}

fn bounded<'a>(list: &Cursor<'a>, most: usize) -> Result<Vec<Cursor<'a>>, Rejection> {
    let entries = list.list()?;
    match entries.len() {
        count if count > most => Err(list.reject(format!("found {count} entries, expected at most {most}"))),
        _ => Ok(entries),
    }
}

/// A URL to which browsers go; Envoy adds to its query.
fn read_page(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.text()?;
    let url = Url::parse(text).ok().filter(|url| {
        text.len() <= MAX_TEXT && url.has_host() && url.fragment().is_none() && matches!(url.scheme(), "http" | "https")
    });
    let url = url.ok_or_else(|| cursor.confidential("a URL such as \"https://login.example.com/authorize\""))?;
    match !url.username().is_empty() || url.password().is_some() {
        true => Err(cursor.reject("found a URL with a user or password in it, expected none")),
        false => Ok(url.into()),
    }
}

fn read_text(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    match cursor.text()? {
        text if text.len() <= MAX_TEXT && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(cursor.expected("a text of at most 1024 bytes without control characters")),
    }
}

/// A scope: printable characters of ASCII without spaces, quotes and backslashes (RFC 6749).
fn read_scope(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let letter = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    match cursor.text()? {
        text if text.len() <= MAX_TEXT && text.bytes().all(letter) => Ok(text.to_owned()),
        _ => Err(cursor.expected("a scope such as \"openid\"")),
    }
}

fn read_path(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    let text = cursor.string()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    if text.len() < 2 || !text.starts_with('/') || !text.bytes().all(plain) {
        return Err(cursor.expected(r#"an exact path of letters, digits, "/", "-", ".", "_" and "~""#));
    }
    as_seen(text).map_err(|what| cursor.expected(what))
}

fn read_domain(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    match parse_host_pattern(cursor.text()?.trim_start_matches('.')) {
        Ok(HostPattern::Exact(host)) => Ok(host.to_string()),
        _ => Err(cursor.expected(r#"a domain such as "example.com""#)),
    }
}

/// One condition: Envoy's list holds if any of its conditions does.
fn read_condition(cursor: &Cursor<'_>) -> Result<(String, StringMatch), Rejection> {
    let mut headers = condition::read_headers(cursor)?;
    match (headers.pop(), headers.is_empty()) {
        (Some(header), true) => Ok(header),
        _ => Err(cursor.reject("found another number of headers than one, expected one condition for each entry")),
    }
}

/// A host, or those below a domain.
fn read_host(cursor: &Cursor<'_>) -> Result<HostPattern, Rejection> {
    match parse_host_pattern(cursor.string()?) {
        Ok(HostPattern::Any) => Err(cursor.expected(r#"a host or a wildcard such as "*.example.com""#)),
        Ok(host) => Ok(host),
        Err(reason) => Err(cursor.reject(reason)),
    }
}

/// The longest wait for tokens.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);
