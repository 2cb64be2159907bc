//! Values at the edges of each grammar, from `tests/data/edge_values.yaml`; long texts and texts with every command are
//! generated.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::{Value, json};

/// Envoy's commands, each after whether it takes an argument and a length.
const COMMANDS: &str = include_str!("../../../src/resource/check/formats/commands.txt");
/// Forms of a command, after its name.
const FORMS: [&str; 9] = ["", "()", "(x)", ":3", "(x):3", "(a:b)", "(a:b:c)", "(24)", "(129)"];

static VALUES: LazyLock<Value> = LazyLock::new(|| {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/edge_values.yaml");
    let text = fs::read_to_string(path).expect("read the values");
    serde_saphyr::from_str(&text).expect("an object of lists")
});

/// A list of the file.
pub(super) fn list(name: &str) -> Vec<Value> {
    VALUES[name]
        .as_array()
        .unwrap_or_else(|| panic!("no list {name}"))
        .clone()
}

/// A list and texts of these lengths, each the beginning and then one letter.
fn with_long(name: &str, beginning: &str, lengths: &[usize]) -> Vec<Value> {
    let long = |length: &usize| json!(format!("{beginning}{}", "a".repeat(length - beginning.len())));
    list(name).into_iter().chain(lengths.iter().map(long)).collect()
}

/// Texts with commands: every command in every form, and arguments of every grammar.
pub(super) fn formats() -> Vec<Value> {
    let mut formats = percent_signs();
    // COALESCE has arguments of its own: Envoy 1.40 ends at a number.
    let commands = COMMANDS.lines().filter_map(|line| line.split_once(' '));
    for (_, name) in commands.filter(|(_, name)| *name != "COALESCE") {
        formats.extend(FORMS.map(|form| json!(format!("%{name}{form}%"))));
    }
    for length in list("lengths") {
        let length = length.as_str().expect("a text");
        formats.extend(["REQ(a)", "PROTOCOL"].map(|command| json!(format!("%{command}:{length}%"))));
    }
    for (commands, arguments) in VALUES["arguments"].as_object().expect("lists by commands") {
        for argument in arguments.as_array().expect("a list") {
            let argument = argument.as_str().expect("a text");
            let commands = commands.split(' ');
            formats.extend(commands.map(|command| json!(format!("x %{command}({argument})%"))));
        }
    }
    formats
}

/// Texts with percent signs, and with every control character.
pub(super) fn percent_signs() -> Vec<Value> {
    with_long("formats", "", &[16_384, 16_385])
}

/// Durations of proto-JSON.
pub(super) fn durations() -> Vec<Value> {
    list("durations")
}

/// Durations of documents.
pub(super) fn spans() -> Vec<Value> {
    list("spans")
}

/// Fractions and whole percents.
pub(super) fn percents() -> Vec<Value> {
    list("percents")
}

/// Whole numbers around the edges of what is counted with.
pub(super) fn numbers() -> Vec<Value> {
    list("numbers")
}

/// Weights of two clusters.
pub(super) fn weights() -> Vec<Value> {
    list("weights")
}

/// Hosts as patterns, in URLs and in Host.
pub(super) fn hosts() -> Vec<Value> {
    let label = |length: usize| "a".repeat(length);
    let name = |length: usize| format!("{}b", &format!("{}.", label(62)).repeat(5)[..length - 1]);
    let labels = [63, 64].map(label);
    let wildcards = [63, 64].map(|length| format!("*.{}", label(length)));
    let names = [253, 254, 255, 256, 300].map(name);
    let long = labels.into_iter().chain(wildcards).chain(names).map(Value::from);
    list("hosts").into_iter().chain(long).collect()
}

/// Addresses without a port.
pub(super) fn addresses() -> Vec<Value> {
    list("addresses")
}

/// Names of headers.
pub(super) fn header_names() -> Vec<Value> {
    with_long("header_names", "", &[255, 256, 257, 1024, 1025, 16_384, 16_385])
}

/// Methods.
pub(super) fn methods() -> Vec<Value> {
    list("methods")
}

/// Status codes.
pub(super) fn statuses() -> Vec<Value> {
    list("statuses")
}

/// Codes of redirects.
pub(super) fn redirect_codes() -> Vec<Value> {
    list("redirect_codes")
}

/// Paths of matches, rewrites and redirects.
pub(super) fn paths() -> Vec<Value> {
    with_long("paths", "/", &[4095, 4096, 4097, 16_384])
}

/// URI templates to match by.
pub(super) fn templates() -> Vec<Value> {
    with_long("templates", "/{a}/", &[255, 256, 257, 1000])
}

/// URI templates to rewrite by.
pub(super) fn rewrites() -> Vec<Value> {
    with_long("rewrites", "/", &[255, 256, 257])
}
