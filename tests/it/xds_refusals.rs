//! Documents that Envoy would reject, written to a real etcd: they are rejected with the field and a sentence, and the
//! served resources stay.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::Client;
use serde_json::{Value, json};

use crate::support::catalogue::{Case, Catalogue, Condition};
use crate::support::etcd::Etcd;
use crate::support::eventually::eventually;
use crate::support::server::Server;

const LIMIT: Duration = Duration::from_secs(20);

/// The first bad document of a condition, the good document of the same type that it replaces, and the documents beside
/// both.
struct Turn {
    id: String,
    good: Option<Case>,
    bad: Case,
}

impl Turn {
    fn of(catalogue: &Catalogue, condition: &Condition) -> Option<Self> {
        let bad = catalogue.case(condition, condition.refused.first()?);
        let accepted = condition
            .accepted
            .iter()
            .map(|example| catalogue.case(condition, example));
        let good = accepted
            .into_iter()
            .find(|good| good.resource_type == bad.resource_type && good.beside == bad.beside);
        Some(Self {
            id: condition.id.clone(),
            good,
            bad,
        })
    }

    /// True if this turn conflicts with no other turn.
    fn is_alone(&self) -> bool {
        self.bad.beside.is_empty() && !["scoped_routes", "virtual_hosts"].contains(&&*self.bad.resource_type)
    }

    /// Both under a name of their own.
    fn renamed(mut self) -> Self {
        for case in self.good.iter_mut().chain([&mut self.bad]) {
            case.key = format!("xds/{}/{}", case.resource_type, self.id);
            let field = if case.resource_type == "endpoints" {
                "cluster_name"
            } else {
                "name"
            };
            if case.resource[field] == "a" {
                case.resource[field] = json!(self.id);
            }
            case.says = case.says.replace(
                "\"a\", the name in its key",
                &format!("{:?}, the name in its key", self.id),
            );
        }
        self
    }

    fn full_key(&self) -> String {
        format!("/gateway/{}", self.bad.key)
    }

    /// The beginning of the reason that an operator must read for the bad document.
    fn start(&self) -> String {
        format!("{}: {}: {}", self.bad.key, self.bad.path, self.bad.says)
    }
}

async fn put(client: &mut Client, case: &Case) -> i64 {
    let response = client
        .put(format!("/gateway/{}", case.key), case.document().to_string(), None)
        .await
        .unwrap();
    response.header().unwrap().revision()
}

async fn documents(server: &Server) -> BTreeMap<String, Value> {
    let answer = server.get("/api/v1/documents").await;
    let entries = answer["documents"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| (entry["key"].as_str().unwrap().to_owned(), entry.clone()))
        .collect()
}

async fn version(server: &Server, case: &Case) -> Value {
    let (word, name) = case.key.strip_prefix("xds/").unwrap().split_once('/').unwrap();
    server
        .try_get(&format!("/api/v1/snapshot/{word}/{}", name.replace('/', "%2F")))
        .await
        .unwrap()
        .1["version"]
        .clone()
}

/// Write the good texts of all turns, then the bad ones. Returns the faults of the reported reasons.
async fn take(server: &Server, client: &mut Client, turns: &[Turn]) -> Vec<String> {
    let mut served = Vec::new();
    for turn in turns {
        match &turn.good {
            Some(good) => served.push(Some(put(client, good).await)),
            None => served.push(None),
        }
    }
    let state = |documents: &BTreeMap<String, Value>, turn: &Turn| {
        documents.get(&turn.full_key()).map(|one| one["state"].clone())
    };
    let not_yet = |expected: &'static str, of_all: bool| async move {
        let documents = documents(server).await;
        let asked = turns.iter().filter(|turn| of_all || turn.good.is_some());
        asked
            .filter(|turn| state(&documents, turn) != Some(json!(expected)))
            .map(|turn| turn.id.clone())
            .collect::<Vec<_>>()
    };
    eventually(LIMIT, || not_yet("accepted", false), Vec::new()).await;
    let mut versions = Vec::new();
    for turn in turns {
        versions.push(version(server, &turn.bad).await);
    }
    for turn in turns {
        put(client, &turn.bad).await;
    }
    eventually(LIMIT, || not_yet("rejected", true), Vec::new()).await;
    let documents = documents(server).await;
    let mut wrong = Vec::new();
    for ((turn, served), before) in turns.iter().zip(served).zip(versions) {
        let entry = &documents[&turn.full_key()];
        let reason = entry["reason"].as_str().unwrap_or_default();
        let is_told =
            entry["path"] == turn.bad.path.as_str() && reason.starts_with(&turn.start()) && !reason.contains('\n');
        let serves = entry["serving_revision"].as_i64() == served && version(server, &turn.bad).await == before;
        if !is_told || !serves {
            wrong.push(format!(
                "{}: {entry}, expected {} and revision {served:?}",
                turn.id,
                turn.start()
            ));
        }
    }
    wrong
}

#[tokio::test]
async fn each_condition_is_told_with_its_field_and_what_was_there_serves_on() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let server = Server::on_etcd(&etcd).await;
    server.ready().await;
    let catalogue = Catalogue::load();
    let turns = catalogue
        .conditions
        .iter()
        .filter_map(|condition| Turn::of(&catalogue, condition));
    let (together, beside): (Vec<Turn>, Vec<Turn>) = turns.partition(Turn::is_alone);
    let together: Vec<Turn> = together.into_iter().map(Turn::renamed).collect();
    assert!(
        together.len() > 130 && beside.len() > 5,
        "{} and {}",
        together.len(),
        beside.len()
    );
    let mut wrong = take(&server, &mut client, &together).await;
    for turn in beside {
        for (key, document) in &turn.bad.beside {
            client
                .put(format!("/gateway/{key}"), document.to_string(), None)
                .await
                .unwrap();
        }
        wrong.extend(take(&server, &mut client, std::slice::from_ref(&turn)).await);
        for key in turn.bad.beside.iter().map(|(key, _)| key).chain([&turn.bad.key]) {
            client.delete(format!("/gateway/{key}"), None).await.unwrap();
        }
        eventually(LIMIT, || async { server.document(&turn.full_key()).await }, None).await;
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
