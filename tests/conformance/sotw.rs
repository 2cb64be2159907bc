//! Section 3: state of the world.

use super::fixture::{CDS, EDS, cluster, delete};
use super::rule::{Context, Noted, Rule, rules};

pub(crate) const RULES: &[Rule] = rules![
    "SW-01" SOTW a_first_request_is_answered_with_the_names_that_exist,
    "SW-11" SOTW a_deleted_cluster_is_left_out_of_the_next_response,
];

pub(crate) const NOTED: &[Noted] = &[];

async fn a_first_request_is_answered_with_the_names_that_exist(context: Context) {
    let world = context.f1().await;
    let mut client = world.open().await;
    client.subscribe(EDS, &["A"]);
    client.expect(EDS).await.carries(&["A"]);
    client.quiet().await;
}

async fn a_deleted_cluster_is_left_out_of_the_next_response(context: Context) {
    let world = context.serve(vec![cluster("A", 1), cluster("B", 1)]).await;
    let mut client = world.open().await;
    let before = client.fetch(CDS, &[]).await;
    world.commit(vec![delete(CDS, "A")]).await;
    let rest = client.expect(CDS).await;
    rest.carries(&["B"]);
    assert_ne!(rest.version, before.version, "a new version");
    client.ack(&rest);
    world.commit(vec![delete(CDS, "B")]).await;
    client.expect(CDS).await.carries(&[]);
}
