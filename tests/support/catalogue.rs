//! The conditions under which Envoy 1.40 rejects a resource, by example: `tests/data/refused_by_envoy/`.
//!
//! Each condition has an ID, rejected examples and nearly equal accepted ones; or a reason for having none. An example
//! is:
//!
//! - `put`: the fields of one resource, merged into one place of the frame `in`,
//! - `beside`: further documents.
//!
//! `{$repeat: [text, count]}` is a long text, `{$times: [entry, count]}` a long list, `$CHAIN` and `$KEY` a certificate
//! and its key, `$OTHER_KEY` the key of another. An `@type` may omit its host.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value, json};

const HOST: &str = "type.googleapis.com/";

/// One condition under which Envoy refuses a resource.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Such as `NR-02`.
    pub id: String,
    /// In words.
    pub when: String,
    /// Of Envoy's message; `[a|b]`: one of them.
    pub envoy: Option<String>,
    /// Why the server cannot know.
    pub unknown: Option<String>,
    /// Why it cannot happen.
    pub never: Option<String>,
    /// Examples that Envoy rejects.
    #[serde(default)]
    pub refused: Vec<Example>,
    /// Nearly equal examples that Envoy accepts.
    #[serde(default)]
    pub accepted: Vec<Example>,
}

/// One resource.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    #[serde(rename = "in")]
    frame: String,
    at: Option<String>,
    put: Value,
    #[serde(default)]
    beside: BTreeMap<String, Value>,
    path: Option<String>,
    says: Option<String>,
    envoy: Option<String>,
    /// Reason why no real Envoy reads this example.
    pub unasked: Option<String>,
    /// Which cluster of Envoy's has these endpoints.
    pub of: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Frame {
    r#type: String,
    name: Option<String>,
    at: String,
    resource: Value,
}

/// A place of an extension in a document, or (with `scope`) a matcher with several.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceRow {
    place: Option<String>,
    scope: Option<String>,
    r#in: String,
    put: Value,
    good: Option<Value>,
    input: Option<Value>,
    action: Option<Value>,
    /// Bad forms that Envoy takes there.
    #[serde(default)]
    takes: Vec<String>,
    /// Bad forms at which Envoy ends.
    #[serde(default)]
    ends: Vec<String>,
}

/// An extension in a place of a document.
#[derive(Debug)]
pub struct Tried {
    /// The place, as in `src/resource/check/extensions/places.txt`.
    pub place: String,
    /// `good`, or which bad form.
    pub form: &'static str,
    /// Whether Envoy takes a bad form there.
    pub takes: bool,
    /// Whether Envoy ends at a bad form there, and is not asked.
    pub ends: bool,
    /// The resource.
    pub case: Case,
}

/// An example, put together.
#[derive(Debug)]
pub struct Case {
    /// The name of its type, such as `routes`.
    pub resource_type: String,
    /// Its key below the prefix.
    pub key: String,
    /// The resource, with type and name.
    pub resource: Value,
    /// Further documents by key, written before.
    pub beside: Vec<(String, Value)>,
    /// The field that the rejection names.
    pub path: String,
    /// The rest of the rejection's sentence.
    pub says: String,
    /// Texts that Envoy's own rejection contains.
    pub envoy: Vec<String>,
}

