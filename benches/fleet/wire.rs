//! The part of the wire format that a client needs: gRPC frames, requests as bytes, responses split without decoding
//! the resources.
//!
//! Written from the protocol, without the server's code: otherwise a fault of that code could hide in the measurement.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};
use xxhash_rust::xxh3::xxh3_64;

/// SotW or delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

impl Variant {
    /// The path of the ADS method.
    pub fn path(self) -> &'static str {
        match self {
            Self::Sotw => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            Self::Delta => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        }
    }
}

/// The types that a client subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Type {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl Type {
    /// How many.
    pub const COUNT: usize = 4;
    /// All types, in the order of Envoy's requests.
    pub const ALL: [Self; Self::COUNT] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// Its URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type of a URL.
    pub fn of(url: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|own| own.url().as_bytes() == url)
    }
}

/// Put a length-delimited field.
pub fn put(buffer: &mut BytesMut, field: u8, value: &[u8]) {
    buffer.put_u8((field << 3) | 2);
    encode_varint(value.len() as u64, buffer);
    buffer.put_slice(value);
}

/// Names as a repeated field, encoded once for all clients that ask for the same.
pub fn names<'a>(field: u8, names: impl IntoIterator<Item = &'a str>) -> Bytes {
    let mut buffer = BytesMut::new();
    for name in names {
        put(&mut buffer, field, name.as_bytes());
    }
    buffer.freeze()
}

/// `resource_names` of a SotW request, `resource_names_subscribe` of a delta request: both are field 3.
pub const NAMES: u8 = 3;

/// The fields of a request. Empty fields are left out.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// An encoded `Node`.
    pub node: &'a [u8],
    /// SotW: the version accepted last.
    pub version: &'a [u8],
    /// The nonce that is answered.
    pub nonce: &'a [u8],
    /// Encoded names ([`names`]).
    pub names: &'a [u8],
    /// Delta: an encoded map ([`versions`]).
    pub versions: &'a [u8],
    /// Refuse, with these words.
    pub refused: Option<&'a str>,
}

/// Delta: `initial_resource_versions`.
pub fn versions<'a>(known: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Bytes {
    let mut buffer = BytesMut::new();
    let mut entry = BytesMut::new();
    for (name, version) in known {
        entry.clear();
        put(&mut entry, 1, name.as_bytes());
        put(&mut entry, 2, version);
        put(&mut buffer, 5, &entry);
    }
    buffer.freeze()
}

impl Request<'_> {
    /// The message in a gRPC frame.
    pub fn frame(&self, variant: Variant, of_type: Type) -> Bytes {
        let mut message = BytesMut::with_capacity(self.names.len() + self.versions.len() + self.node.len() + 160);
        message.put_slice(&[0; 5]);

        let optional = |message: &mut BytesMut, field: u8, value: &[u8]| {
            if !value.is_empty() {
                put(message, field, value);
            }
        };

        let (node, type_url, nonce, error) = match variant {
            Variant::Sotw => (2, 4, 5, 6),
            Variant::Delta => (1, 2, 6, 7),
        };

        optional(&mut message, node, self.node);
        put(&mut message, type_url, of_type.url().as_bytes());
        optional(&mut message, nonce, self.nonce);
        if variant == Variant::Sotw {
            optional(&mut message, 1, self.version);
        }
        message.put_slice(self.names);
        message.put_slice(self.versions);

        if let Some(words) = self.refused {
            let mut status = BytesMut::new();
            status.put_u8(1 << 3);
            encode_varint(13, &mut status);
            put(&mut status, 2, words.as_bytes());
            put(&mut message, error, &status);
        }

        let len = u32::try_from(message.len() - 5).unwrap_or(u32::MAX).to_be_bytes();
        message[1..5].copy_from_slice(&len);
        message.freeze()
    }
}

/// One resource of a response.
#[derive(Debug)]
pub struct Received {
    /// Its name.
    pub name: Bytes,
    /// Delta: its version.
    pub version: Bytes,
    /// The encoded message.
    pub body: Bytes,
    /// Hash of the name.
    pub name_hash: u64,
    /// Hash of the message.
    pub body_hash: u64,
}

