//! Small pieces of messages: wrapped numbers, durations, Any, the config source, and fields put in as bytes.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, TypedExtensionConfig, config_source,
};
use envoy_types::pb::google::protobuf;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost::{Message, Name};

/// Put an encoded message (or string) into its parent as the field `tag`; repeated calls make a repeated field.
///
/// Fields of a message may come in any order, so this may follow the parent's other fields. A field that is not
/// repeated must be absent there: a reader would merge the two.
pub fn append(parent: &mut Vec<u8>, tag: u32, encoded: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, parent);
    encode_varint(encoded.len() as u64, parent);
    parent.extend_from_slice(encoded);
}

/// `message` with its type URL.
#[must_use]
pub fn any<M: Message + Name>(message: &M) -> protobuf::Any {
    protobuf::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// An extension's name and configuration.
#[must_use]
pub fn extension<M: Message + Name>(name: &str, message: &M) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(any(message)),
    }
}

/// A duration, at most the longest one in protobuf (292 billion years).
#[must_use]
pub fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).expect("below one billion"),
    }
}

/// A wrapped number: present, even if 0.
#[must_use]
pub fn uint32(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

/// A wrapped truth value: present, even if false.
#[must_use]
pub fn boolean(value: bool) -> protobuf::BoolValue {
    protobuf::BoolValue { value }
}

/// The config source ADS, version 3: the source of every reference between compiled resources.
#[must_use]
pub fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

    use super::*;

    #[test]
    fn appended_fields_decode_like_encoded_ones() {
        let hosts = ["a", "b"].map(|name| VirtualHost {
            name: name.into(),
            ..VirtualHost::default()
        });
        let whole = RouteConfiguration {
            name: "r".into(),
            virtual_hosts: hosts.to_vec(),
            ..Default::default()
        };
        let mut bytes = RouteConfiguration {
            name: "r".into(),
            ..Default::default()
        }
        .encode_to_vec();
        for host in &hosts {
            append(&mut bytes, 2, &host.encode_to_vec());
        }
        assert_eq!(bytes, whole.encode_to_vec());
        assert_eq!(RouteConfiguration::decode(&bytes[..]).unwrap(), whole);
    }

    #[test]
    fn durations_keep_nanoseconds_and_never_overflow() {
        assert_eq!(
            duration(Duration::from_millis(1500)),
            protobuf::Duration {
                seconds: 1,
                nanos: 500_000_000
            }
        );
        assert_eq!(
            duration(Duration::MAX),
            protobuf::Duration {
                seconds: i64::MAX,
                nanos: 999_999_999
            }
        );
    }
}
