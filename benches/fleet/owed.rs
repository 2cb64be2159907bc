//! What this server owes: each ratio that it should reach, with the one that was measured.
//!
//! Small is 100 clusters, large 1,000; a thousand clients, the same load in the same run. Peers are the released servers of
//! `benches/peers/`; the best of them is the one to compare with, figure by figure.

use super::cells::{Cells, median};
use super::server::Kind;
use super::wire::Variant;

const PEERS: &[Kind] = &[Kind::GoSnapshot, Kind::GoLinear, Kind::Java];
const SNAPSHOT: &[Kind] = &[Kind::GoSnapshot];
const FLOOR: &[Kind] = &[Kind::Floor];

/// What a figure is held against.
enum Bar {
    /// So many times the least of these servers' figures, at most.
    Ratio(&'static [Kind], f64),
    /// So much, at most.
    Absolute(f64),
}

/// One promise: its words, the figure, the label and the form of the cell, the bar.
struct Promise(&'static str, &'static str, &'static str, Variant, Bar);

const CPU: &str = "CPU of a client-update";
const WHOLE: &str = "CPU of a client-update, the whole set owed";
const LATENCY: &str = "p99 over clients";
const MEMORY: &str = "RSS a client, KiB";
const COLD: &str = "CPU of a cold start";

fn promises() -> Vec<Promise> {
    use Bar::{Absolute, Ratio};
    use Variant::{Delta, Sotw};
    let mut promises = Vec::new();
    for (size, peers, snapshot, p99, cold) in [("small", 6.0, 10.0, 3.0, 4.0), ("large", 40.0, 30.0, 20.0, 10.0)] {
        let of = |words, figure, variant, bar| Promise(words, figure, size, variant, bar);
        for variant in [Delta, Sotw] {
            promises.push(of(CPU, "cpu_us", variant, Ratio(PEERS, 1.0 / peers)));
            promises.push(of(CPU, "cpu_us", variant, Ratio(FLOOR, 1.0)));
            promises.push(of(LATENCY, "p99_ms", variant, Ratio(PEERS, 1.0 / p99)));
            let large_sotw = size == "large" && variant == Sotw;
            promises.push(of(MEMORY, "rss_kib", variant, Absolute(if large_sotw { 48.0 } else { 32.0 })));
            promises.push(of(COLD, "cold_us", variant, Ratio(PEERS, 1.0 / cold)));
        }
        let (whole, node) = match size {
            "small" => ("small, whole set", "small, Node of 61 KB"),
            _ => ("large, whole set", "large, Node of 61 KB"),
        };
        promises.push(Promise(WHOLE, "cpu_us", whole, Sotw, Ratio(SNAPSHOT, 1.0 / snapshot)));
        let floor = if size == "small" { 1.0 } else { 0.9 };
        promises.push(Promise(WHOLE, "cpu_us", whole, Sotw, Ratio(FLOOR, floor)));
        promises.push(Promise(MEMORY, "rss_kib", node, Delta, Absolute(48.0)));
    }
    promises
}

/// The table; empty where nothing of it was measured.
pub fn table(cells: &Cells) -> String {
    let rows: Vec<String> = promises().iter().filter_map(|promise| row(cells, promise)).collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n## What is owed\n\n| load | figure | against | at most | measured | |\n|---|---|---|---|---|---|\n",
    );
    rows.iter().for_each(|row| text.push_str(row));
    text
}

fn row(cells: &Cells, Promise(words, figure, label, variant, bar): &Promise) -> Option<String> {
    let (_, servers) =
        cells.iter().find(|(key, _)| key.id == "base" && key.label == *label && key.variant == variant.as_str())?;
    let of = |kind: Kind| {
        let (_, figures) = servers.iter().find(|(own, _)| *own == kind)?;
        figures.get(*figure).map(|values| median(values))
    };
    let ours = of(Kind::Chancery)?;
    let (against, most, measured) = match bar {
        Bar::Ratio(kinds, most) => {
            let known = kinds.iter().filter_map(|kind| Some((*kind, of(*kind)?)));
            let (best, least) = known.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
            (best.as_str(), *most, ours / least)
        }
        Bar::Absolute(most) => ("–", *most, ours),
    };
    let verdict = if measured <= most { "met" } else { "**missed**" };
    let digits = if most > 2.0 { 0 } else { 3 };
    Some(format!(
        "| {} {label} | {words} | {against} | {most:.digits$} | {measured:.digits$} | {verdict} |\n",
        variant.as_str()
    ))
}
