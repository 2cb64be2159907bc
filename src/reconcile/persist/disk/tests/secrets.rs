//! Secrets lie sealed in the state directory, or not at all.

use super::*;
use crate::document::key::{DocumentKey, Kind};
use crate::document::secret::sealed::Keys;
use crate::reconcile::world::State;

const OLD: &str = "old AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
const NEW: &str = "new AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n";
/// Stands in every secret of these tests.
const VALUE: &str = "hunter2";

fn vault(keys: Option<&str>) -> Vault {
    let keys = keys.map(|keys| Keys::read(keys).unwrap());
    Vault::new("/gateway/", keys, false, None)
}

fn secret(key: &str, value: &str, revision: i64) -> Entry {
    let value = match key {
        "secrets/a" => serde_json::json!({ "generic": value }),
        _ => serde_json::json!({ "resource": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "b",
            "generic_secret": { "secret": { "inline_string": value } },
        } }),
    };
    Entry {
        key: format!("/gateway/{key}").into(),
        value: value.to_string().into(),
        create_revision: 1,
        mod_revision: revision,
        leased: false,
    }
}

impl Stage {
    fn sealed_by(vault: Vault) -> Self {
        let mut stage = Self::new(&["a"]);
        stage.saver.disk.vault = vault;
        stage
    }

    /// One revision with both kinds of secrets.
    fn put_secrets(&mut self, value: &str) {
        self.revision += 1;
        let revision = self.revision;
        let changes = ["secrets/a", "xds/secrets/b"].map(|key| Change::Put(secret(key, value, revision)));
        let event = Event::Changed {
            revision,
            changes: changes.into(),
        };
        self.plan(vec![Input::Event {
            root: Root::Documents,
            event,
        }]);
        let mut states = self.world.documents().map(|status| status.state);
        assert!(states.all(|state| state == State::Accepted));
    }

    /// Everything in the files.
    fn content(&self) -> String {
        let files = self.files().into_iter();
        files
            .map(|file| fs::read_to_string(self.folder.path().join(file)).unwrap())
            .collect()
    }

    /// The texts that the next process reads.
    fn texts(&self, vault: Vault) -> Vec<(String, String)> {
        let saved = disk(self.folder.path()).sealed_by(vault).load().unwrap().unwrap();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let texts = saved.entries.into_iter();
        texts.map(|(_, entry)| (text(entry.key), text(entry.value))).collect()
    }

    fn serving(&self) -> Vec<(String, String)> {
        let mut texts: Vec<(String, String)> = self
            .world
            .documents()
            .map(|status| {
                let text = &status.serving.as_ref().unwrap().value;
                (status.full_key.to_string(), String::from_utf8(text.to_vec()).unwrap())
            })
            .collect();
        texts.sort();
        texts
    }
}

#[test]
fn with_keys_they_are_sealed_and_load_as_they_were() {
    let shared = vault(Some(OLD));
    let mut stage = Stage::sealed_by(shared.clone());
    stage.put_secrets(&format!("{VALUE}-1"));
    stage.save();
    assert_eq!(stage.texts(shared.clone()), stage.serving(), "from the state file");
    stage.put_secrets(&format!("{VALUE}-2"));
    stage.save();
    assert_eq!(stage.texts(shared.clone()), stage.serving(), "from the journal");
    let content = stage.content();
    assert!(!content.contains(VALUE), "{content}");

    // A plan without a change of the texts writes nothing.
    stage.plan(vec![Input::ReadAgain(vec![DocumentKey::new(Kind::Secrets, "a")])]);
    stage.save();
    assert_eq!(stage.content(), content);

    // Under another key nothing needs the key before.
    shared.replace_keys(Keys::read(&format!("{NEW}{OLD}")).unwrap());
    stage.save();
    assert!(!stage.content().contains("v1.old."), "{}", stage.content());
    assert_eq!(stage.texts(vault(Some(NEW))), stage.serving());
    assert_eq!(
        stage.texts(vault(Some(OLD))).len(),
        1,
        "secrets that do not open are left out"
    );
}

#[test]
fn without_keys_they_are_not_saved() {
    let mut stage = Stage::sealed_by(vault(None));
    stage.put_secrets(VALUE);
    stage.save();
    stage.put_secrets("hunter22");
    stage.save();
    assert!(!stage.content().contains(VALUE), "{}", stage.content());
    let keys: Vec<String> = stage.texts(vault(None)).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["/gateway/routes/a"]);
}

#[test]
fn a_secret_in_the_quarantine_is_sealed_or_left_out() {
    for (keys, count) in [(Some(OLD), 1), (None, 0)] {
        let mut stage = Stage::sealed_by(vault(keys));
        stage.saver.disk.keep_quarantine();
        stage.put_secrets(VALUE);
        let earlier = secret("secrets/a", &format!("{VALUE}-0"), 1);
        let content = Content::Refused(
            Some(Arc::new(Text {
                value: earlier.value.clone(),
                create_revision: 1,
                mod_revision: 1,
                leased: false,
            })),
            Arc::new(Quarantine {
                resources: Vec::new(),
                reason: "no".into(),
                is_sole_suspect: true,
                is_accepted: false,
            }),
        );
        let record = Record {
            about: stage.revision,
            since: SystemTime::UNIX_EPOCH,
            content,
        };
        stage.plan(vec![Input::Remembered {
            folder: Folder::Quarantine,
            whole: false,
            records: vec![("/gateway/secrets/a".into(), Some(Known::new(record.clone(), "")))],
        }]);
        stage.save();
        assert!(stage.files().contains(&"quarantine.json".to_owned()));
        let content = stage.content();
        let refused = secret("secrets/a", VALUE, stage.revision);
        let digest = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&refused.value));
        assert!(!content.contains(VALUE) && !content.contains(&digest), "{content}");

        let kept = disk(stage.folder.path()).sealed_by(vault(keys)).keep_quarantine();
        assert_eq!(kept.len(), count);
        for kept in kept {
            assert_eq!(kept.about(&refused), Some(record.clone()));
        }
    }
}
