//! The shapes of all kinds of documents, for people and programs: JSON Schema, tables in Markdown, rows.
//!
//! Everything here comes from the tables of fields that the decoder reads by (`super::field`). A document that the
//! decoder takes is valid by its schema. The schema takes more: it does not know which fields exclude each other, the
//! syntax of addresses, paths and regexes, and names of other documents.
//!
//! A path is `KIND` or `KIND.FIELD.FIELD`; lists, maps and alternatives are stepped through: `routes.match.headers.not`.

use serde_json::{Map, Value, json};

use super::field::{Field, Fields, Shape};
use super::key::Kind;
use super::sentence::{did_you_mean, one_of, quote};
use super::{cluster, defaults, endpoint, group, legacy, listener, policy, registry, route, runtime, secret, xds};

pub use super::text::SCHEMA_FIELD;

/// The draft of the schemas.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
const DURATION: &str = "([0-9.]+(us|ms|s|m|h))+";

/// One field of a kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The names that lead to it, `retry.back_off.base`; of a table of one object, below that object.
    pub path: String,
    /// The shape in Markdown.
    pub shape: String,
    /// `required`, or the value if the field is absent, in Markdown.
    pub default: String,
    /// The meaning in Markdown.
    pub about: &'static str,
    /// The fields of the objects that a value can be or hold, one table an object.
    pub objects: Vec<Table>,
}

/// A kind, or a field of one.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    shape: Shape,
    field: Option<&'static Field>,
}

/// The kinds that have a schema.
pub fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| shape_of(*kind).is_some())
}

/// The shape of a kind's documents.
fn shape_of(kind: Kind) -> Option<Shape> {
    Some(match kind {
        Kind::Routes => Shape::AnyOf(&[Shape::Object(&route::read::FIELDS), legacy::SHAPE, legacy::LIST]),
        Kind::Clusters => Shape::Object(&cluster::read::FIELDS),
        Kind::Services => endpoint::REGISTRATION,
        Kind::Listeners => Shape::Object(&listener::FIELDS),
        Kind::Secrets => secret::read::SHAPE,
        Kind::Groups => Shape::Object(&group::FIELDS),
        Kind::Policies => Shape::Object(&policy::FIELDS),
        Kind::Runtime => Shape::Object(&runtime::FIELDS),
        Kind::Defaults => Shape::Object(&defaults::FIELDS),
        Kind::Xds => Shape::Object(&xds::FIELDS),
        Kind::Registries => Shape::Object(&registry::FIELDS),
        Kind::Unknown => return None,
    })
}

/// The kind or field at a path.
///
/// # Errors
/// A sentence about the first name that does not exist.
pub fn find(path: &str) -> Result<Place, String> {
    let mut names = path.split('.');
    let word = names.next().unwrap_or_default();
    let Some(shape) = Kind::from_word(word).and_then(shape_of) else {
        return Err(format!(
            "unknown kind {}{}",
            quote(word),
            instead_of(word, kinds().map(Kind::as_str))
        ));
    };
    let mut place = Place { shape, field: None };
    for name in names {
        let fields = || objects(place.shape).into_iter().flat_map(|fields| fields.rows());
        let Some(field) = fields().find(|field| field.name == name) else {
            let hint = instead_of(name, fields().map(|field| field.name));
            return Err(format!("{path}: unknown field {}{hint}", quote(name)));
        };
        place = Place {
            shape: field.shape,
            field: Some(field),
        };
    }
    Ok(place)
}

fn instead_of(found: &str, names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<&str> = names.collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    match did_you_mean(found, names) {
        hint if hint.is_empty() && quoted.is_empty() => ", expected none".to_owned(),
        hint if hint.is_empty() => format!(", expected {}", one_of(&quoted)),
        hint => hint,
    }
}

/// The schemas of all kinds in one: a document is valid if it is valid as one of them.
#[must_use]
pub fn of_all() -> Value {
    let schemas = kinds().filter_map(|kind| Some((kind.to_string(), json_schema(shape_of(kind)?, true))));
    let any: Vec<Value> = kinds()
        .map(|kind| json!({ "$ref": format!("#/$defs/{kind}") }))
        .collect();
    json!({ "$schema": DRAFT, "title": "Documents of Chancery", "anyOf": any, "$defs": Map::from_iter(schemas) })
}

