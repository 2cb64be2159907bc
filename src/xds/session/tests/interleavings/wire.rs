//! Requests written and responses read by hand: prost would take most of the time of a debug build.

use super::world::{Contents, NAMES, letter, of_letter, version};
use crate::resource::ResourceType;

/// In [`Said::items`]: an assignment without endpoints, for a name that does not exist.
pub(super) const EMPTY: u8 = 0x7f;

/// The version of a resource has the content for which this is 0. Past all contents.
const NO_CONTENT: u8 = 0;

/// A request before it is written.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Asking {
    pub(super) node: Option<&'static str>,
    pub(super) type_url: &'static str,
    pub(super) nonce: String,
    pub(super) refused: bool,
    /// SotW: `version_info`.
    pub(super) version: String,
    /// SotW: the list; delta: the subscribed names.
    pub(super) names: Vec<&'static str>,
    /// Delta.
    pub(super) unsubscribed: Vec<&'static str>,
    /// Delta: `initial_resource_versions`.
    pub(super) initial: Vec<(&'static str, &'static str)>,
}

fn varint(mut value: usize, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    to.push(value as u8);
}

fn field(number: u8, value: &[u8], to: &mut Vec<u8>) {
    to.push(number << 3 | 2);
    varint(value.len(), to);
    to.extend_from_slice(value);
}

fn optional(number: u8, value: &str, to: &mut Vec<u8>) {
    if !value.is_empty() {
        field(number, value.as_bytes(), to);
    }
}

impl Asking {
    /// `id` = 1, `cluster` = 2.
    fn write_node(&self, number: u8, to: &mut Vec<u8>) {
        if let Some(cluster) = self.node {
            let mut node = vec![0x0a, 2, b'n', b'1'];
            field(2, cluster.as_bytes(), &mut node);
            field(number, &node, to);
        }
    }

    /// `google.rpc.Status`: `code` = 1, `message` = 2.
    fn write_refusal(&self, number: u8, to: &mut Vec<u8>) {
        if self.refused {
            field(number, &[0x08, 13, 0x12, 2, b'n', b'o'], to);
        }
    }

    pub(super) fn sotw(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(200);
        optional(1, &self.version, &mut bytes);
        self.write_node(2, &mut bytes);
        self.names.iter().for_each(|name| field(3, name.as_bytes(), &mut bytes));
        optional(4, self.type_url, &mut bytes);
        optional(5, &self.nonce, &mut bytes);
        self.write_refusal(6, &mut bytes);
        bytes
    }

    pub(super) fn delta(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(200);
        self.write_node(1, &mut bytes);
        optional(2, self.type_url, &mut bytes);
        self.names.iter().for_each(|name| field(3, name.as_bytes(), &mut bytes));
        self.unsubscribed
            .iter()
            .for_each(|name| field(4, name.as_bytes(), &mut bytes));
        for (name, version) in &self.initial {
            let mut entry = Vec::with_capacity(40);
            field(1, name.as_bytes(), &mut entry);
            optional(2, version, &mut entry);
            field(5, &entry, &mut bytes);
        }
        optional(6, &self.nonce, &mut bytes);
        self.write_refusal(7, &mut bytes);
        bytes
    }
}

/// The content of a response.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) type_url: Vec<u8>,
    pub(super) nonce: Vec<u8>,
    pub(super) version: Vec<u8>,
    pub(super) items: Contents,
    /// Delta: a bit a name.
    pub(super) removed: u8,
    /// Delta: a name that is none of the world's.
    pub(super) removed_others: usize,
}

/// The next field of a message: its number and its bytes.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (key, mut tail) = rest.split_first()?;
    assert_eq!(key & 7, 2, "a field that is not length-delimited");
    let (mut len, mut shift) = (0_usize, 0);
    loop {
        let (byte, more) = tail.split_first()?;
        tail = more;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let (value, tail) = tail.split_at(len);
    *rest = tail;
    Some((key >> 3, value))
}

/// `type_url` = 1, `value` = 2: the name and the content inside.
fn any(of: ResourceType, mut bytes: &[u8]) -> Result<(usize, u8), String> {
    let (mut name, mut content) = (None, EMPTY);
    while let Some((number, value)) = next_field(&mut bytes) {
        match number {
            1 if value != of.type_url().as_bytes() => return Err(format!("GEN-12: an Any is no {of}")),
            2 => {
                name = value.get(2).and_then(|byte| of_letter(*byte));
                content = value.get(3).copied().unwrap_or(EMPTY);
            }
            _ => {}
        }
    }
    Ok((name.ok_or("a resource of an unknown name")?, content))
}

/// `version` = 1, `resource` = 2, `name` = 3.
fn wrapped(of: ResourceType, mut bytes: &[u8]) -> Result<(usize, u8), String> {
    let (mut outer, mut inner, mut seen) = (NAMES, Err("a resource without a body".to_owned()), &b""[..]);
    while let Some((number, value)) = next_field(&mut bytes) {
        match number {
            1 => seen = value,
            2 => inner = any(of, value),
            3 => outer = value.first().and_then(|byte| of_letter(*byte)).unwrap_or(NAMES),
            _ => {}
        }
    }
    let (name, content) = inner?;
    if outer != name {
        return Err("GEN-13: the wrapper's name is not the inner name".to_owned());
    }
    if seen != version(name, content).as_bytes() {
        return Err("DX-16: the version is not that of the content".to_owned());
    }
    Ok((name, content))
}

impl Said {
    pub(super) fn read(of: ResourceType, delta: bool, head: &[u8], pieces: &[bytes::Bytes]) -> Result<Self, String> {
        let mut said = Self::default();
        for part in std::iter::once(head).chain(pieces.iter().map(|piece| &**piece)) {
            let mut rest = part;
            while let Some((number, value)) = next_field(&mut rest) {
                match (number, delta) {
                    (1, _) => said.version = value.to_vec(),
                    (2, true) => said.put(wrapped(of, value)?)?,
                    (2, false) => said.put(any(of, value)?)?,
                    (4, _) => said.type_url = value.to_vec(),
                    (5, _) => said.nonce = value.to_vec(),
                    (6, true) => said.remove(value)?,
                    _ => {}
                }
            }
        }
        Ok(said)
    }

    fn put(&mut self, (name, content): (usize, u8)) -> Result<(), String> {
        if std::mem::replace(&mut self.items[name], content) != NO_CONTENT {
            return Err(format!("GEN-11: {} is there twice", letter(name)));
        }
        Ok(())
    }

    fn remove(&mut self, name: &[u8]) -> Result<(), String> {
        let Some(name) = name.first().and_then(|byte| of_letter(*byte)) else {
            self.removed_others += 1;
            return Ok(());
        };
        if self.removed & 1 << name != 0 {
            return Err(format!("GEN-11: {} is removed twice", letter(name)));
        }
        self.removed |= 1 << name;
        Ok(())
    }
}
