//! The measurements, by cell and server.

use std::collections::BTreeMap;

use super::scenario::Row;
use super::server::Kind;

/// A cell of the tables: all rounds of one server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The scenario.
    pub id: String,
    /// Distinguishes the cell within its scenario.
    pub label: String,
    /// The form.
    pub variant: &'static str,
    /// How many.
    pub clients: usize,
    /// How many.
    pub clusters: usize,
}

/// By name, one value a round.
pub type Figures = BTreeMap<String, Vec<f64>>;

/// The measured figures, by cell and server.
pub type Cells = BTreeMap<Key, Vec<(Kind, Figures)>>;

/// Rows by cell and server.
pub fn grouped(rows: &[Row]) -> Cells {
    let mut cells = Cells::new();
    for row in rows {
        let key = Key {
            id: row.id.clone(),
            label: row.label.clone(),
            variant: row.variant.as_str(),
            clients: row.clients,
            clusters: row.clusters,
        };
        let servers = cells.entry(key).or_default();
        let index = servers
            .iter()
            .position(|(kind, _)| *kind == row.server)
            .unwrap_or_else(|| {
                servers.push((row.server, Figures::new()));
                servers.len() - 1
            });
        for (name, value) in &row.figures {
            servers[index].1.entry(name.clone()).or_default().push(*value);
        }
    }
    cells
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
