//! A document as the API shows it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use humantime::format_rfc3339_millis;
use serde::Serialize;
use serde_json::{Value, json};

use super::problem::{Code, Problem};
use super::refused::{self, NackedDocument};
use crate::document::key::{DocumentKey, Kind};
use crate::document::secret::{Secret, moment};
use crate::document::xds;
use crate::journal::book::Book;
use crate::proto::redact::{REDACTED, hide, redact};
use crate::reconcile::world::{HeldBy, State, Status};
use crate::resource::ResourceType;
use crate::resource::compile::{EffectivePolicy, EndpointCounts};

/// One entry of `GET /api/v1/documents`.
#[derive(Debug, Serialize)]
pub(super) struct Entry<'a> {
    key: &'a str,
    kind: &'static str,
    name: &'a str,
    state: &'static str,
    held_by: Option<&'static str>,
    reason: Option<String>,
    path: Option<Cow<'a, str>>,
    warnings: Cow<'a, [String]>,
    /// Of a secret with certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    revision: Option<i64>,
    /// Of the journal's newest entry of the document; null: the journal does not have it.
    modified_at: Option<String>,
    by: Option<String>,
    message: Option<String>,
    serving_revision: Option<i64>,
    /// Of a cluster that does not leave them to DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<EndpointCounts>,
    /// The document does not serve its latest text, because every proxy that answered refuses that.
    #[serde(rename = "quarantined", skip_serializing_if = "std::ops::Not::not")]
    is_quarantined: bool,
}

impl<'a> Entry<'a> {
    /// The entry of a document, with the NACKs of proxies.
    pub(super) fn of(status: &'a Status, refused: &BTreeMap<DocumentKey, NackedDocument>) -> Self {
        let state = refused::state(refused, status);
        let is_quarantined = status.state == State::Refused;
        let reason = match (state, refused.get(&status.key)) {
            (State::Refused, Some(refused)) if !is_quarantined => Some(refused.reason()),
            _ => status.reason.clone(),
        };
        Self {
            key: &status.full_key,
            kind: status.key.kind.as_str(),
            name: &status.key.name,
            state: state.as_str(),
            held_by: status.held_by.map(HeldBy::as_str),
            reason,
            path: match (state, refused.get(&status.key)) {
                (State::Refused, _) if is_quarantined => refused::field_of(status),
                (State::Refused, Some(refused)) => refused.path.clone(),
                _ => None,
            }
            .or_else(|| status.path.as_deref().map(Cow::Borrowed)),
            is_quarantined,
            warnings: warnings(status),
            expires_at: status.validity.and_then(|validity| validity.expires_at()),
            revision: status.latest.as_ref().map(|text| text.mod_revision),
            modified_at: None,
            by: None,
            message: None,
            endpoints: None,
            serving_revision: status.serving.as_ref().map(|text| text.mod_revision),
        }
    }

    pub(super) fn state(&self) -> &'static str {
        self.state
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// With the author of the latest text, by the journal.
    pub(super) fn by(mut self, status: &Status, book: &Book) -> Self {
        let written = status.latest.as_ref().map(|text| text.mod_revision);
        let newest = book.newest_of(&status.full_key).filter(|entry| {
            let changed = entry.document(&status.full_key);
            changed
                .and_then(|changed| changed.after.as_ref())
                .map(|text| text.revision)
                == written
        });
        if let Some(entry) = newest {
            self.modified_at = Some(format_rfc3339_millis(entry.at()).to_string());
            self.by.clone_from(&entry.actor);
            self.message.clone_from(&entry.message);
        }
        self
    }

    /// With the numbers of a cluster's endpoints.
    pub(super) fn with_endpoints(mut self, endpoints: Option<EndpointCounts>) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// With one more warning.
    pub(super) fn with_warning(mut self, warning: &str) -> Self {
        self.warnings.to_mut().push(warning.to_owned());
        self
    }