/// Every field of a kind, at every depth, in the order of the tables. A table that stands in several places gives its
/// rows in each of them.
#[must_use]
pub fn rows_of(kind: Kind) -> Vec<Row> {
    let mut rows = Vec::new();
    for fields in shape_of(kind).map(objects).unwrap_or_default() {
        collect(fields, "", &mut rows, &|_| true);
    }
    rows
}

impl Place {
    /// The JSON Schema of the values.
    #[must_use]
    pub fn json_schema(&self, path: &str) -> Value {
        let mut schema = Map::from_iter([("$schema".to_owned(), DRAFT.into()), ("title".to_owned(), path.into())]);
        let own = match self.field {
            Some(field) => field_schema(field),
            None => json_schema(self.shape, true),
        };
        schema.extend(own.as_object().cloned().unwrap_or_default());
        Value::Object(schema)
    }

    /// The field as a row, unless the place is a kind.
    #[must_use]
    pub fn row(&self) -> Option<Row> {
        self.field.map(|field| row(field, ""))
    }

    /// The fields of each object that a value can be, one table an object.
    #[must_use]
    pub fn tables(&self) -> Vec<Table> {
        objects(self.shape).into_iter().map(Table).collect()
    }
}

/// The fields of one object.
#[derive(Debug, Clone, Copy)]
pub struct Table(&'static Fields);

impl Table {
    /// The rows of the table. The rows of an object in a field come after the field's own row if `inlines` says so.
    #[must_use]
    pub fn rows(&self, inlines: &dyn Fn(Self) -> bool) -> Vec<Row> {
        let mut rows = Vec::new();
        collect(self.0, "", &mut rows, inlines);
        rows
    }
}

/// Tables of the same rows are equal.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        let rows = |table: &Self| table.0.rows().map(|row| (row.name, row.about)).collect::<Vec<_>>();
        rows(self) == rows(other)
    }
}

fn collect(fields: &'static Fields, before: &str, rows: &mut Vec<Row>, inlines: &dyn Fn(Table) -> bool) {
    for field in fields.rows() {
        let own = row(field, before);
        let path = own.path.clone();
        rows.push(own);
        for inner in objects(field.shape) {
            if inlines(Table(inner)) {
                collect(inner, &format!("{path}."), rows, inlines);
            }
        }
    }
}

fn row(field: &Field, before: &str) -> Row {
    let default = match field.default {
        _ if field.is_required => "required",
        "" => "none",
        default => default,
    };
    Row {
        path: format!("{before}{}", field.name),
        shape: in_words(field.shape),
        default: default.to_owned(),
        about: field.about,
        objects: objects(field.shape).into_iter().map(Table).collect(),
    }
}

/// The objects with fields that a value can be or hold, without a step into a field.
fn objects(shape: Shape) -> Vec<&'static Fields> {
    match shape {
        Shape::Object(fields) => vec![fields],
        Shape::List { of, .. } | Shape::Map(of) | Shape::FilledMap(of) => objects(*of),
        Shape::AnyOf(shapes) => {
            let mut all: Vec<&'static Fields> = Vec::new();
            for fields in shapes.iter().copied().flat_map(objects) {
                if !all.iter().any(|other| Table(other) == Table(fields)) {
                    all.push(fields);
                }
            }
            all
        }
        _ => Vec::new(),
    }
}

