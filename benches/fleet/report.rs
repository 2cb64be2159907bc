//! Results: lines during the run, then a page of tables and plots, with ratios against the floor.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::{
    BLACK, BLUE, ChartBuilder, Color, IntoDrawingArea, IntoSegmentedCoord, RED, RGBColor, Rectangle, SVGBackend,
    SegmentValue, WHITE,
};
use serde::{Deserialize, Serialize};

use super::cells::{Figures, grouped, median};
use super::owed;
use super::scenario::Row;
use super::server::{Kind, versions};

/// A ratio may grow by so much before it counts as a regression: small cells spread by 10 to 15 %.
const TOLERANCE: f64 = 1.25;

/// The commands that make the page.
const COMMANDS: &str = "
```console
ulimit -n $(ulimit -Hn)
benches/peers/run.sh base B1 B2                                            # with the peers that can be built here
cargo bench --bench fleet -- run B3 B4 B5 B6 B7 B8 B9 B10
cargo bench --bench fleet -- report
```

[performance.md](performance.md) shows where time and memory go, and explains the missed bars.
";

/// One line for people.
pub fn line(round: usize, row: &Row) -> String {
    let mut line = format!(
        "{} {} {} {} round {round}:",
        row.id,
        row.label,
        row.variant.as_str(),
        row.server.as_str()
    );
    for (name, value) in &row.figures {
        line.push_str(&format!(" {name}={value:.1}"));
    }
    line
}

/// Append a row to a file, one JSON object a line.
///
/// # Errors
/// The file cannot be written.
pub fn append(path: &Path, row: &Row) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    Ok(writeln!(file, "{}", serde_json::to_string(row)?)?)
}

fn read(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}: run scenarios first", path.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).context("a row"))
        .collect()
}

fn shown(values: Option<&Vec<f64>>) -> String {
    let Some(values) = values else { return "–".to_owned() };
    let middle = median(values);
    let digits = usize::from(middle.abs() < 10.0);
    if values.len() < 2 {
        return format!("{middle:.digits$}");
    }
    let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| {
        (least.min(*value), most.max(*value))
    });
    format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
}

/// The columns of a scenario's table: the figure's name and its heading.
fn columns(id: &str) -> Vec<(&'static str, &'static str)> {
    match id {
        "B4" => vec![
            ("cold_us", "CPU µs a client"),
            ("bytes_client", "bytes a client"),
            ("resources_cluster", "clusters sent a client"),
            ("resources_listener", "listeners"),
            ("resources_route", "routes"),
            ("resources_endpoint", "endpoints"),
        ],
        "B5" => vec![
            ("cold_s", "all have everything, s"),
            ("cold_us", "CPU µs a client"),
            ("cpu_s", "CPU s in 60 s idle"),
            ("rss_kib", "KiB a client"),
        ],
        "B6" => {
            vec![
                ("responses_refuser", "responses to one that refuses everything, at most"),
                ("cpu_s", "CPU s in 30 s"),
            ]
        }
        "B8" => vec![
            ("responses_endpoint", "EDS responses a client"),
            ("responses_cluster", "CDS responses a client"),
            ("last_ms", "median until the last client has it, ms"),
            ("max_ms", "max ms"),
            ("cpu_s", "CPU s"),
        ],
        "B9" => vec![
            ("cpu_ms_update", "CPU ms a change"),
            ("p50_ms", "p50 ms"),
            ("p99_ms", "p99 ms"),
            ("bytes_update", "bytes a change"),
            ("load_s", "load s"),
            ("rss_empty_mib", "RSS MiB"),
        ],
        "B10" => vec![
            ("rss_early_mib", "RSS MiB, first tenth"),
            ("rss_late_mib", "last tenth"),
            ("rss_mib", "after"),
        ],
        _ => vec![
            ("cpu_us", "CPU µs a client-update"),
            ("p50_ms", "p50 ms"),
            ("p99_ms", "p99 ms"),
            ("last_ms", "last client ms"),
            ("bytes_update", "bytes a client-update"),
            ("rss_kib", "RSS KiB a client"),
            ("cold_us", "cold CPU µs a client"),
            ("cold_s", "all cold s"),
        ],
    }
}

