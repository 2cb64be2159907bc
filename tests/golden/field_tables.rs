//! The tables of fields in `docs/documents/` come from the tables of the decoder.
//!
//! A comment `<!-- fields: PATH -->` stands above a table with the fields of the object at PATH (`clusters.lb`); if
//! values at PATH can be several objects, `<!-- fields: PATH N -->` names the first, second … of them.
//! `CHANCERY_GOLDEN=write` writes the rows. A field whose own object has no table gives its rows to the table that it
//! stands in, so that the pages have every field of every kind.

use std::fs;
use std::path::Path;

use chancery::document::schema::{self, Row, Table};

use super::documented::pages;

const HEAD: &str = "| field | shape | default | meaning |\n|---|---|---|---|\n";

/// One table of a page.
struct Marked {
    page: String,
    /// The last heading above it.
    heading: String,
    table: Table,
}

/// The object of a comment; `None`: another line.
fn table_of(line: &str) -> Option<Table> {
    let marker = line.strip_prefix("<!-- fields: ")?.strip_suffix(" -->")?;
    let (path, number) = marker.split_once(' ').unwrap_or((marker, "1"));
    let tables = schema::find(path).expect("a kind or field").tables();
    let is_clear = marker.contains(' ') || tables.len() == 1;
    assert!(
        is_clear,
        "{path} can be {} objects, expected the number of one",
        tables.len()
    );
    let index: usize = number.parse().expect("a number");
    Some(tables[index - 1])
}

/// Every table of a page.
fn marked(page: &str, text: &str) -> Vec<Marked> {
    let mut heading = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches(['#', ' ']).to_owned();
        }
        found.extend(table_of(line).map(|table| Marked {
            page: page.to_owned(),
            heading: heading.clone(),
            table,
        }));
    }
    found
}

/// The page with the rows of its tables written anew.
fn with_rows(page: &str, text: &str, all: &[Marked]) -> String {
    let mut now = String::new();
    let mut heading = String::new();
    let mut is_old = false;
    for line in text.lines() {
        if is_old && line.starts_with('|') {
            continue;
        }
        is_old = false;
        if line.starts_with('#') {
            heading = line.trim_start_matches(['#', ' ']).to_owned();
        }
        now += &format!("{line}\n");
        if let Some(table) = table_of(line) {
            is_old = true;
            now += HEAD;
            for row in table.rows(&|inner| is_inlined(inner, all)) {
                now += &shown(&row, page, &heading, all);
            }
        }
    }
    now
}

/// Whether an object has a field that stands in no table.
fn is_inlined(inner: Table, all: &[Marked]) -> bool {
    let is_shown = |row: &Row| {
        let tables = all.iter().flat_map(|marked| marked.table.rows(&|_| false));
        tables
            .into_iter()
            .any(|other| (&other.path, other.about) == (&row.path, row.about))
    };
    !inner.rows(&|_| false).iter().all(is_shown)
}

fn shown(row: &Row, page: &str, heading: &str, all: &[Marked]) -> String {
    let mut shape = row.shape.clone();
    let mut about = row.about.to_owned();
    for inner in row.objects.iter().filter(|inner| !inner.rows(&|_| false).is_empty()) {
        let place = all.iter().find(|marked| marked.table == *inner);
        match place {
            Some(place) if (place.page.as_str(), place.heading.as_str()) == (page, heading) => {}
            Some(place) => {
                let file = if place.page == page { "" } else { &place.page };
                let anchor = place.heading.to_lowercase().replace(' ', "-");
                let link = format!("See [{}]({file}#{anchor})", place.heading);
                let end = if about.ends_with('.') { "" } else { "." };
                if !about.contains(&link) {
                    about += &format!("{end} {link}");
                }
            }
            None if is_inlined(*inner, all) || row.shape != "object" => {}
            None => {
                let names: Vec<String> = inner
                    .rows(&|_| false)
                    .iter()
                    .map(|row| format!("`{}`", row.path))
                    .collect();
                shape += &format!(" of {}", names.join(", "));
            }
        }
    }
    format!("| `{}` | {shape} | {} | {about} |\n", row.path, row.default)
}

fn texts() -> Vec<(String, String)> {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let mut texts: Vec<(String, String)> = pages()
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).expect("read a page")))
        .collect();
    texts.sort();
    texts
}

#[test]
fn the_tables_of_the_pages_are_those_of_the_decoder() {
    let texts = texts();
    let all: Vec<Marked> = texts.iter().flat_map(|(page, text)| marked(page, text)).collect();
    let write = std::env::var_os("CHANCERY_GOLDEN").is_some_and(|value| value == "write");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/documents");
    let mut wrong = Vec::new();
    for (page, text) in &texts {
        let now = with_rows(page, text, &all);
        if write {
            fs::write(folder.join(page), &now).expect("write a page");
        } else if *text != now {
            let differs = now
                .lines()
                .find(|line| !text.lines().any(|old| old == *line))
                .unwrap_or("fewer rows");
            wrong.push(format!("{page}: {differs}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nCHANCERY_GOLDEN=write accepts the rows of the decoder",
        wrong.join("\n")
    );

    let without: Vec<String> = schema::kinds()
        .flat_map(|kind| {
            schema::find(kind.as_str())
                .expect("a kind")
                .tables()
                .into_iter()
                .map(move |table| (kind, table))
        })
        .filter(|(_, table)| is_inlined(*table, &all))
        .map(|(kind, _)| kind.to_string())
        .collect();
    assert!(without.is_empty(), "kinds without a table: {without:?}");
}
