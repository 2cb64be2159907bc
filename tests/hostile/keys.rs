//! etcd keys and documents that would write lines, or steer a terminal, in the log.

use std::time::Duration;

use tokio::time::sleep;

use crate::trial::{MIB, Trial};

/// What the attacks of this module may cost.
const BUDGET: u64 = 256 * MIB;

/// Ends of keys.
const ENDS: [&str; 4] = [
    "a\n2026-01-01T00:00:00.000000Z ERROR chancery: forged",
    "a\u{1b}[2J\u{1b}]0;forged\u{7}",
    "a\r\u{85}\u{2028}\u{202e}forged",
    "\u{0}",
];
const FOLDERS: [&str; 7] = [
    "/gateway/routes/",
    "/gateway/clusters/",
    "/gateway/xds/clusters/",
    "/gateway/",
    "/services/",
    "/services/pace/",
    "/chancery/last-good/",
];
/// Texts of documents: no document, and one with the same in its fields.
const TEXTS: [&str; 3] = [
    "\u{1b}[31m\n",
    r#"{"match": "/a\n\u001b[31m", "to": "\n\u001b[31m"}"#,
    r#"{"\n\u001b[31m": 1}"#,
];

async fn keys_in_the_log(format: &str, level: &str) {
    let trial = Trial::start(&[], &["--log-format", format, "--log-level", level]).await;
    let client = trial.etcd.client().await;
    let name = format!("etcd keys with control characters, log as {format} at {level}");
    trial
        .withstands(&name, BUDGET, |_| async move {
            let mut client = client;
            for text in TEXTS.iter().cycle() {
                for folder in FOLDERS {
                    for end in ENDS {
                        client.put(format!("{folder}{end}"), *text, None).await.unwrap();
                        sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_in_the_text_log() {
    keys_in_the_log("text", "chancery=debug").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_in_the_json_log() {
    keys_in_the_log("json", "info").await;
}
