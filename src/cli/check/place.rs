//! The line and the column of a field in a document's text.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// A place in a text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Place {
    pub(in crate::cli) line: u64,
    pub(in crate::cli) column: u64,
}

impl Place {
    /// The place of the field at `path`, or of the nearest field around it that the text has. `None`: the text cannot
    /// be read.
    pub(in crate::cli) fn of(path: &str, text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let root: Spanned<Node> = serde_saphyr::from_str(text).ok()?;
        let (mut node, mut location) = (&root.value, root.referenced);
        for step in steps(path) {
            match node.child(&step) {
                Some((place, child)) => (location, node) = (place, child),
                None => break,
            }
        }
        Some(Self {
            line: location.line(),
            column: location.column(),
        })
    }
}

/// One step of a field path.
#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Entry(usize),
}

/// The steps of a path such as `match[0].headers["x y"]`; up to the first one of another form.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let read = match rest.strip_prefix('[') {
            Some(inside) => in_brackets(inside),
            None => {
                let name = rest.strip_prefix('.').unwrap_or(rest);
                let end = name.find(['.', '[']).unwrap_or(name.len());
                name.split_at_checked(end)
                    .filter(|(name, _)| !name.is_empty())
                    .map(|(name, rest)| (Step::Field(name.to_owned()), rest))
            }
        };
        let Some((step, after)) = read else { break };
        steps.push(step);
        rest = after;
    }
    steps
}

/// An index, or a name in quotes as Rust escapes it; and the text after the bracket.
fn in_brackets(inside: &str) -> Option<(Step, &str)> {
    if !inside.starts_with('"') {
        let (index, rest) = inside.split_once(']')?;
        return Some((Step::Entry(index.parse().ok()?), rest));
    }
    let mut names = serde_json::Deserializer::from_str(inside).into_iter::<String>();
    let name = names.next()?.ok()?;
    let rest = inside.get(names.byte_offset()..)?.strip_prefix(']')?;
    Some((Step::Field(name), rest))
}

/// A value with the places of its parts.
enum Node {
    Object(Vec<(Spanned<String>, Spanned<Self>)>),
    List(Vec<Spanned<Self>>),
    Other,
}

impl Node {
    /// The place of a field's name or of a list's entry, and the value there.
    fn child(&self, step: &Step) -> Option<(Location, &Self)> {
        match (self, step) {
            (Self::Object(fields), Step::Field(name)) => {
                let (name, value) = fields.iter().find(|(field, _)| field.value == *name)?;
                Some((name.referenced, &value.value))
            }
            (Self::List(entries), Step::Entry(index)) => {
                let entry = entries.get(*index)?;
                Some((entry.referenced, &entry.value))
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            entries.push(entry);
        }
        Ok(Node::List(entries))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, text: &str) -> (u64, u64) {
        let place = Place::of(path, text.as_bytes()).unwrap();
        (place.line, place.column)
    }

    #[test]
    fn a_path_is_taken_apart() {
        let field = |name: &str| Step::Field(name.to_owned());
        assert_eq!(
            steps(r#"match[12].headers["x \" y"].not"#),
            [
                field("match"),
                Step::Entry(12),
                field("headers"),
                field("x \" y"),
                field("not")
            ]
        );
        assert_eq!(steps(""), []);
    }

    #[test]
    fn a_field_is_found_in_json_and_yaml() {
        let json = "{\n  \"match\": [\n    { \"path\": \"/a\" },\n\t{ \"path\": 5 }\n  ]\n}";
        assert_eq!(at("match[1].path", json), (4, 4));
        let yaml = "match:\n- path: /a\n- hosts: [a.example.com,\n    b c]\n";
        assert_eq!(at("match[1].hosts[1]", yaml), (4, 5));
        assert_eq!(
            at("match[1].timeout", yaml),
            (3, 3),
            "a missing field is told where it belongs"
        );
        assert_eq!(at("", yaml), (1, 1));
    }
}
