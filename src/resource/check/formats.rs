//! Formats with commands between percent signs: values of headers, lines of access logs (docs/refused-by-envoy.md
//! NR-38, NR-39, NL-30).
//!
//! The commands are the list of Envoy 1.40. If a format has extensions with commands of their own, only its form is
//! checked.

#![allow(deprecated, reason = "operators may write the older fields")]

use std::borrow::Cow;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValueOption, SubstitutionFormatString, data_source, substitution_format_string,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::google::protobuf::{Struct, Value, value};

use crate::document::Rejection;
use crate::document::sentence::did_you_mean;
use crate::resource::place::Place;

mod arguments;

/// Commands of Envoy 1.40, each with whether it takes an argument (`-` never, `?` it may, `!` it must) and a length
/// (`:` it may, `-` never).
const COMMANDS: &str = include_str!("formats/commands.txt");
/// The start of a command that only the values of headers may have.
const PER_REQUEST_STATE: &str = "%PER_REQUEST_STATE(";

/// The value of a header. The value may be a credential: a rejection quotes only the bad command.
pub(super) fn header(option: &HeaderValueOption, at: &Place) -> Result<(), Rejection> {
    option.header.as_ref().map_or(Ok(()), |header| {
        let value = &header.value;
        // An older name of FILTER_STATE, accepted in this place only.
        let value = match value.contains(PER_REQUEST_STATE) {
            true => Cow::from(translated(value)),
            false => Cow::from(value),
        };
        text(&value, true, &at.field("header").field("value"))
    })
}

/// A format of Envoy's own commands in a field that is a text.
pub(super) fn plain(format: &str, at: &Place) -> Result<(), Rejection> {
    text(format, true, at)
}

/// The text with `%FILTER_STATE(a:PLAIN)%` for each `%PER_REQUEST_STATE(a)%`.
fn translated(value: &str) -> String {
    let mut translated = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once(PER_REQUEST_STATE) {
        translated.push_str(before);
        match after.split_once(")%") {
            Some((key, after)) if !key.is_empty() => {
                translated.push_str(&format!("%FILTER_STATE({key}:PLAIN)%"));
                rest = after;
            }
            _ => {
                translated.push_str(PER_REQUEST_STATE);
                rest = after;
            }
        }
    }
    translated + rest
}

/// A format wherever a message has one.
pub(super) fn substitution(format: &SubstitutionFormatString, at: &Place) -> Result<(), Rejection> {
    use substitution_format_string::Format;
    let all = format.formatters.is_empty();
    match &format.format {
        Some(Format::TextFormat(line)) => text(line, all, &at.field("text_format")),
        Some(Format::TextFormatSource(source)) => match &source.specifier {
            Some(data_source::Specifier::InlineString(line)) => {
                text(line, all, &at.field("text_format_source").field("inline_string"))
            }
            _ => Ok(()),
        },
        Some(Format::JsonFormat(fields)) => object(fields, all, &at.field("json_format")),
        None => Ok(()),
    }
}

/// The older fields of an access log.
pub(super) fn file_log(log: &FileAccessLog, at: &Place) -> Result<(), Rejection> {
    use file_access_log::AccessLogFormat;
    match &log.access_log_format {
        Some(AccessLogFormat::Format(line)) => text(line, true, &at.field("format")),
        Some(AccessLogFormat::JsonFormat(fields)) => object(fields, true, &at.field("json_format")),
        Some(AccessLogFormat::TypedJsonFormat(fields)) => object(fields, true, &at.field("typed_json_format")),
        _ => Ok(()),
    }
}

/// Every text in an object, sorted, so that the first mistake is deterministic.
fn object(fields: &Struct, all: bool, at: &Place) -> Result<(), Rejection> {
    let mut fields: Vec<(&String, &Value)> = fields.fields.iter().collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    fields
        .into_iter()
        .try_for_each(|(name, inner)| any(inner, all, &at.field(name)))
}

fn any(json: &Value, all: bool, at: &Place) -> Result<(), Rejection> {
    match &json.kind {
        Some(value::Kind::StringValue(line)) => text(line, all, at),
        Some(value::Kind::StructValue(fields)) => object(fields, all, at),
        Some(value::Kind::ListValue(list)) => list
            .values
            .iter()
            .enumerate()
            .try_for_each(|(index, inner)| any(inner, all, &at.index(index))),
        _ => Ok(()),
    }
}

