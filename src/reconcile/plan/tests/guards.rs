//! What looks like an accident is kept back.

use super::*;
use crate::reconcile::memory;

fn names(kind: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{kind}{number:02}")).collect()
}

fn as_strs(keys: &[String]) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}

/// A world of so many routes, `routes/r00` and on.
fn routes(count: usize) -> Stage {
    let mut stage = Stage::empty();
    for key in names("routes/r", 0..count) {
        let path = key.replace('/', "-");
        stage.store(&key, &format!(r#"{{"match": "/{path}", "to": "http://10.0.0.1:80"}}"#));
    }
    stage.list(ListReason::Start);
    stage
}

/// A world of one cluster with so many instances, `services/x/i00` and on.
fn instances(count: usize) -> Stage {
    let mut stage = Stage::empty();
    stage.store("clusters/x", "{}");
    for (number, key) in names("services/x/i", 0..count).iter().enumerate() {
        stage.store(key, &format!("10.0.0.{number}:80"));
    }
    stage.list(ListReason::Start);
    stage
}

fn held(stage: &Stage) -> usize {
    stage
        .world
        .documents()
        .filter(|status| status.state == State::Held)
        .count()
}

#[test]
fn one_revision_that_removes_most_documents_is_held() {
    let mut stage = routes(20);
    let before = stage.resources();
    let keys = names("routes/r", 0..11);
    let input = stage.delete_input(&as_strs(&keys));
    let plan = stage.plan(vec![input]);
    assert!(plan.difference.is_empty());
    assert_eq!(plan.relist, [Root::Documents]);
    assert_eq!(held(&stage), 11);
    assert_eq!(stage.resources(), before);
    let status = stage.status("routes/r00");
    assert_eq!(status.latest, None);
    assert_eq!(
        status.reason.as_deref(),
        Some(
            "revision 31 removes 11 of 20 documents at once; the content before keeps serving until a second list agrees or it is released"
        )
    );
}

#[test]
fn losing_ten_documents_or_half_of_them_is_no_accident() {
    let mut stage = routes(20);
    let keys = names("routes/r", 0..10);
    let input = stage.delete_input(&as_strs(&keys));
    stage.plan(vec![input]);
    assert_eq!((held(&stage), stage.world.documents().count()), (0, 10));
}

#[test]
fn a_second_list_ten_seconds_later_that_agrees_acts() {
    let mut stage = routes(20);
    names("routes/r", 0..15).iter().for_each(|key| stage.unstore(key));
    let plan = stage.list(ListReason::Reconnect);
    assert_eq!((held(&stage), plan.relist), (15, vec![Root::Documents]));
    stage.later(9);
    stage.list(ListReason::Confirm);
    assert_eq!(held(&stage), 15, "too early");
    stage.later(1);
    stage.list(ListReason::Confirm);
    assert_eq!((held(&stage), stage.world.documents().count()), (0, 5));
}

#[test]
fn a_second_list_that_lacks_others_is_held_anew() {
    let mut stage = routes(30);
    let all = stage.store.clone();
    names("routes/r", 0..20).iter().for_each(|key| stage.unstore(key));
    stage.list(ListReason::Reconnect);
    stage.store = all;
    names("routes/r", 10..30).iter().for_each(|key| stage.unstore(key));
    stage.later(10);
    stage.list(ListReason::Confirm);
    assert_eq!(held(&stage), 20);
    stage.later(10);
    stage.list(ListReason::Confirm);
    assert_eq!(stage.world.documents().count(), 10);
}

#[test]
fn documents_that_are_back_are_held_no_longer() {
    let mut stage = routes(20);
    let before = stage.resources();
    let all = stage.store.clone();
    stage.store.clear();
    stage.list(ListReason::Reconnect);
    assert_eq!(held(&stage), 20);
    stage.store = all;
    let plan = stage.list(ListReason::Confirm);
    assert_eq!((held(&stage), plan.relist), (0, vec![]));
    assert_eq!(stage.resources(), before);
}

#[test]
fn an_operator_confirms_when_so_configured() {
    let mut stage = routes(20);
    stage.world.options = Arc::new(Options {
        confirm_mass_loss: true,
        has_leases: true,
        ..options()
    });
    names("routes/r", 0..15).iter().for_each(|key| stage.unstore(key));
    assert_eq!(stage.list(ListReason::Reconnect).relist, []);
    stage.later(60);
    stage.list(ListReason::Reconnect);
    assert_eq!(held(&stage), 15);
    stage.plan(vec![Input::Release(Some(vec!["/gateway/routes/r00".to_owned()]))]);
    assert_eq!(held(&stage), 14);
    stage.plan(vec![Input::Release(Some(vec!["/gateway/routes/".to_owned()]))]);
    assert_eq!((held(&stage), stage.world.documents().count()), (0, 5));
}

#[test]
fn an_empty_list_waits_for_an_operator() {
    let mut stage = routes(3);
    stage.store.clear();
    stage.list(ListReason::Reconnect);
    stage.later(20);
    stage.list(ListReason::Confirm);
    assert_eq!(held(&stage), 3);
    stage.plan(vec![Input::Release(None)]);
    assert_eq!(stage.world.documents().count(), 0);
    assert_eq!(stage.resources(), world_of(&[]).resources());
}

#[test]
fn an_empty_list_after_a_start_without_documents_is_just_empty() {
    let mut stage = routes(0);
    stage.list(ListReason::Reconnect);
    assert_eq!(held(&stage), 0);
    assert!(stage.world.pending().is_empty());
}

#[test]
fn the_list_of_another_history_is_held_whatever_it_says() {
    let mut stage = routes(3);
    stage.store("routes/r00", r#"{"match": "/other", "to": "http://10.0.0.1:80"}"#);
    let plan = stage.list(ListReason::Fork);
    assert!(plan.difference.is_empty());
    assert_eq!(said(&plan), ["routes/r00 held"]);
    assert_eq!(stage.status("routes/r00").latest.as_ref().unwrap().mod_revision, 4);
    stage.later(10);
    let plan = stage.list(ListReason::Confirm);
    assert_eq!(said(&plan), ["routes/r00 accepted"]);
    assert_eq!(changed(&plan), ["default routes default"]);
}

#[test]
fn a_change_while_a_list_is_held_acts_at_once() {
    let mut stage = routes(20);
    names("routes/r", 0..15).iter().for_each(|key| stage.unstore(key));
    stage.list(ListReason::Reconnect);
    stage.put("routes/new", r#"{"match": "/new", "to": "http://10.0.0.1:80"}"#);
    stage.put("routes/r00", r#"{"match": "/again", "to": "http://10.0.0.1:80"}"#);
    assert_eq!(stage.state("routes/new"), Some(State::Accepted));
    assert_eq!(stage.state("routes/r00"), Some(State::Accepted));
    assert_eq!(held(&stage), 14);
    stage.later(10);
    stage.list(ListReason::Confirm);
    assert_eq!(stage.world.documents().count(), 7);
}

#[test]
fn a_lone_instance_goes_at_once() {
    let mut stage = instances(3);
    let plan = stage.delete("services/x/i00");
    assert_eq!(changed(&plan), ["default endpoints x"]);
    assert_eq!((held(&stage), plan.deadline), (0, None));
}

#[test]
fn most_instances_of_a_cluster_gone_together_are_kept_for_a_minute() {
    let mut stage = instances(20);
    let before = stage.resources();
    let keys = names("services/x/i", 0..11);
    let input = stage.delete_input(&as_strs(&keys));
    let plan = stage.plan(vec![input]);
    assert!(plan.difference.is_empty());
    assert_eq!(held(&stage), 11);
    assert_eq!(
        stage.status("services/x/i00").reason.as_deref(),
        Some("gone together with too many instances of its cluster; kept for 60 s")
    );
    assert_eq!(plan.deadline, Some(stage.now + Duration::from_secs(60)));
    stage.later(59);
    stage.plan(vec![Input::Tick]);
    assert_eq!(stage.resources(), before);
    stage.later(1);
    let plan = stage.plan(vec![Input::Tick]);
    assert_eq!((held(&stage), plan.deadline), (0, None));
    assert_eq!(changed(&plan), ["default endpoints x"]);
}

#[test]
fn instances_that_go_one_by_one_within_ten_seconds_come_back() {
    let mut stage = instances(20);
    let before = stage.resources();
    for key in names("services/x/i", 0..10) {
        stage.delete(&key);
    }
    assert_eq!((held(&stage), stage.world.documents().count()), (0, 11));
    stage.later(9);
    stage.delete("services/x/i10");
    assert_eq!(held(&stage), 11);
    assert_eq!(stage.resources(), before);
}

#[test]
fn instances_that_go_slowly_go() {
    let mut stage = instances(20);
    for key in names("services/x/i", 0..20) {
        stage.delete(&key);
        stage.later(1);
    }
    assert_eq!((held(&stage), stage.world.documents().count()), (0, 1));
}

#[test]
fn instances_that_register_again_elsewhere_are_not_lost() {
    let mut stage = instances(20);
    let before = stage.resources();
    let keys = names("services/x/i", 0..20);
    let mut inputs = vec![stage.delete_input(&as_strs(&keys))];
    for number in 0..20 {
        inputs.push(stage.put_input(&format!("services/x/again{number}"), &format!("10.0.0.{number}:80")));
    }
    let plan = stage.plan(inputs);
    assert!(plan.difference.is_empty());
    assert_eq!((held(&stage), stage.resources()), (0, before));
}

#[test]
fn a_kept_instance_that_is_back_is_kept_no_longer() {
    let mut stage = instances(20);
    let keys = names("services/x/i", 0..12);
    let input = stage.delete_input(&as_strs(&keys));
    stage.plan(vec![input]);
    assert!(stage.put("services/x/i00", "10.0.0.0:80").difference.is_empty());
    assert!(stage.put("services/x/other", "10.0.0.1:80").difference.is_empty());
    assert_eq!(
        (stage.state("services/x/i00"), stage.state("services/x/i01")),
        (Some(State::Accepted), None)
    );
    assert_eq!(held(&stage), 10);
}

#[test]
fn kept_instances_can_be_released() {
    let mut stage = instances(20);
    let keys = names("services/x/i", 0..12);
    let input = stage.delete_input(&as_strs(&keys));
    stage.plan(vec![input]);
    let plan = stage.plan(vec![Input::Release(Some(vec!["/services/x/".to_owned()]))]);
    assert_eq!(changed(&plan), ["default endpoints x"]);
    assert_eq!(held(&stage), 0);
}

#[test]
fn an_empty_registry_is_confirmed_by_a_second_list() {
    let mut stage = instances(3);
    stage.store.retain(|key, _| !key.starts_with("services/"));
    stage.list(ListReason::Reconnect);
    assert_eq!(held(&stage), 3);
    stage.later(10);
    stage.list(ListReason::Confirm);
    assert_eq!((held(&stage), stage.world.documents().count()), (0, 1));
}

#[test]
fn instances_that_are_replaced_within_ten_seconds_are_not_lost() {
    let mut stage = instances(12);
    // As a rolling deployment: the new ones at other addresses first, then the old ones go.
    for number in 0..12 {
        stage.put(&format!("services/x/new{number}"), &format!("10.0.1.{number}:80"));
    }
    stage.later(5);
    let keys = names("services/x/i", 0..12);
    let input = stage.delete_input(&as_strs(&keys));
    let plan = stage.plan(vec![input]);
    assert_eq!((held(&stage), stage.world.documents().count()), (0, 13));
    assert_eq!(changed(&plan), ["default endpoints x"]);
}

#[test]
fn kept_instances_go_when_as_many_new_ones_are_there() {
    let mut stage = instances(12);
    let keys = names("services/x/i", 0..12);
    let input = stage.delete_input(&as_strs(&keys));
    stage.plan(vec![input]);
    assert_eq!(held(&stage), 12);
    stage.later(3);
    for number in 0..12 {
        assert_eq!(held(&stage), 12, "{number} new ones do not replace twelve");
        stage.put(&format!("services/x/new{number}"), &format!("10.0.1.{number}:80"));
    }
    assert_eq!((held(&stage), stage.world.documents().count()), (0, 13));
}

#[test]
fn a_replica_born_while_documents_are_held_holds_them_too() {
    let mut older = routes(20);
    let keys = names("routes/r", 0..15);
    let input = older.delete_input(&as_strs(&keys));
    older.plan(vec![input]);
    let mut born = older.newborn();
    born.list(ListReason::Start);
    assert_eq!(held(&born), 15);
    assert_eq!(born.resources(), older.resources());

    // A release through the newer one releases on the older one.
    born.plan(vec![Input::Release(None)]);
    older.memory = born.memory.clone();
    older.read_memory();
    assert_eq!((held(&older), older.world.documents().count()), (0, 5));
    assert_eq!(born.resources(), older.resources());
}

#[test]
fn a_replica_born_while_instances_are_kept_keeps_them_too() {
    let mut older = instances(30);
    let keys = names("services/x/i", 0..30);
    let input = older.delete_input(&as_strs(&keys));
    older.plan(vec![input]);
    let mut born = older.newborn();
    born.list(ListReason::Start);
    assert_eq!(held(&born), 30);
    assert_eq!(born.resources(), older.resources());
}

#[test]
fn kept_instances_stay_kept_where_the_documents_are_listed_last() {
    let mut older = instances(30);
    let keys = names("services/x/i", 0..30);
    let input = older.delete_input(&as_strs(&keys));
    older.plan(vec![input]);
    let mut born = older.newborn();
    for root in [Root::Registrations, Root::Documents] {
        let input = born.list_input(root, ListReason::Start);
        let plan = born.plan(vec![input]);
        assert_eq!(remembered(&plan), [""; 0]);
    }
    assert_eq!(held(&born), 30);
    assert_eq!(born.resources(), older.resources());
}

#[test]
fn the_last_good_text_of_a_registration_is_shared_where_the_documents_are_listed_last() {
    let mut stage = Stage::empty();
    stage.store("services/x/1", "10.0.0.1:80");
    let input = stage.list_input(Root::Registrations, ListReason::Start);
    stage.plan(vec![input]);
    // No record is written before every root of documents was listed.
    let plan = stage.put("services/x/1", "{");
    assert_eq!(remembered(&plan), [""; 0]);
    let input = stage.list_input(Root::Documents, ListReason::Start);
    let plan = stage.plan(vec![input]);
    assert_eq!(remembered(&plan), ["last-good//services/x/1 10.0.0.1:80"]);
}

#[test]
fn a_list_that_a_replica_missed_is_let_go_by_one_that_watched_it() {
    let mut watching = routes(20);
    let mut away = watching.newborn();
    away.list(ListReason::Start);
    for key in names("routes/r", 0..15) {
        watching.delete(&key);
    }
    assert_eq!(held(&watching), 0, "one by one");
    (away.store, away.revision) = (watching.store.clone(), watching.revision);
    away.list(ListReason::Reconnect);
    assert_eq!(held(&away), 15);
    watching.memory = away.memory.clone();
    watching.read_memory();
    watching.plan(vec![Input::Tick]);
    away.memory = watching.memory.clone();
    away.read_memory();
    assert_eq!((held(&away), away.resources()), (0, watching.resources()));
}

#[test]
fn a_text_written_after_another_replicas_hold_began_acts_where_a_later_list_held_it() {
    let mut holding = routes(20);
    let mut away = holding.newborn();
    away.list(ListReason::Start);
    for key in holding.store.keys().cloned().collect::<Vec<_>>() {
        holding.unstore(&key);
    }
    holding.list(ListReason::Reconnect);
    holding.put("routes/new", r#"{"match": "/new", "to": "http://10.0.0.1:80"}"#);
    assert_eq!(holding.state("routes/new"), Some(State::Accepted));

    // The list misses most documents here, too: its own hold would begin at its own revision.
    (away.store, away.revision) = (holding.store.clone(), holding.revision);
    away.memory = holding.memory.clone();
    away.read_memory();
    away.list(ListReason::Reconnect);
    assert_eq!(away.state("routes/new"), Some(State::Accepted));
    assert_eq!(held(&away), held(&holding));
    assert_eq!(away.resources(), holding.resources());
}

#[test]
fn a_later_hold_takes_the_place_of_the_record_of_one_that_is_over() {
    let mut watching = routes(20);
    let mut slow = watching.newborn();
    slow.list(ListReason::Start);
    let keys = names("routes/r", 0..15);
    let loss = watching.delete_input(&as_strs(&keys));
    slow.revision = watching.revision;
    slow.store = watching.store.clone();

    // Documents are written again and deleted again, before any record is there.
    let mut inputs = vec![loss.clone()];
    inputs.extend(keys.iter().map(|key| {
        let text = format!(r#"{{"match": "/again/{key}", "to": "http://10.0.0.1:80"}}"#);
        watching.put_input(key, &text)
    }));
    inputs.push(watching.delete_input(&as_strs(&keys)));
    watching.world = plan(&watching.world, inputs, watching.moment()).world;
    assert_eq!(held(&watching), 15);
    slow.plan(vec![loss]);
    assert_eq!(held(&slow), 15);

    watching.memory = slow.memory.clone();
    let records = watching.memory.listed();
    watching.plan(records);
    (slow.store, slow.revision) = (watching.store.clone(), watching.revision);
    slow.memory = watching.memory.clone();
    slow.read_memory();
    slow.list(ListReason::Reconnect);
    let reason = |stage: &Stage| stage.status(&keys[0]).reason.clone();
    assert_eq!((held(&slow), reason(&slow)), (15, reason(&watching)));
    assert_eq!(slow.resources(), watching.resources());
}

#[test]
fn a_held_text_of_an_earlier_life_is_no_last_good_text() {
    let mut stage = routes(20);
    stage.put("groups/edge", r#"{"match": [{"id": "edge-*"}]}"#);
    let earlier = stage.status("groups/edge").serving.clone();
    stage.delete("groups/edge");
    stage.put("groups/edge", "{");
    let mut keys = names("routes/r", 0..15);
    keys.push("groups/edge".to_owned());
    let loss = stage.delete_input(&as_strs(&keys));
    stage.plan(vec![loss]);

    // Another replica holds the text that it saw last.
    let record = memory::Record {
        about: stage.revision,
        since: SystemTime::UNIX_EPOCH,
        content: Content::Serves(earlier.clone()),
    };
    let plan = stage.plan(vec![Input::Remembered {
        folder: Folder::Held,
        whole: false,
        records: vec![(full_key("groups/edge").into(), Some(Known::new(record, "another")))],
    }]);
    assert_eq!(stage.status("groups/edge").serving, earlier);
    let writes = remembered(&plan);
    assert!(!writes.iter().any(|write| write.starts_with("last-good")), "{writes:?}");
}

#[test]
fn registrations_of_a_folder_that_is_empty_are_held_as_documents_are() {
    let mut stage = instances(3);
    stage.world.options = Arc::new(Options {
        has_leases: false,
        ..options()
    });
    stage.store.clear();
    stage.list(ListReason::Confirm);
    stage.later(20);
    stage.list(ListReason::Confirm);
    assert_eq!(held(&stage), 4, "the cluster and its three instances");
}

/// A cluster `x` with a guard, and this many instances.
fn guarded(guard: &str, instances: usize) -> Stage {
    let cluster = format!(r#"{{"guard": {guard}}}"#);
    let keys: Vec<(String, String)> = (0..instances)
        .map(|number| (format!("services/x/{number}"), format!("10.0.0.{}:80", number + 1)))
        .collect();
    let mut documents = vec![("clusters/x", &*cluster)];
    documents.extend(keys.iter().map(|(key, address)| (&**key, &**address)));
    world_of(&documents)
}

#[test]
fn a_guard_holds_back_a_loss_that_leaves_too_few_instances() {
    let mut stage = guarded(r#"{"min_endpoints": 2, "hold": "20s"}"#, 3);
    stage.delete("services/x/0");
    assert_eq!(stage.state("services/x/0"), None, "two are left");
    stage.later(11);
    stage.delete("services/x/1");
    assert_eq!(stage.state("services/x/1"), Some(State::Held));
    let reason = stage.status("services/x/1").reason.clone().unwrap();
    assert_eq!(
        reason,
        "gone together with too many instances of its cluster; kept for 20 s"
    );
    // A replica born meanwhile keeps it, too.
    let mut born = stage.newborn();
    born.list(ListReason::Start);
    assert_eq!(born.resources(), stage.resources());

    for replica in [&mut stage, &mut born] {
        replica.later(19);
        replica.plan(vec![Input::Tick]);
        assert_eq!(replica.state("services/x/1"), Some(State::Held));
        replica.later(1);
        replica.plan(vec![Input::Tick]);
        assert_eq!(replica.state("services/x/1"), None);
    }
}

#[test]
fn a_guard_holds_back_a_loss_of_too_large_a_share() {
    let mut stage = guarded(r#"{"max_loss_percent": 50}"#, 4);
    let keys = ["services/x/0", "services/x/1"];
    let input = stage.delete_input(&keys);
    stage.plan(vec![input]);
    assert_eq!(
        keys.map(|key| stage.state(key)),
        [None, None],
        "half is not more than half"
    );
    stage.later(11);
    let keys = ["services/x/2", "services/x/3"];
    let input = stage.delete_input(&keys);
    stage.plan(vec![input]);
    assert_eq!(keys.map(|key| stage.state(key)), [Some(State::Held); 2]);
    // Instances that come in their place end the hold, and so does a release.
    stage.put("services/x/4", "10.0.0.5:80");
    stage.put("services/x/5", "10.0.0.6:80");
    assert_eq!(keys.map(|key| stage.state(key)), [None, None]);
    let input = stage.delete_input(&["services/x/4", "services/x/5"]);
    stage.later(11);
    stage.plan(vec![input]);
    assert_eq!(stage.state("services/x/4"), Some(State::Held));
    stage.plan(vec![Input::Release(None)]);
    assert_eq!(stage.state("services/x/4"), None);
}

#[test]
fn without_a_guard_the_last_instance_goes_at_once() {
    let mut stage = world_of(&[("clusters/x", "{}"), ("services/x/0", "10.0.0.1:80")]);
    stage.delete("services/x/0");
    assert_eq!(stage.state("services/x/0"), None);
}
