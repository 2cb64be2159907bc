//! The cells of the benchmark: one combination of scenario, size and variant each.

use std::time::Duration;

use anyhow::{Result, bail};

use super::scenario::{Cell, Changes};
use super::server::{Kind, World};
use super::wire::Variant;

/// Node ids of B10.
pub const CHURNED: usize = 20_000;

const OURS: &[Kind] = &[Kind::Chancery];
const FLOOR: &[Kind] = &[Kind::Chancery, Kind::Floor];
const PEERS: &[Kind] = &[
    Kind::Chancery,
    Kind::Floor,
    Kind::GoSnapshot,
    Kind::GoLinear,
    Kind::Java,
];
const SNAPSHOT: &[Kind] = &[Kind::Chancery, Kind::Floor, Kind::GoSnapshot, Kind::Java];

fn cell(id: &'static str, variant: Variant, clients: usize, clusters: usize) -> Cell {
    Cell {
        id,
        label: String::new(),
        variant,
        clients,
        world: World::of(clusters),
        changes: Changes::Endpoints,
        updates: 50,
        distance: Duration::from_millis(200),
        each: 0,
        refusing: 0,
        stalling: 0,
        idle: Duration::ZERO,
        envoy_node: false,
        servers: FLOOR,
    }
}

/// The cells of the target ratios (`owed.rs`): one endpoint set changes, small and large, delta and SotW; nodes as
/// large as a real Envoy's; one cluster changes, so that SotW sends the whole set.
fn base() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (clusters, size) in [(100, "small"), (1000, "large")] {
        for variant in [Variant::Delta, Variant::Sotw] {
            let updates = 20;
            cells.push(Cell {
                label: size.to_owned(),
                servers: PEERS,
                updates,
                ..cell("base", variant, 1000, clusters)
            });
        }
        let whole = Cell {
            label: format!("{size}, whole set"),
            changes: Changes::Clusters,
            updates: 10,
            distance: Duration::from_millis(500),
            servers: SNAPSHOT,
            ..cell("base", Variant::Sotw, 1000, clusters)
        };
        cells.push(whole);
        let node = Cell {
            label: format!("{size}, Node of 61 KB"),
            envoy_node: true,
            updates: 10,
            ..cell("base", Variant::Delta, 1000, clusters)
        };
        cells.push(node);
    }
    cells
}

fn b1() -> Vec<Cell> {
    let of = |clients: usize, servers| Cell {
        updates: 200,
        servers,
        ..cell("B1", Variant::Delta, clients, 1000)
    };
    vec![of(1000, PEERS), of(10_000, OURS)]
}

fn b2() -> Vec<Cell> {
    let distance = Duration::from_millis(500);
    vec![Cell {
        changes: Changes::Clusters,
        distance,
        servers: SNAPSHOT,
        ..cell("B2", Variant::Sotw, 500, 1000)
    }]
}

fn b3() -> Vec<Cell> {
    let of = |clients: usize, each: usize| Cell {
        label: format!("{each} names a client"),
        each,
        updates: 500,
        distance: Duration::from_millis(20),
        servers: OURS,
        ..cell("B3", Variant::Delta, clients, 10_000)
    };
    // The first: as many are interested as in the second, of a tenth of the clients.
    vec![of(100, 100), of(1000, 10), of(1000, 100), of(1000, 1000)]
}

fn b4() -> Vec<Cell> {
    let of = |variant| Cell {
        changes: Changes::Nothing,
        updates: 0,
        servers: OURS,
        ..cell("B4", variant, 1000, 10_000)
    };
    vec![of(Variant::Delta), of(Variant::Sotw)]
}

fn b5() -> Vec<Cell> {
    let idle = Duration::from_secs(60);
    vec![Cell {
        changes: Changes::Nothing,
        updates: 0,
        idle,
        ..cell("B5", Variant::Delta, 5000, 1000)
    }]
}

