//! Snapshot n → snapshot n+1, swapped in.

use std::sync::Arc;
use std::time::SystemTime;

use chancery::document::key::Root;
use chancery::reconcile::plan::{Plan, plan};
use chancery::resource::compile::{Difference, ResourceChange};
use chancery::resource::{Resource, ResourceType};
use chancery::snapshot::store::Store;
use chancery::snapshot::{Facts, Snapshot, Source};
use criterion::{BenchmarkId, Criterion};

use super::documents::{SIZES, changed, empty, listed, moment, route};

pub(crate) fn facts() -> Facts {
    Facts {
        revisions: Arc::default(),
        revision: 1,
        built_at: SystemTime::UNIX_EPOCH,
        source: Source::Memory,
        stale: false,
        withhold_removals: false,
        group_rules: Arc::new([]),
        cause: None,
    }
}

/// An assignment with one endpoint, as large as a real one on the wire.
pub(crate) fn assignment(number: usize, content: u8) -> Arc<Resource> {
    let name = format!("cluster-{number:06}");
    let body = [name.as_bytes(), &[content; 60]].concat();
    Arc::new(Resource::new(name, body, Vec::new()))
}

pub(crate) fn put(resource: Arc<Resource>) -> ResourceChange {
    let (group, name) = ("default".into(), Arc::clone(&resource.name));
    ResourceChange {
        group,
        resource_type: ResourceType::Endpoint,
        name,
        resource: Some(resource),
    }
}

/// A snapshot of so many assignments, and the same with one of them changed.
pub(crate) fn assignments(count: usize) -> (Snapshot, Snapshot) {
    let all = (0..count).map(|number| put(assignment(number, 1))).collect();
    let first = Snapshot::unpublished().next(
        &Difference {
            resources: all,
            ..Difference::default()
        },
        facts(),
    );
    let one = Difference {
        resources: vec![put(assignment(count / 2, 2))],
        ..Difference::default()
    };
    let second = first.next(&one, facts());
    (first, second)
}

pub(crate) fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    for size in SIZES {
        let store = Store::default();
        store.publish(Arc::new(assignments(size).0));

        let differences = [2, 3].map(|content| Difference {
            resources: vec![put(assignment(size / 2, content))],
            ..Difference::default()
        });
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("assignment", size), |bencher| {
            bencher.iter(|| {
                turn += 1;
                store.publish(Arc::new(store.current().next(&differences[turn % 2], facts())));
            });
        });

        let Plan { world, difference, .. } = plan(&empty(), listed(size), moment());
        let first = Snapshot::unpublished().next(&difference, facts());
        store.publish(Arc::new(first));

        let change = |revision| plan(&world, changed(Root::Documents, route(size / 2, revision)), moment()).difference;
        let differences = [change(2), change(3)];
        group.bench_function(BenchmarkId::new("route", size), |bencher| {
            bencher.iter(|| {
                turn += 1;
                store.publish(Arc::new(store.current().next(&differences[turn % 2], facts())));
            });
        });
    }

    group.finish();
}
