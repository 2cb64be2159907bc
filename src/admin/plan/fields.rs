//! The fields of a document that differ between two texts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Inputs;
use crate::document::key::DocumentKey;
use crate::document::xds;
use crate::reconcile::world::World;

/// The names of the fields that differ. A document that comes or goes differs in all of its fields.
pub(super) fn differing(inputs: &Inputs<'_>, key: &DocumentKey) -> BTreeSet<String> {
    let (before, after) = (value(inputs.before, key), value(&inputs.plan.world, key));
    let fields = |value: &Option<Value>| -> BTreeSet<String> {
        let object = value.as_ref().and_then(Value::as_object);
        object.into_iter().flat_map(|object| object.keys().cloned()).collect()
    };
    let field = |value: &Option<Value>, name: &str| value.as_ref().and_then(|value| value.get(name)).cloned();
    let names: BTreeSet<String> = fields(&before).union(&fields(&after)).cloned().collect();
    names
        .into_iter()
        .filter(|name| field(&before, name) != field(&after, name))
        .collect()
}

/// The text of a document that serves, as a value. The texts of secrets are read by nobody here.
pub(super) fn value(world: &World, key: &DocumentKey) -> Option<Value> {
    let status = world.document(key)?;
    xds::value(&status.serving.as_ref()?.value)
}

/// The field that drains a listener: one of its sockets first, else the first one.
pub(super) fn drained_by(differing: &BTreeSet<String>) -> String {
    const SOCKETS: [&str; 3] = ["address", "addresses", "bind"];
    let socket = SOCKETS.into_iter().find(|name| differing.contains(*name));
    let first = differing
        .iter()
        .find(|name| !matches!(name.as_str(), "$schema" | "description"));
    match socket {
        Some(socket) => socket.to_owned(),
        None => first.map_or("defaults", String::as_str).to_owned(),
    }
}
