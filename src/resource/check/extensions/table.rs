//! The places of extensions, and the extensions that Envoy 1.40 registers.
//!
//! `places.txt` has a line for each field of type Any or `TypedExtensionConfig`, with the kinds that the field takes,
//! separated by commas: a category of Envoy's extensions (with `=` before it where Envoy finds the extension by its name),
//! the name of a message, or `-` for any message. A line with
//! `MESSAGE>` before the field concerns the field where that message is the nearest one around with lines of its own.
//! `registered.txt` has a line for each extension that a real Envoy lists in its Node: category, name, message types.
//!
//! Tests compare `places.txt` with the descriptors (`no_place_is_forgotten`), and `registered.txt` with a real Envoy
//! (`tests/golden/extensions.rs`, which also writes the file).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

const PLACES: &str = include_str!("places.txt");
const REGISTERED: &str = include_str!("registered.txt");

/// The kinds of extensions that a field takes.
#[derive(Debug, Default)]
pub(in crate::resource) struct Slot {
    /// By the message around, `""` elsewhere; `None`: any message.
    kinds: BTreeMap<&'static str, Option<Vec<&'static str>>>,
}

impl Slot {
    /// The kinds of the field below a message; `None`: any message.
    pub(super) fn kinds(&self, around: &str) -> Option<&[&'static str]> {
        let kinds = self.kinds.get(around).or_else(|| self.kinds.get(""))?;
        kinds.as_deref()
    }
}

/// An extension of Envoy.
#[derive(Debug)]
pub(super) struct Extension {
    pub(super) name: &'static str,
    /// The types of its messages; none if its name selects it.
    pub(super) types: Vec<&'static str>,
}

static SLOTS: LazyLock<HashMap<&'static str, Slot>> = LazyLock::new(|| {
    let mut slots: HashMap<&'static str, Slot> = HashMap::new();
    for (around, field, kinds) in rows() {
        let kinds = (kinds != "-").then(|| kinds.split(',').collect());
        slots.entry(field).or_default().kinds.insert(around, kinds);
    }
    slots
});

static AROUND: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| rows().map(|(around, ..)| around).collect());

static EXTENSIONS: LazyLock<BTreeMap<&'static str, Vec<Extension>>> = LazyLock::new(|| {
    let mut extensions: BTreeMap<&'static str, Vec<Extension>> = BTreeMap::new();
    for line in REGISTERED.lines() {
        let mut words = line.split(' ');
        let (category, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let types = words.collect();
        extensions.entry(category).or_default().push(Extension { name, types });
    }
    extensions
});

/// The message around, the field and the kinds of each line.
fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    PLACES.lines().filter_map(|line| {
        let (place, kinds) = line.split_once(' ')?;
        let (around, field) = place.split_once('>').unwrap_or(("", place));
        Some((around, field, kinds))
    })
}

/// The kinds that a field takes, by its full name; `None`: the field takes no extension.
pub(in crate::resource) fn slot(field: &str) -> Option<&'static Slot> {
    SLOTS.get(field)
}

/// The name of the message if `places.txt` has lines for fields below it.
pub(in crate::resource) fn around(message: &str) -> Option<&'static str> {
    AROUND.get(message).copied().filter(|name| !name.is_empty())
}

/// The extensions of a category.
pub(super) fn extensions(category: &str) -> &'static [Extension] {
    EXTENSIONS.get(category).map(Vec::as_slice).unwrap_or_default()
}