/// The page and its plots.
///
/// # Errors
/// There are no results, or the page cannot be written.
pub fn write(results: &Path, out: &Path) -> Result<()> {
    let cells = grouped(&read(results)?);
    let mut page = heading()?;
    page.push_str(&owed::table(&cells));
    let mut last = String::new();

    for (key, servers) in &cells {
        if key.id != last {
            page.push_str(&format!("\n## {}\n", title(&key.id)));
            last.clone_from(&key.id);
        }
        let label = if key.label.is_empty() {
            String::new()
        } else {
            format!(", {}", key.label)
        };
        page.push_str(&format!(
            "\n### {}{label}: {} clients, {} clusters\n\n",
            key.variant, key.clients, key.clusters
        ));
        page.push_str(&table(&key.id, servers));
    }

    fs::create_dir_all(out.join("benchmarks"))?;
    for (figure, name, text) in [
        ("cpu_us", "cpu", "CPU µs a client-update"),
        ("rss_kib", "memory", "RSS KiB a client"),
    ] {
        let bars: Vec<(String, f64)> = cells
            .iter()
            .filter(|(key, _)| key.id == "base" || key.id == "B2")
            .flat_map(|(key, servers)| {
                servers.iter().filter_map(move |(kind, figures)| {
                    let value = median(figures.get(figure)?);
                    Some((
                        format!("{} {} {} {}", key.id, key.label, key.variant, kind.as_str()),
                        value,
                    ))
                })
            })
            .collect();

        if !bars.is_empty() {
            plot(&out.join(format!("benchmarks/{name}.svg")), text, &bars)?;
            page.push_str(&format!("\n![{text}](benchmarks/{name}.svg)\n"));
        }
    }

    let path = out.join("benchmarks.md");
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))
}

fn title(id: &str) -> String {
    let text = match id {
        "base" => "one endpoint set changes, 20 changes 200 ms apart; whole set: one cluster, 10 changes 500 ms apart",
        "B1" => "one cluster's endpoints change, 200 changes at 5/s",
        "B2" => "one cluster changes, SotW: the whole set is owed",
        "B3" => "named endpoints of 10,000, one set changes, 500 changes at 50/s",
        "B4" => "everyone reconnects to a second replica, nothing changed",
        "B5" => "cold storm, then idle",
        "B6" => "1 % refuse everything",
        "B7" => "5 % stop reading, ClusterLoadAssignments of 4 KB",
        "B8" => "1,000 documents change within a second",
        "B9" => "one route changes among many, each with its own host",
        "B10" => "20,000 node ids come and go, 100 at a time",
        _ => "",
    };
    format!("{id}: {text}")
}

fn heading() -> Result<String> {
    let mut page = String::from("# Benchmarks\n\nWritten by `cargo bench --bench fleet -- report`; not by hand. ");
    page.push_str("Medians of interleaved rounds, with the least and the most. Ratios within one table mean something; absolute\ntimes are this machine's.\n\n");
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism()?;
    page.push_str(&format!("Machine: {cores} cores, {model}. "));
    let mut versions: Vec<(&str, String)> = versions().into_iter().collect();
    versions.sort_unstable();
    let versions: Vec<String> = versions
        .into_iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    page.push_str(&format!(
        "Versions: {}. Client, server and load share the cores.\n",
        versions.join("; ")
    ));
    page.push_str(COMMANDS);
    Ok(page)
}

fn table(id: &str, servers: &[(Kind, Figures)]) -> String {
    let columns = columns(id);
    let floor = servers
        .iter()
        .find(|(kind, _)| *kind == Kind::Floor)
        .and_then(|(_, figures)| figures.get("cpu_us"));

    let mut text = format!(
        "| server | {} |{}\n",
        columns
            .iter()
            .map(|(_, heading)| *heading)
            .collect::<Vec<_>>()
            .join(" | "),
        if floor.is_some() { " × floor |" } else { "" }
    );
    text.push_str(&format!(
        "|{}\n",
        "---|".repeat(columns.len() + 1 + usize::from(floor.is_some()))
    ));

    for (kind, figures) in servers {
        let cells: Vec<String> = columns.iter().map(|(name, _)| shown(figures.get(*name))).collect();
        text.push_str(&format!("| {} | {} |", kind.as_str(), cells.join(" | ")));
        if let (Some(floor), Some(own)) = (floor, figures.get("cpu_us")) {
            text.push_str(&format!(" {:.2} |", median(own) / median(floor)));
        }
        text.push('\n');
    }
    text
}

