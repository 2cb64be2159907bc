//! The resources of each input equal the recorded ones.

use std::collections::BTreeMap;
use std::fs;

use chancery::proto::json::to_json;
use chancery::resource::ResourceType;
use chancery::resource::compile::Compiled;
use serde_json::Value;

use super::inputs::{compiled, folder, names};

/// The resources of one type: by group, sorted by name.
pub(crate) fn resources(compiled: &Compiled, wanted: ResourceType) -> BTreeMap<String, Vec<Value>> {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (group, resource_type, resource) in compiled.resources() {
        if resource_type == wanted {
            let json = to_json(resource_type.type_url(), &resource.body.to_bytes()).expect("a message of its type");
            groups.entry(group.to_string()).or_default().push(json);
        }
    }
    groups
}

#[test]
fn documents_become_the_same_resources_as_ever() {
    let write = std::env::var_os("CHANCERY_GOLDEN").is_some_and(|value| value == "write");
    let mut differences = Vec::new();
    for name in names() {
        let compiled = compiled(&name);
        for resource_type in ResourceType::ALL {
            let path = folder().join("out").join(format!("{name}.{resource_type}.yaml"));
            let resources = resources(&compiled, resource_type);
            // No resource, no file.
            let text = match resources.is_empty() {
                true => String::new(),
                false => serde_saphyr::to_string(&resources).expect("YAML of JSON"),
            };
            if write && !text.is_empty() {
                fs::write(&path, &text).expect("write the expected output");
            } else if fs::read_to_string(&path).unwrap_or_default() != text {
                differences.push(format!("{} is not what is compiled now:\n{text}", path.display()));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{}\nCHANCERY_GOLDEN=write accepts them",
        differences.join("\n")
    );
}

#[test]
fn equal_documents_give_equal_bytes() {
    for name in names() {
        let versions = |compiled: &Compiled| -> Vec<_> {
            compiled
                .resources()
                .map(|(group, kind, one)| (group.clone(), kind, one.name.clone(), one.version))
                .collect()
        };
        let first = versions(&compiled(&name));
        for _ in 0..5 {
            assert_eq!(versions(&compiled(&name)), first, "{name}");
        }
    }
}
