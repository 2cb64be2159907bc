//! The etcd backend with tokens that have an end (`--auth-token jwt`).

use std::sync::Arc;
use std::time::Duration;

use chancery::backend::etcd::{Etcd as Store, Options};
use chancery::backend::{Backend, Change, Event, Expect, WatchControl, Write};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::support::etcd::Etcd;

const PREFIX: &str = "/gateway/";
/// Life of a token.
const LIFE: Duration = Duration::from_secs(3);
/// Several lives, and two of the reads that prove every 5 s that the watch is alive.
const FOLLOWED: Duration = Duration::from_secs(11);
/// Longest time from a write to its change on the watch. After the loss of a watch the change takes a second or more.
const SOON: Duration = Duration::from_millis(500);

#[tokio::test]
async fn the_end_of_a_token_ends_no_watch_and_delays_no_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let (key, password_file) = (folder.path().join("key"), folder.path().join("password"));
    std::fs::write(&key, "a key of this test alone").expect("write the key");
    std::fs::write(&password_file, "right").expect("write the password");
    let token = format!(
        "jwt,sign-method=HS256,priv-key={},ttl={}s",
        key.display(),
        LIFE.as_secs()
    );
    let etcd = Etcd::start_with(&["--auth-token", &token]).await;
    etcd.add_user("gw", "right", &[PREFIX]);
    etcd.enable_auth("root-password");
    let store = Arc::new(Store::new(Options {
        endpoints: vec![etcd.endpoint()],
        user: Some("gw".to_owned()),
        password_file: Some(password_file),
        ..Options::default()
    }));
    let (sender, mut events) = mpsc::channel(4);
    let follower = Arc::clone(&store);
    // The task ends with the receiver.
    tokio::spawn(async move {
        follower
            .watch(PREFIX, WatchControl::default(), sender, CancellationToken::new())
            .await;
    });
    let first = events.recv().await.expect("the watch goes on");
    assert!(matches!(first, Event::Listed { .. }), "{first:?}");

    let begun = Instant::now();
    let mut ticks = interval(Duration::from_millis(250));
    for number in 0.. {
        ticks.tick().await;
        if begun.elapsed() > FOLLOWED {
            break;
        }
        let write = Write {
            key: format!("{PREFIX}routes/a").into(),
            value: Some(number.to_string().into()),
            expect: Expect::Any,
        };
        let sent = Instant::now();
        let revision = store.write(vec![write]).await.expect("write");
        loop {
            let event = timeout_at(sent + SOON, events.recv())
                .await
                .unwrap_or_else(|_| panic!("no change within {SOON:?}, {:?} after the start", begun.elapsed()))
                .expect("the watch goes on");
            match event {
                Event::Alive => {}
                Event::Changed { changes, .. } => {
                    assert!(matches!(&changes[..], [Change::Put(entry)] if entry.mod_revision == revision));
                    break;
                }
                lost => panic!("{:?} after the start: {lost:?}", begun.elapsed()),
            }
        }
    }

    // Two connections, each with a token for three quarters of a life, and one token more to learn how long they live.
    let (lives, refreshes) = (
        FOLLOWED.as_secs_f64() / LIFE.as_secs_f64(),
        store.stats().token_refreshes.get(),
    );
    assert!(
        refreshes as f64 <= 2.0 * (lives / 0.7 + 1.0) + 1.0,
        "{refreshes} tokens"
    );
}
