//! Finds the documents that may be the cause of a NACK, from the response and the error message.
//!
//! A NACK covers a whole response, and its message may name a resource, a part of one, or nothing (docs/xds-rules.md
//! F-15). Resources that the client ACKed unchanged are not the cause. The suspects are the resources that changed
//! since; if the message names some of these, only those. The message decides no response of the session (GEN-18). Pure.
//!
//! A list of suspects is cut at [`SUSPECTS_MAX`] for the report. A cut list says that it is not complete; then the
//! resources themselves are given beside it, and `fleet::suspicions` finds the documents.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::document::key::{DocumentKey, Kind};
use crate::fleet::{self, LAID_ON_MAX, Suspect, Suspects};
use crate::resource::compile::parts;
use crate::resource::{Resource, ResourceType};
use crate::snapshot::set::ResourceSet;
use crate::xds::session::state::content::Content;

/// The most documents, and the most resources, of one report.
const SUSPECTS_MAX: usize = fleet::SUSPECTS_MAX;

/// Messages of Envoy after which a half-built cluster is left: Envoy then sends neither ACK nor NACK for clusters until
/// that cluster is removed (docs/xds-rules.md F-17, class Z).
const HALF_BUILT: [&str; 2] = [
    "The table size of maglev must be prime number",
    "ring hash: minimum_ring_size",
];

/// Whether a client that NACKed clusters with this message is stuck.
pub(in crate::xds) fn is_stuck(resource_type: ResourceType, error_message: &str) -> bool {
    resource_type == ResourceType::Cluster && HALF_BUILT.iter().any(|fragment| error_message.contains(fragment))
}

/// The suspects of a NACKed response, by resource. `acknowledged`: the resources of the last ACK.
pub(in crate::xds) fn suspects(content: &Content, acknowledged: Option<&ResourceSet>, error_message: &str) -> Suspects {
    let words = names_in(error_message);
    let before = |resource: &Resource| {
        let before = acknowledged.and_then(|set| set.get(&resource.name));
        before.filter(|before| before.version != resource.version)
    };
    let is_new = |resource: &Resource| {
        acknowledged
            .and_then(|set| set.get(&resource.name))
            .is_none_or(|before| before.version != resource.version)
    };

    let mut carried: Vec<&Arc<Resource>> = words.iter().filter_map(|word| content.resource(word)).collect();
    if carried.iter().any(|resource| is_new(resource)) {
        carried.retain(|resource| is_new(resource));
    }
    if carried.is_empty() {
        let new = content.resources().filter(|resource| is_new(resource));
        carried = new.take(LAID_ON_MAX + 1).collect();
    }

    if carried.is_empty() {
        carried = content.resources().take(LAID_ON_MAX + 1).collect();
    }
    let are_all = carried.len() <= SUSPECTS_MAX;
    let all = (!are_all).then(|| match carried.len() {
        ..=LAID_ON_MAX => carried.iter().map(|resource| Arc::clone(resource)).collect(),
        _ => Arc::default(),
    });
    carried.truncate(SUSPECTS_MAX);

    let suspects = carried.into_iter().map(|resource| {
        let mut documents = documents(before(resource).map(|before| &**before), resource, &words);
        let is_complete = are_all && documents.len() <= SUSPECTS_MAX;
        documents.truncate(SUSPECTS_MAX);
        Suspect {
            resource: Arc::clone(&resource.name),
            version: resource.version,
            documents,
            is_complete,
            parts: resource.parts.clone().filter(|_| are_all),
        }
    });
    let mut suspects: Vec<Suspect> = suspects.collect();
    let named = |key: &DocumentKey| words.contains(&*key.to_string());
    let is_named = suspects.iter().flat_map(|suspect| &suspect.documents).any(named);
    if is_named {
        suspects.iter_mut().for_each(|suspect| {
            suspect.documents.retain(named);
            suspect.is_complete = true;
        });
        suspects.retain(|suspect| !suspect.documents.is_empty());
    }
    Suspects {
        shown: suspects,
        all: all.filter(|_| !is_named),
    }
}

/// The documents of one resource: those that the message names, directly or through a cluster; otherwise all that
/// changed. One more than [`SUSPECTS_MAX`] at most.
fn documents(before: Option<&Resource>, resource: &Resource, words: &BTreeSet<&str>) -> Vec<DocumentKey> {
    let Some(parts) = &resource.parts else {
        return resource.documents.iter().take(SUSPECTS_MAX + 1).cloned().collect();
    };
    let named: Vec<DocumentKey> = words
        .iter()
        .filter_map(|word| key(word))
        .filter(|key| parts.contains_key(key))
        .collect();

    if !named.is_empty() {
        return named;
    }
    if before.is_none() {
        return parts.keys().take(SUSPECTS_MAX + 1).cloned().collect();
    }
    let mut changed = parts::changed(before, resource);
    let names_one = |key: &DocumentKey| {
        parts
            .get(key)
            .is_some_and(|part| part.upstreams.iter().any(|cluster| words.contains(&**cluster)))
    };

    if changed.iter().any(names_one) {
        changed.retain(names_one);
    }
    changed.truncate(SUSPECTS_MAX + 1);
    changed
}

