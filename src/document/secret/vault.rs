//! The things outside a secrets document that it may need: keys that open it, and files on the server.

use std::fmt;
use std::sync::Arc;

use super::sealed::Keys;
use crate::document::key::{DocumentKey, Kind};
use crate::document::text;

/// The field of a sealed document.
pub(super) const SEALED: &str = "encrypted";
/// The field with the files of a secret.
pub(super) const FILES: &str = "files";

/// Reads the files that secrets documents name.
pub trait Files: Send + Sync + fmt::Debug {
    /// The content of a file that a document names.
    ///
    /// # Errors
    /// Why the file cannot be read, as a reason: `found …, expected …`.
    fn content(&self, document: &DocumentKey, path: &str) -> Result<Arc<str>, String>;

    /// The warning about files of a document that changed and cannot be used: the content before serves.
    fn warning(&self, document: &DocumentKey) -> Option<String>;
}

/// See the module. Cheap to clone. The default has neither keys nor files.
#[derive(Debug, Clone, Default)]
pub struct Vault(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// `--prefix`: sealed texts belong to a full key.
    prefix: Arc<str>,
    keys: Option<Arc<Keys>>,
    requires_sealed: bool,
    files: Option<Arc<dyn Files>>,
}

impl Vault {
    /// A vault for documents below `prefix`. `requires_sealed`: plain secrets are rejected.
    #[must_use]
    pub fn new(prefix: &str, keys: Option<Keys>, requires_sealed: bool, files: Option<Arc<dyn Files>>) -> Self {
        Self(Arc::new(Inner {
            prefix: prefix.into(),
            keys: keys.map(Arc::new),
            requires_sealed,
            files,
        }))
    }

    /// The keys, if there are any.
    #[must_use]
    pub fn keys(&self) -> Option<&Keys> {
        self.0.keys.as_deref()
    }

    /// The same vault with other files.
    #[must_use]
    pub fn with_files(&self, files: Arc<dyn Files>) -> Self {
        Self(Arc::new(Inner {
            prefix: Arc::clone(&self.0.prefix),
            keys: self.0.keys.clone(),
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
        match &self.0.keys {
            Some(keys) => keys.open(&self.full_key(key), sealed),
            None => Err("found a sealed document, but the server has no keys (--secret-keys-file)".to_owned()),
        }
    }

    /// The document with a text sealed in it; `None`: there are no keys.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn seal(&self, key: &DocumentKey, text: &[u8]) -> Result<Option<String>, String> {
        let sealed = self
            .0
            .keys
            .as_ref()
            .map(|keys| keys.seal(&self.full_key(key), text))
            .transpose()?;
        Ok(sealed.map(|sealed| serde_json::json!({ "encrypted": sealed }).to_string()))
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

    /// Whether two texts of a document are equal, sealed or not.
    #[must_use]
    pub fn are_equal(&self, key: &DocumentKey, one: &[u8], other: &[u8]) -> bool {
        let opened = |text: &[u8]| match sealed_in(text).filter(|_| key.kind == Kind::Secrets) {
            Some(sealed) => self.open(key, &sealed).ok(),
            None => Some(text.to_vec()),
        };
        one == other || opened(one).is_some_and(|one| opened(other).as_ref() == Some(&one))
    }

    /// What is to be said of a secret in the clear: a warning, or the reason of a rejection.
    ///
    /// # Errors
    /// Plain secrets are rejected.
    pub(super) fn judge_plain(&self) -> Result<Option<String>, String> {
        let inner = &self.0;
        if inner.requires_sealed {
            return Err("found a secret in the clear, expected a sealed one (--require-sealed-secrets)".to_owned());
        }
        let said = || "not sealed, although the server has keys; \"chancery secret seal\" or a PUT seals it".to_owned();
        Ok(inner.keys.as_ref().map(|_| said()))
    }

    /// The content of a file that a document names.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub(super) fn content(&self, key: &DocumentKey, path: &str) -> Result<Arc<str>, String> {
        match &self.0.files {
            Some(files) => files.content(key, path),
            None => Err("found a file, but the server reads none (--secret-dir)".to_owned()),
        }
    }

    /// The warning about files that changed and cannot be used.
    pub(super) fn warning(&self, key: &DocumentKey) -> Option<String> {
        self.0.files.as_ref()?.warning(key)
    }
}

/// The sealed text in a document.
fn sealed_in(text: &[u8]) -> Option<String> {
    let document = text::value(text).ok()?;
    Some(document.get(SEALED)?.as_str()?.to_owned())
}

/// Whether a text may hold a secret itself: a sealed one does not, nor does one that names files.
#[must_use]
pub fn is_in_the_clear(text: &[u8]) -> bool {
    let document = text::value(text).ok();
    !document.is_some_and(|document| [SEALED, FILES].iter().any(|field| document.get(field).is_some()))
}

impl PartialEq for Vault {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
