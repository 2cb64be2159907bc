//! One change among many documents: text → difference of resources.
//!
//! - The change of a route encodes one virtual host and its slab. The list of slabs of its RouteConfiguration is made
//!   anew: one pointer for 64 hosts, in runs of 64. With virtual hosts on demand, the change also encodes one resource
//!   of its own.
//! - The change of a registration encodes one ClusterLoadAssignment.
//! - The change of a policy of the listener encodes the head of the RouteConfiguration, and no virtual host.

use std::collections::BTreeSet;
use std::hint::black_box;

use chancery::backend::{Change, Entry, Event};
use chancery::document::key::{DocumentKey, Kind, Root};
use chancery::reconcile::plan::{self, Input};
use chancery::reconcile::world::World;
use criterion::{BatchSize, BenchmarkId, Criterion};

use super::documents::{
    SIZES, changed, empty, instance, listed, listed_on_demand, listed_policed, moment, policy, route,
};

/// One change after the other.
struct Changing {
    world: World,
    revision: i64,
}

impl Changing {
    fn step(&mut self, root: Root, text: impl FnOnce(i64) -> Entry) {
        self.revision += 1;
        let planned = plan::plan(&self.world, changed(root, text(self.revision)), moment());
        black_box(&planned.difference);
        self.world = planned.world;
    }
}

pub(crate) fn plan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");

    for size in SIZES {
        let mut changing = Changing {
            world: plan::plan(&empty(), listed(size), moment()).world,
            revision: 1,
        };
        group.bench_function(BenchmarkId::new("route", size), |bencher| {
            bencher.iter(|| changing.step(Root::Documents, |revision| route(size / 2, revision)));
        });
        group.bench_function(BenchmarkId::new("instance", size), |bencher| {
            bencher.iter(|| changing.step(Root::Registrations, instance));
        });

        drop(changing);
        let mut changing = Changing {
            world: plan::plan(&empty(), listed_on_demand(size), moment()).world,
            revision: 1,
        };
        group.bench_function(BenchmarkId::new("on demand", size), |bencher| {
            bencher.iter(|| changing.step(Root::Documents, |revision| route(size / 2, revision)));
        });
    }

    for size in SIZES {
        let mut changing = Changing {
            world: plan::plan(&empty(), listed_policed(size), moment()).world,
            revision: 1,
        };
        group.bench_function(BenchmarkId::new("policy", size), |bencher| {
            bencher.iter(|| changing.step(Root::Documents, policy));
        });
    }

    for size in [1_000, 10_000] {
        let before = plan::plan(&empty(), listed(size), moment()).world;
        let changes = (0..100).map(|number| Change::Put(route(number, 2)));
        let input = Input::Event {
            root: Root::Documents,
            event: Event::Changed {
                revision: 2,
                changes: changes.collect(),
            },
        };
        let keys: BTreeSet<DocumentKey> = (0..100)
            .map(|number| DocumentKey::new(Kind::Routes, format!("route-{number:06}")))
            .collect();
        group.bench_function(BenchmarkId::new("dry run of 100 routes", size), |bencher| {
            bencher.iter(|| {
                let planned = plan::plan(&before, vec![input.clone()], moment());
                let after = planned.world.compiled();
                assert_eq!(after.owners_since(before.compiled(), &keys).moved.len(), 200);
            });
        });
    }

    group.sample_size(10);
    for size in [1_000, 10_000] {
        group.bench_function(BenchmarkId::new("first list", size), |bencher| {
            let empty = empty();
            let batch = BatchSize::LargeInput;
            bencher.iter_batched(|| listed(size), |inputs| plan::plan(&empty, inputs, moment()), batch);
        });
    }

    group.finish();
}
