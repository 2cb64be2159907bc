//! A cursor over a JSON value that knows its path.
//!
//! In: the [`Value`] of a document. Out: typed fields, or a [`Rejection`] with the path of the field, the found value
//! and the expected one. An object is read through a [`Fields`]: an unknown field is refused before any other is read,
//! with the nearest known name; a known field that is not built yet is refused by name. `null` counts as absent in an
//! object with known fields. Found values are shortened; a value that may be confidential is read with
//! [`Cursor::confidential`] and never quoted.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};

pub(super) use super::field::{Field, Fields, Shape};
use super::sentence::{did_you_mean, found, kind_of, one_of, segment};
use super::{Limits, Rejection};

/// Longest duration: a year of 365 days, far below the limits of Envoy's own arithmetic.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);
/// The expected value of a duration, for rejections.
const A_DURATION: &str = r#"a duration with its unit such as "250ms", "5s" or "1m""#;

/// One value and its path.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    path: String,
    value: &'a Value,
    limits: &'a Limits,
}

/// An object whose field names are all known.
#[derive(Debug, Clone)]
pub(super) struct Object<'a> {
    path: String,
    fields: &'a Map<String, Value>,
    limits: &'a Limits,
}

impl<'a> Cursor<'a> {
    /// The document itself.
    pub(super) fn root(value: &'a Value, limits: &'a Limits) -> Self {
        Self {
            path: String::new(),
            value,
            limits,
        }
    }

    /// A value that stands in place of the one at `path`: the content of a file.
    pub(super) fn instead(path: &str, value: &'a Value, limits: &'a Limits) -> Self {
        Self {
            path: path.to_owned(),
            value,
            limits,
        }
    }

    /// The path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The value, unchanged.
    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// The limits that the operator may raise.
    pub(super) fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// A rejection of this value.
    pub(super) fn reject(&self, reason: impl Into<String>) -> Rejection {
        Rejection::new(self.path.clone(), reason)
    }

    /// The rejection with the found value and the expected one.
    pub(super) fn expected(&self, what: &str) -> Rejection {
        self.reject(format!("found {}, expected {what}", found(self.value)))
    }

    /// The rejection for a value that must not be quoted.
    pub(super) fn confidential(&self, what: &str) -> Rejection {
        self.reject(format!("found {}, expected {what}", kind_of(self.value)))
    }

