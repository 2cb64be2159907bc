//! Regular expressions: the syntax and size that RE2, Envoy's engine, accepts, computed without RE2.
//!
//! In: a pattern. Out: an upper bound of the size of RE2's program for it, or the reason why RE2 would refuse it.
//! regex-syntax parses the pattern. A pattern is refused if regex-syntax accepts more than RE2, or reads it otherwise
//! (set operations in classes, nested classes, flags `x`, `R`, `u`, word boundaries `\<`, a repetition of a
//! repetition).
//!
//! Envoy compiles with `RE2::Latin1`: the pattern is a string of bytes, each byte one character, and `é` is two of
//! them. So there is no character above `\x{FF}`, and a class is one instruction a byte range. The bound follows RE2's
//! compiler: an instruction a byte or byte range, a few for each operator, counted repetitions written out. It is exact
//! for literals (96 characters give 100) and never below Envoy's own figure: `tests/data/re2_program_sizes.json` has
//! the figures of Envoy itself, and `tests/golden/envoy_grammars.rs` asks Envoy again. Envoy refuses programs larger
//! than its runtime value `re2.max_program_size.error_level`, 100 by default.

use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    AssertionKind, Ast, ClassAsciiKind, ClassPerlKind, ClassSet, ClassSetItem, Flag, Flags, FlagsItemKind, GroupKind,
    HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange, Visitor, visit,
};

use super::Limits;

mod property;
mod reach;

pub(crate) use reach::{Text, can_match};

/// Deepest nesting of a pattern.
const MAX_NESTING: u32 = 100;
/// Longest pattern: one longer has a program far beyond any sensible limit.
const MAX_LENGTH: usize = 16 * 1024;
/// Largest counted repetition, nested ones multiplied: RE2's own limit.
const MAX_REPETITION: u32 = 1000;
/// Instructions that every program has: fail, match, and the loop that skips to the first match.
const FRAME: u64 = 4;
/// The last character of Latin-1.
const LAST: u32 = 0xff;
/// Bytes that RE2 may add to a property in either case: those whose other case is above Latin-1 (µ, ß, ÿ).
const FOLDED_FROM_ABOVE: u64 = 3;
/// The largest exact size; all above are equal.
const SATURATED: u64 = 1_000_000_000;

/// An upper bound of RE2's program size.
///
/// # Errors
/// The reason why RE2 would refuse the pattern, as the end of a sentence: `found a look-around, which RE2 does not
/// have`.
pub fn program_size(pattern: &str) -> Result<u32, String> {
    if pattern.is_empty() {
        return Err("found an empty regex, expected at least one character".to_owned());
    }
    if pattern.len() > MAX_LENGTH {
        return Err(format!(
            "found a regex of {} bytes, expected at most {MAX_LENGTH}",
            pattern.len()
        ));
    }

    let latin1: String = pattern.bytes().map(char::from).collect();
    let ast = ParserBuilder::new()
        .nest_limit(MAX_NESTING)
        .build()
        .parse(&latin1)
        .map_err(|error| {
            let place = error.span().start.column;
            format!(
                "found a regex that RE2 does not accept: {} at byte {place}",
                lower_first(&error.kind().to_string())
            )
        })?;

    let size = Sizer { fold_case: false }
        .size(&ast, 1)?
        .saturating_add(FRAME)
        .min(SATURATED);
    Ok(u32::try_from(size).expect("SATURATED fits"))
}

/// Checks a pattern against the limit. The error is the end of a sentence.
pub(crate) fn check(pattern: &str, limits: &Limits) -> Result<(), String> {
    let size = program_size(pattern)?;
    let limit = limits.re2_max_program_size;
    if size > limit {
        return Err(format!(
            "found a regex whose RE2 program may have {size} instructions, expected at most {limit} \
            (--re2-max-program-size)"
        ));
    }
    Ok(())
}

/// Whether a pattern that [`check`] accepts may match the empty text; never a false `false`.
pub(crate) fn may_match_nothing(pattern: &str) -> bool {
    let ast = ParserBuilder::new().nest_limit(MAX_NESTING).build().parse(pattern);
    ast.map_or(true, |ast| can_be_empty(&ast))
}

