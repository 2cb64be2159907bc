//! Whole documents: the examples of the contract, the corpus of bad documents, and texts that nobody wrote.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::key::{DocumentKey, Kind};
use super::{Document, Limits, MAX_BYTES, Parsed, Rejection, parse};

fn key(text: &str) -> DocumentKey {
    match text.split_once('/') {
        _ if text == "defaults" => DocumentKey::new(Kind::Defaults, ""),
        Some((word, name)) => match Kind::from_word(word) {
            Some(kind) => DocumentKey::new(kind, name),
            None => DocumentKey::new(Kind::Unknown, text),
        },
        None => DocumentKey::new(Kind::Unknown, text),
    }
}

fn parsed(key_text: &str, value: &Value) -> Result<Parsed, Rejection> {
    parse(&key(key_text), value.to_string().as_bytes(), &Limits::default())
}

fn rejected(key_text: &str, value: &str) -> String {
    parse(&key(key_text), value.as_bytes(), &Limits::default()).unwrap_err().to_string()
}

/// What an entry of the manifest stands for.
fn content(entry: &Value) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad_documents");
    if let Some(file) = entry["file"].as_str() {
        return fs::read(folder.join(file)).unwrap();
    }
    match entry["generate"].as_str().unwrap() {
        "large" => vec![b' '; MAX_BYTES + 1],
        "deep" => [vec![b'['; 500_000], vec![b']'; 500_000]].concat(),
        "deep_objects" => [br#"{"a":"#.repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat(),
        "deep_yaml" => (0..1000).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>().into_bytes(),
        other => panic!("unknown generator {other}"),
    }
}

#[test]
fn every_document_of_the_corpus_is_rejected_with_its_sentence() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bad_documents/manifest.json");
    let entries: Vec<Value> = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    assert!(entries.len() >= 80);
    let mut wrong = Vec::new();
    for entry in &entries {
        let (reason, path) = (entry["reason_contains"].as_str().unwrap(), entry["path"].as_str().unwrap());
        match parse(&key(entry["key"].as_str().unwrap()), &content(entry), &Limits::default()) {
            Ok(parsed) => wrong.push(format!("{entry}: accepted as {:?}", parsed.document)),
            Err(rejection) if rejection.path == path && rejection.reason.contains(reason) => {}
            Err(rejection) => wrong.push(format!("{entry}: {rejection:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
