//! The layers: every `crate::` path in `src/` against the table of allowed names in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a source folder") {
        let path = entry.expect("read a source folder's entry").path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The rows `| module | may name |` of the section "Who may name whom".
fn table(architecture: &str) -> BTreeMap<String, BTreeSet<String>> {
    let section = architecture
        .split("## Who may name whom")
        .nth(1)
        .expect("the section is there");
    let section = section.split("\n## ").next().expect("split gives at least one part");
    section
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
            let module = cells.first()?.strip_prefix('`')?.strip_suffix('`')?.to_owned();
            let named = cells
                .get(1)?
                .split(',')
                .filter_map(|word| Some(word.trim().strip_prefix('`')?.strip_suffix('`')?.to_owned()));
            Some((module, named.collect()))
        })
        .collect()
}

/// The modules named as `crate::module` in a file, its unit tests left out (they may build values of later stages).
fn named_modules(source: &str) -> BTreeSet<String> {
    code_lines(source)
        .flat_map(|line| {
            line.match_indices("crate::")
                .map(move |(at, found)| &line[at + found.len()..])
        })
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(group) => group
                .split(',')
                .map(|part| part.split("::").next().unwrap_or_default())
                .collect(),
            None => vec![rest],
        })
        .map(|rest| {
            rest.trim()
                .chars()
                .take_while(|character| character.is_alphanumeric() || *character == '_')
                .collect()
        })
        .filter(|module: &String| !module.is_empty())
        .collect()
}

#[test]
fn every_module_names_only_what_the_table_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = table(&fs::read_to_string(root.join("ARCHITECTURE.md")).expect("read ARCHITECTURE.md"));
    let mut files = Vec::new();
    source_files(&root.join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let below = file.strip_prefix(root.join("src")).expect("a file of src");
        let first = below.iter().next().expect("a file has a name").to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(allowed) = table.get(&module) else {
            wrong.push(format!("{module} has no row in the table"));
            continue;
        };
        if allowed.contains("everything") {
            continue;
        }
        let source = fs::read_to_string(file).expect("read a source file");
        for named in named_modules(&source) {
            if named != module && !allowed.contains(&named) {
                wrong.push(format!("{} names crate::{named}", below.display()));
            }
        }
    }
    assert!(files.len() > 30, "found only {} source files", files.len());
    assert!(
        wrong.is_empty(),
        "against ARCHITECTURE.md, \"Who may name whom\":\n{}",
        wrong.join("\n")
    );
}

/// The lines of code of a file that are no comments, its unit tests left out.
fn code_lines(source: &str) -> impl Iterator<Item = &str> {
    let code = source.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The files of `src/xds`, their unit tests left out, as paths below it.
fn xds_files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/xds");
    let mut files = Vec::new();
    source_files(&root, &mut files);
    let named = files.iter().map(|file| {
        let below = file.strip_prefix(&root).expect("a file of src/xds");
        (
            below.display().to_string(),
            fs::read_to_string(file).expect("read a source file"),
        )
    });
    named.filter(|(below, _)| !below.contains("/tests")).collect()
}

#[test]
fn the_session_has_no_io() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (below, source) in xds_files() {
        if !(below == "session.rs" || below.starts_with("session/")) {
            continue;
        }
        seen += 1;
        for line in code_lines(&source) {
            for named in [
                "tokio::",
                "h2::",
                "tracing::",
                "std::fs",
                "std::net",
                "Instant::now",
                "SystemTime::now",
            ] {
                if line.contains(named) {
                    wrong.push(format!("src/xds/{below} names {named}: {}", line.trim()));
                }
            }
        }
    }
    assert!(seen > 15, "found only {seen} files of the session");
    assert!(
        wrong.is_empty(),
        "the session is a value without I/O or clock:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_rooms_of_xds_name_only_those_below_them() {
    const FLOORS: [&str; 5] = ["server", "services", "stream", "session", "http2"];
    let mut wrong = Vec::new();
    for (below, source) in xds_files() {
        let room = below.split(['/', '.']).next().unwrap_or_default();
        let Some(floor) = FLOORS.iter().position(|other| *other == room) else {
            continue;
        };
        for line in code_lines(&source) {
            for above in &FLOORS[..floor] {
                let path = format!("crate::xds::{above}::");
                if line.contains(&path) {
                    wrong.push(format!("src/xds/{below} names {path} of a room above"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_folder_of_xds_has_more_than_twelve_files() {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for (below, _) in xds_files() {
        let folder = below.rsplit_once('/').map_or("", |(folder, _)| folder);
        *folders.entry(folder.to_owned()).or_default() += 1;
    }
    let full: Vec<_> = folders.iter().filter(|(_, files)| **files > 12).collect();
    assert!(full.is_empty(), "{full:?}");
}

#[test]
fn grouped_and_nested_paths_are_seen() {
    let source = "use crate::{backend::Event, xds};\nlet x = crate::fleet::Fleet::default(); // crate::not_code\n// crate::comment\n";
    let expected: BTreeSet<String> = ["backend", "xds", "fleet", "not_code"].map(str::to_owned).into();
    assert_eq!(named_modules(source), expected);
}
