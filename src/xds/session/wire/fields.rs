//! Decodes requests field by field, and their lists of names.
//!
//! Nothing is copied: a field is a slice of the request, and a list of names is the run of its fields on the wire. An
//! ordinary SotW ACK repeats the last list, tens of kilobytes long: one hash over the run recognises the list, and the
//! names are not read again. protobuf also allows names scattered over the message; these are copied into one list.

use std::ops::Range;

use bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use xxhash_rust::xxh3::xxh3_128;

use crate::proto::message::append;
use crate::xds::error::Error;

fn malformed(error: impl ToString) -> Error {
    Error::Malformed(error.to_string())
}

/// One field of a message: its number, its payload, its range with the tag.
#[derive(Debug)]
pub(in crate::xds) struct Field<'a> {
    pub(in crate::xds) number: u32,
    pub(in crate::xds) payload: &'a [u8],
    whole: Range<usize>,
}

impl<'a> Field<'a> {
    pub(in crate::xds) fn text(&self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.payload).map_err(malformed)
    }

    pub(in crate::xds) fn message<M: prost::Message + Default>(&self) -> Result<M, Error> {
        M::decode(self.payload).map_err(malformed)
    }

    /// Merge a repeated field into the message, as protobuf demands.
    pub(in crate::xds) fn merge_into<M: prost::Message>(&self, message: &mut M) -> Result<(), Error> {
        message.merge(self.payload).map_err(malformed)
    }

    /// The payload as a slice of the message's memory.
    pub(in crate::xds) fn bytes(&self, message: &Bytes) -> Bytes {
        message.slice(self.whole.end - self.payload.len()..self.whole.end)
    }
}

/// The fields of a message whose known fields, up to number `last`, are all texts, bytes or messages. Unknown fields
/// are skipped.
pub(in crate::xds) struct Fields<'a> {
    message: &'a [u8],
    rest: &'a [u8],
    last: u32,
}

impl<'a> Fields<'a> {
    pub(in crate::xds) fn new(message: &'a [u8], last: u32) -> Self {
        Self {
            message,
            rest: message,
            last,
        }
    }

    /// Skip the fields from `first`, the last one that was read, if the run of its number is one of these known runs.
    fn pass_over(&mut self, first: &Field<'_>, mut known: impl Iterator<Item = Run>) -> Option<Run> {
        let (message, start) = (self.message, first.whole.start);
        let tag = message[start];
        let run = known.find(|run| {
            let lies_here = |bytes| message.get(start + run.bytes) != Some(&tag) && xxh3_128(bytes) == run.digest;
            message.get(start..start + run.bytes).is_some_and(lies_here)
        })?;
        self.rest = &message[start + run.bytes..];
        Some(run)
    }

    /// The next known field.
    pub(in crate::xds) fn next(&mut self) -> Result<Option<Field<'a>>, Error> {
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
                return Err(Error::Malformed(format!(
                    "field {number} claims {length} bytes, more than there are"
                )));
            };
            let (payload, rest) = self.rest.split_at(length);
            self.rest = rest;
            let whole = start..self.message.len() - rest.len();
            return Ok(Some(Field { number, payload, whole }));
        }

        Ok(None)
    }
}

/// From this length in bytes a lookup by hash is cheaper than reading the list.
const LONG: usize = 512;

/// A list on the wire: its length in bytes, its number of names, its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::xds) struct Run {
    bytes: usize,
    names: usize,
    digest: u128,
}

impl Run {
    /// Whether a lookup is cheaper than reading.
    pub(in crate::xds) fn is_long(&self) -> bool {
        self.bytes >= LONG
    }
}

/// The list of names in a request.
#[derive(Debug, Default)]
pub(in crate::xds) struct NameList {
    /// The message, and the run of fields in it.
    message: Bytes,
    run: Range<usize>,
    /// The hash of the run, if it is known.
    digest: Option<u128>,
    /// Copies of the fields outside the run.
    scattered: Vec<u8>,
    len: usize,
}

impl NameList {
    /// Add a field of `message`, the last one read from `fields`. If the list begins with it and is one of the `known`
    /// runs, add the whole run, and give it.
    pub(in crate::xds) fn read(
        &mut self,
        message: &Bytes,
        field: &Field<'_>,
        fields: &mut Fields<'_>,
        known: impl Iterator<Item = Run>,
    ) -> Option<Run> {
        let run = if self.is_empty() {
            fields.pass_over(field, known)
        } else {
            None
        };
        match run {
            Some(run) => *self = Self::again(message, field, run),
            None => self.push(message, field),
        }
        run
    }

    /// The list of a known run that begins with this field.
    fn again(message: &Bytes, first: &Field<'_>, known: Run) -> Self {
        let run = first.whole.start..first.whole.start + known.bytes;
        let (digest, len) = (Some(known.digest), known.names);
        Self {
            message: message.clone(),
            run,
            digest,
            scattered: Vec::new(),
            len,
        }
    }

