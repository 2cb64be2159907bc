//! `jwt`: a token signed by one of the providers.

use std::time::Duration;

use url::Url;

use super::super::Rejection;
use super::super::decode::{Cursor, Field, Fields, Object, Shape};
use super::super::field::{HEADER, STRING, TEXT};
use super::super::name::NAME;
use super::super::route::Upstream;
use super::super::route::target::read_url_text;
use super::super::secret::{Confidential, Shape as SecretShape, read_jwks};
use super::app::read_cookie_name;
use super::edge::read_seconds;
use super::service::{SecretName, read_header_name};

const FIELDS: Fields = Fields::joined(&[LIST, OPTIONAL]);
/// The fields of both forms.
pub(super) const EVERY_FIELD: Fields = Fields::joined(&[LIST, &[JWKS], PROVIDER, OPTIONAL]);
const PROVIDER_FIELDS: Fields = Fields::joined(&[&[JWKS.required()], PROVIDER]);
const LIST: &[Field] = &[Field::new(
    "providers",
    Shape::entries(&Shape::Object(&PROVIDER_FIELDS), MAX_PROVIDERS),
    "A token of any of them passes",
)];
const OPTIONAL: &[Field] =
    &[Field::new("optional", Shape::Flag, "`true`: no token is fine, a bad one is not").or("`false`")];
const JWKS: Field = Field::new(
    "jwks",
    Shape::AnyOf(&[TEXT, Shape::Object(&JWKS_FIELDS)]),
    "The keys: an https URL, `inline` or `secret`",
);
/// The fields of a provider without those of its keys.
const PROVIDER: &[Field] = &[
    Field::new("issuer", STRING, "The claim `iss`; `null`: any. Required"),
    Field::new("audiences", TEXTS, "One of these in the claim `aud`").or("not looked at"),
    Field::new("insecure", Shape::Flag, "`true`: the URL may be http").or("`false`"),
    Field::new("cache", Shape::Duration, "How long fetched keys are kept").or("`\"5m\"`"),
    Field::new(
        "from_headers",
        Shape::List {
            of: &Shape::Object(&HEADER_FIELDS),
            least: 0,
            most: MAX_ENTRIES,
            once: false,
        },
        "Headers with a token",
    )
    .or("`authorization` with `Bearer `"),
    Field::new("from_params", TEXTS, "Query parameters with a token").or("`[]`"),
    Field::new("from_cookies", TEXTS, "Cookies with a token").or("`[]`"),
    Field::new("forward", Shape::Flag, "The upstream gets the token").or("`true`"),
    Field::new(
        "claim_to_headers",
        Shape::Map(&CLAIM),
        "Headers for the upstream with claims",
    )
    .or("`{}`"),
    Field::new("payload_header", HEADER, "The header with the payload").or("none"),
    Field::new(
        "clock_skew",
        Shape::Duration,
        "How far clocks may be apart, in whole seconds",
    )
    .or("`\"60s\"`"),
    Field::new("require_expiration", Shape::Flag, "A token without `exp` is refused").or("`true`"),
    Field::new(
        "max_lifetime",
        Shape::Duration,
        "Longest time from `iat` to `exp`, in whole seconds",
    )
    .or("any"),
];
const TEXTS: Shape = Shape::List {
    of: &TEXT,
    least: 0,
    most: MAX_ENTRIES,
    once: false,
};
/// A claim, as a shape.
pub(super) const CLAIM: Shape = Shape::AnyOf(&[TEXT, Shape::entries(&TEXT, MAX_SEGMENTS)]);
const JWKS_FIELDS: Fields = Fields::of(&[
    Field::new("inline", Shape::Free, "A JSON Web Key Set"),
    Field::new("secret", NAME, "Secret with a JSON Web Key Set"),
])
.filled();
const HEADER_FIELDS: Fields = Fields::of(&[
    Field::new("name", HEADER, "The header").required(),
    Field::new("prefix", STRING, "The text before the token").or("none"),
]);
/// Most providers of a policy.
const MAX_PROVIDERS: usize = 20;
/// Most entries of a list, and the longest text, in bytes.
const MAX_ENTRIES: usize = 100;
const MAX_TEXT: usize = 1024;
/// Most segments of a claim.
const MAX_SEGMENTS: usize = 10;
const CACHE: Duration = Duration::from_secs(300);
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// `jwt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// At least one; a token of any of them passes.
    pub providers: Vec<Provider>,
    /// Whether a request without a token passes.
    pub optional: bool,
}

impl Jwt {
    /// Sentences about providers that take more tokens than may be meant.
    pub(super) fn warnings(&self) -> Vec<String> {
        let open = self.providers.iter().filter(|provider| provider.audiences.is_empty());
        let sentence = "no \"audiences\", so a token that the issuer made for another service passes";
        open.take(1).map(|_| sentence.to_owned()).collect()
    }
}