/// The key of a document whose route has this name.
fn key(word: &str) -> Option<DocumentKey> {
    let (kind, name) = word.split_once('/')?;
    Some(DocumentKey::new(Kind::from_word(kind)?, name))
}

/// Words of a message that may be names.
fn names_in(text: &str) -> BTreeSet<&str> {
    let separates = |character: char| character.is_whitespace() || "\"'`(),;<>".contains(character);
    text.split(separates)
        .flat_map(|word| [word, word.trim_end_matches([':', '.'])])
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::compile::parts::Part;

    fn plain(name: &str, content: &str) -> Arc<Resource> {
        Arc::new(Resource::new(
            name,
            content.to_owned(),
            vec![DocumentKey::new(Kind::Clusters, name)],
        ))
    }

    fn table(content: &str, parts: &[(&str, i64, &str)]) -> Arc<Resource> {
        let parts = parts.iter().map(|(name, revision, cluster)| {
            let upstreams = Arc::from([Arc::from(*cluster)]);
            (
                DocumentKey::new(Kind::Routes, *name),
                Part {
                    revision: *revision,
                    upstreams,
                },
            )
        });
        let parts = Some(Arc::new(parts.collect()));
        Arc::new(Resource {
            parts,
            ..Resource::new("edge", content.to_owned(), Vec::new())
        })
    }

    fn set(resources: &[Arc<Resource>]) -> ResourceSet {
        let entries: Vec<_> = resources
            .iter()
            .map(|one| (Arc::clone(&one.name), Some(Arc::clone(one))))
            .collect();
        ResourceSet::new(ResourceType::Cluster).apply(&entries)
    }

    fn suspected(carried: &[Arc<Resource>], before: &[Arc<Resource>], error_message: &str) -> Vec<String> {
        let content = Content {
            own: carried.to_vec(),
            ..Content::default()
        };
        let suspects = suspects(&content, Some(&set(before)), error_message);
        suspects
            .shown
            .iter()
            .flat_map(|suspect| &suspect.documents)
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_message_that_names_a_resource_leads_to_its_document() {
        let carried = [plain("users", "2"), plain("orders", "2"), plain("orders-v2", "2")];
        let error_message = "Error adding/updating cluster(s) orders-v2: bad";
        assert_eq!(suspected(&carried, &[], error_message), ["clusters/orders-v2"]);
    }

    #[test]
    fn a_message_that_names_nothing_leads_to_the_changed_documents() {
        let carried = [plain("a", "2"), plain("b", "1"), plain("c", "2")];
        let before = [plain("a", "1"), plain("b", "1"), plain("c", "1")];
        assert_eq!(
            suspected(&carried, &before, "malformed IP address"),
            ["clusters/a", "clusters/c"]
        );
        assert_eq!(
            suspected(&carried[..2], &before, "malformed IP address"),
            ["clusters/a"]
        );
        assert_eq!(
            suspected(&carried[1..2], &before, "malformed IP address"),
            ["clusters/b"],
            "it was asked for anew"
        );
    }

    #[test]
    fn of_many_documents_those_that_changed_and_are_named_are_suspects() {
        let before = table("1", &[("a", 1, "x"), ("b", 1, "x"), ("c", 1, "y"), ("d", 1, "z")]);
        let after = table("2", &[("a", 1, "x"), ("b", 2, "x"), ("c", 2, "y"), ("d", 1, "z")]);
        let of = |error_message| suspected(&[Arc::clone(&after)], &[Arc::clone(&before)], error_message);
        assert_eq!(of("no"), ["routes/b", "routes/c"]);
        assert_eq!(of("route routes/b: no"), ["routes/b"]);
        assert_eq!(of("route: unknown cluster 'y'"), ["routes/c"]);
        assert_eq!(of("route configuration 'edge' is bad"), ["routes/b", "routes/c"]);
    }

    #[test]
    fn many_resources_are_cut_in_the_report_and_given_as_a_whole() {
        let of = |count: usize, message: &str| {
            let own = (0..count).map(|number| plain(&format!("c{number}"), "2")).collect();
            let content = Content {
                own,
                ..Content::default()
            };
            let Suspects { shown, all } = suspects(&content, None, message);
            (shown.len(), all.map(|all| all.len()))
        };
        assert_eq!(of(SUSPECTS_MAX, "no"), (SUSPECTS_MAX, None));
        assert_eq!(of(100, "no"), (SUSPECTS_MAX, Some(100)));
        assert_eq!(of(100, "cluster c77: no"), (1, None));
        assert_eq!(of(LAID_ON_MAX + 1, "no"), (SUSPECTS_MAX, Some(0)));
    }
}
