//! Resources → the bytes that all streams share.

use std::sync::Arc;

use chancery::reconcile::plan;
use chancery::resource::{Resource, ResourceType};
use chancery::snapshot::blocks::{self, Shape};
use criterion::{BenchmarkId, Criterion, Throughput};

use super::documents::{SIZES, empty, listed, moment};
use super::publish::assignment;

/// As many assignments as a block of 32 KiB has.
const BLOCK: usize = 128;

pub(crate) fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let assignments: Vec<Arc<Resource>> = (0..BLOCK).map(|number| assignment(number, 1)).collect();
    for (name, shape) in [("block, SotW", Shape::Sotw), ("block, delta", Shape::Delta)] {
        let len = blocks::encode(ResourceType::Endpoint, shape, &assignments).len();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| blocks::encode(ResourceType::Endpoint, shape, &assignments));
        });
    }
    for size in SIZES {
        let world = plan::plan(&empty(), listed(size), moment()).world;
        let routes = world
            .compiled()
            .resource("default", ResourceType::Route, "default")
            .expect("a configuration");
        let len = blocks::encode(ResourceType::Route, Shape::Delta, [routes]).len();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("routes", size), |bencher| {
            bencher.iter(|| blocks::encode(ResourceType::Route, Shape::Delta, [routes]));
        });
    }
    group.finish();
}