    /// With the revision of the write, which the store has returned.
    pub(super) fn at_revision(mut self, revision: i64) -> Self {
        if self.serving_revision == self.revision {
            self.serving_revision = Some(revision);
        }
        self.revision = Some(revision);
        self
    }
}

/// The warnings of a document, and those that time brings.
fn warnings(status: &Status) -> Cow<'_, [String]> {
    let of_time = status.validity.and_then(|validity| validity.warning(SystemTime::now()));
    match of_time {
        None => Cow::Borrowed(&status.warnings),
        Some(warning) => status.warnings.iter().cloned().chain([warning]).collect(),
    }
}

/// What may be shown of a secret.
pub(super) fn shown_of_secret(secret: &Secret) -> Value {
    let certificates = secret.certificates().iter().map(|certificate| {
        json!({
            "subject": certificate.subject, "names": certificate.names, "serial": certificate.serial,
            "not_before": moment(certificate.not_before), "not_after": moment(certificate.not_after),
            "fingerprint": certificate.fingerprint,
        })
    });
    let files: BTreeMap<&str, &str> = secret.files.iter().map(|(field, path)| (&**field, &**path)).collect();
    json!({
        "shape": secret.shape().as_str(), "key_id": secret.sealed_with.as_deref(), "files": files,
        "certificates": certificates.collect::<Vec<_>>(),
    })
}

/// The entry of `GET /api/v1/documents/KIND/NAME`.
#[derive(Debug, Serialize)]
pub(super) struct EntryWithValue<'a> {
    #[serde(flatten)]
    pub(super) entry: Entry<'a>,
    /// The text as written: JSON as JSON, any other text as a string. Absent if the text may contain a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Value>,
    /// What may be shown of a secret that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Value>,
    /// With `?effective=true`: the policies that hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) effective: Option<Vec<Effective>>,
}

/// A policy that holds for a document.
#[derive(Debug, Serialize)]
pub(super) struct Effective {
    listener: String,
    cluster: Option<String>,
    kind: &'static str,
    from: String,
    #[serde(rename = "final")]
    is_final: bool,
    value: Value,
}

impl From<EffectivePolicy> for Effective {
    fn from(effective: EffectivePolicy) -> Self {
        Self {
            listener: effective.listener.to_string(),
            cluster: effective.cluster.map(|name| name.to_string()),
            kind: effective.kind.as_str(),
            from: effective.from,
            is_final: effective.is_final,
            value: effective.policy.written.clone(),
        }
    }
}

/// The document that a path names.
pub(super) fn key_of(kind: &str, name: &str) -> Result<DocumentKey, Problem> {
    let Some(kind) = Kind::from_word(kind) else {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        return Err(Problem::new(
            Code::NotFound,
            format!("there is no kind `{kind}`, expected one of {kinds}"),
        ));
    };
    match (kind, name) {
        (Kind::Defaults, "") => Ok(DocumentKey::new(kind, "")),
        (Kind::Defaults, _) => Err(Problem::new(Code::NotFound, "`defaults` has no name")),
        (kind, "") => Err(Problem::new(
            Code::NotFound,
            format!("`{kind}` needs a name, /api/v1/documents/{kind}/NAME"),
        )),
        (kind, name) => Ok(DocumentKey::new(kind, name)),
    }
}

/// True if the texts of a document may contain secrets; no API shows them.
pub(super) fn is_secret(key: &DocumentKey) -> bool {
    matches!(key.kind, Kind::Secrets | Kind::Unknown)
}

/// The latest text of a document as written. If the document was deleted and is held, its serving text. In an xds
/// document the secrets are redacted.
pub(super) fn value(status: &Status) -> Option<Value> {
    let text = status.latest.as_ref().or(status.serving.as_ref())?;
    let as_text = || Value::String(String::from_utf8_lossy(&text.value).into_owned());
    match shown(&status.key, &text.value)? {
        Shown::AsWritten => Some(serde_json::from_slice(&text.value).unwrap_or_else(|_| as_text())),
        Shown::Redacted(value) => Some(value),
    }
}

