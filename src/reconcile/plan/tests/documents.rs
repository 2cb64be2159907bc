//! One document at a time: good, bad, last good, gone.

use super::*;

const GOOD: &str = r#"{"match": "/v1", "to": "http://10.0.0.1:80"}"#;
const BETTER: &str = r#"{"match": "/v2", "to": "http://10.0.0.1:80"}"#;
const BAD: &str = r#"{"match": 5}"#;

#[test]
fn an_empty_world_has_the_default_group_and_its_listener() {
    let mut stage = Stage::empty();
    stage.world = World::new(options());
    let plan = stage.list(ListReason::Start);
    assert_eq!(plan.difference.groups_added, vec!["default".into()]);
    let expected = [
        "default extension_configs chancery.jwt",
        "default extension_configs chancery.lua",
        "default extension_configs chancery.rate_limit",
        "default extension_configs chancery.rate_limit.user",
        "default listeners default",
        "default routes default",
    ];
    assert_eq!(changed(&plan), expected);
}

#[test]
fn beside_a_listeners_document_that_is_rejected_there_is_no_default_listener() {
    let served = |stage: &Stage| {
        stage
            .resources()
            .keys()
            .any(|key| key.starts_with("default listeners "))
    };
    let mut stage = world_of(&[("routes/a", GOOD)]);
    assert!(served(&stage));
    stage.put("listeners/edge", r#"{"address": "edge:80"}"#);
    assert!(!served(&stage));
    stage.put("listeners/edge", r#"{"address": "127.0.0.1:80"}"#);
    assert!(served(&stage));
    stage.put("listeners/second", r#"{"address": "edge:80"}"#);
    stage.delete("listeners/edge");
    assert!(!served(&stage), "{:?}", stage.resources());
    stage.delete("listeners/second");
    assert!(served(&stage));
}

#[test]
fn a_good_document_serves() {
    let mut stage = world_of(&[]);
    let plan = stage.put("routes/a", GOOD);
    assert_eq!(said(&plan), ["routes/a accepted"]);
    let expected = [
        "default clusters http://10.0.0.1:80",
        "default endpoints http://10.0.0.1:80",
        "default routes default",
    ];
    assert_eq!(changed(&plan), expected);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(GOOD));
    assert_eq!(stage.world.revision(), 1);
}

#[test]
fn a_bad_text_leaves_the_last_good_one_serving() {
    let mut stage = world_of(&[("routes/a", GOOD)]);
    let before = stage.resources();
    let plan = stage.put("routes/a", BAD);
    assert_eq!(said(&plan), ["routes/a rejected"]);
    assert!(plan.difference.is_empty());
    assert_eq!(stage.resources(), before);
    let status = stage.status("routes/a");
    assert_eq!(status.path.as_deref(), Some("match"));
    assert_eq!(status.latest.as_ref().unwrap().mod_revision, 2);
    assert_eq!(status.serving.as_ref().unwrap().mod_revision, 1);
}

#[test]
fn a_reason_names_a_key_without_its_control_characters() {
    let stage = world_of(&[("routes/a\n\u{1b}[2J\u{85}", BAD)]);
    let status = stage.status("routes/a\n\u{1b}[2J\u{85}");
    let reason = status.reason.as_deref().unwrap();
    assert!(reason.starts_with(r"routes/a\n\u{1b}[2J\u{85}: "), "{reason:?}");
    assert!(!reason.contains(char::is_control));
}

#[test]
fn the_last_good_text_is_kept_once_and_forgotten_when_a_later_one_is_good() {
    let mut stage = world_of(&[("routes/a", GOOD)]);
    let plan = stage.put("routes/a", BAD);
    assert_eq!(remembered(&plan), [format!("last-good//gateway/routes/a {GOOD}")]);
    assert!(remembered(&stage.put("routes/a", "{")).is_empty());
    let forget = ["-last-good//gateway/routes/a"];
    assert_eq!(remembered(&stage.put("routes/a", BETTER)), forget);
    stage.put("routes/a", BAD);
    assert_eq!(remembered(&stage.delete("routes/a")), forget);
}

#[test]
fn a_document_that_was_never_good_here_is_looked_up_once() {
    let stage = world_of(&[("routes/a", BAD)]);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    let mut stage = stage.newborn();
    assert_eq!(stage.list(ListReason::Start).wanted, [document_key("routes/a")]);
    assert_eq!(stage.put("routes/a", "[").wanted, []);
}

#[test]
fn the_text_that_was_looked_up_serves() {
    let mut stage = world_of(&[("routes/a", BAD)]);
    let text = Text {
        value: GOOD.into(),
        create_revision: 1,
        mod_revision: 0,
        leased: false,
    };
    let plan = stage.plan(vec![Input::Found {
        key: document_key("routes/a"),
        texts: vec![Arc::new(text)],
    }]);
    assert_eq!(said(&plan), ["routes/a rejected"]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(GOOD));
    assert_eq!(stage.resources(), world_of(&[("routes/a", GOOD)]).resources());
}

#[test]
fn a_text_that_was_looked_up_and_is_bad_too_serves_nothing() {
    let mut stage = world_of(&[("routes/a", BAD)]);
    let text = Text {
        value: "[".into(),
        create_revision: 1,
        mod_revision: 0,
        leased: false,
    };
    let key = document_key("routes/a");
    let plan = stage.plan(vec![Input::Found {
        key,
        texts: vec![Arc::new(text)],
    }]);
    assert!(plan.difference.is_empty() && plan.wanted.is_empty());
    assert_eq!(stage.serving("routes/a"), None);
}

#[test]
fn an_equal_value_only_moves_the_revisions() {
    let mut stage = world_of(&[("routes/a", GOOD)]);
    let plan = stage.put("routes/a", GOOD);
    assert!(plan.difference.is_empty());
    assert_eq!(said(&plan), ["routes/a accepted"]);
    assert_eq!(stage.status("routes/a").serving.as_ref().unwrap().mod_revision, 2);
}

#[test]
fn a_good_text_that_came_and_went_between_two_plans_is_the_last_good_one() {
    let mut stage = world_of(&[("routes/a", GOOD)]);
    let inputs = vec![stage.put_input("routes/a", BETTER), stage.put_input("routes/a", BAD)];
    stage.plan(inputs);
    assert_eq!(stage.state("routes/a"), Some(State::Rejected));
    assert_eq!(stage.serving("routes/a").as_deref(), Some(BETTER));
}

#[test]
fn deleting_a_document_forgets_what_it_said() {
    let mut stage = world_of(&[("routes/a", GOOD)]);
    let inputs = vec![stage.delete_input(&["routes/a"]), stage.put_input("routes/a", BAD)];
    let plan = stage.plan(inputs);
    assert_eq!(stage.serving("routes/a"), None);
    assert_eq!(plan.wanted, [document_key("routes/a")]);
}

#[test]
fn a_bad_document_leaves_the_others_alone() {
    let mut stage = world_of(&[("routes/a", GOOD)]);
    let inputs = vec![stage.put_input("routes/b", BAD), stage.put_input("routes/a", BETTER)];
    stage.plan(inputs);
    assert_eq!(
        (stage.state("routes/a"), stage.state("routes/b")),
        (Some(State::Accepted), Some(State::Rejected))
    );
    assert_eq!(stage.serving("routes/a").as_deref(), Some(BETTER));
}

#[test]
fn a_key_of_an_unknown_kind_is_rejected() {
    let mut stage = world_of(&[]);
    let entry = Entry {
        key: "/gateway/rotues/a".into(),
        value: GOOD.into(),
        create_revision: 1,
        mod_revision: 0,
        leased: false,
    };
    let plan = stage.plan(vec![Input::Event {
        root: Root::Documents,
        event: Event::Changed {
            revision: 1,
            changes: vec![Change::Put(entry)],
        },
    }]);
    assert_eq!(said(&plan), ["rotues/a rejected"]);
}

#[test]
fn a_disabled_route_is_listed_and_serves_nothing() {
    let mut stage = world_of(&[("routes/a", GOOD)]);
    let plan = stage.put(
        "routes/a",
        r#"{"match": "/v1", "to": "http://10.0.0.1:80", "enabled": false}"#,
    );
    assert_eq!(said(&plan), ["routes/a disabled"]);
    assert_eq!(stage.resources(), world_of(&[]).resources());
}

#[test]
fn keys_missing_from_a_list_are_deleted_and_equal_values_are_no_difference() {
    let mut stage = world_of(&[("routes/a", GOOD), ("routes/b", BETTER)]);
    stage.unstore("routes/b");
    stage.store("routes/a", GOOD);
    let plan = stage.list(ListReason::Reconnect);
    assert_eq!(said(&plan), ["routes/a accepted", "routes/b -"]);
    assert_eq!(changed(&plan), ["default routes default"]);
    assert!(stage.list(ListReason::Compacted).difference.is_empty());
}

#[test]
fn saved_state_serves_until_the_store_is_listed() {
    let mut stage = Stage::empty();
    stage.store("routes/a", GOOD);
    stage.store("services/x/1", "10.0.0.1:80");
    let saved = stage
        .store
        .iter()
        .map(|(key, entry)| (root_of(key), entry.clone()))
        .collect();
    stage.plan(vec![Input::Saved {
        entries: saved,
        revision: 1,
    }]);
    assert!(stage.world.from_disk());
    assert_eq!(stage.world.pending(), [Root::Documents, Root::Registrations]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(GOOD));
    let input = stage.list_input(Root::Documents, ListReason::Start);
    assert!(stage.plan(vec![input]).difference.is_empty());
    assert_eq!(stage.world.pending(), [Root::Registrations]);
    assert!(stage.world.from_disk());
    let input = stage.list_input(Root::Registrations, ListReason::Start);
    stage.plan(vec![input]);
    assert!(!stage.world.from_disk() && stage.world.pending().is_empty());
}

#[test]
fn defaults_change_what_depends_on_them() {
    let cluster = r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#;
    let mut stage = world_of(&[("clusters/x", cluster), ("routes/a", r#"{"match": "/v1", "to": "x"}"#)]);
    let plan = stage.put("defaults", r#"{"cluster": {"connect_timeout": "7s"}}"#);
    assert_eq!(changed(&plan), ["default clusters x"]);
    let plan = stage.put(
        "defaults",
        r#"{"route": {"timeout": "7s"}, "cluster": {"connect_timeout": "7s"}}"#,
    );
    assert_eq!(changed(&plan), ["default routes default"]);
    stage.delete("defaults");
    let same = world_of(&[("clusters/x", cluster), ("routes/a", r#"{"match": "/v1", "to": "x"}"#)]);
    assert_eq!(stage.resources(), same.resources());
}

#[test]
fn since_moves_only_with_the_state() {
    let mut stage = world_of(&[("routes/a", GOOD)]);
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
    let input = stage.put_input("routes/a", BETTER);
    let moment = Moment { wall, ..stage.moment() };
    stage.world = plan(&stage.world, vec![input], moment).world;
    assert_eq!(stage.status("routes/a").since, SystemTime::UNIX_EPOCH);
    let input = stage.put_input("routes/a", BAD);
    stage.world = plan(&stage.world, vec![input], moment).world;
    assert_eq!(stage.status("routes/a").since, wall);
}

#[test]
fn of_two_roots_that_hold_a_document_the_first_has_the_word_and_the_other_is_named() {
    let mut stage = Stage::empty();
    let mut options = options();
    options.layout.routes_prefixes.push("/old/".into());
    stage.world = World::new(options);
    let entry = |key: &'static str, value: &'static str| Entry {
        key: key.into(),
        value: value.into(),
        create_revision: 1,
        mod_revision: 0,
        leased: false,
    };
    let put = |root, key, value| Input::Event {
        root,
        event: Event::Changed {
            revision: 1,
            changes: vec![Change::Put(entry(key, value))],
        },
    };
    stage.plan(vec![put(Root::Routes("/old/".into()), "/old/a", BETTER)]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(BETTER));
    stage.plan(vec![put(Root::Documents, "/gateway/routes/a", GOOD)]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(GOOD));
    assert_eq!(
        stage.status("routes/a").warnings,
        ["written at /old/a too; that text is left out"]
    );
    let changes = vec![Change::Delete {
        key: "/gateway/routes/a".into(),
    }];
    stage.plan(vec![Input::Event {
        root: Root::Documents,
        event: Event::Changed { revision: 2, changes },
    }]);
    assert_eq!(stage.serving("routes/a").as_deref(), Some(BETTER));
    assert_eq!(stage.status("routes/a").warnings, [""; 0]);
}
