//! Properties: what serves depends on what stands in the store, not on how it came there.

use proptest::prelude::*;

use super::*;

/// One write: a key, and a text or nothing.
type Write = (&'static str, Option<&'static str>);

const KEYS: &[&str] = &[
    "routes/a",
    "routes/b",
    "routes/c/d",
    "clusters/x",
    "clusters/y",
    "groups/edge",
    "listeners/l",
    "defaults",
];

const TEXTS: &[&str] = &[
    r#"{"match": "/v1", "to": "x"}"#,
    r#"{"match": "example.com/v1/*", "to": "y"}"#,
    r#"{"match": "*.example.com/v1", "to": "http://10.0.0.1:80", "groups": ["edge"]}"#,
    r#"{"match": ["/v1", "/v2"], "to": "x", "priority": 1, "listeners": ["l"]}"#,
    r#"{"match": "/v3", "to": "z", "enabled": false}"#,
    r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#,
    r#"{"endpoints": [{"address": "10.0.0.2:80"}], "groups": ["edge"]}"#,
    "{}",
    r#"{"match": [{"id": "edge-*"}]}"#,
    r#"{"address": "0.0.0.0:8080"}"#,
    r#"{"route": {"timeout": "7s"}}"#,
    r#"{"cluster": {"connect_timeout": "7s"}}"#,
];

fn write() -> impl Strategy<Value = Write> {
    (
        prop::sample::select(KEYS),
        prop::option::weighted(0.8, prop::sample::select(TEXTS)),
    )
}

/// Writes that some text of another kind makes bad are as likely as good ones.
fn history() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec(write(), 1..40)
}

/// What stands in the store at the end, of texts that the world accepts or has accepted.
fn follow(stage: &mut Stage, history: &[Write], batch: usize) {
    for writes in history.chunks(batch) {
        let mut inputs = Vec::new();
        for (key, text) in writes {
            match text {
                Some(text) => inputs.push(stage.put_input(key, text)),
                None if stage.store.contains_key(*key) => inputs.push(stage.delete_input(&[key])),
                None => {}
            }
        }
        stage.plan(inputs);
    }
}

fn serving(stage: &Stage) -> BTreeMap<String, Option<i64>> {
    let revision = |status: &Status| status.serving.as_ref().map(|text| text.mod_revision);
    stage
        .world
        .documents()
        .map(|status| (status.key.to_string(), revision(status)))
        .collect()
}

/// A deleted cluster lives on while it is used; written anew in the same breath in which its last user goes, and badly,
/// it is gone, as it is when the two are planned one by one.
#[test]
fn a_cluster_written_anew_after_its_last_user_went_has_no_last_good_text() {
    let good = Some(r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#);
    let user = Some(r#"{"match": "/v1", "to": "y"}"#);
    let history = [
        ("clusters/y", good),
        ("routes/a", user),
        ("clusters/y", None),
        ("routes/a", None),
        ("clusters/y", Some("{")),
    ];
    for batch in [1, 2, 5] {
        let mut stage = world_of(&[]);
        follow(&mut stage, &history[..3], 1);
        follow(&mut stage, &history[3..], batch);
        assert_eq!(
            serving(&stage),
            BTreeMap::from([("clusters/y".to_owned(), None)]),
            "{batch} at once"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// A world that followed every write and one that lists what serves at the end have the same resources.
    #[test]
    fn any_history_ends_with_the_compile_of_what_serves(history in history()) {
        let mut stage = world_of(&[]);
        follow(&mut stage, &history, 1);
        // Deleted clusters that are used live on by their history alone: let them go.
        stage.plan(vec![Input::Release(None)]);
        let mut fresh = Stage::empty();
        let texts = stage.world.documents().filter_map(|status| {
            // A listener that is rejected keeps the default listener away.
            let is_kept_away = status.key.kind == Kind::Listeners && status.serving.is_none();
            let text = status.serving.as_ref().or_else(|| status.latest.as_ref().filter(|_| is_kept_away))?;
            Some(Entry {
                key: status.full_key.to_string().into(),
                value: if is_kept_away { "{}".into() } else { text.value.clone() },
                create_revision: text.create_revision,
                mod_revision: text.mod_revision,
                leased: false,
            })
        });
        let entries = texts.collect();
        fresh.plan(vec![Input::Event { root: Root::Documents, event: Event::Listed { revision: 1, reason: ListReason::Start, entries } }]);
        prop_assert_eq!(stage.resources(), fresh.resources());
    }

    /// Planned one by one or many at once, what serves is the same.
    #[test]
    fn how_writes_are_batched_makes_no_difference(history in history(), batch in 2_usize..10) {
        let (mut one, mut many) = (world_of(&[]), world_of(&[]));
        follow(&mut one, &history, 1);
        follow(&mut many, &history, batch);
        one.plan(vec![Input::Release(None)]);
        many.plan(vec![Input::Release(None)]);
        prop_assert_eq!(serving(&one), serving(&many));
        prop_assert_eq!(one.resources(), many.resources());
    }

    /// The difference of each plan is exactly what changed, sorted and without doubles.
    #[test]
    fn differences_say_what_changed(history in history()) {
        let mut stage = world_of(&[]);
        for write in history {
            let before = stage.resources();
            let (key, text) = write;
            let plan = match text {
                Some(text) => stage.put(key, text),
                None => stage.delete(key),
            };
            let after = stage.resources();
            let removed: BTreeSet<String> = plan.difference.groups_removed.iter().map(|group| format!("{group} ")).collect();
            let mut expected: Vec<String> = before
                .keys()
                .chain(after.keys())
                .filter(|name| before.get(*name) != after.get(*name))
                .filter(|name| !removed.iter().any(|group| name.starts_with(group)))
                .cloned()
                .collect();
            expected.sort_unstable();
            expected.dedup();
            let changes = &plan.difference.resources;
            let place = |change: &compile::ResourceChange| {
                (change.group.clone(), change.resource_type, change.name.clone())
            };
            prop_assert!(changes.is_sorted_by(|one, other| place(one) < place(other)));
            let mut told: Vec<String> = changed(&plan).iter().map(|name| name.trim_start_matches('-').to_owned()).collect();
            told.sort_unstable();
            prop_assert_eq!(told, expected);
        }
    }

    /// Bad texts among good ones change nothing of what the good ones say.
    #[test]
    fn bad_documents_harm_themselves_only(history in history(), bad in prop::collection::vec((0_usize..4, any::<bool>()), 1..10)) {
        let (mut clean, mut soiled) = (world_of(&[]), world_of(&[]));
        follow(&mut clean, &history, 1);
        for (write, index) in history.iter().zip(0..) {
            if let Some((number, is_json)) = bad.get(index) {
                let revision = soiled.revision;
                soiled.put(&format!("routes/bad{number}"), if *is_json { r#"{"match": 5}"# } else { "{" });
                soiled.revision = revision;
            }
            follow(&mut soiled, &[*write], 1);
        }
        prop_assert_eq!(clean.resources(), soiled.resources());
    }

    /// The same inputs give the same plan.
    #[test]
    fn a_plan_is_a_function(history in history()) {
        let (mut one, mut other) = (world_of(&[]), world_of(&[]));
        follow(&mut one, &history, 3);
        follow(&mut other, &history, 3);
        let statuses = |stage: &Stage| stage.world.documents().cloned().collect::<Vec<_>>();
        prop_assert_eq!(statuses(&one), statuses(&other));
        prop_assert_eq!(one.resources(), other.resources());
    }
}