/// The number of capturing groups of a pattern that [`check`] accepts.
pub(crate) fn groups(pattern: &str) -> usize {
    struct Count(usize);
    impl Visitor for Count {
        type Output = usize;
        type Err = std::convert::Infallible;

        fn finish(self) -> Result<usize, Self::Err> {
            Ok(self.0)
        }

        fn visit_pre(&mut self, ast: &Ast) -> Result<(), Self::Err> {
            let captures = matches!(ast, Ast::Group(group) if group.is_capturing());
            self.0 += usize::from(captures);
            Ok(())
        }
    }
    let ast = ParserBuilder::new().nest_limit(MAX_NESTING).build().parse(pattern);
    ast.map_or(0, |ast| visit(&ast, Count(0)).unwrap_or_default())
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}

fn not_in_re2(what: &str) -> String {
    format!("found {what}, which RE2 does not have")
}

/// Walks the pattern; flags hold to the end of their group.
struct Sizer {
    fold_case: bool,
}

impl Sizer {
    /// The size of a part that the operators around it repeat `repeated` times.
    fn size(&mut self, ast: &Ast, repeated: u32) -> Result<u64, String> {
        match ast {
            Ast::Empty(_) => Ok(1),
            Ast::Flags(set) => {
                self.apply(&set.flags)?;
                Ok(1)
            }
            Ast::Literal(literal) => self.literal(literal),
            // All but the end of a line.
            Ast::Dot(_) => Ok(2),
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => Ok(1),
                _ => Err(not_in_re2("a word boundary other than \\b and \\B")),
            },
            Ast::ClassUnicode(class) => Ok(self.class(property::ranges(class, self.fold_case)?, false, true)),
            Ast::ClassPerl(class) => Ok(self.class(perl(&class.kind, class.negated), false, false)),
            Ast::ClassBracketed(class) => self.bracketed(&class.kind, class.negated),
            Ast::Repetition(repetition) => self.repetition(repetition, repeated),
            Ast::Group(group) => {
                let outer = self.fold_case;
                match &group.kind {
                    GroupKind::CaptureName { name, .. } if !is_group_name(&name.name) => {
                        return Err("found a group name with other characters than letters, digits and _".to_owned());
                    }
                    GroupKind::NonCapturing(flags) => self.apply(flags)?,
                    GroupKind::CaptureIndex(_) | GroupKind::CaptureName { .. } => {}
                }
                let size = self.size(&group.ast, repeated);
                self.fold_case = outer;
                Ok(size?.saturating_add(2))
            }
            Ast::Alternation(alternation) => self.sum(&alternation.asts, repeated, 1),
            Ast::Concat(concat) => self.sum(&concat.asts, repeated, 0),
        }
    }

    fn sum(&mut self, parts: &[Ast], repeated: u32, each: u64) -> Result<u64, String> {
        parts.iter().try_fold(0u64, |sum, part| {
            Ok(sum.saturating_add(self.size(part, repeated)?).saturating_add(each))
        })
    }

    fn apply(&mut self, flags: &Flags) -> Result<(), String> {
        let mut on = true;
        for item in &flags.items {
            match &item.kind {
                FlagsItemKind::Negation => on = false,
                FlagsItemKind::Flag(Flag::CaseInsensitive) => self.fold_case = on,
                FlagsItemKind::Flag(Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed) => {}
                FlagsItemKind::Flag(_) => return Err(not_in_re2("a flag other than i, m, s and U")),
            }
        }
        Ok(())
    }

    fn literal(&self, literal: &Literal) -> Result<u64, String> {
        check_literal(literal)?;
        // Above ASCII it may be a class of both cases.
        let cases = if self.fold_case && !literal.c.is_ascii() { 2 } else { 1 };
        Ok(cases)
    }

    fn repetition(&mut self, repetition: &regex_syntax::ast::Repetition, repeated: u32) -> Result<u64, String> {
        match &*repetition.ast {
            Ast::Repetition(_) => return Err(not_in_re2("a repetition of a repetition")),
            Ast::Assertion(_) | Ast::Flags(_) | Ast::Empty(_) => {
                return Err("found a repetition of nothing, expected an expression before it".to_owned());
            }
            _ => {}
        }

        let (low, high) = match repetition.op.kind {
            RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => {
                return Ok(self
                    .size(&repetition.ast, repeated)?
                    .saturating_add(repetition_cost(&repetition.ast)));
            }
            RepetitionKind::Range(RepetitionRange::Exactly(count)) => (count, Some(count)),
            RepetitionKind::Range(RepetitionRange::AtLeast(low)) => (low, None),
            RepetitionKind::Range(RepetitionRange::Bounded(low, high)) => (low, Some(high)),
        };

        let most = high.unwrap_or(low).max(1);
        let nested = repeated.saturating_mul(most);
        if nested > MAX_REPETITION {
            return Err(format!(
                "found a repetition of {nested} times, expected at most {MAX_REPETITION}"
            ));
        }

        let one = self.size(&repetition.ast, nested)?;
        // x{2,5} is xx(x(x(x)?)?)?, x{2,} is xx+, x{2} is xx.
        let cost = repetition_cost(&repetition.ast);
        let optional = u64::from(most - low.min(most)) + u64::from(high.is_none());
        Ok(one
            .saturating_mul(most.into())
            .saturating_add(optional.saturating_mul(cost)))
    }

    fn bracketed(&self, set: &ClassSet, negated: bool) -> Result<u64, String> {
        let ClassSet::Item(item) = set else {
            return Err(not_in_re2("a set operation (&&, -- or ~~) in a class"));
        };
        let mut ranges = Vec::new();
        let by_property = collect(item, self.fold_case, &mut ranges)?;
        Ok(self.class(ranges, negated, by_property))
    }

    fn class(&self, mut ranges: Ranges, negated: bool, by_property: bool) -> u64 {
        let mut more = 0;
        if self.fold_case {
            fold(&mut ranges);
            more = if by_property { FOLDED_FROM_ABOVE } else { 0 };
        }
        // An empty class is the instruction that fails.
        (set_of(&[ranges], negated).len() as u64 + more).max(1)
    }
}

