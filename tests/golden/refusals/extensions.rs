//! Every place of an extension, tried with an extension that fits, a Struct, a message of another kind, a `TypedStruct` of
//! an unknown type and no message at all: the server accepts none that a real Envoy refuses, and refuses what Envoy
//! takes only where `places.yaml` says so.
//!
//! The table of extensions is the Node of that Envoy.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::envoy::Asked;
use super::judged;
use crate::support::catalogue::Catalogue;

/// Places that no document has: messages of a bootstrap, and matchers whose settings need a file of descriptors or a
/// filter of another build.
const ELSEWHERE: [&str; 6] = [
    "envoy.extensions.bootstrap.",
    "envoy.extensions.stat_sinks.",
    "envoy.extensions.filters.http.proto_api_scrubber.v3.RestrictionConfig>",
    "envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaOverride>",
    "envoy.config.core.v3.QuicProtocolOptions.client_packet_writer",
    "envoy.config.core.v3.TransportSocket.typed_config",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/resource/check/extensions")
}

#[test]
fn every_place_of_an_extension_is_tried() {
    let text = fs::read_to_string(folder().join("places.txt")).expect("read the places");
    let tried: BTreeSet<String> = Catalogue::load()
        .places()
        .into_iter()
        .map(|tried| tried.place)
        .collect();
    // The older matcher has the same code in Envoy as the newer one.
    let same = |place: &str| place.contains(">envoy.config.common.matcher.");
    let missing: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(place, kinds)| *kinds != "-" && !same(place) && !tried.contains(*place))
        .map(|(place, _)| place)
        .filter(|place| !ELSEWHERE.iter().any(|start| place.starts_with(start)))
        .collect();
    assert!(missing.is_empty(), "no row in places.yaml:\n{}", missing.join("\n"));
}

#[tokio::test]
async fn no_extension_is_accepted_that_envoy_refuses() {
    let asked = Asked::start().await;
    let (mut wrong, mut count) = (Vec::new(), 0);
    for tried in Catalogue::load().places() {
        count += 1;
        let ours = judged(&tried.case);
        if tried.ends {
            if ours.is_ok() {
                wrong.push(format!("{} {}: accepted, and Envoy ends", tried.place, tried.form));
            }
            continue;
        }
        let theirs = asked.about(&tried.case, None).await;
        let right = match (tried.form, &ours, &theirs) {
            ("good", ours, theirs) => ours.is_ok() && theirs.is_none(),
            (_, Ok(()), theirs) => theirs.is_none() && tried.takes,
            (_, Err(_), theirs) => theirs.is_none() == tried.takes,
        };
        if !right {
            let theirs = theirs.as_deref().unwrap_or("accepted");
            let error = theirs
                .lines()
                .find(|line| line.contains("rror") || line.contains("rejected"))
                .unwrap_or(theirs);
            wrong.push(format!(
                "{} {}\n  ours: {ours:?}\n  theirs: {error}",
                tried.place, tried.form
            ));
        }
    }
    assert!(count > 400, "{count} were tried");
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn the_table_of_extensions_is_that_of_envoy() {
    let asked = Asked::start().await;
    let bootstrap: serde_json::Value = serde_json::from_str(&asked.envoy.admin("/config_dump").await).expect("JSON");
    let extensions = bootstrap["configs"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|config| config["bootstrap"]["node"]["extensions"].as_array())
        .expect("a Node with extensions");
    let line = |extension: &serde_json::Value| {
        let text = |field: &str| extension[field].as_str().unwrap_or_default().to_owned();
        let mut types: Vec<String> = extension["type_urls"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect();
        types.sort();
        [vec![text("category"), text("name")], types].concat().join(" ")
    };
    let lines: BTreeSet<String> = extensions
        .iter()
        .filter(|extension| {
            extension["category"]
                .as_str()
                .is_some_and(|name| name.starts_with("envoy."))
        })
        .map(line)
        .collect();
    let table: String = lines.iter().map(|line| format!("{line}\n")).collect();

    let path = folder().join("registered.txt");
    if std::env::var_os("CHANCERY_GOLDEN").is_some_and(|value| value == "write") {
        return fs::write(&path, table).expect("write the table");
    }
    let found = fs::read_to_string(&path).expect("read the table");
    assert!(
        found == table,
        "{} is not that of Envoy; CHANCERY_GOLDEN=write writes it",
        path.display()
    );
}
