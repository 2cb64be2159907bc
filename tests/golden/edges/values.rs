//! Values at the edges of each grammar, from `tests/data/edges/values.yaml`; long texts and texts with every command
//! are made here.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::data;

/// Envoy's commands, each after whether it takes an argument and a length.
const COMMANDS: &str = include_str!("../../../src/resource/check/formats/commands.txt");
/// Forms of a command, after its name.
const FORMS: [&str; 9] = ["", "()", "(x)", ":3", "(x):3", "(a:b)", "(a:b:c)", "(24)", "(129)"];

static VALUES: LazyLock<Value> = LazyLock::new(|| data("values"));

/// The values of a grammar.
pub(super) fn of(name: &str) -> Vec<Value> {
    match name {
        "commands" => commands(),
        "formats" => with_long(name, "", &[16_384, 16_385]),
        "header_names" => with_long(name, "", &[255, 256, 257, 1024, 1025, 16_384, 16_385]),
        "paths" => with_long(name, "/", &[4095, 4096, 4097, 16_384]),
        "templates" => with_long(name, "/{a}/", &[255, 256, 257, 1000]),
        "rewrites" => with_long(name, "/", &[255, 256, 257]),
        "bodies" => [0, 4096, 4097].map(|length| json!("x".repeat(length))).to_vec(),
        "hosts" => hosts(),
        "some_addresses" => list("addresses").into_iter().filter(|address| address != "").collect(),
        name => list(name),
    }
}

fn list(name: &str) -> Vec<Value> {
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
fn commands() -> Vec<Value> {
    let mut formats = of("formats");
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

/// Hosts, and labels and names around their greatest lengths.
fn hosts() -> Vec<Value> {
    let label = |length: usize| "a".repeat(length);
    let name = |length: usize| format!("{}b", &format!("{}.", label(62)).repeat(5)[..length - 1]);
    let labels = [63, 64].map(label);
    let wildcards = [63, 64].map(|length| format!("*.{}", label(length)));
    let names = [253, 254, 255, 256, 300].map(name);
    let long = labels.into_iter().chain(wildcards).chain(names).map(Value::from);
    list("hosts").into_iter().chain(long).collect()
}
