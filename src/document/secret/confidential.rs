//! A text that no output shows.

use std::fmt;
use std::sync::Arc;

/// A confidential text. Its `Debug` shows nothing of it, so that a log line of a whole document does not either.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Confidential(Arc<str>);

impl Confidential {
    /// The text, for Envoy alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for Confidential {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Confidential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}
