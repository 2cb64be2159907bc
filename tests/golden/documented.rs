//! The server accepts the example documents of docs/documents/.
//!
//! A comment above a fence, `<!-- routes/orders -->`, is the key of the document in the fence. Every `json` and `yaml`
//! fence of these pages has such a comment.

use std::fs;
use std::path::{Path, PathBuf};

use super::inputs::try_compile;

/// One fence with its place.
struct Example {
    place: String,
    key: Option<String>,
    language: String,
    text: String,
}

/// The fences of a page.
fn examples(page: &str, text: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut key = None;
    let mut is_inside = false;
    for (line, number) in text.lines().zip(1..) {
        match (line.strip_prefix("```"), is_inside) {
            (Some(language), false) => {
                is_inside = true;
                examples.push(Example {
                    place: format!("{page}:{number}"),
                    key: key.take(),
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), true) => is_inside = false,
            (None, true) => {
                let example = examples.last_mut().expect("a fence is open");
                example.text.push_str(line);
                example.text.push('\n');
            }
            (None, false) => {
                let marker = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                key = marker.map(str::to_owned);
            }
        }
    }
    examples
}

/// The reasons against the examples of a page, and the number of examples that are documents.
fn judge(page: &str, text: &str) -> (Vec<String>, usize) {
    let mut wrong = Vec::new();
    let mut documents = 0;
    let examples = examples(page, text);
    let secrets: Vec<(String, String)> = examples
        .iter()
        .filter_map(|example| Some((example.key.clone()?, example.text.clone())))
        .filter(|(key, _)| key.starts_with("secrets/"))
        .collect();
    for Example {
        place,
        key,
        language,
        text,
    } in examples
    {
        match key {
            Some(key) => {
                documents += 1;
                // The secrets of the page, which an example may name.
                let beside = secrets.iter().filter(|(other, _)| *other != key);
                let beside = beside.map(|(key, text)| (key.as_str(), text.clone()));
                let reason = try_compile(beside.chain([(key.as_str(), text)])).err();
                wrong.extend(reason.map(|reason| format!("{place}: {reason}")));
            }
            None if ["json", "yaml"].contains(&&*language) => wrong.push(format!("{place}: no key above the fence")),
            None => {}
        }
    }
    (wrong, documents)
}

/// A page with the server's reasons in its tables of rejected documents; a document that is accepted is an error.
fn with_reasons(page: &str, text: &str) -> (String, Vec<String>) {
    let mut key = None;
    let mut wrong = Vec::new();
    let mut now = String::new();
    for (line, number) in text.lines().zip(1..) {
        if let Some(marker) = line.strip_prefix("<!-- rejected: ") {
            key = marker.strip_suffix(" -->");
        } else if !line.starts_with('|') {
            key = None;
        }

        let cells = || line.strip_prefix("| `")?.strip_suffix("` |")?.split_once("` | `");
        match (key, cells()) {
            (Some(key), Some((document, _))) => match try_compile([(key, document.replace("\\|", "|"))]) {
                Ok(_) => {
                    wrong.push(format!("{page}:{number}: accepted"));
                    now += &format!("{line}\n");
                }
                Err(said) => {
                    let reason = said.strip_prefix(&format!("{key}: ")).unwrap_or(&said);
                    now += &format!("| `{document}` | `{}` |\n", reason.replace('|', "\\|"));
                }
            },
            _ => now += &format!("{line}\n"),
        }
    }
    (now, wrong)
}

/// Every page of docs/documents/.
pub(crate) fn pages() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/documents");
    let entries = fs::read_dir(folder).expect("docs/documents is there");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect()
}

/// The rejected documents of all pages, by key.
pub(crate) fn rejected_of_pages() -> Vec<(String, String)> {
    let mut rejected = Vec::new();
    for path in pages() {
        let text = fs::read_to_string(path).expect("read a page");
        let mut key = None;
        for line in text.lines() {
            if let Some(marker) = line.strip_prefix("<!-- rejected: ") {
                key = marker.strip_suffix(" -->").map(str::to_owned);
            } else if !line.starts_with('|') {
                key = None;
            }
            let document = line.strip_prefix("| `").and_then(|rest| rest.split_once("` | `"));
            if let (Some(key), Some((document, _))) = (&key, document) {
                rejected.push((key.clone(), document.replace("\\|", "|")));
            }
        }
    }
    rejected
}

/// The documents of all pages, by key.
pub(crate) fn documents_of_pages() -> Vec<(String, String)> {
    let texts = pages()
        .into_iter()
        .map(|path| fs::read_to_string(path).expect("read a page"));
    let examples = texts.flat_map(|text| examples("", &text));
    examples
        .filter_map(|example| Some((example.key?, example.text)))
        .collect()
}

#[test]
fn every_example_is_accepted() {
    let (mut wrong, mut documents) = (Vec::new(), 0);
    for path in pages() {
        let text = fs::read_to_string(&path).expect("read a page");
        let (of_page, found) = judge(&path.display().to_string(), &text);
        wrong.extend(of_page);
        documents += found;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(documents > 10, "the search for examples finds them: {documents}");
}

#[test]
fn every_reason_is_the_servers() {
    let write = std::env::var_os("CHANCERY_GOLDEN").is_some_and(|value| value == "write");
    let mut wrong = Vec::new();
    for path in pages() {
        let text = fs::read_to_string(&path).expect("read a page");
        let (now, of_page) = with_reasons(&path.display().to_string(), &text);
        wrong.extend(of_page);
        if write {
            fs::write(&path, &now).expect("write a page");
            continue;
        }
        let differences = text.lines().zip(now.lines()).filter(|(was, is)| was != is);
        wrong.extend(differences.map(|(was, is)| format!("{}:\n{was}\nis now\n{is}", path.display())));
    }
    assert!(
        wrong.is_empty(),
        "{}\nCHANCERY_GOLDEN=write accepts other reasons",
        wrong.join("\n")
    );
}

#[test]
fn a_bad_example_is_found() {
    let page = "<!-- routes/a -->\n```json\n{ \"match\": \"/a\" }\n```\n\
                <!-- routes/b -->\n```json\n{ \"match\": \"/b\", \"timeout\": 5 }\n```\n\
                ```yaml\nmatch: /c\n```\n";
    let (wrong, documents) = judge("page", page);
    assert_eq!(documents, 2);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(
        wrong[0].contains("page:6: routes/b: timeout: found the number 5"),
        "{wrong:?}"
    );
    assert_eq!(wrong[1], "page:9: no key above the fence");
}

#[test]
fn reasons_are_put_into_the_rows_of_rejected_documents() {
    let page = "<!-- rejected: routes/a -->\n| document | reason |\n|---|---|\n\
                | `{ \"match\": \"a\\|b\" }` | `other` |\n\
                | `{ \"match\": \"/a\" }` | `accepted` |\n\n\
                | `not` | `a document` |\n";
    let (now, wrong) = with_reasons("page", page);
    assert!(
        now.contains("a\\|b\" }` | `match: found the string \"a\\|b\", expected"),
        "{now}"
    );
    assert!(now.ends_with("| `not` | `a document` |\n"), "{now}");
    assert_eq!(wrong, ["page:5: accepted"]);
}
