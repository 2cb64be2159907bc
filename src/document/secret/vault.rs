//! The things outside a secrets document that it may need: keys that open it, and files on the server.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::MAX_BYTES;
use super::sealed::{Keys, key_id};
use crate::document::key::{DocumentKey, Kind};
use crate::document::sentence::quote;
use crate::document::text;

/// The field of a sealed document.
pub(super) const SEALED: &str = "encrypted";
/// The field with the files of a secret.
pub(super) const FILES: &str = "files";
/// Where documents are that may be a secret as a whole, below the prefix.
const SECRETS: [&str; 2] = ["secrets/", "xds/secrets/"];
/// Where documents are that may have a secret in them, a private key in a TLS context for example.
const WITH_SECRETS: &str = "xds/";

/// Reads the files that documents name: secrets, and descriptors of policies.
pub trait Files: Send + Sync + fmt::Debug {
    /// The content of a file that a document names.
    ///
    /// # Errors
    /// Why the file cannot be read, as a reason: `found …, expected …`.
    fn content(&self, document: &DocumentKey, path: &str) -> Result<Bytes, String>;

    /// The warning about files of a document that changed and cannot be used: the content before serves.
    fn warning(&self, document: &DocumentKey) -> Option<String>;
}

/// The form in which the state directory and the records below the state prefix have a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtRest {
    /// As it is: the text holds no secret.
    AsItIs,
    /// Sealed.
    Sealed(String),
    /// The text holds a secret, and there are no keys to seal it with.
    Unsealable,
}

/// See the module. Cheap to clone; clones share their keys. The default has neither keys nor files.
#[derive(Debug, Clone, Default)]
pub struct Vault(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// `--prefix`: sealed texts belong to a full key.
    prefix: Arc<str>,
    keys: Arc<ArcSwapOption<Keys>>,
    requires_sealed: bool,
    files: Option<Arc<dyn Files>>,
}

impl Vault {
    /// A vault for documents below `prefix`. `requires_sealed`: plain secrets are rejected.
    #[must_use]
    pub fn new(prefix: &str, keys: Option<Keys>, requires_sealed: bool, files: Option<Arc<dyn Files>>) -> Self {
        Self(Arc::new(Inner {
            prefix: prefix.into(),
            keys: Arc::new(ArcSwapOption::new(keys.map(Arc::new))),
            requires_sealed,
            files,
        }))
    }