/// A shape in Markdown.
fn in_words(shape: Shape) -> String {
    const MOST: i64 = u32::MAX as i64;
    match shape {
        Shape::Flag => "boolean".to_owned(),
        Shape::On => "`true`".to_owned(),
        Shape::Whole(0, MOST) => "whole number".to_owned(),
        Shape::Whole(1, MOST) => "whole number, 1 or more".to_owned(),
        Shape::Whole(least, most) if least < 0 && most == i64::from(i32::MAX) => "whole number of 32 bits".to_owned(),
        Shape::Whole(least, most) => format!("{least} to {most}"),
        Shape::Number => "number".to_owned(),
        Shape::Percent => "number from 0 to 100".to_owned(),
        Shape::Numbers(numbers) => alternatives(numbers.iter().map(|number| format!("`{number}`"))),
        Shape::Duration => "duration".to_owned(),
        Shape::DurationOrNone => "duration or `\"none\"`".to_owned(),
        Shape::Size(1, u32::MAX) => "size".to_owned(),
        Shape::Size(least, most) => format!("size, `\"{}\"` to `\"{}\"`", in_bytes(least), in_bytes(most)),
        Shape::Words(words) => alternatives(words.iter().map(|word| format!("`{word:?}`"))),
        Shape::Text(what, _) => what.to_owned(),
        Shape::List { of, least, most, once } => {
            let entries = match *of {
                Shape::Object(_) => "list of objects".to_owned(),
                of => format!("list of: {}", in_words(of)),
            };
            let bounds = [
                (least > 0).then(|| format!("at least {least}")),
                (most < usize::MAX).then(|| format!("at most {most}")),
                once.then(|| "none twice".to_owned()),
            ];
            let bounds: Vec<String> = bounds.into_iter().flatten().collect();
            match bounds.is_empty() {
                true => entries,
                false => format!("{entries} ({})", bounds.join(", ")),
            }
        }
        Shape::Map(of) | Shape::FilledMap(of) => format!("object, by name: {}", in_words(*of)),
        Shape::Each(_, of) => format!("object of the other fields, each: {}", in_words(*of)),
        Shape::Object(_) | Shape::Free => "object".to_owned(),
        Shape::AnyOf(shapes) => alternatives(shapes.iter().map(|shape| in_words(*shape))),
        Shape::Any => "any value".to_owned(),
    }
}

fn alternatives(all: impl Iterator<Item = String>) -> String {
    one_of(&all.collect::<Vec<_>>())
}

fn in_bytes(bytes: u32) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.into_iter().find(|(_, shift)| bytes.is_multiple_of(1 << shift));
    whole.map_or_else(
        || format!("{bytes}B"),
        |(unit, shift)| format!("{}{unit}", bytes >> shift),
    )
}

/// Text without the marks of Markdown.
#[must_use]
pub fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once('[') {
        text += before;
        rest = match link
            .split_once("](")
            .and_then(|(words, target)| Some((words, target.split_once(')')?.1)))
        {
            Some((words, after)) if !words.contains(']') => {
                text += words;
                after
            }
            _ => {
                text.push('[');
                link
            }
        };
    }
    text += rest;
    text.replace('`', "").replace("\\|", "|")
}

