//! One set of documents, compiled, and the resources that go to Envoy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use chancery::document::key::{DocumentKey, Kind};
use chancery::document::{self, Limits, Rejection};
use chancery::proto::json::{pool, to_json};
use chancery::resource::ResourceType;
use chancery::resource::compile::{Accepted, Compiled, Edit, Options};
use prost::Message;
use prost_reflect::{DynamicMessage, Value as Field};
use serde_json::{Value, json};

use super::dice::Dice;
use super::fields::{self, Kind as Row};
use super::mutation::mutate;

/// Shares of the sets, in a hundred: with a value beyond an edge, with a changed resource.
const NEAR: usize = 12;
const CHANGED: usize = 95;
const MOST_CHANGES: usize = 3;
/// Changes that are tried until one has a JSON form.
const TRIES: usize = 20;
/// Types of which a resource is changed; the repeated ones have more fields.
const TYPES: [ResourceType; 8] = [
    ResourceType::Cluster,
    ResourceType::Cluster,
    ResourceType::Route,
    ResourceType::Route,
    ResourceType::Route,
    ResourceType::Listener,
    ResourceType::Listener,
    ResourceType::Endpoint,
];

/// The end of a change after which Envoy subscribes to every resource of a type, and goes on so without the resource.
const WILDCARD: &str = "name = \"*\"";

/// A resource by type and name.
pub(crate) type Resources = BTreeMap<(ResourceType, String), Vec<u8>>;

/// A set.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) number: usize,
    documents: Vec<(String, Value)>,
    pub(crate) fields: BTreeSet<(String, String)>,
    /// The reason of the server, if it rejects a document.
    pub(crate) rejection: Option<Rejection>,
    /// The changed resource: its key and the change.
    changed: Option<(String, String)>,
    /// The resources for Envoy; none if a document has no compiled form.
    pub(crate) resources: Resources,
}

impl Set {
    pub(crate) fn make(table: &[Row], number: usize, dice: &mut Dice) -> Self {
        let near = dice.percent(NEAR);
        let made = fields::documents(table, number, near, dice);
        let mut set = Self {
            number,
            documents: made.documents,
            fields: made.fields,
            rejection: None,
            changed: None,
            resources: Resources::new(),
        };
        match with(&nothing(), &set.documents, 1) {
            Ok(compiled) => {
                set.resources = resources(&compiled);
                if dice.percent(CHANGED) {
                    set.change_one(&compiled, dice);
                }
            }
            Err(rejection) => set.rejection = Some(rejection),
        }
        set
    }

    /// Change a resource and add it as an xds document.
    fn change_one(&mut self, unchanged: &Compiled, dice: &mut Dice) {
        let resource_type = *dice.one(&TYPES);
        let of_type: Vec<String> = self
            .resources
            .keys()
            .filter(|(one, _)| *one == resource_type)
            .map(|(_, name)| name.clone())
            .collect();
        if of_type.is_empty() {
            return;
        }
        let name = dice.one(&of_type).clone();
        let before = self.resources[&(resource_type, name.clone())].clone();
        for _ in 0..TRIES {
            let Some((bytes, change)) = changed(resource_type, &name, &before, dice) else {
                continue;
            };
            if change.contains(WILDCARD) {
                continue;
            }
            let Ok(json) = to_json(resource_type.type_url(), &bytes) else {
                continue;
            };
            let key = format!("xds/{resource_type}/{name}");
            let document = (key.clone(), json!({ "resource": json, "replace": true }));
            let revision = i64::try_from(self.documents.len()).expect("few documents") + 1;
            let result = with(unchanged, std::slice::from_ref(&document), revision);
            self.documents.push(document);
            match result {
                Ok(compiled) => self.resources = resources(&compiled),
                Err(rejection) => {
                    self.rejection = Some(rejection);
                    self.resources.insert((resource_type, name), bytes);
                }
            }
            self.changed = Some((key, change));
            return;
        }
    }

    /// Whether a rejected resource goes to Envoy.
    pub(crate) fn is_pushed_unchecked(&self) -> bool {
        self.changed.is_some()
    }

    /// The changed resource and its change.
    pub(crate) fn change(&self) -> String {
        let changed = self.changed.as_ref();
        changed.map_or_else(|| "no change".to_owned(), |(key, change)| format!("{key}: {change}"))
    }
}

/// A resource with a few changes, and their places.
fn changed(resource_type: ResourceType, name: &str, before: &[u8], dice: &mut Dice) -> Option<(Vec<u8>, String)> {
    let full_name = resource_type.type_url().rsplit('/').next()?;
    let mut message = DynamicMessage::decode(pool().get_message_by_name(full_name)?, before).ok()?;
    let mut change = mutate(&mut message, dice)?;
    for _ in 0..dice.below(MOST_CHANGES) {
        if let Some(another) = mutate(&mut message, dice) {
            change = format!("{change}; {another}");
        }
    }
    // The name of a resource is that of its key.
    let field = if resource_type == ResourceType::Endpoint {
        "cluster_name"
    } else {
        "name"
    };
    message.set_field_by_name(field, Field::String(name.to_owned()));
    let bytes = message.encode_to_vec();
    (bytes != before).then_some((bytes, change))
}

/// The filters that a world without documents sends by ECDS.
pub(crate) fn extensions() -> Vec<(String, Vec<u8>)> {
    let all = resources(&with(&nothing(), &[], 1).expect("no document is at fault"));
    let of_type = |((resource_type, name), bytes): ((ResourceType, String), Vec<u8>)| {
        (resource_type == ResourceType::ExtensionConfig).then_some((name, bytes))
    };
    all.into_iter().filter_map(of_type).collect()
}

/// A world without documents.
fn nothing() -> Compiled {
    Compiled::new(Options {
        ca_bundle: Some(Bytes::from_static(include_bytes!("../golden/ca.pem"))),
        // Every host has a file there.
        access_log_dir: "/dev/".into(),
        ..Options::default()
    })
}

/// Compile further documents, in the order of writing; the first has the revision `first`.
fn with(compiled: &Compiled, documents: &[(String, Value)], first: i64) -> Result<Compiled, Rejection> {
    let mut edits = Vec::new();
    for ((key, document), revision) in documents.iter().zip(first..) {
        let (word, name) = key.split_once('/').unwrap_or((key, ""));
        let key = DocumentKey::new(Kind::from_word(word).expect("a kind"), name);
        let parsed = document::parse(&key, document.to_string().as_bytes(), &Limits::default())?;
        let accepted = Accepted {
            document: parsed.document,
            create_revision: revision,
            mod_revision: revision,
        };
        edits.push(Edit {
            key,
            accepted: Some(accepted),
            exists: true,
            is_judged: true,
        });
    }
    let step = compiled.apply(edits);
    step.map(|step| step.compiled)
        .map_err(|faults| faults.into_iter().next().expect("a fault").rejection)
}

/// The resources of the group `default`.
fn resources(compiled: &Compiled) -> Resources {
    let default: Arc<str> = "default".into();
    let of_group = compiled.resources().filter(|(group, ..)| **group == default);
    let resource = |(_, resource_type, resource): (_, ResourceType, &Arc<chancery::resource::Resource>)| {
        let bytes = resource.body.to_bytes().to_vec();
        ((resource_type, resource.name.to_string()), bytes)
    };
    of_group.map(resource).collect()
}
