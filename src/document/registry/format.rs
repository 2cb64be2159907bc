//! How a registry names services and instances in its keys.

use std::borrow::Cow;

use super::super::Rejection;
use super::super::decode::Cursor;
use super::super::endpoint::Offer;
use super::super::key::{DocumentKey, Kind, source_in};
use super::super::sentence::one_of;
use super::super::text;
use super::values;

/// The program that registers services, and so the form of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The forms of `/services/`.
    Native,
    /// The naming package of etcd's Go client.
    EtcdNaming,
    /// Kratos.
    Kratos,
    /// go-zero.
    GoZero,
    /// Dubbo, one entry an interface.
    DubboInterface,
    /// Dubbo, one entry an application.
    DubboApplication,
    /// Kitex.
    Kitex,
    /// go-micro.
    GoMicro,
    /// `SkyDNS`, and the etcd plugin of `CoreDNS`.
    SkyDns,
}

pub(super) const WORDS: [(&str, Format); 10] = [
    ("native", Format::Native),
    ("etcd-naming", Format::EtcdNaming),
    ("kratos", Format::Kratos),
    ("go-zero", Format::GoZero),
    ("dubbo", Format::DubboInterface),
    ("dubbo-interface", Format::DubboInterface),
    ("dubbo-application", Format::DubboApplication),
    ("kitex", Format::Kitex),
    ("go-micro", Format::GoMicro),
    ("skydns", Format::SkyDns),
];

/// The known formats, in words.
pub(super) fn expected() -> String {
    one_of(&WORDS.map(|(word, _)| format!("{word:?}")))
}

/// Reads `format`. An underscore counts as a hyphen.
pub(super) fn read(cursor: &Cursor<'_>) -> Result<Format, Rejection> {
    let word = cursor.string()?.replace('_', "-");
    let known = WORDS.iter().find(|(known, _)| *known == word);
    known.map_or_else(|| cursor.word(&WORDS), |(_, format)| Ok(*format))
}

/// The place of a registration: its service, and its instance there.
#[derive(Debug, PartialEq, Eq)]
struct Place<'k> {
    service: Cow<'k, str>,
    instance: &'k str,
}

impl Format {
    /// The key of the document that a key below the prefix of a registry becomes; `None`: the key is no registration.
    #[must_use]
    pub fn document_key(self, registry: &str, prefix: &str, full_key: &[u8]) -> Option<DocumentKey> {
        let Place { service, instance } = self.place(prefix, full_key)?;
        let source = source_in(registry, &service);
        Some(DocumentKey::new(Kind::Services, format!("{source}/{instance}")))
    }

    /// What the instance at a key offers. The key is a registration.
    ///
    /// # Errors
    /// A value that cannot be used, with the field.
    pub fn read(self, prefix: &str, full_key: &[u8], value: &[u8]) -> Result<Vec<Offer>, Rejection> {
        let Some(Place { service, instance }) = self.place(prefix, full_key) else {
            return Err(Rejection::new("", "found a key that is no registration, expected one"));
        };
        match self {
            Self::Native | Self::EtcdNaming | Self::GoZero => values::native(value),
            Self::Kratos => values::kratos(&service, value),
            Self::DubboInterface => values::dubbo_interface(instance),
            Self::DubboApplication => {
                let value = text::value(value)?;
                let endpoint = values::dubbo_application(&Cursor::root(&value, &values::LIMITS))?;
                Ok(vec![Offer::plain(endpoint)])
            }
            Self::Kitex => values::kitex(value),
            Self::GoMicro => values::go_micro(value),
            Self::SkyDns => values::skydns(value),
        }
    }

    /// Whether keys of a service may have no prefix that other services have, too.
    fn has_keys_of_one_service(self) -> bool {
        matches!(self, Self::Native | Self::EtcdNaming | Self::GoZero)
    }

    fn place<'k>(self, prefix: &'k str, full_key: &'k [u8]) -> Option<Place<'k>> {
        let below = std::str::from_utf8(full_key).ok()?.strip_prefix(prefix)?;
        let (service, instance) = match self {
            Self::DubboInterface => {
                let (service, rest) = below.split_once('/')?;
                (service, rest.strip_prefix("providers/")?)
            }
            _ => match below.rsplit_once('/') {
                Some(place) => place,
                // The prefix is the key of one service.
                None if self.has_keys_of_one_service() => (prefix.trim_end_matches('/').rsplit('/').next()?, below),
                None => return None,
            },
        };
        let service = match self {
            Self::SkyDns => service.rsplit('/').collect::<Vec<_>>().join(".").into(),
            _ => Cow::Borrowed(service),
        };
        let place = Place { service, instance };
        (!place.service.is_empty() && !place.instance.is_empty()).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(format: Format, prefix: &str, full_key: &str) -> Option<String> {
        let key = format.document_key("r", prefix, full_key.as_bytes())?;
        Some(key.name.to_string())
    }

    fn named(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn the_last_segment_of_a_key_is_the_instance() {
        let kratos = |key| name(Format::Kratos, "/microservices/", key);
        assert_eq!(kratos("/microservices/helloworld/7f3c"), named("r@helloworld/7f3c"));
        assert_eq!(kratos("/microservices/shop/orders/7f3c"), named("r@shop%2Forders/7f3c"));
        assert_eq!(kratos("/microservices/helloworld"), None);
        assert_eq!(kratos("/microservices/helloworld/"), None);
        assert_eq!(kratos("/elsewhere/helloworld/7f3c"), None);
    }

    #[test]
    fn a_prefix_may_be_the_key_of_one_service() {
        let go_zero = |prefix, key| name(Format::GoZero, prefix, key);
        assert_eq!(go_zero("user.rpc/", "user.rpc/7587"), named("r@user.rpc/7587"));
        assert_eq!(go_zero("/zero/", "/zero/user.rpc/7587"), named("r@user.rpc/7587"));
    }

    #[test]
    fn the_labels_of_a_name_are_reversed_in_skydns() {
        let skydns = |key| name(Format::SkyDns, "/skydns/", key);
        assert_eq!(skydns("/skydns/local/skydns/rails/1"), named("r@rails.skydns.local/1"));
        assert_eq!(skydns("/skydns/local"), None);
    }

    #[test]
    fn only_providers_of_dubbo_are_registrations() {
        let dubbo = |key| name(Format::DubboInterface, "/dubbo/", key);
        assert_eq!(
            dubbo("/dubbo/com.foo.Bar/providers/tri%3A%2F%2F10.0.0.1%3A50051"),
            named("r@com.foo.Bar/tri%3A%2F%2F10.0.0.1%3A50051")
        );
        for key in [
            "/dubbo/com.foo.Bar/providers",
            "/dubbo/com.foo.Bar/providers/",
            "/dubbo/com.foo.Bar/consumers/consumer%3A%2F%2F10.0.0.1",
            "/dubbo/com.foo.Bar/configurators/override%3A%2F%2F0.0.0.0",
            "/dubbo/mapping/com.foo.Bar",
        ] {
            assert_eq!(dubbo(key), None, "{key}");
        }
    }
}
