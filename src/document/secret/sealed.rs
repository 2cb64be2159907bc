//! Sealed documents: `v1.KEYID.BASE64(nonce ‖ ciphertext ‖ tag)`, AES-256-GCM.
//!
//! The full key of the document is the associated data, so that a sealed text opens at its own key alone.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// The form of a sealed text.
const FORM: &str = "v1";
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Longest id of a key.
const ID_LENGTH: usize = 63;

/// The keys of `--secret-keys-file`. The first seals, all open.
pub struct Keys {
    first: String,
    by_id: BTreeMap<String, LessSafeKey>,
}

impl Keys {
    /// From lines `id base64(32 bytes)`. Empty lines and lines that begin with `#` are left out.
    ///
    /// # Errors
    /// The line that is no key. Nothing of it is quoted but its number.
    pub fn read(text: &str) -> Result<Self, String> {
        let (mut first, mut by_id) = (None, BTreeMap::new());
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let expected = format!(
                "line {number}: expected an id of letters, digits, - and _, a blank, and the base64 of 32 bytes"
            );
            let (id, encoded) = line.split_once(char::is_whitespace).ok_or_else(|| expected.clone())?;
            let bytes = BASE64
                .decode(encoded.trim())
                .ok()
                .filter(|bytes| bytes.len() == KEY_BYTES);
            let key = bytes
                .filter(|_| is_id(id))
                .and_then(|bytes| UnboundKey::new(&AES_256_GCM, &bytes).ok());
            let key = LessSafeKey::new(key.ok_or(expected)?);
            if by_id.insert(id.to_owned(), key).is_some() {
                return Err(format!("line {number}: the id {id:?} stands twice, expected each once"));
            }
            first.get_or_insert_with(|| id.to_owned());
        }
        let first = first.ok_or_else(|| "no key, expected at least one".to_owned())?;
        Ok(Self { first, by_id })
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn first(&self) -> &str {
        &self.first
    }

    /// Whether a key of this id is there.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// The sealed form of a document's text.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn seal(&self, full_key: &str, text: &[u8]) -> Result<String, String> {
        let failed = || "the system gave no random bytes to seal with".to_owned();
        let key = self.by_id.get(&self.first).ok_or_else(failed)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| failed())?;
        let mut sealed = text.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(full_key.as_bytes()),
            &mut sealed,
        )
        .map_err(|_| failed())?;
        let bytes: Vec<u8> = nonce.into_iter().chain(sealed).collect();
        Ok(format!("{FORM}.{}.{}", self.first, BASE64.encode(bytes)))
    }

    /// The text of a sealed document.
    ///
    /// # Errors
    /// Another form, an unknown key, or a text that was sealed with another key or for another document.
    pub fn open(&self, full_key: &str, sealed: &str) -> Result<Vec<u8>, String> {
        let id = key_id(sealed)?;
        let key = self.by_id.get(id).ok_or_else(|| {
            format!("found a document sealed with the key {id:?}, expected one of --secret-keys-file")
        })?;
        let encoded = sealed.rsplit('.').next().unwrap_or_default();
        let unusable = || {
            "found a sealed text that does not open, expected one sealed with that key for this document's key"
                .to_owned()
        };
        let bytes = BASE64.decode(encoded).map_err(|_| unusable())?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN).ok_or_else(unusable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| unusable())?;
        let mut text = text.to_vec();
        let opened = key
            .open_in_place(nonce, Aad::from(full_key.as_bytes()), &mut text)
            .map_err(|_| unusable())?;
        Ok(opened.to_vec())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.by_id.keys()).finish()
    }
}

/// The id of the key that a text was sealed with.
///
/// # Errors
/// Another form.
pub fn key_id(sealed: &str) -> Result<&str, String> {
    let mut parts = sealed.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(FORM), Some(id), Some(_), None) if is_id(id) => Ok(id),
        _ => Err("found another form, expected \"v1.KEYID.BASE64\"".to_owned()),
    }
}

fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=ID_LENGTH).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/gateway/secrets/a";

    fn keys(ids: &[&str]) -> Keys {
        let line = |id: &&str| format!("{id} {}\n", BASE64.encode([id.as_bytes()[1]; KEY_BYTES]));
        Keys::read(&ids.iter().map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let (old, new) = (keys(&["k1"]), keys(&["k2-new", "k1"]));
        let sealed = old.seal(KEY, b"hunter2").unwrap();
        assert_eq!(key_id(&sealed), Ok("k1"));
        assert_eq!(new.open(KEY, &sealed).unwrap(), b"hunter2");
        assert_eq!(key_id(&new.seal(KEY, b"a").unwrap()), Ok("k2-new"));
        assert_ne!(old.seal(KEY, b"hunter2").unwrap(), sealed);
    }

    #[test]
    fn a_sealed_text_opens_with_its_key_at_its_place_alone() {
        let keys = keys(&["k1"]);
        let sealed = keys.seal(KEY, b"hunter2").unwrap();
        let unusable =
            "found a sealed text that does not open, expected one sealed with that key for this document's key";
        assert_eq!(keys.open("/gateway/secrets/b", &sealed), Err(unusable.to_owned()));
        let other = Keys::read(&format!("k1 {}", BASE64.encode([9; KEY_BYTES]))).unwrap();
        assert_eq!(other.open(KEY, &sealed), Err(unusable.to_owned()));
        assert_eq!(keys.open(KEY, "v1.k1.AAAA"), Err(unusable.to_owned()));
        assert_eq!(
            keys.open(KEY, "v1.k9.AAAA"),
            Err("found a document sealed with the key \"k9\", expected one of --secret-keys-file".to_owned())
        );
        for form in [
            "",
            "v1",
            "v1.k1",
            "v2.k1.AAAA",
            "v1.k1.AAAA.AAAA",
            "v1..AAAA",
            "hunter2",
        ] {
            let reason = keys.open(KEY, form).unwrap_err();
            assert_eq!(reason, "found another form, expected \"v1.KEYID.BASE64\"", "{form}");
        }
    }

    #[test]
    fn a_bad_line_is_named_and_not_quoted() {
        let line = format!("k1 {}", BASE64.encode([1; KEY_BYTES]));
        assert!(Keys::read(&format!("# comment\n\n{line}\n")).is_ok());
        let expected = "expected an id of letters, digits, - and _, a blank, and the base64 of 32 bytes";
        for bad in ["hunter2", "k1 hunter2", "k.1 AAAA", "k1 AAAA"] {
            let reason = Keys::read(&format!("\n{bad}")).unwrap_err();
            assert_eq!(reason, format!("line 2: {expected}"));
        }
        assert_eq!(
            Keys::read(&format!("{line}\n{line}")).unwrap_err(),
            "line 2: the id \"k1\" stands twice, expected each once"
        );
        assert_eq!(Keys::read("# none").unwrap_err(), "no key, expected at least one");
    }

    #[test]
    fn keys_are_debugged_by_their_ids() {
        assert_eq!(format!("{:?}", keys(&["k1"])), "{\"k1\"}");
    }
}
