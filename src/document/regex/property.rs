//! Unicode properties in a regex, `\pL` and `\p{Lu}`: which bytes they are, since Envoy matches bytes (Latin-1).
//!
//! RE2 knows the short names of general categories, `Any` and names of scripts, in the case in which they are written.
//! Of scripts, only those with a character of Latin-1 are known here.

use regex_syntax::ast::{ClassUnicode, ClassUnicodeKind};

use super::{LAST, Ranges, fold, set_of};

/// The ranges of each general category that has a character of Latin-1. A letter alone stands for all that begin so.
const CATEGORIES: [(&str, &[(u32, u32)]); 19] = [
    ("Cc", &[(0x00, 0x1f), (0x7f, 0x9f)]),
    ("Cf", &[(0xad, 0xad)]),
    ("Ll", &[(0x61, 0x7a), (0xb5, 0xb5), (0xdf, 0xf6), (0xf8, 0xff)]),
    ("Lo", &[(0xaa, 0xaa), (0xba, 0xba)]),
    ("Lu", &[(0x41, 0x5a), (0xc0, 0xd6), (0xd8, 0xde)]),
    ("Nd", &[(0x30, 0x39)]),
    ("No", &[(0xb2, 0xb3), (0xb9, 0xb9), (0xbc, 0xbe)]),
    ("Pc", &[(0x5f, 0x5f)]),
    ("Pd", &[(0x2d, 0x2d)]),
    ("Pe", &[(0x29, 0x29), (0x5d, 0x5d), (0x7d, 0x7d)]),
    ("Pf", &[(0xbb, 0xbb)]),
    ("Pi", &[(0xab, 0xab)]),
    (
        "Po",
        &[
            (0x21, 0x23),
            (0x25, 0x27),
            (0x2a, 0x2a),
            (0x2c, 0x2c),
            (0x2e, 0x2f),
            (0x3a, 0x3b),
            (0x3f, 0x40),
            (0x5c, 0x5c),
            (0xa1, 0xa1),
            (0xa7, 0xa7),
            (0xb6, 0xb7),
            (0xbf, 0xbf),
        ],
    ),
    ("Ps", &[(0x28, 0x28), (0x5b, 0x5b), (0x7b, 0x7b)]),
    ("Sc", &[(0x24, 0x24), (0xa2, 0xa5)]),
    (
        "Sk",
        &[
            (0x5e, 0x5e),
            (0x60, 0x60),
            (0xa8, 0xa8),
            (0xaf, 0xaf),
            (0xb4, 0xb4),
            (0xb8, 0xb8),
        ],
    ),
    (
        "Sm",
        &[
            (0x2b, 0x2b),
            (0x3c, 0x3e),
            (0x7c, 0x7c),
            (0x7e, 0x7e),
            (0xac, 0xac),
            (0xb1, 0xb1),
            (0xd7, 0xd7),
            (0xf7, 0xf7),
        ],
    ),
    ("So", &[(0xa6, 0xa6), (0xa9, 0xa9), (0xae, 0xae), (0xb0, 0xb0)]),
    ("Zs", &[(0x20, 0x20), (0xa0, 0xa0)]),
];
/// Categories without a character of Latin-1.
const EMPTY: [&str; 11] = ["Co", "Cs", "Lm", "Lt", "M", "Mc", "Me", "Mn", "Nl", "Zl", "Zp"];
const LATIN: [(u32, u32); 7] = [
    (0x41, 0x5a),
    (0x61, 0x7a),
    (0xaa, 0xaa),
    (0xba, 0xba),
    (0xc0, 0xd6),
    (0xd8, 0xf6),
    (0xf8, 0xff),
];

/// The bytes of a property, in either case if `fold_case`: RE2 folds before it inverts. The error is the end of a
/// sentence.
pub(super) fn ranges(class: &ClassUnicode, fold_case: bool) -> Result<Ranges, String> {
    let name = match &class.kind {
        ClassUnicodeKind::OneLetter(letter) => letter.to_string(),
        ClassUnicodeKind::Named(name) => name.clone(),
        ClassUnicodeKind::NamedValue { .. } => return Err(unknown()),
    };
    let (name, inverted) = match name.strip_prefix('^') {
        Some(name) => (name, true),
        None => (&*name, false),
    };
    let mut ranges = of_name(name).ok_or_else(unknown)?;
    if fold_case {
        fold(&mut ranges);
    }
    Ok(set_of(&[ranges], class.negated != inverted))
}

fn of_name(name: &str) -> Option<Ranges> {
    match name {
        "Any" => return Some(vec![(0, LAST)]),
        "Latin" => return Some(LATIN.to_vec()),
        "Common" => return Some(set_of(&[LATIN.to_vec()], true)),
        name if EMPTY.contains(&name) => return Some(Ranges::new()),
        _ => {}
    }
    let of_category = |(category, _): &&(&str, _)| *category == name || (name.len() == 1 && category.starts_with(name));
    let found: Vec<Ranges> = CATEGORIES
        .iter()
        .filter(of_category)
        .map(|(_, ranges)| ranges.to_vec())
        .collect();
    (!found.is_empty()).then(|| set_of(&found, false))
}

fn unknown() -> String {
    "found a Unicode property that RE2 does not know or that no byte has, expected a general category such as \\pL or \
     \\p{Lu}, or \\p{Latin}"
        .to_owned()
}
