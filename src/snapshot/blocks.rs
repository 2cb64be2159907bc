//! Encoded resources, many together, shared by all streams.
//!
//! In: resources, one by one. Out: [`Blocks`], pieces of 16 KiB and more that follow the head of a response on the wire
//! unchanged: protobuf allows fields in any order and repeated fields one by one. A large body is never copied, it
//! becomes a piece of its own. A small body is copied: one piece a resource would cost twice the CPU of writing it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::discovery::v3::Resource as Wrapper;
use envoy_types::pb::google::protobuf::{Any, Duration as Ttl};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::resource::body::Body;
use crate::resource::{Resource, ResourceType};

/// Bodies of this size or more are referred to, not copied.
const REFERENCE_FROM: usize = 16 * 1024;
/// The type URL in the Any of a wrapper.
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";
/// A piece is finished at this size.
const PIECE: usize = 64 * 1024;

/// The message that the resources are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `DiscoveryResponse.resources`, bare Anys.
    Sotw,
    /// `DeltaDiscoveryResponse.resources`, each with its name and version.
    Delta,
}

/// Encoded resources, ready to follow a head. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blocks {
    pieces: Arc<[Bytes]>,
    len: usize,
}

impl Blocks {
    /// No resources.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            pieces: Arc::new([]),
            len: 0,
        }
    }

    /// Several blocks, one after the other.
    #[must_use]
    pub fn concat<'a>(blocks: impl IntoIterator<Item = &'a Self>) -> Self {
        let pieces: Arc<[Bytes]> = blocks
            .into_iter()
            .flat_map(|block| block.pieces.iter().cloned())
            .collect();
        let len = pieces.iter().map(Bytes::len).sum();
        Self { pieces, len }
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, none of them empty.
    #[must_use]
    pub fn pieces(&self) -> &Arc<[Bytes]> {
        &self.pieces
    }
}

/// Builds [`Blocks`].
#[derive(Debug)]
pub struct Encoder {
    resource_type: ResourceType,
    type_url: &'static str,
    shape: Shape,
    pieces: Vec<Bytes>,
    current: BytesMut,
}

impl Encoder {
    /// A builder for resources of one type in one shape.
    #[must_use]
    pub fn new(resource_type: ResourceType, shape: Shape) -> Self {
        let type_url = resource_type.type_url();
        Self {
            resource_type,
            type_url,
            shape,
            pieces: Vec::new(),
            current: BytesMut::new(),
        }
    }

    /// Append one resource.
    pub fn push(&mut self, resource: &Resource) {
        match self.shape {
            Shape::Sotw => self.push_any(&resource.body),
            Shape::Delta => self.push_wrapped(resource, true),
        }
        if self.current.len() >= PIECE {
            self.flush();
        }
    }

    /// Append the name, version, aliases and time to live of a resource without its body: a heartbeat, or a name
    /// without a resource. Only a delta response has a place for it.
    pub fn push_bodiless(&mut self, resource: &Resource) {
        self.push_wrapped(resource, false);
    }

    /// Append a resource to a SotW response: in a wrapper if it has a time to live, bare otherwise.
    pub fn push_timed(&mut self, resource: &Resource) {
        let Some(ttl) = resource.ttl.filter(|_| self.resource_type.knows_ttl()) else {
            return self.push_any(&resource.body);
        };

        let body = Any {
            type_url: self.type_url.to_owned(),
            value: resource.body.to_bytes().into(),
        };

        let wrapper = Wrapper {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(body),
            ttl: prost_types::Duration::try_from(ttl).ok().map(|ttl| Ttl {
                seconds: ttl.seconds,
                nanos: ttl.nanos,
            }),
            ..Wrapper::default()
        };

        let wrapper = Any {
            type_url: WRAPPER.to_owned(),
            value: wrapper.encode_to_vec(),
        }
        .encode_to_vec();

        self.key(2, wrapper.len());
        self.current.put_slice(&wrapper);
    }

    /// `repeated Any resources = 2` of a `DiscoveryResponse`.
    fn push_any(&mut self, body: &Body) {
        self.key(2, any_len(self.type_url, body.len()));
        self.any_fields(body);
    }

