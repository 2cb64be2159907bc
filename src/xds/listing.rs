//! Requests taken apart field by field, and the names they list.
//!
//! Nothing is copied: a field is a part of the request, and a list of names is the run of its fields as they lie on the wire.
//! The list of an ordinary SotW ACK is the one that came before, tens of kilobytes long; it is told by one hash over the run.
//! What protobuf allows beside it (names scattered over the message) is gathered.

use std::ops::Range;

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use xxhash_rust::xxh3::xxh3_128;

use super::Error;

fn malformed(error: impl ToString) -> Error {
    Error::Malformed(error.to_string())
}

/// One field of a message: its number, its payload, and where it lies with its tag.
#[derive(Debug)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) payload: &'a [u8],
    whole: Range<usize>,
}

impl<'a> Field<'a> {
    pub(super) fn text(&self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.payload).map_err(malformed)
    }

    pub(super) fn message<M: prost::Message + Default>(&self) -> Result<M, Error> {
        M::decode(self.payload).map_err(malformed)
    }

    /// Where a field comes again, protobuf has the messages merged.
    pub(super) fn merge_into<M: prost::Message>(&self, message: &mut M) -> Result<(), Error> {
        message.merge(self.payload).map_err(malformed)
    }

    /// The payload, sharing the message's memory.
    pub(super) fn bytes(&self, message: &Bytes) -> Bytes {
        message.slice(self.whole.end - self.payload.len()..self.whole.end)
    }
}

/// The fields of a message whose known fields, up to number `last`, are all texts, bytes or messages. What is unknown is
/// passed over.
pub(super) struct Fields<'a> {
    message: &'a [u8],
    rest: &'a [u8],
    last: u32,
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8], last: u32) -> Self {
        Self { message, rest: message, last }
    }

    /// The next known field.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, Error> {
        while !self.rest.is_empty() {
            let start = self.message.len() - self.rest.len();
            let (number, wire_type) = decode_key(&mut self.rest).map_err(malformed)?;
            if number > self.last {
                skip_field(wire_type, number, &mut self.rest, DecodeContext::default()).map_err(malformed)?;
                continue;
            }
            if wire_type != WireType::LengthDelimited {
                return Err(Error::Malformed(format!(
                    "field {number} has the wire type {wire_type:?}, expected bytes"
                )));
            }
            let length = decode_varint(&mut self.rest).map_err(malformed)?;
            let within = usize::try_from(length).ok().filter(|length| *length <= self.rest.len());
            let Some(length) = within else {
                return Err(Error::Malformed(format!("field {number} claims {length} bytes, more than there are")));
            };
            let (payload, rest) = self.rest.split_at(length);
            self.rest = rest;
            let whole = start..self.message.len() - rest.len();
            return Ok(Some(Field { number, payload, whole }));
        }
        Ok(None)
    }
}

/// Names as a request lists them.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The message, and the run of fields in it.
    message: Bytes,
    run: Range<usize>,
    /// Fields that are not in the run.
    scattered: Vec<u8>,
    len: usize,
}

impl Listing {
    /// One more, a field of `message`.
    pub(super) fn push(&mut self, message: &Bytes, field: &Field<'_>) {
        if self.len == 0 {
            self.message = message.clone();
            self.run = field.whole.clone();
        } else if self.scattered.is_empty() && self.run.end == field.whole.start {
            self.run.end = field.whole.end;
        } else {
            return self.add(field.payload);
        }
        self.len += 1;
    }

    /// One more, from elsewhere.
    pub(super) fn add(&mut self, name: &[u8]) {
        encode_key(1, WireType::LengthDelimited, &mut self.scattered);
        encode_varint(name.len() as u64, &mut self.scattered);
        self.scattered.extend_from_slice(name);
        self.len += 1;
    }

    /// How many, repetitions included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A hash of the list as it is written; `None`: it is scattered.
    pub(super) fn digest(&self) -> Option<u128> {
        self.scattered.is_empty().then(|| xxh3_128(&self.message[self.run.clone()]))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        names(&self.message[self.run.clone()]).chain(names(&self.scattered))
    }
}

/// The payloads of fields that were read before.
fn names(mut fields: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if !fields.has_remaining() {
            return None;
        }
        decode_key(&mut fields).ok()?;
        let length = usize::try_from(decode_varint(&mut fields).ok()?).ok()?;
        let (name, rest) = fields.split_at_checked(length)?;
        fields = rest;
        Some(name)
    })
}

#[cfg(test)]
pub(super) fn listing(listed: &[&str]) -> Listing {
    let mut listing = Listing::default();
    listed.iter().for_each(|name| listing.add(name.as_bytes()));
    listing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_key(number, WireType::LengthDelimited, &mut bytes);
        encode_varint(payload.len() as u64, &mut bytes);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn listed(message: Vec<u8>) -> (Vec<String>, Option<u128>) {
        let (message, mut listing) = (Bytes::from(message), Listing::default());
        let mut fields = Fields::new(&message, 7);
        while let Some(field) = fields.next().unwrap() {
            if field.number == 3 {
                listing.push(&message, &field);
            }
        }
        let names: Vec<_> = listing.iter().map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
        assert_eq!(names.len(), listing.len());
        (names, listing.digest())
    }

    #[test]
    fn a_run_of_names_has_a_digest_wherever_it_lies() {
        let run = [field(3, b"a"), field(3, b""), field(3, &[b'x'; 300])].concat();
        let (names, digest) = listed([field(1, b"v"), run.clone(), field(4, b"t")].concat());
        assert_eq!((names[0].as_str(), names[1].as_str(), names[2].len()), ("a", "", 300));
        assert_eq!(listed([run, field(9, b"unknown")].concat()), (names, digest));
        assert!(digest.is_some());
        assert_ne!(listed(field(3, b"a")).1, digest);
    }

    #[test]
    fn scattered_names_are_gathered_and_have_no_digest() {
        let message = [field(3, b"a"), field(4, b"t"), field(3, b"b"), field(3, b"c")].concat();
        assert_eq!(listed(message), (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], None));
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for (bytes, words) in [
            (vec![0x0a, 5, 1], "claims 5 bytes"),
            (vec![0x08, 5], "wire type Varint"),
            (vec![0xff; 11], "varint"),
            (vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "more than there are"),
        ] {
            let error = Fields::new(&bytes, 7).next().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(Fields::new(&[0x80, 0x01, 7], 7).next().unwrap().is_none(), "an unknown field");
    }
}
