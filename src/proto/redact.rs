//! Proto-JSON for people, without the secrets in it.
//!
//! In: the proto-JSON of a message, valid or not. Out: the same JSON, with `"[redacted]"` in place of
//!
//! - every value of a field that Envoy marks as sensitive ([`super::sensitive`]),
//! - every value with an unknown field or type, which may be a secret with a misspelt name.
//!
//! The place of a secret (the name of a file or a variable) is shown.

use prost_reflect::{FieldDescriptor, MessageDescriptor};
use serde_json::Value as Json;

use super::json::pool;
use super::sensitive::is_sensitive;

/// The replacement of a secret.
pub const REDACTED: &str = "[redacted]";
/// Fields of a `DataSource` with the place of a secret instead of the secret itself.
const PLACES: [&str; 5] = [
    "filename",
    "environment_variable",
    "environmentVariable",
    "watched_directory",
    "watchedDirectory",
];

/// Redact the proto-JSON of a message; one of an unknown type as a whole.
pub fn redact(type_url: &str, json: &mut Json) {
    match descriptor(type_url) {
        Some(descriptor) => message(&descriptor, json),
        None => hide(json),
    }
}

/// Replace every value.
pub fn hide(json: &mut Json) {
    match json {
        Json::Null => {}
        Json::Array(values) => values.iter_mut().for_each(hide),
        Json::Object(fields) => {
            let shown = |name: &String| name == "@type" || PLACES.contains(&name.as_str());
            fields
                .iter_mut()
                .filter(|(name, _)| !shown(name))
                .for_each(|(_, value)| hide(value));
        }
        value => *value = Json::String(REDACTED.to_owned()),
    }
}

fn descriptor(type_url: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(type_url.rsplit('/').next().unwrap_or_default())
}

fn message(descriptor: &MessageDescriptor, json: &mut Json) {
    // Well-known types: an Any names its own type, the others have no fields of Envoy.
    if descriptor.full_name() == "google.protobuf.Any" {
        let inner = json.get("@type").and_then(Json::as_str).and_then(self::descriptor);
        return match inner {
            Some(inner) => message(&inner, json),
            None => hide(json),
        };
    }

    if descriptor.full_name().starts_with("google.protobuf.") {
        return;
    }
    match json {
        Json::Object(fields) => fields
            .iter_mut()
            .for_each(|(name, value)| field(descriptor, name, value)),
        Json::Null => {}
        other => hide(other),
    }
}

fn field(descriptor: &MessageDescriptor, name: &str, json: &mut Json) {
    if name == "@type" {
        return;
    }
    let by_name = descriptor
        .get_field_by_name(name)
        .or_else(|| descriptor.get_field_by_json_name(name));
    let Some(field) = by_name.filter(|field| !is_sensitive(field)) else {
        return hide(json);
    };
    if field.is_map() {
        return match json {
            Json::Object(entries) => entries.values_mut().for_each(|value| entry(&field, value)),
            other => hide(other),
        };
    }

    match (field.is_list(), field.kind().as_message()) {
        (true, Some(inner)) => match json {
            Json::Array(values) => values.iter_mut().for_each(|value| message(inner, value)),
            other => hide(other),
        },
        (false, Some(inner)) => message(inner, json),
        // A plain value; an object in its place is a mistake, with anything in it.
        (_, None) if json.is_object() => hide(json),
        (_, None) => {}
    }
}

fn entry(map: &FieldDescriptor, json: &mut Json) {
    let kind = map.kind();
    let values = kind.as_message().map(MessageDescriptor::map_entry_value_field);
    match values
        .as_ref()
        .map(FieldDescriptor::kind)
        .as_ref()
        .and_then(|kind| kind.as_message())
    {
        Some(inner) => message(inner, json),
        None if json.is_object() => hide(json),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

    fn redacted(type_url: &str, mut json: Json) -> Json {
        redact(type_url, &mut json);
        json
    }

    #[test]
    fn all_kinds_of_secrets_are_redacted() {
        let cases = [
            (
                json!({ "@type": SECRET, "name": "a", "tls_certificate": {
                    "certificate_chain": { "inline_string": "PEM" },
                    "private_key": { "inline_bytes": "a2V5" },
                    "password": { "inline_string": "hunter2" },
                } }),
                json!({ "@type": SECRET, "name": "a", "tls_certificate": {
                    "certificate_chain": { "inline_string": "PEM" },
                    "private_key": { "inline_bytes": REDACTED },
                    "password": { "inline_string": REDACTED },
                } }),
            ),
            (
                json!({ "genericSecret": { "secret": { "inlineString": "hunter2" } } }),
                json!({ "genericSecret": { "secret": { "inlineString": REDACTED } } }),
            ),
            (
                json!({ "generic_secret": { "secrets": { "a": { "inline_string": "hunter2" } } } }),
                json!({ "generic_secret": { "secrets": { "a": { "inline_string": REDACTED } } } }),
            ),
            (
                json!({ "session_ticket_keys": { "keys": [{ "inline_bytes": "a" }, { "filename": "/k" }] } }),
                json!({ "session_ticket_keys": { "keys": [{ "inline_bytes": REDACTED }, { "filename": "/k" }] } }),
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(redacted(SECRET, given), expected);
        }
    }

    #[test]
    fn what_is_misspelt_or_misplaced_is_redacted_too() {
        let given = json!({ "generic_secret": "hunter2", "tls_certificate": { "privat_key": { "inline_string": "hunter2" } },
            "name": { "hunter2": "hunter2" }, "session_ticket_keys": ["hunter2"] });
        let expected = json!({ "generic_secret": REDACTED, "tls_certificate": { "privat_key": { "inline_string": REDACTED } },
            "name": { "hunter2": REDACTED }, "session_ticket_keys": [REDACTED] });
        assert_eq!(redacted(SECRET, given), expected);
        assert_eq!(
            redacted("type.googleapis.com/acme.Secret", json!({ "a": [1, null] })),
            json!({ "a": [REDACTED, null] })
        );
    }

    #[test]
    fn keys_within_an_any_are_redacted_and_the_rest_is_not() {
        let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
        let listener = |key: &str| {
            let certificate =
                json!({ "certificate_chain": { "inline_string": "PEM" }, "private_key": { "inline_string": key } });
            let context = json!({ "@type": tls, "common_tls_context": { "tls_certificates": [certificate] } });
            json!({ "name": "a", "filter_chains": [{ "transport_socket": { "name": "tls", "typed_config": context } }] })
        };
        let url = "type.googleapis.com/envoy.config.listener.v3.Listener";
        assert_eq!(redacted(url, listener("hunter2")), listener(REDACTED));
        let unknown =
            json!({ "listener_filters": [{ "name": "x", "typed_config": { "@type": "x/y", "key": "hunter2" } }] });
        assert!(!redacted(url, unknown).to_string().contains("hunter2"));
    }
}
