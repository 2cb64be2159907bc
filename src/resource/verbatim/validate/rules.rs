//! Rules from the descriptors, in a form that is fast to check.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use envoy_types::pb::validate::field_rules::Type;
use envoy_types::pb::validate::{FieldRules, MapRules, RepeatedRules};
use parking_lot::RwLock;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, MessageDescriptor, OneofDescriptor,
};
use regex::Regex;

use crate::proto::json::pool;
use crate::resource::check::extensions::table::{self, Slot};

/// The rules of a message type: each field with its rule, and the oneofs that must be set.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) fields: Vec<(FieldDescriptor, Rule)>,
    pub(super) required_oneofs: Vec<OneofDescriptor>,
}

/// The rule of a field, of the entries of a list, or of the keys or values of a map.
#[derive(Debug, Default)]
pub(super) struct Rule {
    /// The field must be set.
    pub(super) required: bool,
    /// The message in the field is not checked.
    pub(super) skip: bool,
    /// The field is deprecated, and Envoy refuses it.
    pub(super) disallowed: bool,
    /// The rule of the value.
    pub(super) value: Option<Type>,
    /// The enum behind `value`.
    pub(super) words: Option<EnumDescriptor>,
    /// The `pattern` of `value`: the whole text must match.
    pub(super) pattern: Option<Regex>,
    /// The rule of a list.
    pub(super) repeated: Option<RepeatedRules>,
    /// The rule of a map.
    pub(super) map: Option<MapRules>,
    /// The rule of a map's keys.
    pub(super) keys: Option<Box<Self>>,
    /// The rule of a list's entries, or of a map's values.
    pub(super) items: Option<Box<Self>>,
    /// The extensions that the field takes.
    pub(super) slot: Option<&'static Slot>,
}

/// The extensions with rules.
struct Options {
    field: Option<ExtensionDescriptor>,
    oneof: Option<ExtensionDescriptor>,
    disallowed: Option<ExtensionDescriptor>,
}

static OPTIONS: LazyLock<Options> = LazyLock::new(|| Options {
    field: pool().get_extension_by_name("validate.rules"),
    oneof: pool().get_extension_by_name("validate.required"),
    disallowed: pool().get_extension_by_name("envoy.annotations.disallowed_by_default"),
});

/// The rules of the message types seen so far: reading them from the descriptors takes longer than checking a message.
static KNOWN: LazyLock<RwLock<HashMap<String, Arc<Rules>>>> = LazyLock::new(RwLock::default);

/// The rules of a message type.
pub(super) fn rules_of(descriptor: &MessageDescriptor) -> Arc<Rules> {
    let known = KNOWN.read().get(descriptor.full_name()).cloned();
    known.unwrap_or_else(|| {
        let rules = Arc::new(read(descriptor));
        let mut known = KNOWN.write();
        known.insert(descriptor.full_name().to_owned(), Arc::clone(&rules));
        rules
    })
}

fn read(descriptor: &MessageDescriptor) -> Rules {
    let is_true = |options: DynamicMessage, extension: &Option<ExtensionDescriptor>| {
        extension
            .as_ref()
            .is_some_and(|extension| options.get_extension(extension).as_bool() == Some(true))
    };

    let of_field = |field: &FieldDescriptor| {
        let disallowed = is_true(field.options(), &OPTIONS.disallowed);
        Rule {
            disallowed,
            slot: table::slot(field.full_name()),
            ..written(field).map(|rules| rule(rules, field)).unwrap_or_default()
        }
    };

    Rules {
        fields: descriptor
            .fields()
            .map(|field| (field.clone(), of_field(&field)))
            .collect(),
        required_oneofs: descriptor
            .oneofs()
            .filter(|oneof| is_true(oneof.options(), &OPTIONS.oneof))
            .collect(),
    }
}

/// The rules of a field as written.
pub(super) fn written(field: &FieldDescriptor) -> Option<FieldRules> {
    let extension = OPTIONS.field.as_ref()?;
    let options = field.options();
    if !options.has_extension(extension) {
        return None;
    }
    options.get_extension(extension).as_message()?.transcode_to().ok()
}

fn rule(rules: FieldRules, field: &FieldDescriptor) -> Rule {
    // The enum of a list's entries is that of its field; the values of a map are a field of their own.
    let mut rule = Rule {
        words: field.kind().as_enum().cloned(),
        ..Rule::default()
    };

    if let Some(message) = &rules.message {
        (rule.required, rule.skip) = (message.required(), message.skip());
    }

    match rules.r#type {
        Some(Type::Repeated(mut repeated)) => {
            rule.items = repeated.items.take().map(|items| Box::new(self::rule(*items, field)));
            rule.repeated = Some(*repeated);
        }
        Some(Type::Map(mut map)) => {
            let kind = field.kind();
            let values_of = kind.as_message().map(|entry| entry.map_entry_value_field());
            let values_of = values_of.as_ref().unwrap_or(field);
            rule.keys = map.keys.take().map(|keys| Box::new(self::rule(*keys, field)));
            rule.items = map.values.take().map(|values| Box::new(self::rule(*values, values_of)));
            rule.map = Some(*map);
        }
        Some(Type::Duration(duration)) => {
            rule.required |= duration.required();
            rule.value = Some(Type::Duration(duration));
        }
        Some(Type::Any(any)) => rule.required |= any.required(),
        Some(Type::String(string)) => {
            rule.pattern = string
                .pattern
                .as_deref()
                .and_then(|pattern| Regex::new(&format!(r"\A(?:{pattern})\z")).ok());
            rule.value = Some(Type::String(string));
        }
        other => rule.value = other,
    }

    rule
}