    /// Add a field of `message`.
    pub(in crate::xds) fn push(&mut self, message: &Bytes, field: &Field<'_>) {
        if self.len == 0 {
            self.message = message.clone();
            self.run = field.whole.clone();
        } else if self.scattered.is_empty() && self.run.end == field.whole.start {
            self.run.end = field.whole.end;
            self.digest = None;
        } else {
            return self.add(field.payload);
        }
        self.len += 1;
    }

    /// Add a name from outside the run.
    pub(in crate::xds) fn add(&mut self, name: &[u8]) {
        append(&mut self.scattered, 1, name);
        self.len += 1;
    }

    /// The number of names, repetitions included.
    pub(in crate::xds) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::xds) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The run of the list; `None`: the names are scattered.
    pub(in crate::xds) fn run(&self) -> Option<Run> {
        let digest = || self.digest.unwrap_or_else(|| xxh3_128(&self.message[self.run.clone()]));
        self.scattered.is_empty().then(|| Run {
            bytes: self.run.len(),
            names: self.len,
            digest: digest(),
        })
    }

    pub(in crate::xds) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        names(&self.message[self.run.clone()]).chain(names(&self.scattered))
    }
}

/// The payloads of valid fields.
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
pub(in crate::xds) fn name_list(listed: &[&str]) -> NameList {
    let mut name_list = NameList::default();
    listed.iter().for_each(|name| name_list.add(name.as_bytes()));
    name_list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, number, payload);
        bytes
    }

    fn listed(message: Vec<u8>) -> (Vec<String>, Option<Run>) {
        let (message, mut name_list) = (Bytes::from(message), NameList::default());
        let mut fields = Fields::new(&message, 7);
        while let Some(field) = fields.next().unwrap() {
            if field.number == 3 {
                name_list.push(&message, &field);
            }
        }
        let names: Vec<_> = name_list
            .iter()
            .map(|name| String::from_utf8(name.to_vec()).unwrap())
            .collect();
        assert_eq!(names.len(), name_list.len());
        (names, name_list.run())
    }

    /// The same for a known run.
    fn listed_again(message: Vec<u8>, known: Run) -> (Option<Run>, usize, Option<Run>) {
        let (message, mut name_list, mut passed) = (Bytes::from(message), NameList::default(), None);
        let mut fields = Fields::new(&message, 7);
        while let Some(field) = fields.next().unwrap() {
            if field.number != 3 {
                continue;
            }
            let run = name_list.read(&message, &field, &mut fields, std::iter::once(known));
            passed = passed.or(run);
        }
        assert_eq!(name_list.iter().count(), name_list.len());
        (passed, name_list.len(), name_list.run())
    }

    #[test]
    fn a_run_that_was_read_before_is_passed_over_and_no_other_is() {
        let names = |count: usize| {
            (0..count)
                .flat_map(|n| field(3, format!("name-{n}").as_bytes()))
                .collect::<Vec<u8>>()
        };
        let whole = |count: usize| [field(1, b"v"), names(count), field(4, b"t")].concat();
        let run = listed(whole(50)).1.unwrap();
        assert_eq!(listed_again(whole(50), run), (Some(run), 50, Some(run)));
        assert_eq!(
            listed_again(names(50), run),
            (Some(run), 50, Some(run)),
            "to the end of the message"
        );
        for count in [1, 49, 51] {
            assert_eq!(
                listed_again(whole(count), run),
                (None, count, listed(whole(count)).1),
                "{count} names"
            );
        }
        let mut other = whole(50);
        let at = other.len() / 2;
        other[at] ^= 1;
        assert_eq!(listed_again(other, run).0, None);
        // A tag may be encoded longer than necessary.
        let longer = [names(50), vec![0x9a, 0x00, 1, b'x']].concat();
        let (passed, len, again) = listed_again(longer.clone(), run);
        assert_eq!((passed, len, again), (Some(run), 51, listed(longer).1));
    }

    #[test]
    fn a_run_of_names_has_a_digest_wherever_it_lies() {
        let run = [field(3, b"a"), field(3, b""), field(3, &[b'x'; 300])].concat();
        let (names, found) = listed([field(1, b"v"), run.clone(), field(4, b"t")].concat());
        assert_eq!((names[0].as_str(), names[1].as_str(), names[2].len()), ("a", "", 300));
        assert_eq!(listed([run, field(9, b"unknown")].concat()), (names, found));
        assert!(found.is_some());
        assert_ne!(listed(field(3, b"a")).1, found);
    }

    #[test]
    fn scattered_names_are_gathered_and_have_no_digest() {
        let message = [field(3, b"a"), field(4, b"t"), field(3, b"b"), field(3, b"c")].concat();
        assert_eq!(
            listed(message),
            (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], None)
        );
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for (bytes, words) in [
            (vec![0x0a, 5, 1], "claims 5 bytes"),
            (vec![0x08, 5], "wire type Varint"),
            (vec![0xff; 11], "varint"),
            (
                vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                "more than there are",
            ),
        ] {
            let error = Fields::new(&bytes, 7).next().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(
            Fields::new(&[0x80, 0x01, 7], 7).next().unwrap().is_none(),
            "an unknown field"
        );
    }
}
