//! The layers: every path in `src/` against the table of allowed names in ARCHITECTURE.md, and the rooms of `xds` among
//! themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use paths::{File, Names, followed};

mod paths;

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

/// Every file of `src/`, read.
fn files_of_src() -> Vec<(String, File)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&root, &mut files);
    let read = files.iter().map(|file| {
        let below = file.strip_prefix(&root).expect("a file of src");
        let source = fs::read_to_string(file).expect("read a source file");
        (below.display().to_string(), File::read(below, &source))
    });
    read.collect()
}

#[test]
fn every_module_names_only_what_the_table_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = table(&fs::read_to_string(root.join("ARCHITECTURE.md")).expect("read ARCHITECTURE.md"));
    let (names, files): (Vec<_>, Vec<_>) = files_of_src().into_iter().unzip();
    let mut wrong = Vec::new();
    for (below, file) in names.iter().zip(&files) {
        let Some(module) = file.module.first() else { continue };
        let Some(allowed) = table.get(module) else {
            wrong.push(format!("{module} has no row in the table"));
            continue;
        };
        if allowed.contains("everything") {
            continue;
        }
        for path in followed(file, &files) {
            let named = path.first().expect("a path has a segment");
            if named != module && !allowed.contains(named) {
                wrong.push(format!("{below} names crate::{}", path.join("::")));
            }
        }
    }
    assert!(files.len() > 200, "found only {} source files", files.len());
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
    let floor = |room: Option<&String>| FLOORS.iter().position(|other| Some(*other) == room.map(String::as_str));
    let (names, files): (Vec<_>, Vec<_>) = files_of_src().into_iter().unzip();
    let mut wrong = Vec::new();
    for (below, file) in names.iter().zip(&files) {
        if below.contains("/tests") || file.module.first().is_none_or(|module| module != "xds") {
            continue;
        }
        let Some(own) = floor(file.module.get(1)) else { continue };
        for path in followed(file, &files) {
            let is_above = path.first().is_some_and(|module| module == "xds")
                && floor(path.get(1)).is_some_and(|other| other < own);
            if is_above {
                wrong.push(format!("src/{below} names crate::{} of a room above", path.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_circle_of_files_within_a_room() {
    const ROOMS: [&str; 8] = [
        "backend",
        "config",
        "document",
        "fleet",
        "reconcile",
        "resource",
        "snapshot",
        "xds",
    ];
    let (_, files): (Vec<_>, Vec<_>) = files_of_src().into_iter().unzip();
    let is_file = |path: &[String]| files.iter().any(|file| file.module == path);
    let defining = |path: Names| {
        let end = (1..=path.len()).rev().find(|end| is_file(&path[..*end]))?;
        Some(path[..end].to_vec())
    };
    let mut arrows: BTreeMap<&Names, BTreeSet<Names>> = BTreeMap::new();
    for file in &files {
        let (module, own) = (&file.module, file.module.first());
        if own.is_none_or(|room| !ROOMS.contains(&&**room)) || module.iter().any(|name| name == "tests") {
            continue;
        }
        // A parent and its children are one thing in several files.
        let others = followed(file, &files).into_iter().filter_map(defining);
        let others = others.filter(|other| {
            other.first() == own && !other.starts_with(module) && !module.starts_with(other.as_slice())
        });
        arrows.insert(module, others.collect());
    }
    // A file that names no other is in no circle, and so on upwards.
    loop {
        let named = |others: &BTreeSet<Names>| others.iter().any(|other| arrows.contains_key(other));
        let done: Vec<&Names> = arrows
            .iter()
            .filter(|(_, others)| !named(others))
            .map(|(module, _)| *module)
            .collect();
        if done.is_empty() {
            break;
        }
        for module in done {
            arrows.remove(module);
        }
    }
    let circles: Vec<String> = arrows
        .iter()
        .map(|(module, others)| format!("{} names {others:?}", module.join("::")))
        .collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
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
fn every_path_of_a_file_is_seen() {
    let source = r#"
        //! crate::comment
        use std::fs::File;
        use crate::{backend::{Event, follow as watch}, xds};
        use crate::{
            fleet::{self, Nonce},
        };
        use super::sibling::Name;
        mod child;
        pub use child::Thing;
        pub mod inline { use super::child::Inner; fn f() { crate::inner::f() } }
        fn body() -> Name {
            let text = "crate::text"; // crate::comment
            xds::server::run(File::open(watch::START), fleet::Fleet::default())
        }
        #[cfg(test)]
        mod tests { use crate::tested::Thing; }
    "#;
    let file = File::read(Path::new("room/file.rs"), source);
    let seen: Vec<String> = file.paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        seen,
        [
            "backend::Event",
            "backend::follow",
            "backend::follow::START",
            "fleet",
            "fleet::Fleet::default",
            "fleet::Nonce",
            "inner::f",
            "room::file::child::Inner",
            "room::file::child::Thing",
            "room::sibling::Name",
            "xds",
            "xds::server::run",
        ]
    );
}

#[test]
fn a_path_through_a_re_export_leads_to_what_is_behind_it() {
    let exporting = File::read(
        Path::new("xds.rs"),
        "mod server; pub(crate) use server::{options, port::Port as Door};",
    );
    let naming = File::read(Path::new("xds/stream.rs"), "use crate::xds::{Door, options::Options};");
    let followed = followed(&naming, &[exporting]);
    let seen: Vec<String> = followed.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        seen,
        [
            "xds::Door",
            "xds::options::Options",
            "xds::server::options::Options",
            "xds::server::port::Port"
        ]
    );
}
