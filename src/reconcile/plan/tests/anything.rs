//! Whatever stands in a document: it serves, or one sentence says which document and which field it is about.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use super::*;

/// The inputs of the golden tests: every kind of document, all of them good.
static GOOD: LazyLock<Vec<Vec<(String, Value)>>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/in");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    let read =
        |path| -> Map<String, Value> { serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    paths.iter().map(|path| read(path).into_iter().collect()).collect()
});

/// One change of a document's tree, or of its text.
#[derive(Debug, Clone)]
enum Mutation {
    Replace(Index, Value),
    Remove(Index),
    Rename(Index, String),
    /// What stands in one place stands in another, too.
    Copy(Index, Index),
    Text(Index, char),
    Cut(Index),
}

const TEXTS: [&str; 14] = [
    "",
    "*",
    "x",
    "0s",
    "-5s",
    "1e400",
    "%",
    "%REQ(",
    "/{a",
    "[",
    "http://",
    "10.0.0.1:80",
    "é\u{0}",
    "V3",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0_i64), Just(-1), Just(i64::MAX), 1..100_000_i64].prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&TEXTS[..]).prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!({ "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": 5 })),
        Just(Value::from("n".repeat(70_000))),
    ]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        6 => (any::<Index>(), leaf()).prop_map(|(at, value)| Mutation::Replace(at, value)),
        3 => any::<Index>().prop_map(Mutation::Remove),
        2 => (any::<Index>(), "[a-z_@]{0,9}").prop_map(|(at, name)| Mutation::Rename(at, name)),
        4 => any::<(Index, Index)>().prop_map(|(from, to)| Mutation::Copy(from, to)),
        1 => (any::<Index>(), prop_oneof![Just('"'), Just('\u{0}'), any::<char>()])
            .prop_map(|(at, character)| Mutation::Text(at, character)),
        1 => any::<Index>().prop_map(Mutation::Cut),
    ]
}

/// All places of a tree, the whole last.
fn places(value: &Value, place: &str, found: &mut Vec<String>) {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(object) => {
            object
                .iter()
                .for_each(|(key, value)| places(value, &format!("{place}/{}", escaped(key)), found));
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| places(value, &format!("{place}/{index}"), found));
        }
        _ => {}
    }
    found.push(place.to_owned());
}

impl Mutation {
    fn of_tree(&self, tree: &mut Value) {
        let mut found = Vec::new();
        places(tree, "", &mut found);
        let at = |index: &Index| found[index.index(found.len())].as_str();
        match self {
            Self::Replace(index, value) => *tree.pointer_mut(at(index)).unwrap() = value.clone(),
            Self::Copy(from, to) => {
                let copied = tree.pointer(at(from)).unwrap().clone();
                *tree.pointer_mut(at(to)).unwrap() = copied;
            }
            Self::Remove(index) => edit(tree, at(index), |_| None),
            Self::Rename(index, name) => edit(tree, at(index), |_| Some(name.clone())),
            Self::Text(..) | Self::Cut(_) => {}
        }
    }

    fn of_text(&self, text: &mut String) {
        let at = |index: &Index, text: &String| text.floor_char_boundary(index.index(text.len() + 1));
        match self {
            Self::Text(index, character) => text.insert(at(index, text), *character),
            Self::Cut(index) => text.truncate(at(index, text)),
            _ => {}
        }
    }
}

/// Another name for a field, or none: it goes. An item of a list always goes.
fn edit(tree: &mut Value, place: &str, name: impl Fn(&str) -> Option<String>) {
    let Some((parent, last)) = place.rsplit_once('/') else {
        return;
    };
    let last = last.replace("~1", "/").replace("~0", "~");
    match tree.pointer_mut(parent) {
        Some(Value::Object(object)) => {
            if let Some(value) = object.remove(&last)
                && let Some(name) = name(&last)
            {
                object.insert(name, value);
            }
        }
        Some(Value::Array(list)) => drop(list.remove(last.parse().unwrap())),
        _ => {}
    }
}

/// It serves as it was written, or a sentence says why not. Nothing that is said is long.
fn check(stage: &Stage, key: &str, text: &str) -> Result<(), TestCaseError> {
    let status = stage.status(key);
    let (reason, path) = (
        status.reason.as_deref().unwrap_or_default(),
        status.path.as_deref().unwrap_or_default(),
    );
    match status.state {
        State::Accepted | State::Disabled => prop_assert_eq!(stage.serving(key), Some(text.to_owned())),
        State::Rejected => {
            let sentence = reason.strip_prefix(&format!("{}: ", status.key));
            let sentence = sentence.ok_or_else(|| TestCaseError::fail(format!("no key in {reason:?}")))?;
            prop_assert!(
                sentence.starts_with(path),
                "the field {:?} is not in {:?}",
                path,
                reason
            );
            prop_assert!(sentence.len() > path.len() + 5, "{:?} says nothing", reason);
        }
        // Another document has what it asks for.
        _ => prop_assert!(
            reason.contains('/') && reason.contains(' '),
            "{:?} names no document",
            reason
        ),
    }
    for sentence in status.reason.iter().chain(&status.warnings) {
        prop_assert!(!sentence.contains(char::is_control), "{:?}", sentence);
        prop_assert!(sentence.len() < 8192, "a sentence of {} bytes", sentence.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_document_serves_or_a_sentence_says_why(
        (of, which) in any::<(Index, Index)>(),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let documents = of.get(&GOOD);
        let (key, tree) = which.get(documents);
        let texts: Vec<(&str, String)> = documents.iter().map(|(key, tree)| (key.as_str(), written(tree))).collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|(key, text)| (*key, text.as_str())).collect();
        let mut tree = tree.clone();
        mutations.iter().for_each(|mutation| mutation.of_tree(&mut tree));
        let mut text = written(&tree);
        mutations.iter().for_each(|mutation| mutation.of_text(&mut text));
        // Put in the place of the good one, and there from the start.
        let mut stage = world_of(&texts);
        stage.put(key, &text);
        check(&stage, key, &text)?;
        let others = texts.iter().map(|(other, good)| (*other, if other == key { text.as_str() } else { *good }));
        check(&world_of(&others.collect::<Vec<_>>()), key, &text)?;
    }
}

/// The plain forms of a registration are not JSON.
fn written(tree: &Value) -> String {
    tree.as_str().map_or_else(|| tree.to_string(), str::to_owned)
}
