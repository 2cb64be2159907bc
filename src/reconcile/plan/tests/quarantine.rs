//! Texts that pass every check, and that proxies refuse.

use super::*;
use crate::reconcile::refusal::Refusal;
use crate::resource::refused::RefusedResource;

const FIRST: &str = r#"{"match": "/one", "to": "http://10.0.0.1:80"}"#;
const SECOND: &str = r#"{"match": "/two", "to": "http://10.0.0.1:80"}"#;
const THIRD: &str = r#"{"match": "/three", "to": "http://10.0.0.1:80"}"#;
const OTHER: &str = r#"{"match": "/other", "to": "http://10.0.0.1:80"}"#;
const RECORD: &str = "quarantine//gateway/routes/a";

/// The refusal of a document as it serves now.
pub(super) fn refusal_in(world: &World, key: &DocumentKey) -> Refusal {
    let refused = |(group, resource_type, resource): (&Arc<str>, ResourceType, &Arc<crate::resource::Resource>)| {
        let part = resource.parts.as_ref().and_then(|parts| parts.get(key));
        RefusedResource {
            group: Arc::clone(group),
            resource_type,
            name: Arc::clone(&resource.name),
            version: resource.version,
            part: part.map(|part| part.revision),
        }
    };
    let of_document = world.compiled().resources().filter(|(_, resource_type, resource)| {
        let refused = match key.kind {
            Kind::Routes => ResourceType::Route,
            Kind::Listeners => ResourceType::Listener,
            _ => ResourceType::Cluster,
        };
        *resource_type == refused && resource.made_of().any(|document| document == key)
    });
    Refusal {
        resources: of_document.map(refused).collect(),
        key: key.clone(),
        reason: "refused by the proxy n1: no".into(),
        is_sole_suspect: true,
    }
}

impl Stage {
    pub(super) fn refusal(&self, key: &str) -> Refusal {
        refusal_in(&self.world, &document_key(key))
    }

    fn refuse(&mut self, key: &str) -> Plan {
        let refusal = self.refusal(key);
        self.plan(vec![Input::Refused(vec![refusal])])
    }

    fn found(&mut self, key: &str, texts: &[&str]) -> Plan {
        let text = |(number, text): (usize, &&str)| {
            Arc::new(Text {
                value: (*text).to_owned().into(),
                create_revision: self.store[key].create_revision,
                mod_revision: self.store[key].create_revision + i64::try_from(number).unwrap(),
                leased: false,
            })
        };
        let texts = texts.iter().enumerate().map(text).collect();
        self.plan(vec![Input::Found {
            key: document_key(key),
            texts,
        }])
    }
}

/// A route whose second text serves.
fn changed_route() -> Stage {
    let mut stage = world_of(&[("routes/a", FIRST), ("routes/b", OTHER)]);
    stage.put("routes/a", SECOND);
    stage
}

fn quarantined(stage: &Stage) -> Vec<String> {
    stage.world.quarantined().map(|one| one.key.to_string()).collect()
}

#[test]
fn a_refused_text_gives_way_to_the_text_before_once_the_record_is_read() {
    let mut stage = changed_route();
    let before = plan(&stage.world, Vec::new(), stage.moment());
    let refused = stage.refuse("routes/a");
    assert_eq!(remembered(&refused), [format!("{RECORD} {FIRST}")]);
    assert_eq!(said(&refused), [""; 0], "the record decides, on this replica too");
    assert_eq!(stage.state("routes/a"), Some(State::Refused));
    assert_eq!(stage.serving("routes/a").as_deref(), Some(FIRST));
    assert_eq!(
        stage.status("routes/a").reason.as_deref(),
        Some("refused by the proxy n1: no")
    );
    assert_eq!(stage.state("routes/b"), Some(State::Accepted));
    assert_eq!(quarantined(&stage), ["routes/a"]);
    assert_eq!(
        before.world.document(&document_key("routes/a")).unwrap().state,
        State::Accepted
    );

    let other = stage.put("routes/c", THIRD);
    assert_eq!(said(&other), ["routes/c accepted"], "other changes go on");
    assert_eq!(remembered(&other), [""; 0]);
}

#[test]
fn a_replica_that_is_born_later_serves_the_same() {
    let mut stage = changed_route();
    stage.refuse("routes/a");
    let mut born = stage.newborn();
    let first = born.list(ListReason::Start);
    assert_eq!(first.wanted, [], "the record names the text");
    assert_eq!(born.resources(), stage.resources());
    assert_eq!(born.state("routes/a"), Some(State::Refused));
}

#[test]
fn a_new_text_ends_it() {
    let mut stage = changed_route();
    stage.refuse("routes/a");
    let mended = stage.put("routes/a", THIRD);
    assert_eq!(said(&mended), ["routes/a accepted"]);
    assert_eq!(remembered(&mended), [format!("-{RECORD}")]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(THIRD));

    stage.refuse("routes/a");
    assert_eq!(
        stage.serving("routes/a").as_deref(),
        Some(FIRST),
        "the refused text is skipped"
    );
    let gone = stage.delete("routes/a");
    assert_eq!(remembered(&gone), [format!("-{RECORD}")]);
    assert_eq!(stage.state("routes/a"), None);
}