/// A response taken apart.
#[derive(Debug, Default)]
pub struct Response {
    /// The URL of its type.
    pub type_url: Bytes,
    /// SotW `version_info`.
    pub version: Bytes,
    /// The nonce.
    pub nonce: Bytes,
    /// The resources.
    pub resources: Vec<Received>,
    /// Delta: names that are gone.
    pub removed: Vec<Bytes>,
}

/// Walk over the fields of a message; `visit` gets the number and the bytes of each length-delimited one.
fn fields(mut message: Bytes, mut visit: impl FnMut(u32, Bytes) -> Result<()>) -> Result<()> {
    while message.has_remaining() {
        let key = decode_varint(&mut message).context("a field's key")?;
        let field = u32::try_from(key >> 3).context("a field's number")?;
        match key & 7 {
            0 => drop(decode_varint(&mut message).context("a number")?),
            1 => skip(&mut message, 8)?,
            2 => {
                let len = usize::try_from(decode_varint(&mut message).context("a length")?)?;
                ensure!(
                    len <= message.len(),
                    "a field of {len} bytes where {} are left",
                    message.len()
                );
                visit(field, message.split_to(len))?;
            }
            5 => skip(&mut message, 4)?,
            other => bail!("wire type {other}"),
        }
    }
    Ok(())
}

fn skip(message: &mut Bytes, len: usize) -> Result<()> {
    ensure!(len <= message.len(), "a message that ends too early");
    message.advance(len);
    Ok(())
}

/// The first occurrence of a length-delimited field.
pub fn field(message: Bytes, wanted: u32) -> Option<Bytes> {
    let mut found = None;
    fields(message, |field, value| {
        if field == wanted && found.is_none() {
            found = Some(value);
        }
        Ok(())
    })
    .ok()?;
    found
}

/// The field that holds the name in all four types is the first.
fn inner_name(body: &Bytes) -> Result<Bytes> {
    field(body.clone(), 1).context("a resource without a name")
}

fn received(name: Option<Bytes>, version: Bytes, any: Bytes) -> Result<Received> {
    let mut body = Bytes::new();
    fields(any, |field, value| {
        if field == 2 {
            body = value;
        }
        Ok(())
    })?;
    let name = match name {
        Some(name) => name,
        None => inner_name(&body)?,
    };
    let (name_hash, body_hash) = (xxh3_64(&name), xxh3_64(&body));
    Ok(Received {
        name,
        version,
        body,
        name_hash,
        body_hash,
    })
}

impl Response {
    /// Parse a response message.
    pub fn parse(variant: Variant, message: Bytes) -> Result<Self> {
        let mut response = Self::default();
        fields(message, |field, value| {
            match (variant, field) {
                (Variant::Sotw | Variant::Delta, 4) => response.type_url = value,
                (_, 5) => response.nonce = value,
                (Variant::Sotw, 1) => response.version = value,
                (Variant::Sotw, 2) => response.resources.push(received(None, Bytes::new(), value)?),
                (Variant::Delta, 2) => response.resources.push(wrapped(value)?),
                (Variant::Delta, 6) => response.removed.push(value),
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

fn wrapped(wrapper: Bytes) -> Result<Received> {
    let (mut name, mut version, mut any) = (Bytes::new(), Bytes::new(), Bytes::new());
    fields(wrapper, |field, value| {
        match field {
            1 => version = value,
            2 => any = value,
            3 => name = value,
            _ => {}
        }
        Ok(())
    })?;
    received(Some(name), version, any)
}

/// Puts messages together again from DATA frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// More bytes arrived.
    pub fn push(&mut self, data: &Bytes) {
        if self.buffer.is_empty() && data.len() >= 5 {
            let len = data.get(1..5).map_or(0, |mut len| len.get_u32()) as usize;
            self.buffer.reserve((len + 5).max(data.len()));
        }
        self.buffer.extend_from_slice(data);
    }

    /// The next whole message.
    pub fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(head) = self.buffer.get(..5) else {
            return Ok(None);
        };
        ensure!(head[0] == 0, "a compressed message");
        let len = (&head[1..]).get_u32() as usize;
        if self.buffer.len() < len + 5 {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(len + 5);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        message.advance(5);
        Ok(Some(message.freeze()))
    }
}
