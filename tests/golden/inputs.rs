//! A file of documents → compiled resources.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use chancery::document::key::{DocumentKey, Kind};
use chancery::document::{self, Limits, Rejection};
use chancery::resource::compile::{Accepted, Compiled, Edit, Options};
use serde_json::{Map, Value};

/// `tests/golden`.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The names of all inputs, sorted.
pub(crate) fn names() -> Vec<String> {
    let files = fs::read_dir(folder().join("in")).expect("tests/golden/in is there");
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut names: Vec<String> = files
        .filter_map(|file| stem(file.expect("a readable entry").path()))
        .collect();
    names.sort();
    names
}

/// The compiled documents of an input.
pub(crate) fn compiled(name: &str) -> Compiled {
    compile_all(&documents(name))
}

/// The documents of an input, by key.
pub(crate) fn documents(name: &str) -> Map<String, Value> {
    let path = folder().join("in").join(format!("{name}.yaml"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    serde_saphyr::from_str(&text).expect("an object of documents")
}

/// Compile documents by key, as YAML, written in the order of the text.
pub(crate) fn compile(text: &str) -> Compiled {
    compile_all(&serde_saphyr::from_str(text).expect("an object of documents"))
}

/// Compile documents by key, written in the order of the map.
pub(crate) fn compile_all(documents: &Map<String, Value>) -> Compiled {
    let texts = documents
        .iter()
        // The plain forms of a registration are not JSON.
        .map(|(key, value)| {
            (
                key.as_str(),
                value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            )
        });
    try_compile(texts).unwrap_or_else(|reason| panic!("{reason}"))
}

/// The options of a server with the CA bundle `ca.pem`.
pub(crate) fn options() -> Options {
    let ca_bundle = Bytes::from(fs::read(folder().join("ca.pem")).expect("tests/golden/ca.pem is there"));
    Options {
        ca_bundle: Some(ca_bundle),
        ..Options::default()
    }
}

/// Texts of documents by key, written in this order.
pub(crate) fn try_compile<'k>(texts: impl IntoIterator<Item = (&'k str, String)>) -> Result<Compiled, String> {
    let edits = texts
        .into_iter()
        .zip(1..)
        .map(|((key, text), revision)| edit(key, &text, revision).map_err(|error| format!("{key}: {error}")))
        .collect::<Result<_, _>>()?;
    match Compiled::new(options()).apply(edits) {
        Ok(step) => Ok(step.compiled),
        Err(faults) => {
            let reasons = faults.iter().map(|fault| format!("{}: {}", fault.key, fault.rejection));
            Err(reasons.collect::<Vec<_>>().join("\n"))
        }
    }
}

/// A document as it is put at a key.
pub(crate) fn edit(key: &str, text: &str, revision: i64) -> Result<Edit, Rejection> {
    let (word, name) = key.split_once('/').unwrap_or((key, ""));
    let kind = Kind::from_word(word).ok_or_else(|| Rejection::new("", "is no key"))?;
    let key = DocumentKey::new(kind, name);
    let document = document::parse(&key, text.as_bytes(), &Limits::default())?.document;
    let accepted = Accepted {
        document,
        create_revision: revision,
        mod_revision: revision,
    };
    Ok(Edit {
        key,
        accepted: Some(accepted),
        exists: true,
        is_judged: true,
    })
}