/// Where tokens come from, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The claim `iss`; `None`: any.
    pub issuer: Option<String>,
    /// Any of these in the claim `aud`; empty: not looked at.
    pub audiences: Vec<String>,
    /// The keys.
    pub jwks: Jwks,
    /// Headers with a token, each with the text before the token.
    pub from_headers: Vec<(String, String)>,
    /// Query parameters with a token.
    pub from_params: Vec<String>,
    /// Cookies with a token.
    pub from_cookies: Vec<String>,
    /// Whether the upstream gets the token.
    pub forward: bool,
    /// Headers for the upstream, each with the claim that it carries, segment by segment.
    pub claim_to_headers: Vec<(String, Vec<String>)>,
    /// The header with the payload in base64url.
    pub payload_header: Option<String>,
    /// How far the clocks may be apart.
    pub clock_skew: Duration,
    /// Whether a token without `exp` is refused.
    pub require_expiration: bool,
    /// The longest time from `iat` to `exp`.
    pub max_lifetime: Option<Duration>,
}

/// The keys of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// Envoy fetches them.
    Remote {
        /// The server.
        server: Upstream,
        /// The whole URL.
        uri: String,
        /// How long they are kept.
        cache: Duration,
    },
    /// They stand in the document.
    Inline(Confidential),
    /// They stand in a secrets document.
    Secret(SecretName),
}

pub(super) fn read(cursor: &Cursor<'_>) -> Result<Jwt, Rejection> {
    let has_list = cursor.get("providers").is_some();
    let object = cursor.object(match has_list {
        true => &FIELDS,
        false => &EVERY_FIELD,
    })?;
    let providers = match object.get("providers") {
        Some(field) => {
            let entries = field.entries()?;
            if entries.len() > MAX_PROVIDERS {
                let count = entries.len();
                return Err(field.reject(format!("found {count} providers, expected at most {MAX_PROVIDERS}")));
            }
            let read = |entry: &Cursor<'_>| read_provider(entry, &entry.object(&PROVIDER_FIELDS)?);
            entries.iter().map(read).collect::<Result<_, _>>()?
        }
        None => vec![read_provider(cursor, &object)?],
    };
    Ok(Jwt {
        providers,
        optional: object.read("optional", |field| field.bool())?.unwrap_or(false),
    })
}

fn read_provider(cursor: &Cursor<'_>, object: &Object<'_>) -> Result<Provider, Rejection> {
    let texts = |field: Cursor<'_>| read_texts(&field);
    let seconds = |name, default| Ok::<_, Rejection>(object.read(name, read_seconds)?.unwrap_or(default));
    let (from_headers, from_params, from_cookies) = (
        object.read("from_headers", |field| read_from_headers(&field))?,
        object.read("from_params", texts)?.unwrap_or_default(),
        object.read("from_cookies", |field| {
            field
                .list()?
                .iter()
                .map(read_cookie_name)
                .collect::<Result<Vec<_>, _>>()
        })?,
    );
    let from_headers = from_headers.unwrap_or_else(|| vec![("authorization".to_owned(), "Bearer ".to_owned())]);
    let from_cookies = from_cookies.unwrap_or_default();
    if from_headers.is_empty() && from_params.is_empty() && from_cookies.is_empty() {
        return Err(object.reject("found no place of a token, expected a header, a parameter or a cookie"));
    }

    let is_null = |name: &str| cursor.value().get(name).is_some_and(serde_json::Value::is_null);
    let issuer = match object.get("issuer") {
        None if is_null("issuer") => None,
        _ => {
            let field = object.require("issuer", "the issuer of the tokens, or null for any")?;
            Some(read_text(&field)?)
        }
    };
    Ok(Provider {
        issuer,
        audiences: object.read("audiences", texts)?.unwrap_or_default(),
        jwks: read_jwks_source(object)?,
        from_headers,
        from_params,
        from_cookies,
        forward: object.read("forward", |field| field.bool())?.unwrap_or(true),
        claim_to_headers: object
            .read("claim_to_headers", |field| read_claim_headers(&field))?
            .unwrap_or_default(),
        payload_header: object.read("payload_header", |field| read_header_name(&field))?,
        clock_skew: seconds("clock_skew", CLOCK_SKEW)?,
        require_expiration: object.read("require_expiration", |field| field.bool())?.unwrap_or(true),
        max_lifetime: object.read("max_lifetime", read_seconds)?,
    })
}

fn read_text(cursor: &Cursor<'_>) -> Result<String, Rejection> {
    match cursor.text()? {
        text if text.len() <= MAX_TEXT && !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(cursor.expected("a text of at most 1024 bytes without control characters")),
    }
}

fn read_texts(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let entries = cursor.list()?;
    match entries.len() {
        count if count > MAX_ENTRIES => {
            Err(cursor.reject(format!("found {count} entries, expected at most {MAX_ENTRIES}")))
        }
        _ => entries.iter().map(read_text).collect(),
    }
}