/// Instructions for the operator around a repeated part: RE2 makes a loop around a part that may be empty optional,
/// too.
fn repetition_cost(repeated: &Ast) -> u64 {
    if can_be_empty(repeated) { 5 } else { 2 }
}

fn can_be_empty(ast: &Ast) -> bool {
    match ast {
        Ast::Empty(_) | Ast::Flags(_) | Ast::Assertion(_) => true,
        Ast::Literal(_) | Ast::Dot(_) | Ast::ClassUnicode(_) | Ast::ClassPerl(_) | Ast::ClassBracketed(_) => false,
        Ast::Repetition(repetition) => match &repetition.op.kind {
            RepetitionKind::OneOrMore | RepetitionKind::Range(RepetitionRange::Exactly(1..)) => {
                can_be_empty(&repetition.ast)
            }
            RepetitionKind::Range(RepetitionRange::AtLeast(1..) | RepetitionRange::Bounded(1.., _)) => {
                can_be_empty(&repetition.ast)
            }
            _ => true,
        },
        Ast::Group(group) => can_be_empty(&group.ast),
        Ast::Alternation(alternation) => alternation.asts.iter().any(can_be_empty),
        Ast::Concat(concat) => concat.asts.iter().all(can_be_empty),
    }
}

type Ranges = Vec<(u32, u32)>;