    /// A string.
    pub(super) fn string(&self) -> Result<&'a str, Rejection> {
        self.value.as_str().ok_or_else(|| self.expected("a string"))
    }

    /// A string of at least one character.
    pub(super) fn text(&self) -> Result<&'a str, Rejection> {
        match self.string()? {
            "" => Err(self.expected("a text that is not empty")),
            text => Ok(text),
        }
    }

    /// `true` or `false`.
    pub(super) fn bool(&self) -> Result<bool, Rejection> {
        self.value.as_bool().ok_or_else(|| self.expected("true or false"))
    }

    /// A whole number in a range.
    pub(super) fn integer<T: TryFrom<i64> + Into<i64> + Copy>(&self, range: RangeInclusive<T>) -> Result<T, Rejection> {
        let (low, high) = ((*range.start()).into(), (*range.end()).into());
        let number = self.value.as_i64().filter(|number| (low..=high).contains(number));
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.expected(&format!("a whole number from {low} to {high}")))
    }

    /// A share in percent, 0 to 100.
    pub(super) fn percent(&self) -> Result<f64, Rejection> {
        let number = self.value.as_f64().filter(|number| (0.0..=100.0).contains(number));
        number.ok_or_else(|| self.expected("a number from 0 to 100"))
    }

    /// A duration above zero.
    pub(super) fn duration(&self) -> Result<Duration, Rejection> {
        let Value::String(text) = self.value else {
            return Err(self.expected(A_DURATION));
        };
        let duration = duration_of(text).ok_or_else(|| self.expected(A_DURATION))?;
        if duration.is_zero() {
            return Err(self.expected("a duration above zero"));
        }
        if duration > MAX_DURATION {
            return Err(self.expected(r#"a duration of at most a year, "8760h""#));
        }
        if duration.subsec_nanos() % 1_000_000 != 0 {
            return Err(self.expected("a duration of whole milliseconds"));
        }
        Ok(duration)
    }

    /// A duration above zero; `None`: `"none"`.
    pub(super) fn duration_or_none(&self) -> Result<Option<Duration>, Rejection> {
        match self.value.as_str() {
            Some("none") => Ok(None),
            _ => self.duration().map(Some),
        }
    }

    /// A number of bytes in a range.
    pub(super) fn size(&self, range: RangeInclusive<u32>) -> Result<u32, Rejection> {
        let size = self.value.as_str().and_then(size_of);
        let size = size.ok_or_else(|| self.expected(r#"a size with its unit such as "512B", "32KiB" or "1MiB""#))?;
        let fits = u32::try_from(size).ok().filter(|size| range.contains(size));
        fits.ok_or_else(|| self.expected(&format!("from {} to {} bytes", range.start(), range.end())))
    }

    /// A network, `10.0.0.0/8`, or one address. No bit may be set behind the prefix: Envoy would ignore it.
    pub(super) fn network(&self) -> Result<IpNet, Rejection> {
        let text = self.string()?;
        let network = text
            .parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        match network {
            Some(network) if network == network.trunc() => Ok(network),
            Some(network) => Err(self.expected(&format!(
                "a network without bits behind its prefix, {}",
                network.trunc()
            ))),
            None => Err(self.expected("a network such as \"10.0.0.0/8\"")),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, Rejection> {
        let text = self.value.as_str().unwrap_or_default();
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*meaning);
        }
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let hint = did_you_mean(text, words.iter().map(|(word, _)| *word));
        Err(self.expected(&format!("{}{hint}", one_of(&quoted))))
    }

    /// The entries of a list.
    pub(super) fn list(&self) -> Result<Vec<Self>, Rejection> {
        let list = self.value.as_array().ok_or_else(|| self.expected("a list"))?;
        let entry = |(index, value)| Self {
            path: format!("{}[{index}]", self.path),
            value,
            limits: self.limits,
        };
        Ok(list.iter().enumerate().map(entry).collect())
    }

    /// The entries of a list that must not be empty.
    pub(super) fn entries(&self) -> Result<Vec<Self>, Rejection> {
        let entries = self.list()?;
        if entries.is_empty() {
            Err(self.expected("at least one entry"))
        } else {
            Ok(entries)
        }
    }

    /// The entries of an object whose keys are free, in the order of their bytes.
    pub(super) fn map(&self) -> Result<Vec<(&'a str, Self)>, Rejection> {
        let object = self.value.as_object().ok_or_else(|| self.expected("an object"))?;
        let mut entries: Vec<_> = object
            .iter()
            .map(|(key, value)| (key.as_str(), self.child(key, value)))
            .collect();
        entries.sort_by_key(|(key, _)| *key);
        Ok(entries)
    }

    /// An object with these fields and no others.
    pub(super) fn object(&self, fields: &Fields) -> Result<Object<'a>, Rejection> {
        let object = self.value.as_object().ok_or_else(|| self.expected("an object"))?;
        for (name, value) in object {
            let name = name.as_str();
            if fields.contains(name) {
                continue;
            }
            let field = self.child(name, value);
            if !fields.is_later(name) {
                return Err(field.reject(format!("unknown field{}", expected_instead_of(name, fields))));
            }
            if !value.is_null() {
                return Err(field.reject("not supported yet"));
            }
        }

        Ok(Object {
            path: self.path.clone(),
            fields: object,
            limits: self.limits,
        })
    }

    /// An object with these fields and no others, of a text that may be a secret: an unknown field is not named.
    pub(super) fn confidential_object(&self, known: &Fields) -> Result<Object<'a>, Rejection> {
        let Some(fields) = self.value.as_object() else {
            return Err(self.confidential("an object"));
        };
        if let Some(unknown) = fields.keys().find(|name| !known.contains(name)) {
            let expected = expected_instead_of(unknown, known);
            return Err(self.reject(format!("found an unknown field{expected}")));
        }
        Ok(Object {
            path: self.path.clone(),
            fields,
            limits: self.limits,
        })
    }

    /// A field of an object with free keys, unless it is null.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.as_object()?.get(name)?;
        (!value.is_null()).then(|| self.child(name, value))
    }

    fn child(&self, name: &str, value: &'a Value) -> Self {
        Self {
            path: format!("{}{}", self.path, segment(&self.path, name)),
            value,
            limits: self.limits,
        }
    }
}

