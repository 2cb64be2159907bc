//! What a line looks like, whatever an event has in it.

use parking_lot::Mutex;
use tracing::{info, info_span, warn};
use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// The lines of what `log` logs, without their time.
fn lines_of(form: Form, log: impl FnOnce()) -> Vec<String> {
    let written: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = {
        let written = Arc::clone(&written);
        move |line: &str| written.lock().push(line.to_owned())
    };
    let lines = Lines::new(form, sink);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.clone()), log);
    lines.write_summaries(true);
    let written = written.lock();
    assert!(
        written
            .iter()
            .all(|line| line.matches('\n').count() == 1 && line.ends_with('\n'))
    );
    written
        .iter()
        .map(|line| line.trim_end_matches('\n').to_owned())
        .collect()
}

const TEXT: Form = Form::Text { ansi: false };

fn without_time(line: &str) -> &str {
    line.split_once(' ').unwrap().1
}

#[test]
fn a_line_of_text_has_spans_target_message_and_fields() {
    let lines = lines_of(TEXT, || {
        let span = info_span!("stream", node.id = "edge", variant = "delta");
        info!(parent: &span, r#type = "cluster", count = 3, ok = true, error = %"no \"such\" thing", "Came");
    });
    assert_eq!(
        without_time(&lines[0]),
        " INFO stream{node.id=\"edge\" variant=\"delta\"}: chancery::telemetry::lines::tests: Came type=\"cluster\" count=3 \
         ok=true error=no \"such\" thing"
    );
}

#[test]
fn a_json_line_has_the_fields_flat() {
    let lines = lines_of(Form::Json, || {
        let span = info_span!("stream", node.id = "a\nb");
        warn!(parent: &span, count = 3, error = %"\u{1b}[2J", "Came");
    });
    let mut line: Json = serde_json::from_str(&lines[0]).unwrap();
    assert!(line.as_object_mut().unwrap().remove("timestamp").is_some());
    let span = serde_json::json!({ "name": "stream", "node.id": "a\\nb" });
    let expected = serde_json::json!({
        "level": "WARN", "message": "Came", "target": "chancery::telemetry::lines::tests",
        "count": 3, "error": "\\u{1b}[2J", "span": span, "spans": [span],
    });
    assert_eq!(line, expected);
}

#[test]
fn nothing_from_outside_forges_a_line_or_reaches_a_terminal() {
    let evil = "/gateway/routes/a\n2026-01-01T00:00:00Z ERROR chancery: forged \u{1b}]0;title\u{7}\u{9b}31m\r";
    for form in [TEXT, Form::Json] {
        let lines = lines_of(form, || {
            let span = info_span!("watch", prefix = evil);
            warn!(parent: &span, key = evil, shown = %evil, listed = ?[evil], "Rejected {evil}");
        });
        assert_eq!(lines.len(), 1);
        assert!(!lines[0].chars().any(char::is_control), "{}", lines[0]);
    }
}

#[test]
fn a_line_about_a_client_has_short_fields_only() {
    let long = "x".repeat(100_000);
    let lines = lines_of(TEXT, || {
        let span = info_span!("stream", node.id = long, peer = "10.0.0.1:1");
        warn!(parent: &span, reason = long, names = ?[&long, &long], "A proxy NACKed a response");
        warn!(reason = long, "Rejected");
    });
    assert!(lines[0].len() < 4 * PEER_FIELD_MAX, "{}", lines[0].len());
    assert!(lines[1].len() < 2 * FIELD_MAX, "{}", lines[1].len());
}

#[test]
fn a_loop_of_a_client_is_one_line_and_a_count() {
    let lines = lines_of(TEXT, || {
        for port in 0..1000 {
            warn!(peer = %format_args!("10.0.0.1:{port}"), "A proxy NACKed a response");
        }
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[1].ends_with("Left out log lines of one kind kind=\"A proxy NACKed a response\" lines=999 peers=1"),
        "{}",
        lines[1]
    );
}