/// All conditions, and how their examples are put together.
pub struct Catalogue {
    /// In order.
    pub conditions: Vec<Condition>,
    frames: BTreeMap<String, Frame>,
    chain: String,
    key: String,
    other_key: String,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/refused_by_envoy")
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let text = fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("read {name}: {error}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

impl Catalogue {
    /// Read the files.
    pub fn load() -> Self {
        let files = [
            "1-envelope",
            "2-routes",
            "3-clusters",
            "4-endpoints",
            "5-listeners",
            "6-others",
        ];
        let conditions = files
            .iter()
            .flat_map(|file| read::<Vec<Condition>>(&format!("{file}.yaml")))
            .collect();
        let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("a certificate");
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let other_key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        Self {
            conditions,
            frames: read("frames.yaml"),
            chain,
            key,
            other_key,
        }
    }

    /// Every place of an extension, with an extension that fits and with each form that does not.
    pub fn places(&self) -> Vec<Tried> {
        let rows: Vec<PlaceRow> = read("places.yaml");
        rows.into_iter().flat_map(|row| self.tried(row)).collect()
    }

    fn tried(&self, row: PlaceRow) -> Vec<Tried> {
        let Some(scope) = row.scope else {
            let place = row.place.expect("a place or a scope");
            return self.forms(&place, &row.r#in, &row.put, row.good.as_ref(), (&row.takes, &row.ends));
        };
        let (input, action) = (row.input.expect("an input"), row.action.expect("an action"));
        let any = || json!("$ANY");
        let list = |input: Value, action: Value| {
            let predicate = json!({ "single_predicate": { "input": { "name": "i", "typed_config": input }, "value_match": { "exact": "a" } } });
            json!({ "matcher_list": { "matchers": [{ "predicate": predicate, "on_match": { "action": { "name": "a", "typed_config": action } } }] } })
        };
        let tree = json!({ "matcher_tree": {
            "input": { "name": "i", "typed_config": any() },
            "exact_match_map": { "map": { "a": { "action": { "name": "a", "typed_config": action } } } },
        } });
        let matcher = "xds.type.matcher.v3.Matcher";
        let places = [
            (
                "MatcherList.Predicate.SinglePredicate.input",
                list(any(), action.clone()),
                &input,
            ),
            ("MatcherTree.input", tree, &input),
            ("OnMatch.action", list(input.clone(), any()), &action),
        ];
        let tried = places.into_iter().flat_map(|(field, put, good)| {
            let put = replaced(row.put.clone(), "$MATCHER", Some(&put)).expect("a place");
            self.forms(
                &format!("{scope}>{matcher}.{field}"),
                &row.r#in,
                &put,
                Some(good),
                (&row.takes, &row.ends),
            )
        });
        tried.collect()
    }

    fn forms(
        &self,
        place: &str,
        frame: &str,
        put: &Value,
        good: Option<&Value>,
        (takes, ends): (&[String], &[String]),
    ) -> Vec<Tried> {
        let typed = |name: &str| json!({ "@type": format!("{HOST}{name}") });
        let bad = [
            (
                "struct",
                Some(json!({ "@type": format!("{HOST}google.protobuf.Struct"), "value": { "a": 1 } })),
            ),
            (
                "kind",
                Some(json!({ "@type": format!("{HOST}envoy.config.cluster.v3.Cluster"), "name": "a" })),
            ),
            ("none", None),
            ("typed_struct", {
                let mut typed = typed("xds.type.v3.TypedStruct");
                typed["type_url"] = json!(format!("{HOST}acme.Unknown"));
                typed["value"] = json!({});
                Some(typed)
            }),
        ];
        let good = good.map(|good| ("good", Some(good.clone())));
        let forms = bad.into_iter().chain(good).filter_map(|(form, any)| {
            let put = replaced(put.clone(), "$ANY", any.as_ref())?;
            let example = Example {
                frame: frame.to_owned(),
                put,
                ..Example::default()
            };
            let case = self.case(&Condition::default(), &example);
            let has = |forms: &[String]| forms.iter().any(|word| word == form);
            Some(Tried {
                place: place.to_owned(),
                form,
                takes: has(takes),
                ends: has(ends),
                case,
            })
        });
        forms.collect()
    }

    /// Put an example together.
    pub fn case(&self, condition: &Condition, example: &Example) -> Case {
        let frame = self
            .frames
            .get(&example.frame)
            .unwrap_or_else(|| panic!("no frame {}", example.frame));
        let at = example.at.as_ref().unwrap_or(&frame.at);
        let name = frame.name.as_deref().unwrap_or("a");
        let mut fields = frame.resource.clone();
        let mut place = &mut fields;
        for step in steps(at) {
            place = match step {
                Step::Field(name) => &mut place[name],
                Step::Index(index) => &mut place[index],
            };
        }
        lay_over(place, &example.put);
        let beside = example.beside.iter().map(|(key, value)| {
            let document = match xds(key) {
                Some((word, name)) => json!({ "resource": self.resource(word, name, value.clone()) }),
                None => value.clone(),
            };
            (key.clone(), document)
        });
        let envoy = example
            .envoy
            .as_ref()
            .or(condition.envoy.as_ref())
            .cloned()
            .unwrap_or_default();
        let envoy = match envoy.strip_prefix('[').and_then(|envoy| envoy.strip_suffix(']')) {
            Some(several) => several.split('|').map(str::to_owned).collect(),
            None => vec![envoy],
        };
        Case {
            resource_type: frame.r#type.clone(),
            key: format!("xds/{}/{name}", frame.r#type),
            resource: self.resource(&frame.r#type, name, fields),
            beside: beside.collect(),
            path: path(at, example.path.as_deref().unwrap_or_default()),
            says: example.says.clone().unwrap_or_default(),
            envoy,
        }
    }

    fn resource(&self, word: &str, name: &str, fields: Value) -> Value {
        let resource_type = chancery::resource::ResourceType::from_word(word).expect("a type");
        let field = if word == "endpoints" { "cluster_name" } else { "name" };
        let mut resource = json!({ "@type": resource_type.type_url(), field: name });
        lay_over(&mut resource, &fields);
        self.expanded(resource)
    }

    fn expanded(&self, value: Value) -> Value {
        match value {
            Value::String(text) if text == "$CHAIN" => self.chain.clone().into(),
            Value::String(text) if text == "$KEY" => self.key.clone().into(),
            Value::String(text) if text == "$OTHER_KEY" => self.other_key.clone().into(),
            Value::Array(list) => list.into_iter().map(|value| self.expanded(value)).collect(),
            Value::Object(fields) => match (fields.get("$repeat"), fields.get("$times")) {
                (Some(repeat), _) => repeat[0].as_str().expect("a text").repeat(count(repeat)).into(),
                (_, Some(times)) => Value::Array(vec![times[0].clone(); count(times)]),
                _ => fields
                    .into_iter()
                    .map(|(name, value)| self.field(name, value))
                    .collect::<Map<_, _>>()
                    .into(),
            },
            other => other,
        }
    }

    fn field(&self, name: String, value: Value) -> (String, Value) {
        match value {
            Value::String(short) if name == "@type" && !short.contains('/') => (name, format!("{HOST}{short}").into()),
            value => (name, self.expanded(value)),
        }
    }
}

impl Case {
    /// The document of the example.
    pub fn document(&self) -> Value {
        json!({ "resource": self.resource })
    }
}

/// The type and the name in the key of an xds document.
pub fn xds(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix("xds/")?.split_once('/')
}

fn count(pair: &Value) -> usize {
    usize::try_from(pair[1].as_u64().expect("a count")).expect("a small one")
}

/// Merge `over` into `under`: objects field by field; `null` removes a field.
fn lay_over(under: &mut Value, over: &Value) {
    let Value::Object(fields) = over else {
        return *under = over.clone();
    };
    if !under.is_object() || fields.contains_key("@type") && under.get("@type").is_none() {
        *under = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(under.as_object_mut().expect("an object").remove(name)),
            value => lay_over(&mut under[name], value),
        }
    }
}

/// A value with one for the placeholder, or without the field that holds the placeholder. `None`: nothing is left.
fn replaced(value: Value, placeholder: &str, by: Option<&Value>) -> Option<Value> {
    match value {
        Value::String(text) if text == placeholder => by.cloned(),
        Value::Array(list) => Some(
            list.into_iter()
                .filter_map(|one| replaced(one, placeholder, by))
                .collect(),
        ),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            let fields = fields.filter_map(|(name, value)| Some((name, replaced(value, placeholder, by)?)));
            Some(Value::Object(fields.collect()))
        }
        other => Some(other),
    }
}

enum Step {
    Field(String),
    Index(usize),
}

/// `a.b[0]["c.d"]`, step by step.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (name, after) = quoted.split_once("\"]").expect("a quoted field");
            steps.push(Step::Field(name.to_owned()));
            rest = after;
        } else if let Some(index) = rest.strip_prefix('[') {
            let (index, after) = index.split_once(']').expect("an index");
            steps.push(Step::Index(index.parse().expect("a number")));
            rest = after;
        } else {
            let field = rest.strip_prefix('.').unwrap_or(rest);
            let end = field.find(['.', '[']).unwrap_or(field.len());
            steps.push(Step::Field(field[..end].to_owned()));
            rest = &field[end..];
        }
    }
    steps
}

/// The whole path of `path` below `at`.
fn path(at: &str, path: &str) -> String {
    if path == "resource" || path.starts_with("resource.") {
        return path.to_owned();
    }
    let mut whole = "resource".to_owned();
    for part in [at, path] {
        if !part.is_empty() && !part.starts_with('[') {
            whole.push('.');
        }
        whole.push_str(part);
    }
    whole
}
