//! The targets of this server: each target ratio with the measured one, and the bounds of the scenarios.
//!
//! Small is 100 clusters, large is 1,000; a thousand clients, the same load in the same run. Peers are the released
//! servers of `benches/peers/`. For each figure the best peer is compared.

use super::cells::{Cells, Key, median};
use super::server::Kind;
use super::wire::Variant;

const PEERS: &[Kind] = &[Kind::GoSnapshot, Kind::GoLinear, Kind::Java];
const SNAPSHOT: &[Kind] = &[Kind::GoSnapshot];
const FLOOR: &[Kind] = &[Kind::Floor];

/// The bound of a figure.
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
            promises.push(of(
                MEMORY,
                "rss_kib",
                variant,
                Absolute(if large_sotw { 48.0 } else { 32.0 }),
            ));
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

/// The tables; empty where nothing of them was measured.
pub fn table(cells: &Cells) -> String {
    let promised: Vec<String> = promises().iter().filter_map(|promise| row(cells, promise)).collect();
    let bounded: Vec<String> = bounds(cells).iter().filter_map(Bound::row).collect();
    let mut text = String::new();
    if !promised.is_empty() {
        text.push_str(
            "\n## What is owed\n\n| load | figure | against | at most | measured | |\n|---|---|---|---|---|---|\n",
        );
        promised.iter().for_each(|row| text.push_str(row));
    }
    if !bounded.is_empty() {
        text.push_str("\n## What each scenario must show\n\n| scenario | figure | at most | measured | |\n|---|---|---|---|---|\n");
        bounded.iter().for_each(|row| text.push_str(row));
    }
    text
}

fn verdict(measured: f64, most: f64) -> &'static str {
    if measured <= most { "met" } else { "**missed**" }
}

/// A bound of a scenario: its words, how much it may be, how much it was.
struct Bound {
    scenario: &'static str,
    words: String,
    most: f64,
    measured: Option<f64>,
}

impl Bound {
    fn row(&self) -> Option<String> {
        let Self {
            scenario,
            words,
            most,
            measured,
        } = self;
        let measured = (*measured)?;
        let verdict = verdict(measured, *most);
        let digits = if *most >= 10.0 { 0 } else { 2 };
        Some(format!(
            "| {scenario} | {words} | {most:.digits$} | {measured:.digits$} | {verdict} |\n"
        ))
    }
}

/// The bounds of this server in the scenarios other than `base`.
fn bounds(cells: &Cells) -> Vec<Bound> {
    let of = |id: &str, label: &str, variant: Variant, clients: usize, figure: &str| {
        let key =
            |key: &Key| key.id == id && key.label == label && key.variant == variant.as_str() && key.clients == clients;
        let (_, servers) = cells.iter().find(|(own, _)| key(own))?;
        let (_, figures) = servers.iter().find(|(kind, _)| *kind == Kind::Chancery)?;
        figures.get(figure).map(|values| median(values))
    };

    let over = |one: Option<f64>, other: Option<f64>| Some(one? / other?);

    let mut bounds = Vec::new();
    let mut bound = |scenario, words: &str, most, measured| {
        bounds.push(Bound {
            scenario,
            words: words.to_owned(),
            most,
            measured,
        });
    };

    let (delta, sotw) = (Variant::Delta, Variant::Sotw);
    bound(
        "B1",
        "10,000 clients: p99 of one change, ms",
        500.0,
        of("B1", "", delta, 10_000, "p99_ms"),
    );
    bound(
        "B1",
        "10,000 clients: RSS, MiB",
        512.0,
        of("B1", "", delta, 10_000, "rss_mib"),
    );

    let b3_of = |clients, names: usize| {
        of(
            "B3",
            &format!("{names} names a client"),
            delta,
            clients,
            "cpu_ms_update",
        )
    };
    let b3 = |names: usize| b3_of(1000, names);
    bound(
        "B3",
        "CPU of a change that 10 clients are interested in, over one that 100 are",
        1.0,
        over(b3(100), b3(1000)),
    );
    bound(
        "B3",
        "CPU of a change that 1 client is interested in, over one that 100 are",
        1.0,
        over(b3(10), b3(1000)),
    );
    bound(
        "B3",
        "CPU of a change that 1 client of 1,000 is interested in, over one that 1 of 100 is",
        1.5,
        over(b3(10), b3_of(100, 100)),
    );

    for (variant, types) in [
        (delta, &["cluster", "listener", "route"][..]),
        (sotw, &["cluster", "listener"][..]),
    ] {
        for of_type in types {
            let sent = of("B4", "", variant, 1000, &format!("resources_{of_type}"));
            bound(
                "B4",
                &format!("{}: {of_type}s sent again to a client", variant.as_str()),
                0.0,
                sent,
            );
        }
    }

    for variant in [delta, sotw] {
        let words = format!(
            "{}: responses in all to a client that refuses everything: one a type, and the change",
            variant.as_str()
        );
        bound("B6", &words, 5.0, of("B6", "", variant, 500, "responses_refuser"));
    }

    let b7 = |label| of("B7", label, sotw, 500, "p99_ms");
    bound(
        "B7",
        "p99 of the healthy clients over that of a run with none stalled",
        1.2,
        over(b7("25 stalled"), b7("0 stalled")),
    );

    for variant in [delta, sotw] {
        let words = format!("{}: EDS responses to a client for 1,000 changes", variant.as_str());
        bound("B8", &words, 14.0, of("B8", "", variant, 500, "responses_endpoint"));
    }

    let b9 = |routes: usize, figure| of("B9", &format!("{routes} routes"), delta, 1, figure);
    bound("B9", "100,000 routes: the full load, s", 10.0, b9(100_000, "load_s"));
    bound("B9", "100,000 routes: RSS, MiB", 1024.0, b9(100_000, "rss_empty_mib"));

    let b10 = |figure| of("B10", "", delta, 100, figure);
    let grown = b10("rss_late_mib")
        .zip(b10("rss_early_mib"))
        .map(|(late, early)| late - early);
    bound(
        "B10",
        "RSS grown by 20,000 node ids that went, each remembered for ten minutes, MiB",
        20.0,
        grown,
    );

    bounds
}

fn row(cells: &Cells, Promise(words, figure, label, variant, bar): &Promise) -> Option<String> {
    let (_, servers) = cells
        .iter()
        .find(|(key, _)| key.id == "base" && key.label == *label && key.variant == variant.as_str())?;
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
    let verdict = verdict(measured, most);
    let digits = if most > 2.0 { 0 } else { 3 };
    Some(format!(
        "| {} {label} | {words} | {against} | {most:.digits$} | {measured:.digits$} | {verdict} |\n",
        variant.as_str()
    ))
}