/// Whether every `%` is doubled or part of `%COMMAND%`, `%COMMAND(argument)%` or `%COMMAND(argument):length%`, and, if
/// `all` commands are Envoy's own, whether each command is known.
fn text(text: &str, all: bool, at: &Place) -> Result<(), Rejection> {
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        let after = &rest[start + 1..];
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let Some(command) = Command::at_start(after) else {
            let reason =
                "found a \"%\" that starts no command, expected it doubled (\"%%\") or a command (\"%REQ(x-id)%\")";
            return Err(at.reject(reason.to_owned()));
        };
        if all && let Err(reason) = command.check() {
            return Err(at.reject(reason));
        }
        rest = &after[command.length..];
    }

    Ok(())
}

/// The text between two percent signs.
struct Command<'a> {
    name: &'a str,
    /// The text in brackets.
    argument: Option<&'a str>,
    has_length: bool,
    /// The command with the closing `%`.
    length: usize,
}

impl<'a> Command<'a> {
    fn at_start(text: &'a str) -> Option<Self> {
        let is_letter = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
        let end = text.bytes().take_while(is_letter).count();
        if end == 0 {
            return None;
        }
        // An argument is on one line, and ends at the first bracket before a length or the closing sign.
        let line = text.find('\n').unwrap_or(text.len());
        let ends = match text[end..].starts_with('(') {
            false => vec![(end, None)],
            true => text[..line]
                .match_indices(')')
                .filter(|(at, _)| *at > end)
                .map(|(at, _)| (at + 1, Some(&text[end + 1..at])))
                .collect(),
        };

        ends.into_iter().find_map(|(at, argument)| {
            let (has_length, length) = ended(&text[at..])?;
            Some(Self {
                name: &text[..end],
                argument,
                has_length,
                length: at + length,
            })
        })
    }

    /// The error is a sentence without its place.
    fn check(&self) -> Result<(), String> {
        command(self.name, self.argument.unwrap_or_default(), self.has_length)
    }
}

/// Whether a length may end a command here, and the bytes of the length and the sign; `None`: no command ends here.
fn ended(rest: &str) -> Option<(bool, usize)> {
    if rest.starts_with('%') {
        return Some((false, 1));
    }
    let digits = rest.strip_prefix(':')?.split('%').next()?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u64>().is_ok();
    let length = digits.len() + 2;
    (is_number && rest.len() >= length).then_some((true, length))
}

/// A command with an argument, which may be empty, and perhaps a length. The error is a sentence without its place.
fn command(name: &str, argument: &str, has_length: bool) -> Result<(), String> {
    let known = || COMMANDS.lines().filter_map(|line| line.split_once(' '));
    let Some((takes, name)) = known().find(|(_, known)| *known == name) else {
        let hint = did_you_mean(name, known().map(|(_, name)| name));
        return Err(format!(
            "found \"%…%\" that is no command of Envoy, expected one (\"%%\" is a percent sign){hint}"
        ));
    };

    if argument.is_empty() && takes.starts_with('!') {
        return Err(format!(
            "found the command {name} without an argument, expected one in brackets"
        ));
    }

    if !argument.is_empty() && takes.starts_with('-') {
        return Err(format!("found an argument of the command {name}, expected none"));
    }
    if has_length && takes.ends_with('-') {
        return Err(format!("found a length of the command {name}, expected none"));
    }
    if argument.is_empty() {
        return Ok(());
    }
    arguments::check(name, argument)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Limits;

    fn said(value: &str) -> String {
        let at = Place {
            path: "v".to_owned(),
            hidden: false,
            limits: Limits::default(),
        };
        text(value, true, &at).map_or_else(|rejection| rejection.to_string(), |()| String::new())
    }

    #[test]
    fn commands_are_those_of_envoy_with_the_arguments_they_take() {
        for good in [
            "100%%",
            "%PROTOCOL%",
            "%REQ(a?b):3%",
            "%START_TIME%",
            "%START_TIME(%Y-%m)%",
            "%CEL(a == 'b')% x",
        ] {
            assert_eq!(said(good), "", "{good}");
        }
        assert_eq!(
            said("x %PROTOCL%"),
            "v: found \"%…%\" that is no command of Envoy, expected one (\"%%\" is a percent sign), did you mean \
             \"PROTOCOL\"?"
        );
        assert_eq!(
            said("%RESP%"),
            "v: found the command RESP without an argument, expected one in brackets"
        );
        assert_eq!(
            said("%PROTOCOL(x)%"),
            "v: found an argument of the command PROTOCOL, expected none"
        );
        assert_eq!(
            said("%PROTOCOL:3%"),
            "v: found a length of the command PROTOCOL, expected none"
        );
        for stray in ["50%", "%PROTOCOL:%", "%REQ(a):18446744073709551616%", "%REQ(a\nb)%"] {
            assert!(
                said(stray).starts_with("v: found a \"%\" that starts no command"),
                "{stray}"
            );
        }
    }

    #[test]
    fn what_is_no_command_is_not_quoted() {
        assert!(!said("%HUNTER2%").contains("HUNTER2"));
    }
}
