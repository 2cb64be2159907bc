//! Whether any text that arrives can match a regex.
//!
//! In: a pattern and the kind of text that it is compared with. Out: `false` only if no text of that kind matches. The
//! pattern's automaton and a small one for the texts ([`Text::step`]) are walked together. A pattern without an
//! automaton of sensible size, and a look-around other than the first `^`, count as matching.

use std::collections::BTreeSet;

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::look::Look;
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;

use crate::document::uri::is_unreserved;

/// Most bytes of a pattern's automaton.
const MAX_AUTOMATON: usize = 1 << 20;
/// Characters of a path that Envoy escapes, and those that end it.
const NEVER_IN_PATHS: &[u8] = b"\"#<>?\\^`{|}";

/// The kind of text that a regex is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    /// A path, normalised, without its query.
    Path,
    /// A query parameter's value, percent-encoded.
    Parameter,
    /// A header's value.
    Header,
}

/// The progress of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// At the start.
    Start,
    /// In a path, after a slash and so many dots.
    Segment(u8),
    /// After a percent sign and perhaps a digit.
    Escape(Option<u8>),
    /// After white space in a header.
    Space,
    /// At any other byte.
    Inside,
}

impl Text {
    /// The progress after one more byte; `None`: no such text continues like this.
    fn step(self, progress: Progress, byte: u8) -> Option<Progress> {
        match self {
            Self::Path => path_step(progress, byte),
            Self::Parameter => (byte.is_ascii_graphic() && !b"#&".contains(&byte)).then_some(Progress::Inside),
            Self::Header => match byte {
                b' ' | b'\t' if progress == Progress::Start => None,
                b' ' | b'\t' => Some(Progress::Space),
                _ => (!byte.is_ascii_control()).then_some(Progress::Inside),
            },
        }
    }

    /// Whether a text may end here.
    fn may_end(self, progress: Progress) -> bool {
        match progress {
            Progress::Start => self != Self::Path,
            Progress::Segment(dots) => dots == 0,
            Progress::Space => false,
            Progress::Escape(_) | Progress::Inside => true,
        }
    }
}

fn path_step(progress: Progress, byte: u8) -> Option<Progress> {
    if !byte.is_ascii_graphic() || NEVER_IN_PATHS.contains(&byte) {
        return None;
    }
    let hex = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match (progress, byte, hex) {
        (Progress::Start, b'/', _) => Some(Progress::Segment(0)),
        (Progress::Start, ..) | (Progress::Segment(_), b'/', _) => None,
        (Progress::Escape(None), _, Some(high)) => Some(Progress::Escape(Some(high))),
        (Progress::Escape(Some(high)), _, Some(low)) => {
            let escaped = high * 16 + low;
            let never = is_unreserved(escaped) || b"/\\\0".contains(&escaped);
            (!never).then_some(Progress::Inside)
        }
        (_, b'/', _) => Some(Progress::Segment(0)),
        (_, b'%', _) => Some(Progress::Escape(None)),
        (Progress::Segment(dots @ 0..=1), b'.', _) => Some(Progress::Segment(dots + 1)),
        _ => Some(Progress::Inside),
    }
}

/// Whether some text of this kind may match the pattern as a whole.
pub(crate) fn can_match(pattern: &str, text: Text) -> bool {
    let bytes = syntax::Config::new().unicode(false).utf8(false);
    let limits = NFA::config().utf8(false).nfa_size_limit(Some(MAX_AUTOMATON));
    let Ok(automaton) = NFA::compiler().syntax(bytes).configure(limits).build(pattern) else {
        return true;
    };

    let mut seen: BTreeSet<(StateID, Progress)> = BTreeSet::new();
    let mut next = vec![(automaton.start_anchored(), Progress::Start)];
    while let Some((state, progress)) = next.pop() {
        if !seen.insert((state, progress)) {
            continue;
        }
        if matches!(automaton.state(state), State::Match { .. }) && text.may_end(progress) {
            return true;
        }
        next.extend(followers(automaton.state(state), progress, text));
    }

    false
}

/// The successors of a state of the automaton, with the progress of the text there.
fn followers(state: &State, progress: Progress, text: Text) -> Vec<(StateID, Progress)> {
    let over = |start: u8, end: u8, to: StateID| {
        (start..=end).filter_map(move |byte| text.step(progress, byte).map(|progress| (to, progress)))
    };
    match state {
        State::ByteRange { trans } => over(trans.start, trans.end, trans.next).collect(),
        State::Sparse(sparse) => sparse
            .transitions
            .iter()
            .flat_map(|trans| over(trans.start, trans.end, trans.next))
            .collect(),
        State::Dense(dense) => (0..=u8::MAX)
            .filter_map(|byte| Some((dense.matches_byte(byte)?, text.step(progress, byte)?)))
            .collect(),
        State::Look { look: Look::Start, .. } if progress != Progress::Start => Vec::new(),
        State::Look { next, .. } | State::Capture { next, .. } => vec![(*next, progress)],
        State::Union { alternates } => alternates.iter().map(|next| (*next, progress)).collect(),
        State::BinaryUnion { alt1, alt2 } => vec![(*alt1, progress), (*alt2, progress)],
        State::Fail | State::Match { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_for_paths_that_arrive_can_match() {
        for pattern in [
            r"^/a\d+$",
            ".*",
            "/%20",
            "/(%7E|~)joe",
            "/a[^/]*",
            "/a(//)?b",
            r"/\.\.\.",
            "/caf%C3%A9",
            "(^/a|^/b)",
            "(?i)/A",
            r"/[\x00-\xff]+",
            r"(/\.)?/x",
            "/a%",
        ] {
            assert!(can_match(pattern, Text::Path), "{pattern}");
        }
    }

    #[test]
    fn patterns_that_no_path_has_cannot_match() {
        for pattern in [
            "a.*",
            "/%7Ejoe",
            "/a%2[fF]b",
            "/a//b",
            r"/a/\.\./b",
            r"/a/\.",
            "/a b",
            "/[<>]",
            r"/\{id\}",
            r"/a\?x=1",
            "/é",
            "/a^/b",
            "",
            "/%5C",
            "/%00",
            r"/a/\./.*",
        ] {
            assert!(!can_match(pattern, Text::Path), "{pattern}");
        }
    }

    #[test]
    fn values_of_parameters_and_headers_are_told_apart() {
        assert!(can_match("a b", Text::Header) && !can_match("a b", Text::Parameter));
        assert!(!can_match(" a", Text::Header) && !can_match("a ", Text::Header));
        assert!(can_match("a(%20|\\+)b", Text::Parameter) && !can_match("a&b", Text::Parameter));
        assert!(can_match("", Text::Header) && can_match("a*", Text::Parameter));
    }
}
