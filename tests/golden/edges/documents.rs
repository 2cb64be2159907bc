//! Documents with a value at its edge: what the server accepts, Envoy takes as it is compiled.

use std::collections::BTreeMap;

use chancery::document::DEFAULT_GROUP;
use serde_json::Value;

use super::judge::Judge;
use super::{Edge, compiled, edges};
use crate::bootstrap::put_together;

/// The resource made of a document, and the value in it.
struct Made {
    place: String,
    clusters: Vec<Value>,
    listeners: Vec<Value>,
}

#[tokio::test]
async fn what_documents_become_envoy_takes() {
    let judge = Judge::start().await;
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for made in all_made() {
        // Routes name clusters that this Envoy does not have.
        for mut listener in made.listeners {
            let routes = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"];
            routes["validate_clusters"] = false.into();
            listeners.push((made.place.clone(), listener));
        }
        let named = |cluster| (made.place.clone(), cluster);
        clusters.extend(made.clusters.into_iter().map(named));
    }

    let resources: Vec<&Value> = listeners.iter().map(|(_, listener)| listener).collect();
    let said: BTreeMap<usize, String> = judge.listeners(&resources).await;
    let refused = said
        .iter()
        .map(|(index, words)| format!("{}: {words}", listeners[*index].0));
    let mut wrong: Vec<String> = refused.collect();
    let resources: Vec<&Value> = clusters.iter().map(|(_, cluster)| cluster).collect();
    if judge.clusters(&resources).await.is_some() {
        for (place, cluster) in &clusters {
            wrong.extend(judge.clusters(&[cluster]).await.map(|log| format!("{place}: {log}")));
        }
    }
    let count = listeners.len() + clusters.len();
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The documents that the server accepts: a value at each place.
fn all_made() -> Vec<Made> {
    let mut all = Vec::new();
    for place in edges("documents") {
        let before = all.len();
        all.extend(place.iter().filter_map(made));
        assert!(all.len() > before, "nothing is accepted as {}", place[0].place);
    }
    all
}

/// A document with a value in it as it is compiled; `None`: the server refuses it.
fn made(edge: &Edge) -> Option<Made> {
    let compiled = compiled(&edge.within, &edge.whole).ok()?;
    let (clusters, listeners) = put_together(&compiled, DEFAULT_GROUP);
    let is_cluster = edge.within.starts_with("clusters/");
    Some(Made {
        place: edge.place.clone(),
        clusters: if is_cluster { clusters } else { Vec::new() },
        listeners: if is_cluster { Vec::new() } else { listeners },
    })
}