/// Adds an item's characters; `true` if it has a Unicode property.
fn collect(item: &ClassSetItem, fold_case: bool, ranges: &mut Ranges) -> Result<bool, String> {
    match item {
        ClassSetItem::Empty(_) => Ok(false),
        ClassSetItem::Literal(literal) => {
            check_literal(literal)?;
            ranges.push((literal.c.into(), literal.c.into()));
            Ok(false)
        }
        ClassSetItem::Range(range) => {
            check_literal(&range.start)?;
            check_literal(&range.end)?;
            ranges.push((range.start.c.into(), range.end.c.into()));
            Ok(false)
        }
        ClassSetItem::Ascii(class) => {
            ranges.extend(set_of(&[posix(&class.kind)], class.negated));
            Ok(false)
        }
        ClassSetItem::Perl(class) => {
            ranges.extend(perl(&class.kind, class.negated));
            Ok(false)
        }
        ClassSetItem::Unicode(class) => {
            ranges.extend(property::ranges(class, fold_case)?);
            Ok(true)
        }
        ClassSetItem::Bracketed(_) => Err(not_in_re2("a class in a class")),
        ClassSetItem::Union(union) => {
            let mut by_property = false;
            for item in &union.items {
                by_property |= collect(item, fold_case, ranges)?;
            }
            Ok(by_property)
        }
    }
}

fn check_literal(literal: &Literal) -> Result<(), String> {
    match literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
            Err(not_in_re2("the escape \\u or \\U"))
        }
        LiteralKind::Superfluous | LiteralKind::Meta if literal.c == '_' => Err(not_in_re2("the escape \\_")),
        _ if u32::from(literal.c) > LAST => Err(format!(
            "found the character \\x{{{:X}}} in a regex, expected at most \\x{{FF}}: Envoy matches bytes",
            u32::from(literal.c)
        )),
        _ => Ok(()),
    }
}

fn is_group_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn perl(kind: &ClassPerlKind, negated: bool) -> Ranges {
    let ranges = match kind {
        ClassPerlKind::Digit => vec![(0x30, 0x39)],
        ClassPerlKind::Space => vec![(0x09, 0x0a), (0x0c, 0x0d), (0x20, 0x20)],
        ClassPerlKind::Word => vec![(0x30, 0x39), (0x41, 0x5a), (0x5f, 0x5f), (0x61, 0x7a)],
    };
    set_of(&[ranges], negated)
}

fn posix(kind: &ClassAsciiKind) -> Ranges {
    match kind {
        ClassAsciiKind::Alnum => vec![(0x30, 0x39), (0x41, 0x5a), (0x61, 0x7a)],
        ClassAsciiKind::Alpha => vec![(0x41, 0x5a), (0x61, 0x7a)],
        ClassAsciiKind::Ascii => vec![(0, 0x7f)],
        ClassAsciiKind::Blank => vec![(0x09, 0x09), (0x20, 0x20)],
        ClassAsciiKind::Cntrl => vec![(0, 0x1f), (0x7f, 0x7f)],
        ClassAsciiKind::Digit => vec![(0x30, 0x39)],
        ClassAsciiKind::Graph => vec![(0x21, 0x7e)],
        ClassAsciiKind::Lower => vec![(0x61, 0x7a)],
        ClassAsciiKind::Print => vec![(0x20, 0x7e)],
        ClassAsciiKind::Punct => vec![(0x21, 0x2f), (0x3a, 0x40), (0x5b, 0x60), (0x7b, 0x7e)],
        ClassAsciiKind::Space => vec![(0x09, 0x0d), (0x20, 0x20)],
        ClassAsciiKind::Upper => vec![(0x41, 0x5a)],
        ClassAsciiKind::Word => perl(&ClassPerlKind::Word, false),
        ClassAsciiKind::Xdigit => vec![(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)],
    }
}

/// Adds the other case of every letter of Latin-1.
fn fold(ranges: &mut Ranges) {
    // First and last of the upper-case letters; the lower-case ones stand 0x20 above. 0xd7 and 0xf7 are no letters.
    const UPPER: [(u32, u32); 3] = [(0x41, 0x5a), (0xc0, 0xd6), (0xd8, 0xde)];
    let mut folded = Ranges::new();
    for (low, high) in ranges.iter().copied() {
        for (first, last) in UPPER {
            let within = |first: u32, last: u32| (low.max(first), high.min(last));
            let (from, to) = within(first, last);
            if from <= to {
                folded.push((from + 0x20, to + 0x20));
            }
            let (from, to) = within(first + 0x20, last + 0x20);
            if from <= to {
                folded.push((from - 0x20, to - 0x20));
            }
        }
    }
    ranges.extend(folded);
}