/// Whether a kind is the name of a message and not a category.
pub(super) fn is_message(kind: &str) -> bool {
    let last = kind.rsplit('.').next().unwrap_or_default();
    last.starts_with(|first: char| first.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

    use super::*;
    use crate::proto::json::pool;
    use crate::resource::ResourceType;

    const TAKE_EXTENSIONS: [&str; 3] = [
        "google.protobuf.Any",
        "envoy.config.core.v3.TypedExtensionConfig",
        "xds.core.v3.TypedExtensionConfig",
    ];

    fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
        let Kind::Message(message) = field.kind() else {
            return None;
        };
        match message.is_map_entry() {
            true => message_of(&message.map_entry_value_field()),
            false => Some(message),
        }
    }

    /// Every field that takes an extension, in the resources, in the registered extensions, in the messages
    /// that `places.txt` names, and in all messages below.
    fn places() -> Vec<FieldDescriptor> {
        let resources = ResourceType::ALL
            .iter()
            .map(|one| one.type_url().rsplit('/').next().unwrap());
        let registered = EXTENSIONS.values().flatten().flat_map(|one| one.types.iter().copied());
        let written = rows()
            .flat_map(|(.., kinds)| kinds.split(','))
            .filter(|kind| is_message(kind));
        let mut todo: Vec<MessageDescriptor> = resources
            .chain(registered)
            .chain(written)
            .filter_map(|name| pool().get_message_by_name(name))
            .collect();
        let (mut seen, mut places) = (BTreeSet::new(), Vec::new());
        while let Some(message) = todo.pop() {
            if TAKE_EXTENSIONS.contains(&message.full_name()) || !seen.insert(message.full_name().to_owned()) {
                continue;
            }
            for field in message.fields() {
                let Some(inner) = message_of(&field) else { continue };
                match TAKE_EXTENSIONS.contains(&inner.full_name()) {
                    true => places.push(field),
                    false => todo.push(inner),
                }
            }
        }
        places
    }

    /// The comment of the .proto file at a path.
    fn comment(field: &FieldDescriptor, path: &[i32]) -> String {
        let file = field.parent_file();
        let locations = file
            .file_descriptor_proto()
            .source_code_info
            .iter()
            .flat_map(|info| &info.location);
        let found = locations.filter(|location| location.path == path);
        found.map(|location| location.leading_comments().to_owned()).collect()
    }

    /// The categories that the comments of a field or of its oneof name.
    fn commented(field: &FieldDescriptor) -> Vec<String> {
        let oneof = field.containing_oneof().map(|oneof| comment(field, oneof.path()));
        let comments = format!("{}{}", comment(field, field.path()), oneof.unwrap_or_default());
        let tags = comments.split("[#extension-category:").skip(1);
        let lists = tags.filter_map(|rest| rest.split(']').next());
        lists
            .flat_map(|list| list.split(','))
            .map(|name| name.trim().to_owned())
            .collect()
    }

    #[test]
    fn no_place_is_forgotten() {
        let found: BTreeSet<String> = places().iter().map(|field| field.full_name().to_owned()).collect();
        let written: BTreeSet<String> = rows().map(|(_, field, _)| field.to_owned()).collect();
        assert_eq!(written, found);
        assert!(found.len() > 120, "the walk finds {} places", found.len());
        for (around, ..) in rows().filter(|(around, ..)| !around.is_empty()) {
            assert!(pool().get_message_by_name(around).is_some(), "no message {around}");
        }
    }

    #[test]
    fn kinds_are_those_of_the_comments() {
        let is_input = |field: &FieldDescriptor| field.full_name().ends_with("SinglePredicate.input");
        for field in places() {
            let name = field.full_name();
            if is_input(&field) {
                continue;
            }
            for category in commented(&field) {
                let kinds = slot(name).and_then(|slot| slot.kinds(""));
                let has = |kinds: &[&str]| kinds.iter().any(|kind| kind.trim_start_matches('=') == category);
                assert!(kinds.is_none_or(has), "{name}: {category}");
            }
        }
        let places = places();
        let logs = places
            .iter()
            .find(|field| field.full_name() == "envoy.config.accesslog.v3.AccessLog.typed_config");
        assert_eq!(commented(logs.unwrap()), ["envoy.access_loggers"], "comments are read");
    }

    #[test]
    fn kinds_are_categories_or_messages() {
        for (_, field, kinds) in rows().filter(|(.., kinds)| *kinds != "-") {
            for kind in kinds.split(',') {
                let is_known = match is_message(kind) {
                    true => pool().get_message_by_name(kind).is_some(),
                    // Categories without an extension in this Envoy are in the comments.
                    false => kind.trim_start_matches('=').starts_with("envoy."),
                };
                assert!(is_known, "{field}: {kind}");
            }
        }
    }
}
