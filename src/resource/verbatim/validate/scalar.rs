//! One value against its rule.

use std::fmt::Display;

use envoy_types::pb::google::protobuf;
use envoy_types::pb::validate::field_rules::Type;
use envoy_types::pb::validate::string_rules::WellKnown;
use envoy_types::pb::validate::{BytesRules, DurationRules, EnumRules, KnownRegex, StringRules};
use prost_reflect::{DynamicMessage, Value};
use serde_json::{Value as Json, json};

use super::rules::Rule;
use crate::document::Rejection;
use crate::document::sentence::one_of;
use crate::resource::place::Place;

/// Checks a value against its rule; wrapped numbers and strings count as the values inside.
pub(super) fn check(value: &Value, rule: &Rule, at: &Place) -> Result<(), Rejection> {
    let Some(expected) = &rule.value else { return Ok(()) };
    if let (Value::Message(message), Type::Duration(limits)) = (value, expected) {
        return duration(message, limits, at);
    }

    let wrapped = value
        .as_message()
        .and_then(|message| message.get_field_by_name("value"));
    let value = wrapped.as_deref().unwrap_or(value);
    let mistake = match (expected, value) {
        (Type::String(limits), Value::String(text)) => string(text, limits, rule),
        (Type::Bytes(limits), Value::Bytes(bytes)) => of_bytes(bytes, limits),
        (Type::Enum(limits), Value::EnumNumber(number)) => word(*number, limits, rule),
        (Type::Bool(limits), Value::Bool(value)) => limits
            .r#const
            .filter(|constant| constant != value)
            .map(|constant| constant.to_string()),
        _ => number(value, expected),
    };

    match mistake {
        Some(what) => Err(refusal(value, &what, at)),
        None => Ok(()),
    }
}

fn refusal(value: &Value, what: &str, at: &Place) -> Rejection {
    match value {
        Value::String(text) if text.is_empty() => at.reject(format!("missing or empty, expected {what}")),
        Value::Bytes(bytes) if bytes.is_empty() => at.reject(format!("missing or empty, expected {what}")),
        Value::Bytes(bytes) => at.reject(format!("found {} bytes, expected {what}", bytes.len())),
        value => at.expected(&shown(value), what),
    }
}

fn shown(value: &Value) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::I32(value) | Value::EnumNumber(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_) => json!({}),
    }
}

/// The limits of any kind of number.
struct Bounds<T> {
    constant: Option<T>,
    below: Option<T>,
    at_most: Option<T>,
    above: Option<T>,
    at_least: Option<T>,
    among: Vec<T>,
    not_among: Vec<T>,
    ignore_empty: bool,
}

macro_rules! bounds {
    ($limits:expr, $number:ty) => {
        Bounds::<$number> {
            constant: $limits.r#const.map(<$number>::from),
            below: $limits.lt.map(<$number>::from),
            at_most: $limits.lte.map(<$number>::from),
            above: $limits.gt.map(<$number>::from),
            at_least: $limits.gte.map(<$number>::from),
            among: $limits.r#in.iter().copied().map(<$number>::from).collect(),
            not_among: $limits.not_in.iter().copied().map(<$number>::from).collect(),
            ignore_empty: $limits.ignore_empty(),
        }
    };
}

