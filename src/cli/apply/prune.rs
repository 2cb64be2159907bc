//! `chancery apply --prune PATTERN`: the documents that have no file.
//!
//! In: a pattern of KIND/NAME, the files, the documents of the server. Out: the deletions, each with the etag of the text
//! that was seen, so that a text that somebody writes meanwhile is not deleted.

use clap::Arg;
use serde_json::{Value, json};

use crate::cli::files::Files;
use crate::cli::remote::{Failure, Session, document_path, short_key, text};
use crate::document::glob;

/// Kinds that a pattern must name: secrets, which nobody can read back, and registrations, which belong to their services.
const NAMED_ONLY: [&str; 3] = ["secrets/", "xds/secrets/", "services/"];

pub(super) fn flag() -> Arg {
    Arg::new("prune").long("prune").value_name("PATTERN").help(
        "Delete the documents that match and have no file, such as 'routes/shop/*'; secrets and registrations only if \
         the pattern begins with their kind",
    )
}

/// Deletions of the documents that match a pattern and have no file.
pub(super) async fn without_file(session: &Session, pattern: &str, files: &Files) -> Result<Vec<Value>, Failure> {
    let listed = session.pages("/api/v1/documents", "documents").await?;
    let mut deleted = Vec::new();
    for entry in listed.body["documents"].as_array().into_iter().flatten() {
        let key = short_key(entry);
        // Without a revision the document is deleted already, and held.
        let is_there = !entry["revision"].is_null() && entry["kind"] != "unknown";
        if !is_there || !is_meant(pattern, &key) || files.find(&key).is_some() {
            continue;
        }
        let read = session.get(document_path(&key)).await?;
        deleted.push(json!({
            "kind": text(entry, "kind"), "name": text(entry, "name"), "value": null, "if_match": read.etag(),
        }));
    }
    Ok(deleted)
}

fn is_meant(pattern: &str, key: &str) -> bool {
    let is_unnamed = |kind: &str| key.starts_with(kind) && !pattern.starts_with(kind);
    glob::matches(pattern, key) && !NAMED_ONLY.iter().any(|kind| is_unnamed(kind))
}

#[cfg(test)]
mod tests {
    use super::is_meant;

    #[test]
    fn secrets_and_registrations_are_meant_only_by_name() {
        for (pattern, key) in [
            ("*", "routes/orders"),
            ("routes/shop/*", "routes/shop/cart"),
            ("secrets/*", "secrets/edge"),
            ("xds/secrets/*", "xds/secrets/edge"),
            ("services/cart/*", "services/cart/a"),
            ("defaults", "defaults"),
        ] {
            assert!(is_meant(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in [
            ("*", "secrets/edge"),
            ("*", "services/cart/a"),
            ("x*", "xds/secrets/edge"),
            ("routes/shop/*", "routes/orders"),
            ("s*", "secrets/edge"),
        ] {
            assert!(!is_meant(pattern, key), "{pattern} {key}");
        }
    }
}