/// The JSON Schema of a shape. `is_root`: of a whole document, which may name its schema.
fn json_schema(shape: Shape, is_root: bool) -> Value {
    match shape {
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::On => json!({ "enum": [true] }),
        Shape::Whole(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Number => json!({ "type": "number" }),
        Shape::Percent => json!({ "type": "number", "minimum": 0, "maximum": 100 }),
        Shape::Numbers(numbers) => json!({ "enum": numbers }),
        Shape::Duration => json!({ "type": "string", "pattern": format!("^{DURATION}$") }),
        Shape::DurationOrNone => json!({ "type": "string", "pattern": format!("^(none|{DURATION})$") }),
        Shape::Size(..) => json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" }),
        Shape::Words(words) => json!({ "enum": words }),
        Shape::Text(_, None) => json!({ "type": "string" }),
        Shape::Text(_, Some(pattern)) => json!({ "type": "string", "pattern": pattern }),
        Shape::List { of, least, most, once } => list_schema(*of, least, most, once),
        Shape::FilledMap(of) => {
            let of = json_schema(*of, false);
            json!({ "type": "object", "additionalProperties": of, "minProperties": 1 })
        }
        Shape::Map(of) => json!({ "type": "object", "additionalProperties": json_schema(*of, false) }),
        Shape::Object(fields) => object_schema(fields, is_root),
        Shape::Each(fields, of) => {
            let names = fields.names().map(|name| (name.to_owned(), json_schema(*of, false)));
            json!({ "type": "object", "properties": Map::from_iter(names), "additionalProperties": false })
        }
        Shape::Free => json!({ "type": "object" }),
        Shape::AnyOf(shapes) => {
            let any: Vec<Value> = shapes.iter().map(|shape| json_schema(*shape, is_root)).collect();
            json!({ "anyOf": any })
        }
        Shape::Any => json!({}),
    }
}

fn list_schema(of: Shape, least: usize, most: usize, once: bool) -> Value {
    let mut schema = json!({ "type": "array", "items": json_schema(of, false) });
    if least > 0 {
        schema["minItems"] = least.into();
    }
    if most < usize::MAX {
        schema["maxItems"] = most.into();
    }
    if once {
        schema["uniqueItems"] = true.into();
    }
    schema
}

fn object_schema(fields: &Fields, is_root: bool) -> Value {
    let mut properties = Map::new();
    if is_root {
        let about = "The schema of the document, for editors; the server ignores it";
        properties.insert(
            SCHEMA_FIELD.to_owned(),
            json!({ "type": ["string", "null"], "description": about }),
        );
    }
    for field in fields.rows() {
        properties.insert(field.name.to_owned(), field_schema(field));
    }
    for name in fields.reserved() {
        properties.insert(
            (*name).to_owned(),
            json!({ "type": "null", "description": "Not supported yet" }),
        );
    }

    let mut schema = json!({ "type": "object", "properties": properties });
    let required: Vec<&str> = fields
        .rows()
        .filter(|row| row.is_required)
        .map(|row| row.name)
        .collect();
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if fields.is_filled() {
        schema["minProperties"] = 1.into();
    }
    if !fields.is_open() {
        schema["additionalProperties"] = false.into();
    }
    schema
}

/// The JSON Schema of a field; `null` counts as absent.
fn field_schema(field: &Field) -> Value {
    let mut schema = json_schema(field.shape, false);
    if !field.is_required {
        allow_null(&mut schema);
    }
    let default = match field.default {
        "" => String::new(),
        default => format!(". Default: {}", plain(default)),
    };
    schema["description"] = format!("{}{default}", plain(field.about)).into();
    let code = field.default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
    if let Some(default) = code.and_then(|code| serde_json::from_str::<Value>(code).ok()) {
        schema["default"] = default;
    }
    schema
}

fn allow_null(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(of_type) = object.get_mut("type") {
        *of_type = json!([of_type.take(), "null"]);
    } else if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.push(Value::Null);
    } else if let Some(Value::Array(shapes)) = object.get_mut("anyOf") {
        shapes.push(json!({ "type": "null" }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_through_lists_maps_and_alternatives() {
        let about = |path: &str| find(path).map(|place| place.row().map(|row| row.about));
        assert_eq!(
            about("routes.match.headers.not.prefix"),
            Ok(Some("The value begins with the text"))
        );
        assert_eq!(about("routes.path"), about("routes.path"));
        assert_eq!(about("clusters"), Ok(None));
        assert_eq!(
            about("clusters.keepalive.ideal"),
            Err(r#"clusters.keepalive.ideal: unknown field "ideal", did you mean "idle"?"#.to_owned())
        );
        assert_eq!(
            about("cluster"),
            Err(r#"unknown kind "cluster", did you mean "clusters"?"#.to_owned())
        );
        assert_eq!(
            about("groups.priority.x"),
            Err(r#"groups.priority.x: unknown field "x", expected none"#.to_owned())
        );
    }

    #[test]
    fn a_field_has_its_default_and_may_be_null() {
        let schema = find("clusters.keepalive.idle").map(|place| place.json_schema("idle"));
        assert_eq!(
            schema,
            Ok(json!({
                "$schema": DRAFT,
                "title": "idle",
                "type": ["string", "null"],
                "pattern": "^(none|([0-9.]+(us|ms|s|m|h))+)$",
                "description": "A connection without requests is closed after this time. Default: \"60s\"",
                "default": "60s",
            }))
        );
    }

    #[test]
    fn markdown_becomes_plain_text() {
        assert_eq!(plain("See [Hosts](routes.md#hosts), `a` or [b]"), "See Hosts, a or [b]");
        assert_eq!(plain("`[A\\|B ][HOST]/PATH` [x](y)"), "[A|B ][HOST]/PATH x");
    }

    #[test]
    fn a_table_in_two_places_is_one() {
        let table = |path: &str| find(path).map(|place| place.tables()[0]);
        assert!(table("routes.request_headers") == table("defaults.route.response_headers"));
        assert!(table("routes.retry") != table("routes.rewrite"));
    }
}