/// The union, sorted and merged, or its complement.
fn set_of(parts: &[Ranges], negated: bool) -> Ranges {
    let mut all: Ranges = parts.iter().flatten().copied().collect();
    all.sort_unstable();
    let mut merged = Ranges::new();
    for (low, high) in all {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }

    if !negated {
        return merged;
    }
    let mut rest = Ranges::new();
    let mut next = 0;
    for (low, high) in merged {
        if low > next {
            rest.push((next, low - 1));
        }
        next = high + 1;
    }

    if next <= LAST {
        rest.push((next, LAST));
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn bound_is_not_below_what_re2_says() {
        let known = include_str!("../../tests/data/re2_program_sizes.json");
        let known: BTreeMap<String, u32> = serde_json::from_str(known).unwrap();
        let below: Vec<String> = known
            .iter()
            .map(|(pattern, re2)| (pattern, re2, program_size(pattern).unwrap()))
            .filter(|(_, re2, bound)| bound < re2)
            .map(|(pattern, re2, bound)| format!("{pattern}: {bound} is below {re2}"))
            .collect();
        assert!(below.is_empty(), "{} are below: {}", below.len(), below.join("\n"));
        let needless = |(pattern, re2): &(&String, &u32)| **re2 <= 100 && program_size(pattern).unwrap() > 100;
        let needless = known.iter().filter(needless).count();
        // Nested loops and optional repetitions, where the bound is not exact.
        assert!(needless <= 23, "{needless} of {} are refused needlessly", known.len());
    }

    #[test]
    fn ordinary_patterns_stay_within_the_default_limit() {
        let ordinary = [
            r"^/a\d+$",
            "^/users/[0-9]+$",
            "/api/v[0-9]+/.*",
            "/[^/]+/[^/]+",
            r".*\.(js|css|png)$",
            "/v[12]/(users|orders)(/.*)?",
            "^/(?:en|de|fr)/.*$",
            "(?i)bearer .+",
            r"/files/.+\.[a-z]{2,4}",
            "/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        ];
        for pattern in ordinary {
            assert_eq!(check(pattern, &Limits::default()), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn literal_of_96_characters_is_the_longest() {
        assert_eq!(check(&"a".repeat(96), &Limits::default()), Ok(()));
        assert_eq!(
            check(&"a".repeat(97), &Limits::default()),
            Err(
                "found a regex whose RE2 program may have 101 instructions, expected at most 100 \
                 (--re2-max-program-size)"
                    .to_owned()
            )
        );
        assert_eq!(
            check(
                &"a".repeat(97),
                &Limits {
                    re2_max_program_size: 101
                }
            ),
            Ok(())
        );
    }

    #[test]
    fn what_re2_lacks_is_refused() {
        let refused = [
            r"(?=a)",
            r"(?!a)",
            r"(?<=a)",
            r"(a)\1",
            r"a{1001}",
            r"(a{100}){11}",
            r"[a-z&&[^b]]",
            r"[a--b]",
            r"[a~~b]",
            r"[a[b]]",
            r"\x{100}",
            r"[^\x{80}-\x{10FFFF}]",
            r"(?x)a b",
            r"(?u)a",
            r"(?R)a",
            r"\<a",
            r"\b{start}a",
            r"\u0041",
            r"\_",
            r"a**",
            r"a{2}{3}",
            r"^*",
            "",
            "(",
            "[",
            "*",
            r"a{2,1}",
            r"\Z",
            r"(?P<a.b>x)",
            r"\p{Letter}",
            r"\p{gc=L}",
            r"[\p{LC}]",
            r"\p{lu}",
            r"\p{}",
        ];
        for pattern in refused {
            assert!(program_size(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn sizes_of_huge_patterns_do_not_overflow() {
        assert_eq!(
            program_size(&format!("(?:{}){{1000}}", r"\pS".repeat(5000))),
            Ok(75_002_004)
        );
        assert!(program_size(&"(".repeat(10_000)).is_err());
    }
}
