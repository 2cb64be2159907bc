//! The table of all IDs, printed after a run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use super::checklist::{CHECKLIST, Entry};
use super::rule::{BOTH, Kind, Noted, Variant};

/// The results of the trials so far: for each ID, true if all its rows passed.
#[derive(Default)]
pub(crate) struct Verdicts(Mutex<BTreeMap<(&'static str, Variant), bool>>);

impl Verdicts {
    /// A trial ended.
    pub(crate) fn record(&self, id: &'static str, variant: Variant, passed: bool) {
        let mut verdicts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = verdicts.entry((id, variant)).or_insert(true);
        *verdict &= passed;
    }

    fn of(&self, id: &'static str, variant: Variant) -> Option<bool> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(id, variant))
            .copied()
    }
}

/// The table, and a line of sums.
pub(crate) fn render(verdicts: &Verdicts, noted: impl Iterator<Item = &'static Noted>) -> String {
    let noted: Vec<&Noted> = noted.collect();
    let mut table = format!("{:<8}{:<12}{:<14}{:<14}rule\n", "ID", "level", "SotW", "delta");
    let mut sums: BTreeMap<&'static str, usize> = BTreeMap::new();
    for entry in CHECKLIST {
        let words = BOTH.iter().map(|variant| {
            let word = word(entry, *variant, verdicts, &noted);
            if word != "-" {
                *sums.entry(word).or_default() += 1;
            }
            word
        });
        let words: Vec<&str> = words.collect();
        line(&mut table, entry, &words, &noted);
    }
    let sums: Vec<String> = sums.iter().map(|(word, count)| format!("{count} {word}")).collect();
    writeln!(
        table,
        "{} rules, SotW and delta counted apart: {}",
        CHECKLIST.len(),
        sums.join(", ")
    )
    .expect("a string");
    table
}

fn word(entry: &Entry, variant: Variant, verdicts: &Verdicts, noted: &[&Noted]) -> &'static str {
    match verdicts.of(entry.id, variant) {
        Some(true) => return "passed",
        Some(false) => return "failed",
        None => {}
    }
    let note = noted
        .iter()
        .find(|note| note.id == entry.id && note.applies.contains(&variant));
    match note.map(|note| note.kind) {
        Some(Kind::Unmet) => "unmet",
        Some(Kind::Information) => "information",
        None if entry.applies.contains(&variant) => "not run",
        None => "-",
    }
}

fn line(table: &mut String, entry: &Entry, words: &[&str], noted: &[&Noted]) {
    let level = entry.level.word();
    writeln!(
        table,
        "{:<8}{level:<12}{:<14}{:<14}{}",
        entry.id, words[0], words[1], entry.title
    )
    .expect("a string");
    for note in noted.iter().filter(|note| note.id == entry.id) {
        writeln!(table, "{:<48}{}", "", note.reason).expect("a string");
    }
}