fn number(value: &Value, expected: &Type) -> Option<String> {
    let whole = match value {
        Value::I32(value) | Value::EnumNumber(value) => Some(i128::from(*value)),
        Value::I64(value) => Some(i128::from(*value)),
        Value::U32(value) => Some(i128::from(*value)),
        Value::U64(value) => Some(i128::from(*value)),
        _ => None,
    };

    let float = match value {
        Value::F32(value) => Some(f64::from(*value)),
        Value::F64(value) => Some(*value),
        _ => None,
    };

    match (expected, whole, float) {
        (Type::Uint32(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Uint64(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Int32(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Int64(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Sint32(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Sint64(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Fixed32(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Fixed64(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Sfixed32(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Sfixed64(limits), Some(value), _) => bounds!(limits, i128).mistake(value),
        (Type::Float(limits), _, Some(value)) => bounds!(limits, f64).mistake(value),
        (Type::Double(limits), _, Some(value)) => bounds!(limits, f64).mistake(value),
        _ => None,
    }
}

impl<T: PartialOrd + Copy + Display + Default> Bounds<T> {
    /// The expected range, if the value is outside. NaN is outside of every range.
    fn mistake(&self, value: T) -> Option<String> {
        if self.ignore_empty && value == T::default() {
            return None;
        }
        if let Some(constant) = self.constant.filter(|constant| *constant != value) {
            return Some(format!("{constant}"));
        }
        if !self.among.is_empty() && !self.among.contains(&value) {
            return Some(one_of(&self.among.iter().map(ToString::to_string).collect::<Vec<_>>()));
        }
        if self.not_among.contains(&value) {
            return Some("another number".to_owned());
        }
        (!self.contains(value)).then(|| self.words())
    }

    fn contains(&self, value: T) -> bool {
        let low = self
            .above
            .map(|bound| value > bound)
            .or_else(|| self.at_least.map(|bound| value >= bound));
        let high = self
            .below
            .map(|bound| value < bound)
            .or_else(|| self.at_most.map(|bound| value <= bound));
        match (low, high) {
            // If the upper end is below the lower end, the rule allows everything outside of the range.
            (Some(low), Some(high)) if self.is_outside() => low || high,
            (low, high) => low.unwrap_or(true) && high.unwrap_or(true),
        }
    }

    fn is_outside(&self) -> bool {
        let (low, high) = (self.above.or(self.at_least), self.below.or(self.at_most));
        matches!((low, high), (Some(low), Some(high)) if high < low)
    }

    fn words(&self) -> String {
        let low = self
            .above
            .map(|bound| format!("above {bound}"))
            .or_else(|| self.at_least.map(|bound| format!("at least {bound}")));
        let high = self
            .below
            .map(|bound| format!("below {bound}"))
            .or_else(|| self.at_most.map(|bound| format!("at most {bound}")));
        let joint = if self.is_outside() { " or " } else { " and " };
        let words: Vec<String> = low.into_iter().chain(high).collect();
        format!("a number {}", words.join(joint))
    }
}

fn string(text: &str, limits: &StringRules, rule: &Rule) -> Option<String> {
    if limits.ignore_empty() && text.is_empty() {
        return None;
    }

    let (characters, bytes) = (text.chars().count() as u64, text.len() as u64);
    length(characters, [limits.len, limits.min_len, limits.max_len], "character")
        .or_else(|| length(bytes, [limits.len_bytes, limits.min_bytes, limits.max_bytes], "byte"))
        .or_else(|| {
            limits
                .r#const
                .as_ref()
                .filter(|constant| *constant != text)
                .map(|constant| format!("{constant:?}"))
        })
        .or_else(|| {
            part("a text that starts with", limits.prefix.as_deref(), |part| {
                text.starts_with(part)
            })
        })
        .or_else(|| {
            part("a text that ends with", limits.suffix.as_deref(), |part| {
                text.ends_with(part)
            })
        })
        .or_else(|| {
            part("a text that contains", limits.contains.as_deref(), |part| {
                text.contains(part)
            })
        })
        .or_else(|| {
            part("a text without", limits.not_contains.as_deref(), |part| {
                !text.contains(part)
            })
        })
        .or_else(|| among(text, &limits.r#in, &limits.not_in))
        .or_else(|| {
            let pattern = rule.pattern.as_ref().filter(|pattern| !pattern.is_match(text));
            pattern.map(|_| format!("a text that matches {}", limits.pattern.as_deref().unwrap_or_default()))
        })
        .or_else(|| well_known(text, limits))
}

fn part(words: &str, part: Option<&str>, holds: impl Fn(&str) -> bool) -> Option<String> {
    part.filter(|part| !holds(part)).map(|part| format!("{words} {part:?}"))
}

fn among(text: &str, among: &[String], not_among: &[String]) -> Option<String> {
    if !among.is_empty() && !among.iter().any(|word| word == text) {
        return Some(one_of(
            &among.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>(),
        ));
    }
    not_among
        .iter()
        .any(|word| word == text)
        .then(|| "another text".to_owned())
}

fn length(found: u64, [exact, least, most]: [Option<u64>; 3], unit: &str) -> Option<String> {
    let some = |count: u64| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    exact
        .filter(|exact| *exact != found)
        .map(some)
        .or_else(|| {
            least
                .filter(|least| found < *least)
                .map(|least| format!("at least {}", some(least)))
        })
        .or_else(|| {
            most.filter(|most| found > *most)
                .map(|most| format!("at most {}", some(most)))
        })
}

/// The two well-known forms in Envoy's messages: names and values of HTTP headers.
fn well_known(text: &str, limits: &StringRules) -> Option<String> {
    let Some(WellKnown::WellKnownRegex(form)) = &limits.well_known else {
        return None;
    };
    if !limits.strict() {
        let breaks = text.contains(['\0', '\n', '\r']);
        return breaks.then(|| "a text without NUL, CR and LF".to_owned());
    }
    match KnownRegex::try_from(*form).ok()? {
        KnownRegex::HttpHeaderName => {
            let name = text.strip_prefix(':').unwrap_or(text);
            let ordinary = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&byte);
            let is_name = !name.is_empty() && name.bytes().all(ordinary);
            (!is_name).then(|| "the name of a header".to_owned())
        }
        KnownRegex::HttpHeaderValue => {
            let control = |letter: char| letter != '\t' && (letter < ' ' || letter == '\u{7f}');
            text.contains(control)
                .then(|| "the value of a header, without control characters".to_owned())
        }
        KnownRegex::Unknown => None,
    }
}

fn of_bytes(bytes: &[u8], limits: &BytesRules) -> Option<String> {
    if limits.ignore_empty() && bytes.is_empty() {
        return None;
    }
    length(bytes.len() as u64, [limits.len, limits.min_len, limits.max_len], "byte")
}

fn word(number: i32, limits: &EnumRules, rule: &Rule) -> Option<String> {
    let among: Vec<String> = limits.r#in.iter().map(ToString::to_string).collect();
    if limits.defined_only()
        && rule
            .words
            .as_ref()
            .is_some_and(|words| words.get_value(number).is_none())
    {
        return Some(format!(
            "a value of {}",
            rule.words.as_ref().map_or("the enum", |words| words.full_name())
        ));
    }

    if limits.r#const.is_some_and(|constant| constant != number)
        || (!among.is_empty() && !limits.r#in.contains(&number))
    {
        return Some(one_of(&among));
    }
    limits.not_in.contains(&number).then(|| "another value".to_owned())
}

/// Seconds and nanoseconds of a `google.protobuf.Duration`.
pub(super) fn duration_parts(message: &DynamicMessage) -> (i64, i32) {
    let part = |name: &str| message.get_field_by_name(name).map(|value| value.into_owned());
    let seconds = part("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
    (
        seconds,
        part("nanos").and_then(|value| value.as_i32()).unwrap_or_default(),
    )
}

fn duration(message: &DynamicMessage, limits: &DurationRules, at: &Place) -> Result<(), Rejection> {
    let nanos = |seconds: i64, nanos: i32| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let (seconds, rest) = duration_parts(message);
    let bound = |bound: &Option<protobuf::Duration>| bound.as_ref().map(|bound| nanos(bound.seconds, bound.nanos));
    let bounds = Bounds {
        constant: bound(&limits.r#const),
        below: bound(&limits.lt),
        at_most: bound(&limits.lte),
        above: bound(&limits.gt),
        at_least: bound(&limits.gte),
        among: limits
            .r#in
            .iter()
            .map(|bound| nanos(bound.seconds, bound.nanos))
            .collect(),
        not_among: limits
            .not_in
            .iter()
            .map(|bound| nanos(bound.seconds, bound.nanos))
            .collect(),
        ignore_empty: false,
    };

    let found = nanos(seconds, rest);
    if bounds.mistake(found).is_none() {
        return Ok(());
    }

    let seconds = |nanos: i128| format!("{}s", nanos as f64 / 1e9);
    let low = bounds.above.map(|bound| format!("above {}", seconds(bound)));
    let low = low.or_else(|| bounds.at_least.map(|bound| format!("of at least {}", seconds(bound))));
    let high = bounds.below.map(|bound| format!("below {}", seconds(bound)));
    let high = high.or_else(|| bounds.at_most.map(|bound| format!("of at most {}", seconds(bound))));
    let words: Vec<String> = low.into_iter().chain(high).collect();
    Err(at.reject(format!(
        "found the duration {}, expected one {}",
        seconds(found),
        words.join(" and ")
    )))
}
