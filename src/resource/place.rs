//! The place of a value in a document, and the rejections of that value.

use serde_json::Value as Json;

use crate::document::sentence::{found, kind_of, segment};
use crate::document::{Limits, Rejection};

/// A place in a document.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// `resource.virtual_hosts[0].name`.
    pub(super) path: String,
    /// Whether the value may be a secret, which is never quoted.
    pub(super) hidden: bool,
    /// The limits that the operator may raise.
    pub(super) limits: Limits,
}

impl Place {
    /// The place of a field of the object at this place.
    pub(super) fn field(&self, name: &str) -> Self {
        Self {
            path: format!("{}{}", self.path, segment(&self.path, name)),
            ..*self
        }
    }

    /// The place of an entry of the list at this place.
    pub(super) fn index(&self, index: usize) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            ..*self
        }
    }

    /// A rejection of the value.
    pub(super) fn reject(&self, reason: String) -> Rejection {
        Rejection::new(self.path.clone(), reason)
    }

    /// The rejection that names the found value and the expected one.
    pub(super) fn expected(&self, json: &Json, what: &str) -> Rejection {
        let found = if self.hidden { kind_of(json).into() } else { found(json) };
        self.reject(format!("found {found}, expected {what}"))
    }
}
