//! Section 5: the order of types on ADS, and warming.

use super::fixture::{CDS, EDS, cluster, put};
use super::rule::{Context, Noted, Rule, rules};

pub(crate) const RULES: &[Rule] = rules![
    "AD-03" BOTH endpoints_follow_a_changed_cluster_unasked,
];

pub(crate) const NOTED: &[Noted] = &[];

async fn endpoints_follow_a_changed_cluster_unasked(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.sync().await;
    world.commit(vec![put(cluster("A", 2))]).await;
    let clusters = client.expect(CDS).await;
    clusters.get("A");
    let endpoints = client.expect(EDS).await;
    endpoints.get("A");
}