    /// The keys, if there are any.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.0.keys.load_full()
    }

    /// Put these keys in the place of those before, in all clones. Sealed documents are not read again by that.
    pub fn replace_keys(&self, keys: Keys) {
        self.0.keys.store(Some(Arc::new(keys)));
    }

    /// The same vault with other files.
    #[must_use]
    pub fn with_files(&self, files: Arc<dyn Files>) -> Self {
        Self(Arc::new(Inner {
            prefix: Arc::clone(&self.0.prefix),
            keys: Arc::clone(&self.0.keys),
            requires_sealed: self.0.requires_sealed,
            files: Some(files),
        }))
    }

    fn full_key(&self, key: &DocumentKey) -> String {
        format!("{}{key}", self.0.prefix)
    }

    /// The text of a sealed document.
    ///
    /// # Errors
    /// The reason why it does not open.
    pub fn open(&self, key: &DocumentKey, sealed: &str) -> Result<Vec<u8>, String> {
        self.open_at(&self.full_key(key), sealed)
    }

    fn open_at(&self, full_key: &str, sealed: &str) -> Result<Vec<u8>, String> {
        match self.keys() {
            Some(keys) => keys.open(full_key, sealed),
            None => Err("found a sealed document, but the server has no keys (--secret-keys-file)".to_owned()),
        }
    }

    /// The document with a text sealed in it; `None`: there are no keys.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn seal(&self, key: &DocumentKey, text: &[u8]) -> Result<Option<String>, String> {
        let sealed = self.keys().map(|keys| keys.seal(&self.full_key(key), text));
        let sealed = sealed.transpose()?;
        Ok(sealed.map(|sealed| document_of(&sealed)))
    }

    /// The text to be stored in place of a secret in the clear; `None`: the text stays as it is.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn to_store(&self, key: &DocumentKey, text: &[u8]) -> Result<Option<String>, String> {
        match key.kind == Kind::Secrets && is_in_the_clear(text) {
            true => self.seal(key, text),
            false => Ok(None),
        }
    }

    /// The form in which the text at a full key lies outside of it.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn at_rest(&self, full_key: &str, text: &[u8]) -> Result<AtRest, String> {
        if !self.is_sealed_at_rest(full_key, text) {
            return Ok(AtRest::AsItIs);
        }
        match self.keys() {
            Some(keys) => keys.seal(full_key, text).map(AtRest::Sealed),
            None => Ok(AtRest::Unsealable),
        }
    }

    /// The text whose form at rest this is.
    ///
    /// # Errors
    /// The reason why a sealed form does not open.
    pub fn text_of(&self, full_key: &str, form: String) -> Result<Vec<u8>, String> {
        // A text is an object, and no sealed form is one.
        match self.may_hold_secret(full_key) && key_id(&form).is_ok() {
            true => self.open_at(full_key, &form),
            false => Ok(form.into_bytes()),
        }
    }

    /// A sealed document, or the sealed form of a text at rest, sealed anew with the first key. `None`: it is sealed with
    /// that key, or not at all.
    ///
    /// # Errors
    /// The reason why it does not open.
    pub fn sealed_anew(&self, full_key: &str, text: &[u8]) -> Result<Option<String>, String> {
        let (Some(keys), Ok(form)) = (self.keys(), std::str::from_utf8(text)) else {
            return Ok(None);
        };
        let in_document = sealed_in(text);
        let sealed = in_document.as_deref().unwrap_or(form);
        let is_other = key_id(sealed).is_ok_and(|id| id != keys.first());
        if !is_other || !self.may_hold_secret(full_key) {
            return Ok(None);
        }
        let anew = keys.seal(full_key, &keys.open(full_key, sealed)?)?;
        Ok(Some(match in_document {
            Some(_) => document_of(&anew),
            None => anew,
        }))
    }

    /// A text about a secret, sealed for the full key; `None`: that cannot be done.
    #[must_use]
    pub fn seal_text(&self, full_key: &str, text: &str) -> Option<String> {
        self.keys()?.seal(full_key, text.as_bytes()).ok()
    }

    /// Whether the text at a full key is sealed wherever else it lies. A resource with a secret in it is sealed if there
    /// are keys: without them, a server that starts while the store is away needs the resource more.
    #[must_use]
    pub fn is_sealed_at_rest(&self, full_key: &str, text: &[u8]) -> bool {
        let is_secret = |below: &str| SECRETS.iter().any(|folder| below.starts_with(folder)) && is_in_the_clear(text);
        self.below_prefix(full_key)
            .is_some_and(|below| is_secret(below) || below.starts_with(WITH_SECRETS) && self.keys().is_some())
    }

    fn may_hold_secret(&self, full_key: &str) -> bool {
        self.below_prefix(full_key).is_some_and(|below| {
            SECRETS
                .into_iter()
                .chain([WITH_SECRETS])
                .any(|folder| below.starts_with(folder))
        })
    }

    fn below_prefix<'a>(&self, full_key: &'a str) -> Option<&'a str> {
        full_key.strip_prefix(&*self.0.prefix)
    }

    /// Whether a text need not be written, because the stored one says the same. A stored secret in the clear must be
    /// written again if there are keys to seal it with.
    #[must_use]
    pub fn is_stored(&self, key: &DocumentKey, stored: &[u8], written: &[u8]) -> bool {
        if key.kind != Kind::Secrets {
            return stored == written;
        }
        if is_in_the_clear(stored) {
            return stored == written && self.keys().is_none();
        }
        let opened = |text: &[u8]| match sealed_in(text) {
            Some(sealed) => self.open(key, &sealed).ok(),
            None => Some(text.to_vec()),
        };
        stored == written || opened(stored).is_some_and(|stored| opened(written).as_ref() == Some(&stored))
    }

    /// The warning about a secret in the clear, or the reason of its rejection.
    ///
    /// # Errors
    /// Plain secrets are rejected.
    pub(super) fn judge_plain(&self) -> Result<Option<String>, String> {
        if self.0.requires_sealed {
            return Err("found a secret in the clear, expected a sealed one (--require-sealed-secrets)".to_owned());
        }
        let said = || "not sealed, although the server has keys; \"chancery secret seal\" or a PUT seals it".to_owned();
        Ok(self.keys().map(|_| said()))
    }

    /// The content of a file that a document names.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub(in crate::document) fn content(&self, key: &DocumentKey, path: &str) -> Result<Bytes, String> {
        match &self.0.files {
            Some(files) => files.content(key, path),
            None => Err("found a file, but the server reads none (--secret-dir)".to_owned()),
        }
    }

    /// The text of a file with a secret.
    pub(super) fn secret(&self, key: &DocumentKey, path: &str) -> Result<String, String> {
        let content = self.content(key, path)?;
        if content.len() > MAX_BYTES {
            let length = content.len();
            return Err(format!(
                "found {} of {length} bytes, expected at most {MAX_BYTES}",
                quote(path)
            ));
        }
        String::from_utf8(content.into()).map_err(|_| format!("found {}, which is no text, expected one", quote(path)))
    }

    /// The warning about files that changed and cannot be used.
    pub(in crate::document) fn warning(&self, key: &DocumentKey) -> Option<String> {
        self.0.files.as_ref()?.warning(key)
    }
}

/// The document with a sealed text.
fn document_of(sealed: &str) -> String {
    serde_json::json!({ SEALED: sealed }).to_string()
}

/// The id of the key that a document's text is sealed with; `None`: it is not sealed.
#[must_use]
pub fn key_id_in(text: &[u8]) -> Option<String> {
    Some(key_id(&sealed_in(text)?).ok()?.to_owned())
}

/// The sealed text in a document.
#[must_use]
pub fn sealed_in(text: &[u8]) -> Option<String> {
    let document = text::value(text).ok()?;
    Some(document.get(SEALED)?.as_str()?.to_owned())
}

/// Whether a text may hold a secret itself: a sealed one does not, nor does one that names files.
fn is_in_the_clear(text: &[u8]) -> bool {
    let document = text::value(text).ok();
    !document.is_some_and(|document| [SEALED, FILES].iter().any(|field| document.get(field).is_some()))
}

impl PartialEq for Vault {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
