//! The server rejects every document that Envoy would reject, with the field and a sentence, and accepts the others.
//!
//! The conditions and their examples are in `tests/data/refused_by_envoy/`; `docs/refused-by-envoy.md` is generated
//! from them (`CHANCERY_GOLDEN=write`). In [`envoy`] a real Envoy reads every example.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use chancery::admin::blame::{field, resource_words};
use chancery::document::Rejection;
use chancery::document::key::{DocumentKey, Kind};
use chancery::resource::compile::{Compiled, Options};

use super::inputs::edit;
use super::support::catalogue::{Case, Catalogue, Condition};

mod envoy;
mod extensions;

/// The rejection of an example among its `beside` documents, if the server rejects it.
fn judged(case: &Case) -> Result<(), Rejection> {
    let document = (case.key.clone(), case.document());
    let documents = case.beside.iter().cloned().chain([document]).zip(1..);
    let mut edits = Vec::new();
    for ((key, value), revision) in documents {
        edits.push(edit(&key, &value.to_string(), revision)?);
    }
    match Compiled::new(Options::default()).apply(edits) {
        Ok(_) => Ok(()),
        Err(faults) => {
            let (own, others): (Vec<_>, Vec<_>) =
                faults.into_iter().partition(|fault| fault.key.to_string() == case.key);
            match own.into_iter().next() {
                Some(fault) if others.is_empty() => Err(fault.rejection),
                _ => Err(Rejection::new("", format!("beside it: {others:?}"))),
            }
        }
    }
}

#[test]
fn every_example_is_refused_or_accepted_as_it_says() {
    let catalogue = Catalogue::load();
    let mut wrong = Vec::new();
    for condition in &catalogue.conditions {
        let id = &condition.id;
        for (index, example) in condition.refused.iter().enumerate() {
            let case = catalogue.case(condition, example);
            let start = format!("{}: {}", case.path, case.says);
            match judged(&case) {
                Ok(()) => wrong.push(format!("{id}, refused[{index}]: is accepted: {}", case.resource)),
                Err(rejection) if case.says.is_empty() || !rejection.to_string().starts_with(&start) => {
                    wrong.push(format!(
                        "{id}, refused[{index}]: says\n  {rejection}\nand not\n  {start}"
                    ));
                }
                Err(_) => {}
            }
        }
        for (index, example) in condition.accepted.iter().enumerate() {
            if let Err(rejection) = judged(&catalogue.case(condition, example)) {
                wrong.push(format!("{id}, accepted[{index}]: is refused: {rejection}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The words of a NACK lead to a field that contains the one that the server's own rejection names.
#[test]
fn words_of_envoy_lead_to_the_field_of_each_example() {
    let catalogue = Catalogue::load();
    let mut used = BTreeSet::new();
    for condition in &catalogue.conditions {
        for example in &condition.refused {
            let case = catalogue.case(condition, example);
            let key = DocumentKey::new(Kind::Xds, case.key.trim_start_matches("xds/"));
            let is_said = |row: &str| case.envoy.iter().any(|words| words.contains(row));
            used.extend(resource_words().filter(|(of, row, _)| *of == case.resource_type && is_said(row)));
            // Of several texts Envoy says one; which one is not told.
            let [words] = case.envoy.as_slice() else { continue };
            let Some(path) = field(&key, words) else { continue };
            let rest = case
                .path
                .strip_prefix(&*path)
                .filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
            assert!(rest.is_some(), "{}: {words}: {path} is not {}", condition.id, case.path);
        }
    }
    // Only the host knows whether a socket can be bound (NL-03).
    let unknown = resource_words().filter(|row| !used.contains(row) && row.1 != "cannot bind");
    assert_eq!(unknown.collect::<Vec<_>>(), [], "words that no condition has");
}

/// Section by section, how many there are.
const SECTIONS: [(&str, usize); 6] = [("NE", 12), ("NR", 51), ("NC", 54), ("NP", 13), ("NL", 41), ("NS", 8)];

#[test]
fn every_condition_has_examples_or_a_reason() {
    let catalogue = Catalogue::load();
    let expected = SECTIONS
        .iter()
        .flat_map(|(section, count)| (1..=*count).map(move |n| format!("{section}-{n:02}")));
    let expected: BTreeSet<String> = expected.chain(["NC-24b", "NC-39b"].map(str::to_owned)).collect();
    let found: BTreeSet<String> = catalogue
        .conditions
        .iter()
        .map(|condition| condition.id.clone())
        .collect();
    assert_eq!(found, expected);
    assert_eq!(catalogue.conditions.len(), expected.len(), "each once");
    for condition in &catalogue.conditions {
        let reasons = usize::from(condition.unknown.is_some()) + usize::from(condition.never.is_some());
        let examples = !condition.refused.is_empty() && !condition.accepted.is_empty();
        assert!(
            (reasons == 1 && condition.refused.is_empty()) || (reasons == 0 && examples),
            "{}: expected either a refused and an accepted example, or a reason why there are none",
            condition.id
        );
    }
}

#[test]
fn the_page_about_refusals_is_up_to_date() {
    let catalogue = Catalogue::load();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/refused-by-envoy.md");
    let page = page(&catalogue);
    if std::env::var_os("CHANCERY_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, page).expect("write the page");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "{} is not what the examples say; CHANCERY_GOLDEN=write writes it",
        path.display()
    );
}

fn page(catalogue: &Catalogue) -> String {
    let mut page = include_str!("refusals/head.md").to_owned();
    let titles = [
        "Any resource",
        "Routes",
        "Clusters",
        "Endpoints",
        "Listeners",
        "Scopes, secrets, others",
    ];
    for ((section, _), title) in SECTIONS.iter().zip(titles) {
        let rows = catalogue
            .conditions
            .iter()
            .filter(|condition| condition.id.starts_with(section));
        write!(
            page,
            "\n## {title}\n\n| ID | when | verdict | field and sentence, by example |\n|---|---|---|---|\n"
        )
        .expect("a string takes everything");
        rows.for_each(|condition| page.push_str(&row(catalogue, condition)));
    }
    page
}

fn row(catalogue: &Catalogue, condition: &Condition) -> String {
    let (verdict, what) = match (&condition.unknown, &condition.never) {
        (Some(reason), _) => ("not knowable", reason.clone()),
        (_, Some(reason)) => ("cannot happen", reason.clone()),
        _ => {
            let example = condition.refused.first().expect("an example");
            let rejection = judged(&catalogue.case(condition, example)).expect_err("a refusal");
            ("refused", format!("`{}`: {}", rejection.path, rejection.reason))
        }
    };
    let cell = |text: &str| {
        text.replace('|', "\\|")
            .replace('\n', " ")
            .replace('<', "\\<")
            .replace('*', "\\*")
    };
    format!(
        "| {} | {} | {verdict} | {} |\n",
        condition.id,
        cell(&condition.when),
        cell(&what)
    )
}