/// Horizontal bars.
fn plot(path: &Path, text: &str, bars: &[(String, f64)]) -> Result<()> {
    let most = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let height = u32::try_from(bars.len() * 22 + 90)?;
    let root = SVGBackend::new(path, (900, height)).into_drawing_area();
    root.fill(&WHITE)?;

    let mut chart = ChartBuilder::on(&root)
        .caption(text, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(260)
        .build_cartesian_2d(0.0..most * 1.05, (0..bars.len()).into_segmented())?;

    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(index) => bars
            .get(*index)
            .map_or_else(String::new, |(name, value)| format!("{name} {value:.0}")),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };

    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&label)
        .axis_style(BLACK)
        .draw()?;

    chart.draw_series(bars.iter().enumerate().map(|(index, (name, value))| {
        let colour = if name.ends_with("chancery") {
            BLUE
        } else if name.ends_with("floor") {
            RED
        } else {
            RGBColor(150, 150, 150)
        };
        let (from, to) = (SegmentValue::Exact(index), SegmentValue::Exact(index + 1));
        Rectangle::new([(0.0, from), (*value, to)], colour.filled())
    }))?;

    root.present()?;
    Ok(())
}

/// A ratio that should not grow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ratio {
    /// The two figures of the ratio.
    pub name: String,
    /// The ratio.
    pub value: f64,
}

/// The ratios of the stored baseline: this server's CPU over the floor's, and many routes over few.
pub fn ratios(rows: &[Row]) -> Vec<Ratio> {
    let cells = grouped(rows);
    let mut ratios = Vec::new();
    let mut route_costs = Vec::new();

    for (key, servers) in &cells {
        let figure = |kind: Kind, name: &str| {
            servers
                .iter()
                .find(|(own, _)| *own == kind)
                .and_then(|(_, figures)| figures.get(name))
                .map(|values| median(values))
        };

        if let (Some(ours), Some(floor)) = (figure(Kind::Chancery, "cpu_us"), figure(Kind::Floor, "cpu_us")) {
            let name = format!(
                "{} {} {}: CPU of a client-update over the floor's",
                key.id, key.label, key.variant
            );
            ratios.push(Ratio {
                name,
                value: ours / floor,
            });
        }

        if key.id == "B9" {
            route_costs.extend(figure(Kind::Chancery, "cpu_ms_update"));
        }
    }

    if let [few, many] = route_costs[..] {
        ratios.push(Ratio {
            name: "B9: CPU of a change among 20,000 routes over one among 1,000".to_owned(),
            value: many / few,
        });
    }
    ratios
}

/// Store ratios.
///
/// # Errors
/// The file cannot be written.
pub fn store(path: &Path, ratios: &[Ratio]) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(ratios)? + "\n").with_context(|| format!("write {}", path.display()))
}

/// Stored ratios.
///
/// # Errors
/// There are none.
pub fn stored(path: &Path) -> Result<Vec<Ratio>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("decode {}", path.display()))
}

/// Which measured ratios are beyond the stored ones, as sentences.
pub fn compare(stored: &[Ratio], measured: &[Ratio]) -> Vec<String> {
    let mut regressions = Vec::new();
    for Ratio { name, value } in measured {
        let Some(known) = stored.iter().find(|ratio| ratio.name == *name) else {
            regressions.push(format!("{name}: {value:.2}, and nothing is stored: run with --update"));
            continue;
        };
        if *value > known.value * TOLERANCE {
            regressions.push(format!(
                "{name}: {value:.2}, expected at most {:.2} × {TOLERANCE}",
                known.value
            ));
        }
    }
    regressions
}