impl<'a> Object<'a> {
    /// A field that may be absent; `null` is absent.
    pub(super) fn get(&self, name: &str) -> Option<Cursor<'a>> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        Some(Cursor {
            path: self.path_of(name),
            value,
            limits: self.limits,
        })
    }

    /// A field that must be there.
    pub(super) fn require(&self, name: &str, expected: &str) -> Result<Cursor<'a>, Rejection> {
        self.get(name)
            .ok_or_else(|| Rejection::new(self.path_of(name), format!("missing, expected {expected}")))
    }

    /// Reads a field that may be absent.
    pub(super) fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(Cursor<'a>) -> Result<T, Rejection>,
    ) -> Result<Option<T>, Rejection> {
        self.get(name).map(read).transpose()
    }

    /// The fields of a table that are present, in its order.
    pub(super) fn present_of(&self, fields: &Fields) -> Vec<&'static str> {
        fields.names().filter(|name| self.get(name).is_some()).collect()
    }

    /// The fields among these that are present.
    pub(super) fn present<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        names.iter().copied().filter(|name| self.get(name).is_some()).collect()
    }

    /// A rejection of the object as a whole.
    pub(super) fn reject(&self, reason: impl Into<String>) -> Rejection {
        Rejection::new(self.path.clone(), reason)
    }

    /// The path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}{}", self.path, segment(&self.path, name))
    }
}

/// The nearest known name, or all of them.
fn expected_instead_of(unknown: &str, fields: &Fields) -> String {
    match did_you_mean(unknown, fields.names()) {
        hint if hint.is_empty() => {
            let quoted: Vec<String> = fields.names().map(|name| format!("{name:?}")).collect();
            format!(", expected {}", one_of(&quoted))
        }
        hint => hint,
    }
}

/// `512B`, `32KiB`: a whole number with its unit.
fn size_of(text: &str) -> Option<u64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// `1m30s`, `1.5s`: numbers, each with its unit.
fn duration_of(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    if text.is_empty() || text.len() > 40 {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after
            .find(|letter: char| !letter.is_ascii_lowercase())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let factor = match unit {
            "us" => 0.000_001,
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }

    // Rounded to microseconds: 0.1 + 0.2 in binary is not a whole number of milliseconds.
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    let micros = (duration.as_nanos() + 500) / 1000;
    Some(Duration::from_micros(u64::try_from(micros).ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with<T>(value: &Value, read: impl FnOnce(&Cursor<'_>) -> Result<T, Rejection>) -> Result<T, String> {
        read(&Cursor::root(value, &Limits::default())).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn networks_have_no_bits_behind_the_prefix() {
        let network = |value: Value| with(&value, |cursor| cursor.network()).map(|network| network.to_string());
        assert_eq!(network(json!("10.0.0.0/8")), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(network(json!("::1")), Ok("::1/128".to_owned()));
        assert_eq!(
            network(json!("10.0.0.1/8")),
            Err(
                r#"found the string "10.0.0.1/8", expected a network without bits behind its prefix, 10.0.0.0/8"#
                    .to_owned()
            )
        );
        assert!(network(json!("10.0.0.0/33")).is_err());
    }
}
