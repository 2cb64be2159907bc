//! The output of verbs equals the recorded one: at 100 and 80 columns, and as JSON.
//!
//! A scripted server answers each path with a file of `cli/answers`. `cli/NAME.FORM.txt` has the output.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;

use super::inputs::folder;

/// Verbs by the name of their output; the last argument may have spaces.
const VERBS: [(&str, &[&str]); 9] = [
    ("status", &["status"]),
    ("history", &["history", "--since", "1h"]),
    ("undo", &["undo", "1842", "--yes"]),
    ("ps", &["ps"]),
    ("ps-not-live", &["ps", "--state", "!live"]),
    ("ps-node", &["ps", "edge-7"]),
    (
        "explain",
        &[
            "explain",
            "curl -X POST https://api.example.com/v1/orders/7 -H \"x-env-tag: canary\"",
        ],
    ),
    ("explain-not-found", &["explain", "api.example.com/v2/x"]),
    ("get", &["get", "routes"]),
];
const FORMS: [(&str, &[&str]); 3] = [
    ("100", &["--width", "100"]),
    ("80", &["--width", "80"]),
    ("json", &["-o", "json"]),
];

/// The end of a file's name, for a request whose body decides about the answer.
fn of_body(body: &[u8]) -> &'static str {
    match String::from_utf8_lossy(body).contains("/v2/x") {
        true => "-not-found",
        false => "",
    }
}

/// Answers requests with files until the test ends. Returns the address.
fn scripted() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let mut target = String::new();
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).expect("a line");
                let line = line.trim_end().to_ascii_lowercase();
                if target.is_empty() {
                    target = line.split(' ').nth(1).unwrap_or_default().to_owned();
                }
                if let Some(text) = line.strip_prefix("content-length: ") {
                    length = text.parse().expect("a length");
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut sent = vec![0; length];
            stream.read_exact(&mut sent).expect("a body");
            let path = target
                .split('?')
                .next()
                .unwrap_or_default()
                .trim_start_matches("/api/v1/");
            let file = folder()
                .join("cli/answers")
                .join(format!("{}{}.json", path.replace('/', "-"), of_body(&sent)));
            let body = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let head = "HTTP/1.1 200 OK\r\ndate: Mon, 30 Nov 2026 03:06:11 GMT\r\ncontent-type: application/json\r\n";
            let answer = format!(
                "{head}content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.get_mut().write_all(answer.as_bytes()).expect("write the answer");
        }
    });
    format!("http://{address}")
}

#[test]
fn verbs_print_what_is_recorded() {
    let write = std::env::var_os("CHANCERY_GOLDEN").is_some_and(|value| value == "write");
    let server = scripted();
    let mut differences = Vec::new();
    for (name, verb) in VERBS {
        for (form, flags) in FORMS {
            let (word, rest) = verb.split_first().expect("a verb");
            let output = Command::new(env!("CARGO_BIN_EXE_chancery"))
                .arg(word)
                .args(flags)
                .args(["--server", &server])
                .args(rest)
                .env_clear()
                .output()
                .expect("run the verb");
            let found = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            let path = folder().join("cli").join(format!("{name}.{form}.txt"));
            if let Ok(width) = form.parse::<usize>() {
                let long: Vec<&str> = found.lines().filter(|line| line.chars().count() > width).collect();
                assert!(long.is_empty(), "{name}: {long:#?}");
            }
            if write {
                fs::write(&path, &*found).expect("write the expected output");
            } else if fs::read_to_string(&path).unwrap_or_default() != found {
                differences.push(format!("{} is not what is printed now:\n{found}", path.display()));
            }
        }
    }
    let differences = differences.join("\n");
    assert!(
        differences.is_empty(),
        "{differences}\nCHANCERY_GOLDEN=write accepts them"
    );
}