#[test]
fn a_release_ends_it() {
    let mut stage = changed_route();
    assert!(!finds_held(&stage.world, None));
    stage.refuse("routes/a");
    let key = vec!["/gateway/routes/a".to_owned()];
    assert!(finds_held(&stage.world, Some(key.clone())));
    let released = stage.plan(vec![Input::Release(Some(key))]);
    assert_eq!(remembered(&released), [format!("-{RECORD}")]);
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    assert_eq!(stage.serving("routes/a").as_deref(), Some(SECOND));
}

#[test]
fn without_an_earlier_text_nothing_of_the_document_serves() {
    let mut stage = world_of(&[("routes/b", OTHER)]);
    stage.put("routes/a", FIRST);
    let refused = stage.refuse("routes/a");
    assert_eq!(
        refused.wanted,
        [document_key("routes/a")],
        "the history is searched first"
    );
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    let found = stage.found("routes/a", &[]);
    assert_eq!(remembered(&found), [format!("{RECORD} ")]);
    assert_eq!(stage.state("routes/a"), Some(State::Refused));
    assert_eq!(stage.serving("routes/a"), None);
    assert_eq!(stage.state("routes/b"), Some(State::Accepted));
}

#[test]
fn if_the_text_before_is_refused_too_an_older_one_serves() {
    let mut stage = world_of(&[("routes/b", OTHER), ("routes/a", FIRST)]);
    stage.put("routes/a", SECOND);
    stage.put("routes/a", THIRD);
    stage.refuse("routes/a");
    assert_eq!(stage.serving("routes/a").as_deref(), Some(SECOND));
    let again = stage.refuse("routes/a");
    assert_eq!(again.wanted, [document_key("routes/a")]);
    stage.found("routes/a", &[FIRST, SECOND]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(FIRST));
    assert_eq!(stage.state("routes/a"), Some(State::Refused));
}

#[test]
fn a_refusal_of_content_that_serves_no_more_changes_nothing() {
    let mut stage = changed_route();
    let late = stage.refusal("routes/a");
    stage.put("routes/a", THIRD);
    let planned = stage.plan(vec![Input::Refused(vec![late])]);
    assert_eq!(remembered(&planned), [""; 0]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(THIRD));
}

#[test]
fn other_parts_of_the_resource_may_change_meanwhile() {
    let mut stage = changed_route();
    let refusal = stage.refusal("routes/a");
    stage.put("routes/c", THIRD);
    stage.plan(vec![Input::Refused(vec![refusal])]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(FIRST));
}

#[test]
fn a_text_that_a_proxy_of_another_replica_has_accepted_serves_everywhere() {
    let mut stage = changed_route();
    stage.refuse("routes/a");
    let mut other = stage.newborn();
    other.list(ListReason::Start);
    let about = stage.status("routes/a").latest.as_ref().unwrap().mod_revision;
    let full_key: Arc<str> = "/gateway/routes/a".into();
    other.plan(vec![Input::Accepted { full_key, about }]);
    assert_eq!(other.state("routes/a"), Some(State::Accepted));
    assert_eq!(other.serving("routes/a").as_deref(), Some(SECOND));

    stage.memory = other.memory.clone();
    stage.read_memory();
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    stage.refuse("routes/a");
    assert_eq!(stage.state("routes/a"), Some(State::Accepted), "not once more");
    assert_eq!(remembered(&stage.put("routes/a", THIRD)), [format!("-{RECORD}")]);
}

#[test]
fn a_trial_ends_the_quarantine_of_one_text() {
    let mut stage = changed_route();
    stage.refuse("routes/a");
    let about = stage.status("routes/a").latest.as_ref().unwrap().mod_revision;
    let key = document_key("routes/a");
    let other = Input::TryAgain([(key.clone(), about + 1)].into());
    assert_eq!(remembered(&stage.plan(vec![other])), [""; 0]);
    stage.plan(vec![Input::TryAgain([(key, about)].into())]);
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    stage.refuse("routes/a");
    assert_eq!(
        stage.serving("routes/a").as_deref(),
        Some(FIRST),
        "the text before is still known"
    );
}

#[test]
fn a_cluster_in_quarantine_falls_back_and_its_routes_stay() {
    let first = r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#;
    let second = r#"{"endpoints": [{"address": "10.0.0.1:80"}], "lb": {"policy": "random"}}"#;
    let mut stage = world_of(&[("clusters/x", first), ("routes/a", r#"{"match": "/x", "to": "x"}"#)]);
    stage.put("clusters/x", second);
    stage.refuse("clusters/x");
    assert_eq!(stage.serving("clusters/x").as_deref(), Some(first));
    assert_eq!(stage.state("routes/a"), Some(State::Accepted));
    assert_eq!(remembered(&stage.delete("routes/a")), [""; 0]);
}