fn b6() -> Vec<Cell> {
    let idle = Duration::from_secs(30);
    let of = |variant| Cell {
        updates: 1,
        refusing: 5,
        idle,
        servers: OURS,
        ..cell("B6", variant, 500, 500)
    };
    vec![of(Variant::Delta), of(Variant::Sotw)]
}

fn b7() -> Vec<Cell> {
    let of = |stalling: usize| Cell {
        label: format!("{stalling} stalled"),
        world: World {
            endpoints: 100,
            ..World::of(2000)
        },
        stalling,
        updates: 100,
        distance: Duration::from_millis(100),
        servers: OURS,
        ..cell("B7", Variant::Sotw, 500, 2000)
    };
    vec![of(0), of(25)]
}

fn b8() -> Vec<Cell> {
    let of = |variant| Cell {
        changes: Changes::Burst(1000),
        updates: 1000,
        idle: Duration::from_secs(1),
        servers: OURS,
        ..cell("B8", variant, 500, 10_000)
    };
    vec![of(Variant::Delta), of(Variant::Sotw)]
}

fn b9() -> Vec<Cell> {
    let of = |routes: usize| Cell {
        label: format!("{routes} routes"),
        world: World {
            clusters: 100,
            routes,
            hosts: true,
            endpoints: 0,
        },
        changes: Changes::Routes,
        updates: 100,
        distance: Duration::from_millis(50),
        servers: OURS,
        ..cell("B9", Variant::Delta, 1, 100)
    };
    vec![of(1000), of(10_000), of(100_000)]
}

fn b10() -> Vec<Cell> {
    vec![Cell {
        servers: OURS,
        ..cell("B10", Variant::Delta, 100, 500)
    }]
}

/// The small versions that `make bench` compares with the stored ratios.
pub fn small() -> Vec<Cell> {
    let label = || "small".to_owned();
    vec![
        Cell {
            label: label(),
            updates: 40,
            distance: Duration::from_millis(100),
            ..cell("B1", Variant::Delta, 300, 300)
        },
        Cell {
            label: label(),
            changes: Changes::Clusters,
            updates: 20,
            distance: Duration::from_millis(200),
            ..cell("B2", Variant::Sotw, 200, 300)
        },
        Cell {
            label: "1000 routes".to_owned(),
            updates: 40,
            ..b9().remove(0)
        },
        Cell {
            label: "20000 routes".to_owned(),
            updates: 40,
            world: World {
                clusters: 100,
                routes: 20_000,
                hosts: true,
                endpoints: 0,
            },
            ..b9().remove(0)
        },
    ]
}

/// A scenario's name, and its cells.
type Scenario = (&'static str, fn() -> Vec<Cell>);

/// The cells of these scenarios, all where none is named; clients divided by `shrink`.
///
/// # Errors
/// A name that none has.
pub fn cells(names: &[String], shrink: usize) -> Result<Vec<Cell>> {
    let all: [Scenario; 11] = [
        ("base", base),
        ("B1", b1),
        ("B2", b2),
        ("B3", b3),
        ("B4", b4),
        ("B5", b5),
        ("B6", b6),
        ("B7", b7),
        ("B8", b8),
        ("B9", b9),
        ("B10", b10),
    ];

    if let Some(unknown) = names.iter().find(|name| all.iter().all(|(known, _)| known != name)) {
        bail!(
            "no scenario {unknown:?}, expected one of {}",
            all.map(|(known, _)| known).join(", ")
        );
    }

    let chosen = all
        .into_iter()
        .filter(|(known, _)| names.is_empty() || names.iter().any(|name| name == known));
    let mut cells: Vec<Cell> = chosen.flat_map(|(_, cells)| cells()).collect();

    for cell in &mut cells {
        if shrink > 1 && cell.clients > 1 {
            cell.clients = (cell.clients / shrink).max(1);
            cell.refusing = cell.refusing.min(cell.clients / 2);
            cell.stalling = cell.stalling.min(cell.clients / 2);
        }
    }

    Ok(cells)
}