fn read_from_headers(cursor: &Cursor<'_>) -> Result<Vec<(String, String)>, Rejection> {
    let mut headers = Vec::new();
    for entry in cursor.list()? {
        let object = entry.object(&HEADER_FIELDS)?;
        let name = read_header_name(&object.require("name", "the name of a header")?)?;
        let prefix = object.read("prefix", |field| match field.string()? {
            text if text.len() <= MAX_TEXT && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) => {
                Ok(text.to_owned())
            }
            _ => Err(field.expected("the text before a token, such as \"Bearer \"")),
        })?;
        headers.push((name, prefix.unwrap_or_default()));
    }
    match headers.len() {
        count if count > MAX_ENTRIES => {
            Err(cursor.reject(format!("found {count} headers, expected at most {MAX_ENTRIES}")))
        }
        _ => Ok(headers),
    }
}

fn read_claim_headers(cursor: &Cursor<'_>) -> Result<Vec<(String, Vec<String>)>, Rejection> {
    let mut headers: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in cursor.map()? {
        let name = super::super::route::header::parse_edited_name(&value, name)?;
        if headers.iter().any(|(other, _)| *other == name) {
            return Err(value.reject("found the header a second time, expected it once"));
        }
        headers.push((name, read_claim(&value)?));
    }
    match headers.len() {
        count if count > MAX_ENTRIES => {
            Err(cursor.reject(format!("found {count} headers, expected at most {MAX_ENTRIES}")))
        }
        _ => Ok(headers),
    }
}

/// A claim: `"a.b"` is `b` in `a`; a list has segments that may hold dots.
pub(super) fn read_claim(cursor: &Cursor<'_>) -> Result<Vec<String>, Rejection> {
    let expected = || cursor.expected(r#"a claim such as "sub" or "a.b", or a list of its segments"#);
    let segments: Vec<String> = match cursor.value() {
        serde_json::Value::String(text) => text.split('.').map(str::to_owned).collect(),
        serde_json::Value::Array(_) => {
            let entries = cursor.entries()?;
            entries.iter().map(read_text).collect::<Result<_, _>>()?
        }
        _ => return Err(expected()),
    };
    let is_bad = |segment: &String| segment.is_empty() || segment.len() > MAX_TEXT;
    match segments.len() > MAX_SEGMENTS || segments.iter().any(is_bad) {
        true => Err(expected()),
        false => Ok(segments),
    }
}

fn read_jwks_source(object: &Object<'_>) -> Result<Jwks, Rejection> {
    let field = object.require("jwks", r#"an https URL, {"inline": …} or {"secret": …}"#)?;
    if field.value().is_string() {
        return read_remote(object, &field);
    }
    for name in ["cache", "insecure"] {
        if let Some(extra) = object.get(name) {
            return Err(extra.reject("found beside keys that Envoy does not fetch, expected it beside a URL only"));
        }
    }
    if !field.value().is_object() {
        return Err(field.expected(r#"an https URL, {"inline": …} or {"secret": …}"#));
    }
    let keys = field.object(&JWKS_FIELDS)?;
    match (keys.get("inline"), keys.get("secret")) {
        (Some(inline), None) => {
            let list = inline.value().get("keys").and_then(serde_json::Value::as_array);
            if list
                .into_iter()
                .flatten()
                .any(|key| key.get("kty").is_some_and(|kind| kind == "oct"))
            {
                return Err(
                    inline.reject("found a key that also makes tokens (\"oct\"), expected it in a secrets document")
                );
            }
            read_jwks(&inline).map(Jwks::Inline)
        }
        (None, Some(secret)) => SecretName::read(&secret, "jwt", &[SecretShape::Jwks]).map(Jwks::Secret),
        _ => Err(field.expected("one of \"inline\" and \"secret\"")),
    }
}

fn read_remote(object: &Object<'_>, field: &Cursor<'_>) -> Result<Jwks, Rejection> {
    let insecure = object.read("insecure", |flag| flag.bool())?.unwrap_or(false);
    let (server, uri) = read_endpoint(field)?;
    let is_loopback = matches!(&server, Upstream::Url(url)
        if url.host == "localhost" || url.host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback()));
    let is_https = matches!(&server, Upstream::Url(url) if url.https);
    if !is_https && !is_loopback && !insecure {
        return Err(field.expected("an https URL (\"insecure\": true allows http: whoever answers makes valid tokens)"));
    }
    Ok(Jwks::Remote {
        server,
        uri,
        cache: object.read("cache", |field| field.duration())?.unwrap_or(CACHE),
    })
}

/// A URL with a path: its server, and the URL in normal form.
pub(super) fn read_endpoint(cursor: &Cursor<'_>) -> Result<(Upstream, String), Rejection> {
    let text = cursor.text()?;
    let url = Url::parse(text).ok().filter(|url| {
        text.len() <= MAX_TEXT && url.has_host() && url.fragment().is_none() && matches!(url.scheme(), "http" | "https")
    });
    let url = url.ok_or_else(|| cursor.confidential("a URL such as \"https://login.example.com/keys\""))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(cursor.reject("found a URL with a user or password in it, expected none"));
    }
    let authority = &url[..url::Position::BeforePath];
    let server = read_url_text(cursor, authority)?;
    Ok((Upstream::Url(server), url.into()))
}
