//! What one change costs among many documents: `cargo bench --bench plan`.
//!
//! Each world has so many routes, each with a host and a path of its own, and one cluster with registered instances. A
//! route's change encodes one virtual host and puts one RouteConfiguration together; a registration's change encodes one
//! ClusterLoadAssignment. The first may grow with the size of the RouteConfiguration (it is copied once), nothing else with
//! the number of documents.

use std::hint::black_box;
use std::time::SystemTime;

use chancery::backend::{Change, Entry, ListReason};
use chancery::document::key::{Layout, Root};
use chancery::reconcile::plan::{Input, Moment, plan};
use chancery::reconcile::world::{Options, World};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

fn entry(key: String, value: String, revision: i64) -> Entry {
    Entry { key: key.into(), value: value.into(), create_revision: revision, mod_revision: revision, leased: false }
}

fn route(number: usize, path: &str, revision: i64) -> Entry {
    let value = format!(r#"{{"match": "host-{number}.example.com{path}", "to": "x"}}"#);
    entry(format!("/gateway/routes/route-{number:06}"), value, revision)
}

fn moment() -> Moment {
    Moment { instant: tokio::time::Instant::now().into_std(), wall: SystemTime::UNIX_EPOCH }
}

fn world_of(routes: usize) -> World {
    let layout = Layout::default();
    let options = Options { layout, confirm_mass_loss: false, re2_max_program_size: 100, ca_bundle: None };
    let mut entries = vec![entry("/gateway/clusters/x".to_owned(), "{}".to_owned(), 1)];
    entries.extend((0..routes).map(|number| route(number, "/v1", 1)));
    let instances = (0..100).map(|n| entry(format!("/services/x/{n:03}"), format!("10.0.0.{n}:80"), 1)).collect();
    let listed = |root, entries| Input::Listed { root, revision: 1, reason: ListReason::Start, entries };
    let inputs = vec![listed(Root::Documents, entries), listed(Root::Registrations, instances)];
    plan(&World::new(options), inputs, moment()).world
}

fn changed(root: Root, entry: Entry) -> Vec<Input> {
    vec![Input::Changed { root, revision: 2, changes: vec![Change::Put(entry)] }]
}

fn one_change(criterion: &mut Criterion) {
    for size in SIZES {
        let world = world_of(size);
        let inputs = changed(Root::Documents, route(size / 2, "/v2", 2));
        criterion.bench_function(&format!("one route among {size}"), |bencher| {
            bencher.iter_batched(
                || inputs.clone(),
                |inputs| black_box(plan(&world, inputs, moment())),
                BatchSize::LargeInput,
            );
        });
        let inputs = changed(Root::Registrations, entry("/services/x/050".to_owned(), "10.0.1.1:80".to_owned(), 2));
        criterion.bench_function(&format!("one instance among {size} routes"), |bencher| {
            bencher.iter_batched(
                || inputs.clone(),
                |inputs| black_box(plan(&world, inputs, moment())),
                BatchSize::LargeInput,
            );
        });
    }
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = one_change }
criterion_main!(benches);