/// A text of a document as the journal shows it; `None`: the text may be a secret as a whole.
pub(super) fn shown_text(key: &DocumentKey, text: &[u8]) -> Option<String> {
    match shown(key, text)? {
        Shown::AsWritten => Some(String::from_utf8_lossy(text).into_owned()),
        Shown::Redacted(Value::String(redacted)) => Some(redacted),
        Shown::Redacted(value) => serde_json::to_string_pretty(&value).ok(),
    }
}

/// The form in which a text may be shown.
enum Shown {
    AsWritten,
    Redacted(Value),
}

/// How a text may be shown; `None`: not at all.
fn shown(key: &DocumentKey, text: &[u8]) -> Option<Shown> {
    if is_secret(key) {
        return None;
    }
    if key.kind != Kind::Xds {
        return Some(Shown::AsWritten);
    }
    // A text that cannot be parsed may contain a secret anywhere.
    let Some(value) = xds::value(text) else {
        return Some(Shown::Redacted(REDACTED.into()));
    };
    let redacted = without_secrets(key, value.clone());
    Some(if redacted == value {
        Shown::AsWritten
    } else {
        Shown::Redacted(redacted)
    })
}

/// An xds document without the secrets in its resource. Unknown fields are hidden too: they may contain one.
fn without_secrets(key: &DocumentKey, mut document: Value) -> Value {
    let of_key = xds::split(&key.name).and_then(|(word, _)| ResourceType::from_word(word));
    let Value::Object(fields) = &mut document else {
        return REDACTED.into();
    };
    for (name, value) in fields {
        match (name.as_str(), of_key) {
            ("resource", Some(resource_type)) => redact(resource_type.type_url(), value),
            (name, _) if xds::is_field(name) && name != "resource" => {}
            _ => hide(value),
        }
    }
    document
}

/// Whether `"[redacted]"` stands where a secret may stand. Such a text was read here and would overwrite the secret.
pub(super) fn is_redacted(key: &DocumentKey, text: &[u8]) -> bool {
    /// In the place of each `"[redacted]"`, to tell them from the secrets that are redacted now.
    const WRITTEN: &str = "[written]";

    if !String::from_utf8_lossy(text).contains(REDACTED) {
        return false;
    }
    let Some(mut value) = xds::value(text) else {
        return false;
    };
    let written = replace(&mut value, REDACTED, WRITTEN);
    match key.kind {
        Kind::Secrets => written > 0,
        Kind::Xds => replace(&mut without_secrets(key, value), WRITTEN, REDACTED) < written,
        _ => false,
    }
}

/// Replace each string that is equal to `old`. Returns their number.
fn replace(value: &mut Value, old: &str, new: &str) -> usize {
    match value {
        Value::String(text) if text == old => {
            new.clone_into(text);
            1
        }
        Value::Array(values) => values.iter_mut().map(|value| replace(value, old, new)).sum(),
        Value::Object(fields) => fields.values_mut().map(|value| replace(value, old, new)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redacted_secret_is_told_from_the_same_text_elsewhere() {
        let told = |kind, name: &str, text: &Value| {
            let key = DocumentKey::new(kind, name);
            is_redacted(&key, text.to_string().as_bytes())
        };
        let secret = |value: &str| json!({ "generic": value });
        assert!(told(Kind::Secrets, "a", &secret("[redacted]")));
        assert!(!told(Kind::Secrets, "a", &secret("not [redacted]")));
        assert!(!told(Kind::Routes, "a", &secret("[redacted]")));

        let cluster = |name: &str, key: &str| {
            let tls = json!({
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": { "tls_certificates": [{ "private_key": { "inline_string": key } }] },
            });
            json!({ "resource": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": "a", "alt_stat_name": name,
                "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
            } })
        };
        assert!(told(Kind::Xds, "clusters/a", &cluster("a", "[redacted]")));
        assert!(!told(Kind::Xds, "clusters/a", &cluster("[redacted]", "a key")));
    }
}
