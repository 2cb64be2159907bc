//! The server accepts the example documents of docs/documents/.
//!
//! A comment above a fence, `<!-- routes/orders -->`, is the key of the document in the fence. Every `json` and `yaml`
//! fence of these pages has such a comment.

use std::fs;
use std::path::Path;

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
    for Example {
        place,
        key,
        language,
        text,
    } in examples(page, text)
    {
        match key {
            Some(key) => {
                documents += 1;
                let reason = try_compile([(key.as_str(), text)]).err();
                wrong.extend(reason.map(|reason| format!("{place}: {reason}")));
            }
            None if ["json", "yaml"].contains(&&*language) => wrong.push(format!("{place}: no key above the fence")),
            None => {}
        }
    }
    (wrong, documents)
}

#[test]
fn every_example_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/documents");
    let (mut wrong, mut documents) = (Vec::new(), 0);
    for entry in fs::read_dir(&folder).expect("docs/documents is there") {
        let path = entry.expect("a readable entry").path();
        let text = fs::read_to_string(&path).expect("read a page");
        let (of_page, found) = judge(&path.display().to_string(), &text);
        wrong.extend(of_page);
        documents += found;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(documents > 10, "the search for examples finds them: {documents}");
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
