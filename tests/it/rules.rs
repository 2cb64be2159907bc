//! Every rule ID and every page that the tree cites exists in the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where each family of IDs is defined.
const PAGES: &[(&str, &[&str])] = &[
    ("docs/xds-rules.md", &["F", "GEN", "SW", "DX", "AD", "GR", "PX"]),
    ("docs/refused-by-envoy.md", &["NE", "NR", "NC", "NP", "NL", "NS"]),
];

/// `XX-NN`: a family, a dash and two digits.
fn ids(text: &str, families: &[&str]) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '-';
    let words = text.split(|character: char| !is_part(character));
    let is_id = |word: &&str| {
        word.split_once('-').is_some_and(|(family, number)| {
            families.contains(&family) && number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    words.filter(is_id).map(str::to_owned).collect()
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a folder") {
        let path = entry.expect("read a folder's entry").path();
        let is_text = || {
            path.extension()
                .is_some_and(|extension| ["rs", "md", "toml"].iter().any(|one| extension == *one))
        };
        if path.is_dir() {
            if path
                .file_name()
                .is_none_or(|name| name != "target" && name != "node_modules")
            {
                files_below(&path, files);
            }
        } else if is_text() {
            files.push(path);
        }
    }
}

#[test]
fn every_id_that_is_cited_is_defined() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "docs", "benches"] {
        files_below(&root.join(folder), &mut files);
    }
    let mut undefined: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut cited = 0;
    for (page, families) in PAGES {
        let defined = ids(
            &fs::read_to_string(root.join(page)).expect("the page is there"),
            families,
        );
        for file in files.iter().filter(|file| **file != root.join(page)) {
            let found = ids(&fs::read_to_string(file).expect("read a text file"), families);
            cited += found.len();
            undefined.extend(found.difference(&defined).map(|id| (id.clone(), file.clone())));
        }
    }
    assert!(cited > 100, "the search for IDs finds them: {cited}");
    assert!(undefined.is_empty(), "cited and on no page: {undefined:#?}");
}

/// The names of Markdown pages in a text.
fn pages(text: &str) -> BTreeSet<&str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    let words = text.split(|character: char| !is_part(character));
    let names = words.map(|word| word.trim_end_matches('.'));
    names.filter(|name| name.ends_with(".md") && *name != ".md").collect()
}

#[test]
fn every_page_that_is_cited_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "docs", "benches"] {
        files_below(&root.join(folder), &mut files);
    }
    files.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|page| root.join(page)));
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let mut cited = 0;
    for file in &files {
        let text = fs::read_to_string(file).expect("read a text file");
        let folder = file.parent().expect("a file is in a folder");
        // Texts of the tables of fields stand in the pages of the documents.
        let places = [root, &root.join("docs"), &root.join("docs/documents"), folder];
        for page in pages(&text) {
            cited += 1;
            if !places.iter().any(|place| place.join(page).is_file()) {
                missing.insert(format!("{page}, cited in {}", file.display()));
            }
        }
    }
    assert!(cited > 100, "the search for pages finds them: {cited}");
    assert!(missing.is_empty(), "cited and not there: {missing:#?}");
}

#[test]
fn pages_are_found_in_a_sentence() {
    let text = "See docs/api.md (and [the rules](../README.md#golden)). Not readme.txt, nor md.";
    assert_eq!(pages(text), BTreeSet::from(["../README.md", "docs/api.md"]));
}
