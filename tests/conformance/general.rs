//! Section 2: session rules, both variants.

use super::fixture::{CDS, EDS, LDS, endpoints, put};
use super::rule::{Context, Noted, Rule, rules};

pub(crate) const RULES: &[Rule] = rules![
    "GEN-01" BOTH the_node_of_the_first_message_is_kept,
    "GEN-21" BOTH a_nack_of_one_type_does_not_touch_another,
];

pub(crate) const NOTED: &[Noted] = &[];

async fn the_node_of_the_first_message_is_kept(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(CDS, &[]);
    client.expect(CDS).await.carries(&["A", "B", "S"]);
    client.subscribe(LDS, &[]);
    client.expect(LDS).await.carries(&["L"]);
}

async fn a_nack_of_one_type_does_not_touch_another(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    client.fetch(EDS, &["A", "B"]).await;
    client.subscribe(LDS, &[]);
    let listeners = client.expect(LDS).await;
    client.nack(&listeners, "no");
    world.commit(vec![put(endpoints("A", 2))]).await;
    client.expect(EDS).await.carries(&["A"]);
}
