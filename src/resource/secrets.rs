//! Secrets: a secrets document becomes the Secret of its name (SDS).
//!
//! Users, API keys and keys for tokens become no Secret: Envoy has no SDS for them, so they stand in the resource of the
//! policy that names them. A cluster or a listener names a Secret by [`sds`] and [`reference()`]; then a change of the
//! secret changes the Secret alone, and connections stay.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, GenericSecret, SdsSecretConfig, Secret as WireSecret, TlsCertificate,
    TlsSessionTicketKeys,
};
use prost::Message;

use super::{Reference, Resource, ResourceType, Source};
use crate::document::key::DocumentKey;
use crate::document::secret::{Confidential, Content, Secret};
use crate::proto::message::ads;

/// The Secret of a document; `None`: Envoy has no SDS for its shape.
#[must_use]
pub fn from_document(key: &DocumentKey, secret: &Secret) -> Option<Resource> {
    let content = match &secret.content {
        Content::Certificate { chain, private_key, .. } => Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(text(chain)),
            private_key: Some(text(private_key.expose())),
            ..TlsCertificate::default()
        }),
        Content::Ca { ca, crl, .. } => Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(text(ca)),
            crl: crl.as_deref().map(text),
            ..CertificateValidationContext::default()
        }),
        Content::Generic(value) => Type::GenericSecret(GenericSecret {
            secret: Some(text(value.expose())),
            ..GenericSecret::default()
        }),
        Content::SessionTickets(keys) => Type::SessionTicketKeys(TlsSessionTicketKeys {
            keys: keys.iter().map(bytes).collect(),
        }),
        Content::Users(_) | Content::ApiKeys(_) | Content::Jwks(_) => return None,
    };

    let message = WireSecret {
        name: key.name.to_string(),
        r#type: Some(content),
    };
    Some(Resource::new(
        Arc::clone(&key.name),
        message.encode_to_vec(),
        vec![key.clone()],
    ))
}

/// The place in a TLS context where a Secret is named.
#[must_use]
pub fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

/// The reference of a resource that names a Secret by [`sds`].
#[must_use]
pub fn reference(name: &Arc<str>) -> Reference {
    Reference {
        resource_type: ResourceType::Secret,
        name: Arc::clone(name),
        source: Source::Common,
    }
}

fn text(text: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    }
}

fn bytes(encoded: &Confidential) -> DataSource {
    let bytes = BASE64.decode(encoded.expose()).unwrap_or_default();
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
        ..DataSource::default()
    }
}
