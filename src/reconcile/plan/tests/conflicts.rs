//! Facts about documents in conflict: the texts and the records decide, not the past of a replica.

use super::*;
use crate::reconcile::memory;

const A: &str = r#"{"address": "10.0.0.1:80"}"#;
const RECORD_OF_M: &str = "/gateway/listeners/m";

/// `listeners/l` has an address; `listeners/m` wants it, and a record says that nothing of it serves.
fn contested() -> Stage {
    let mut stage = world_of(&[("listeners/l", A)]);
    stage.put("listeners/m", A);
    let (key, texts) = (document_key("listeners/m"), Vec::new());
    let plan = stage.plan(vec![Input::Found { key, texts }]);
    assert_eq!(remembered(&plan), [format!("last-good/{RECORD_OF_M} ")]);
    stage
}

/// A replica that starts now sees the same, and has nothing to write.
fn assert_equal_to_newborn(stage: &Stage) {
    let mut born = stage.newborn();
    let plan = born.list(ListReason::Start);
    assert_eq!(remembered(&plan), [""; 0]);
    assert_eq!(born.resources(), stage.resources());
    for key in ["listeners/l", "listeners/m"] {
        let said = |stage: &Stage| (stage.state(key), stage.status(key).reason.clone(), stage.serving(key));
        assert_eq!(said(&born), said(stage), "{key}");
    }
}

#[test]
fn an_older_listener_gets_the_address_of_one_that_was_deleted_and_written_anew() {
    let address = r#"{"address": "10.0.0.1:80"}"#;
    let contested = || {
        let mut stage = world_of(&[("listeners/l", address), ("listeners/m", address)]);
        assert_eq!(stage.state("listeners/m"), Some(State::Rejected));
        let inputs = vec![
            stage.delete_input(&["listeners/l"]),
            stage.put_input("listeners/l", address),
        ];
        (stage, inputs)
    };

    let (mut stepwise, inputs) = contested();
    inputs.into_iter().for_each(|input| drop(stepwise.plan(vec![input])));
    assert_eq!(stepwise.state("listeners/m"), Some(State::Accepted));
    assert_eq!(stepwise.state("listeners/l"), Some(State::Rejected));

    let (mut at_once, inputs) = contested();
    at_once.plan(inputs);
    assert_eq!(at_once.resources(), stepwise.resources());
    let reason = |stage: &Stage| stage.status("listeners/l").reason.clone();
    assert_eq!(reason(&at_once), reason(&stepwise));
}

#[test]
fn an_address_stays_with_a_text_that_was_written_again_while_another_one_waited() {
    let mut stage = contested();
    stage.put("listeners/l", A);
    assert_eq!(stage.state("listeners/l"), Some(State::Accepted));
    assert_equal_to_newborn(&stage);

    // The last good text has it, too, although the text that waits is older.
    stage.put("listeners/l", "{");
    assert_eq!(stage.serving("listeners/l").as_deref(), Some(A));
    assert_eq!(stage.serving("listeners/m"), None);
    assert_equal_to_newborn(&stage);
}

#[test]
fn the_record_of_a_conflict_follows_the_latest_text() {
    let mut stage = contested();
    let plan = stage.put("listeners/m", A);
    assert_eq!(remembered(&plan), [format!("last-good/{RECORD_OF_M} ")]);
    stage.put("listeners/l", A);
    assert_equal_to_newborn(&stage);
}

#[test]
fn a_conflict_whose_record_is_gone_is_decided_anew() {
    let mut stage = contested();
    stage.put("listeners/l", A);
    let place: (Folder, Arc<str>) = (Folder::LastGood, RECORD_OF_M.into());
    stage.memory.records.remove(&place);
    let mut born = stage.newborn();
    born.list(ListReason::Start);

    stage.plan(vec![Input::Remembered {
        folder: place.0,
        whole: false,
        records: vec![(place.1, None)],
    }]);
    assert_eq!(stage.state("listeners/m"), Some(State::Accepted), "the older text");
    assert_eq!(stage.state("listeners/l"), Some(State::Rejected));
    assert_eq!(born.resources(), stage.resources());
}

#[test]
fn a_record_that_names_the_latest_text_itself_leaves_the_conflict_open() {
    let mut stage = contested();
    let read = |stage: &mut Stage, key: &str, text: Option<Arc<Text>>| {
        let full_key: Arc<str> = full_key(key).into();
        let record = memory::Record {
            about: stage.store[key].mod_revision,
            since: SystemTime::UNIX_EPOCH,
            content: Content::Serves(text),
        };
        let known = Known::new(record, format!("another's of {key}"));
        let place = (Folder::LastGood, Arc::clone(&full_key));
        stage.memory.records.insert(place, known.clone());
        stage.plan(vec![Input::Remembered {
            folder: Folder::LastGood,
            whole: false,
            records: vec![(full_key, Some(known))],
        }]);
    };

    // Another replica has a later text that is bad, and this one in its place.
    let latest = stage.status("listeners/m").latest.clone();
    read(&mut stage, "listeners/m", latest);
    assert_eq!(stage.state("listeners/m"), Some(State::Rejected), "the newer text");
    read(&mut stage, "listeners/l", None);
    assert_eq!(stage.state("listeners/m"), Some(State::Accepted));
    assert_eq!(stage.state("listeners/l"), Some(State::Rejected));
    assert_equal_to_newborn(&stage);
}