    /// `repeated Resource resources = 2` of a `DeltaDiscoveryResponse`: version = 1, resource = 2, name = 3, aliases =
    /// 4, ttl = 6.
    fn push_wrapped(&mut self, resource: &Resource, with_body: bool) {
        let version = resource.version.to_string();
        let any = any_len(self.type_url, resource.body.len());
        let any_field = if with_body { field_len(any) } else { 0 };
        let ttl = self.ttl(resource);
        let own = self.own_alias(resource);
        let aliases = resource
            .aliases
            .iter()
            .chain(own)
            .map(|alias| field_len(alias.len()))
            .sum::<usize>();

        let ttl_len = ttl.as_ref().map_or(0, |ttl| field_len(ttl.len()));
        let len = field_len(version.len()) + any_field + field_len(resource.name.len()) + aliases + ttl_len;
        self.key(2, len);
        self.key(3, resource.name.len());
        self.current.put_slice(resource.name.as_bytes());
        self.key(1, version.len());
        self.current.put_slice(version.as_bytes());
        for alias in resource.aliases.iter().chain(own) {
            self.key(4, alias.len());
            self.current.put_slice(alias.as_bytes());
        }

        if let Some(ttl) = ttl {
            self.key(6, ttl.len());
            self.current.put_slice(&ttl);
        }

        if with_body {
            self.key(2, any);
            self.any_fields(&resource.body);
        }
    }

    /// The time to live, for the types that Envoy removes when it is over (F-18, SW-30).
    fn ttl(&self, resource: &Resource) -> Option<Vec<u8>> {
        let ttl = resource.ttl.filter(|_| self.resource_type.knows_ttl())?;
        Some(prost_types::Duration::try_from(ttl).ok()?.encode_to_vec())
    }

    /// The own name of a virtual host as one more alias: Envoy waits for an alias (DX-28).
    fn own_alias<'a>(&self, resource: &'a Resource) -> Option<&'a Arc<str>> {
        let named = self.resource_type == ResourceType::VirtualHost && !resource.aliases.contains(&resource.name);
        named.then_some(&resource.name)
    }

    /// `type_url` = 1, value = 2.
    fn any_fields(&mut self, body: &Body) {
        self.key(1, self.type_url.len());
        self.current.put_slice(self.type_url.as_bytes());
        self.key(2, body.len());
        for piece in body.pieces() {
            if piece.len() < REFERENCE_FROM {
                self.current.put_slice(piece);
            } else {
                self.flush();
                self.pieces.push(piece.clone());
            }
        }
    }

    /// Tag and length of a length-delimited field.
    fn key(&mut self, field: u8, len: usize) {
        self.current.put_u8((field << 3) | 2);
        encode_varint(len as u64, &mut self.current);
    }

    fn flush(&mut self) {
        if !self.current.is_empty() {
            self.pieces.push(std::mem::take(&mut self.current).freeze());
        }
    }

    /// The blocks.
    #[must_use]
    pub fn finish(mut self) -> Blocks {
        self.flush();
        let len = self.pieces.iter().map(Bytes::len).sum();
        Blocks {
            pieces: self.pieces.into(),
            len,
        }
    }
}

/// Encode these resources.
#[must_use]
pub fn encode<'a>(
    resource_type: ResourceType,
    shape: Shape,
    resources: impl IntoIterator<Item = &'a Arc<Resource>>,
) -> Blocks {
    let mut encoder = Encoder::new(resource_type, shape);
    for resource in resources {
        encoder.push(resource);
    }
    encoder.finish()
}

/// Encode these resources for a SotW response; those with a time to live are in wrappers.
#[must_use]
pub fn encode_timed<'a>(resource_type: ResourceType, resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> Blocks {
    let mut encoder = Encoder::new(resource_type, Shape::Sotw);
    for resource in resources {
        encoder.push_timed(resource);
    }
    encoder.finish()
}

/// Encode these resources without their bodies, for a delta response.
#[must_use]
pub fn encode_bodiless<'a>(
    resource_type: ResourceType,
    resources: impl IntoIterator<Item = &'a Arc<Resource>>,
) -> Blocks {
    let mut encoder = Encoder::new(resource_type, Shape::Delta);
    for resource in resources {
        encoder.push_bodiless(resource);
    }
    encoder.finish()
}

fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn any_len(type_url: &str, body: usize) -> usize {
    field_len(type_url.len()) + field_len(body)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use prost::Message;

    use super::*;

    fn resources() -> Vec<Arc<Resource>> {
        [("small", 10), ("empty", 0), ("large", 20 * 1024), ("after", 3)]
            .into_iter()
            .map(|(name, len)| Arc::new(Resource::new(name, vec![7; len], Vec::new())))
            .collect()
    }

    fn bytes(blocks: &Blocks) -> Vec<u8> {
        let bytes = blocks.pieces().concat();
        assert_eq!(bytes.len(), blocks.len());
        bytes
    }

    #[test]
    fn sotw_blocks_decode_as_the_resources_of_a_discovery_response() {
        let blocks = encode(ResourceType::Cluster, Shape::Sotw, &resources());
        let decoded = pb::DiscoveryResponse::decode(&*bytes(&blocks)).unwrap();
        let seen: Vec<_> = decoded
            .resources
            .into_iter()
            .map(|any| (any.type_url, any.value.len()))
            .collect();
        let url = ResourceType::Cluster.type_url().to_owned();
        assert_eq!(seen, [10, 0, 20 * 1024, 3].map(|len| (url.clone(), len)));
    }

    #[test]
    fn delta_blocks_decode_as_the_resources_of_a_delta_response() {
        let resources = resources();
        let blocks = encode(ResourceType::Endpoint, Shape::Delta, &resources);
        let decoded = pb::DeltaDiscoveryResponse::decode(&*bytes(&blocks)).unwrap();
        for (seen, expected) in decoded.resources.iter().zip(&resources) {
            assert_eq!(
                (&*seen.name, &*seen.version),
                (&*expected.name, &*expected.version.to_string())
            );
            assert_eq!(seen.resource.as_ref().unwrap().value, expected.body.to_bytes());
        }
        assert_eq!(decoded.resources.len(), resources.len());
    }

    #[test]
    fn a_wrapper_carries_aliases_and_the_time_to_live() {
        let plain = Resource::new("r/a", vec![7], Vec::new());
        let aliases = vec!["r/b".into(), "r/a".into(), "r/b".into()];
        let wrapped = plain
            .clone()
            .wrapped(aliases, Some(std::time::Duration::from_millis(1500)));
        assert_ne!(plain.version, wrapped.version);
        assert_eq!(plain.version, plain.clone().wrapped(Vec::new(), None).version);
        let wrapped = [Arc::new(wrapped)];
        let decode = |blocks: &Blocks| {
            pb::DeltaDiscoveryResponse::decode(&*bytes(blocks))
                .unwrap()
                .resources
                .remove(0)
        };
        let resource = decode(&encode(ResourceType::Cluster, Shape::Delta, &wrapped));
        assert_eq!(
            (&*resource.name, &resource.aliases[..]),
            ("r/a", &["r/a".to_owned(), "r/b".to_owned()][..])
        );
        assert_eq!(
            resource.ttl.as_ref().map(|ttl| (ttl.seconds, ttl.nanos)),
            Some((1, 500_000_000))
        );
        assert_eq!(resource.resource.as_ref().map(|any| any.value.len()), Some(1));
        let bodiless = decode(&encode_bodiless(ResourceType::Cluster, &wrapped));
        assert_eq!(
            bodiless,
            pb::Resource {
                resource: None,
                ..resource
            }
        );
    }

    // SW-30, DX-28
    #[test]
    fn only_what_envoy_removes_has_a_time_to_live_and_each_virtual_host_goes_by_its_name() {
        let ttl = Some(std::time::Duration::from_secs(1));
        let resource = [Arc::new(
            Resource::new("r/a", vec![7], Vec::new()).wrapped(vec!["r/b".into()], ttl),
        )];
        for resource_type in ResourceType::ALL {
            let blocks = encode(resource_type, Shape::Delta, &resource);
            let decoded = pb::DeltaDiscoveryResponse::decode(&*bytes(&blocks))
                .unwrap()
                .resources
                .remove(0);
            let removed_by_envoy = matches!(resource_type, ResourceType::Cluster | ResourceType::Listener);
            assert_eq!(decoded.ttl.is_some(), removed_by_envoy, "{resource_type}");
            let own = resource_type == ResourceType::VirtualHost;
            assert_eq!(decoded.aliases.contains(&"r/a".to_owned()), own, "{resource_type}");
        }
    }

    #[test]
    fn a_large_body_is_shared_and_a_small_one_is_copied() {
        let resources = resources();
        let blocks = encode(ResourceType::Cluster, Shape::Sotw, &resources);
        assert_eq!(blocks.pieces().len(), 3);
        assert_eq!(blocks.pieces()[1].as_ptr(), resources[2].body.to_bytes().as_ptr());
    }
}
