//! The fields with secrets: those that Envoy marks as sensitive in its .proto files, and one more.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use prost_reflect::FieldDescriptor;

use super::json::pool;

/// Fields with secrets that Envoy does not mark: a key set may have keys that make tokens.
const UNMARKED: [&str; 1] = ["envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.local_jwks"];
/// The option that marks a field as sensitive.
const SENSITIVE: &str = "udpa.annotations.sensitive";

/// Full names of all sensitive fields, found at the first use.
static FIELDS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let Some(option) = pool().get_extension_by_name(SENSITIVE) else {
        return BTreeSet::new();
    };
    let fields = pool()
        .all_messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>());
    let sensitive = fields.filter(|field| field.options().get_extension(&option).as_bool() == Some(true));
    let marked = sensitive.map(|field| field.full_name().to_owned());
    marked.chain(UNMARKED.map(str::to_owned)).collect()
});

/// True if a field holds a secret.
#[must_use]
pub fn is_sensitive(field: &FieldDescriptor) -> bool {
    FIELDS.contains(field.full_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_keys_passwords_and_generic_secrets_are_sensitive() {
        let package = "envoy.extensions.transport_sockets.tls.v3";
        for name in [
            "TlsCertificate.private_key",
            "TlsCertificate.password",
            "TlsSessionTicketKeys.keys",
            "GenericSecret.secret",
        ] {
            assert!(FIELDS.contains(&format!("{package}.{name}")), "{name} of {:?}", *FIELDS);
        }
        assert!(!FIELDS.contains(&format!("{package}.TlsCertificate.certificate_chain")));
        for name in UNMARKED {
            let (message, field) = name.rsplit_once('.').unwrap();
            assert!(
                pool()
                    .get_message_by_name(message)
                    .unwrap()
                    .get_field_by_name(field)
                    .is_some()
            );
        }
    }
}
