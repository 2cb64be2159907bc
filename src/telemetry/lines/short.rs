//! Texts from outside as they may stand in a line: escaped and cut.

use std::fmt::{self, Write};

/// The mark of a cut text.
const CUT: char = '…';

/// A text that takes at most so many bytes. The writer ends once the text is full, so a long value costs no more than
/// its first bytes.
pub(super) struct Short {
    text: String,
    max: usize,
}

impl Short {
    /// `value` with control characters escaped, cut to `max` bytes.
    pub(super) fn of(value: fmt::Arguments<'_>, max: usize) -> String {
        let mut short = Self {
            text: String::new(),
            max,
        };
        if short.write_fmt(value).is_err() {
            while short.text.len() + CUT.len_utf8() > max && short.text.pop().is_some() {}
            short.text.push(CUT);
        }
        short.text
    }

    fn push(&mut self, part: impl fmt::Display, len: usize) -> fmt::Result {
        if self.text.len() + len > self.max {
            return Err(fmt::Error);
        }
        write!(self.text, "{part}")
    }
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if !needs_escape(character) {
                self.push(character, character.len_utf8())?;
            } else if matches!(character, '\n' | '\r' | '\t') {
                self.push(character.escape_default(), 2)?;
            } else {
                let escaped = character.escape_unicode();
                self.push(&escaped, escaped.clone().count())?;
            }
        }
        Ok(())
    }
}

/// Control characters, and characters that end a line or turn the direction of the text.
fn needs_escape(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        let short = |text: &str| Short::of(format_args!("{text}"), 100);
        assert_eq!(short("a \"b\" \\ ü"), "a \"b\" \\ ü");
        assert_eq!(short("a\nb\r\tc"), "a\\nb\\r\\tc");
        assert_eq!(short("\u{1b}[31m\0\u{7f}\u{9b}2J"), "\\u{1b}[31m\\u{0}\\u{7f}\\u{9b}2J");
        assert_eq!(short("a\u{202e}b\u{2028}"), "a\\u{202e}b\\u{2028}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let short = |text: &str, max| Short::of(format_args!("{text}"), max);
        assert_eq!(short("abcdef", 6), "abcdef");
        assert_eq!(short("abcdefg", 6), "abc…");
        for max in 3..20 {
            let cut = short(&"ü\u{1b}".repeat(20), max);
            assert!(cut.len() <= max && cut.ends_with('…'), "{cut}");
        }
    }

    #[test]
    fn a_value_without_end_is_not_formatted_to_its_end() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    formatter.write_str("x")?;
                }
            }
        }
        assert_eq!(Short::of(format_args!("{Endless}"), 5), "xx…");
    }
}
