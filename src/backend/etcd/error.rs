//! Failures of etcd: their class, which decides the next step, and their sentence.
//!
//! In etcd one failure has several gRPC codes, and one code stands for several failures: `OutOfRange` is a compacted
//! revision, a future revision, or a message that is too large. So the text decides if the code does not. The sentences
//! of this module have no URL userinfo and no metadata.

use std::error::Error as _;
use std::fmt;

use etcd_client::Error;

use super::stats::StreamErrorClass;

/// The class of a failure: the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// The failure may end by itself or with another endpoint: try again.
    Retry,
    /// The revision's history is gone: list again.
    Compacted,
    /// The revision does not exist yet, so the store has another history than the followed one.
    Future,
    /// etcd refused the token: authenticate again.
    Authentication,
    /// The TLS handshake failed on a certificate: read the files again and connect anew.
    Certificate,
    /// An operator must repair a password, a permission or a file.
    Configuration,
    /// The answer exceeds our limit, or the request exceeds etcd's.
    TooLarge,
    /// etcd refuses writes: its space is exceeded.
    NoSpace,
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) class: Class,
    /// True if etcd cannot have carried out the call.
    pub(super) not_done: bool,
    sentence: String,
}

impl Failure {
    pub(super) fn new(class: Class, sentence: impl Into<String>) -> Self {
        Self {
            class,
            not_done: class != Class::Retry,
            sentence: without_userinfo(&sentence.into()),
        }
    }

    pub(super) fn configuration(sentence: impl Into<String>) -> Self {
        Self::new(Class::Configuration, sentence)
    }

    /// A call without an answer within its timeout.
    pub(super) fn timeout(what: &str) -> Self {
        Self::new(Class::Retry, format!("no answer to {what} in time"))
    }

    /// A watch that etcd canceled, with its reason.
    pub(super) fn canceled(reason: &str, compact_revision: i64) -> Self {
        if compact_revision > 0 {
            return Self::new(
                Class::Compacted,
                format!("history before revision {compact_revision} was compacted"),
            );
        }
        let class = class_of_text(reason).unwrap_or(Class::Retry);
        let reason = if reason.is_empty() { "no reason given" } else { reason };
        Self::new(class, format!("etcd ended the watch: {reason}"))
    }

    /// The same failure, with the place where it happened.
    pub(super) fn at(mut self, place: impl fmt::Display) -> Self {
        self.sentence = format!("{place}: {}", self.sentence);
        self
    }

    /// True if a put with `ignore_lease` found no key.
    pub(super) fn is_key_gone(&self) -> bool {
        self.sentence.contains("etcdserver: key not found")
    }

    /// True if the user has no right to a key.
    pub(super) fn is_denied(&self) -> bool {
        self.sentence.contains("etcdserver: permission denied")
    }

    pub(super) fn stream_error_class(&self) -> StreamErrorClass {
        match self.class {
            Class::Retry | Class::NoSpace => StreamErrorClass::Connection,
            Class::Compacted => StreamErrorClass::Compacted,
            Class::Future => StreamErrorClass::Fork,
            Class::Authentication => StreamErrorClass::Authentication,
            Class::Certificate | Class::Configuration | Class::TooLarge => StreamErrorClass::Configuration,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.sentence)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let sentence = sentence(&error);
        match &error {
            Error::GRpcStatus(status) => {
                // Numbers instead of names: etcd-client does not export tonic's `Code`, and our tonic may be another
                // version.
                let code = status.code() as i32;
                let class = class_of_text(&sentence).unwrap_or_else(|| class_of_code(code));
                Self {
                    class,
                    not_done: was_refused(code, &sentence),
                    sentence: without_userinfo(&sentence),
                }
            }
            Error::InvalidArgs(_) | Error::InvalidUri(_) => Self::configuration(sentence),
            Error::TransportError(_) if sentence.contains("certificate") => Self::new(Class::Certificate, sentence),
            _ => Self::new(Class::Retry, sentence),
        }
    }
}

const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

fn class_of_code(code: i32) -> Class {
    match code {
        UNAUTHENTICATED => Class::Authentication,
        INVALID_ARGUMENT | PERMISSION_DENIED | FAILED_PRECONDITION | UNIMPLEMENTED => Class::Configuration,
        _ => Class::Retry,
    }
}

/// The class of one of etcd's own sentences, in a status or in the reason of a canceled watch.
fn class_of_text(text: &str) -> Option<Class> {
    const TEXTS: [(&str, Class); 15] = [
        ("required revision has been compacted", Class::Compacted),
        ("required revision is a future revision", Class::Future),
        ("invalid auth token", Class::Authentication),
        ("revision of auth store is old", Class::Authentication),
        // The connection has no token, because authentication was off when it was made.
        ("user name is empty", Class::Authentication),
        (
            "authentication failed, invalid user ID or password",
            Class::Configuration,
        ),
        ("permission denied", Class::Configuration),
        ("message length too large", Class::TooLarge),
        ("received message larger than max", Class::TooLarge),
        ("message larger than max", Class::TooLarge),
        ("request is too large", Class::TooLarge),
        ("too many operations in txn request", Class::TooLarge),
        ("database space exceeded", Class::NoSpace),
        ("invalid peer certificate", Class::Certificate),
        ("Unauthenticated", Class::Authentication),
    ];

    TEXTS
        .into_iter()
        .find(|(part, _)| text.contains(part))
        .map(|(_, class)| class)
}

/// True if the answer proves that the call was not carried out: etcd refused it, or no etcd was reached.
fn was_refused(code: i32, text: &str) -> bool {
    let refused = matches!(
        code,
        INVALID_ARGUMENT
            | PERMISSION_DENIED
            | RESOURCE_EXHAUSTED
            | FAILED_PRECONDITION
            | OUT_OF_RANGE
            | UNIMPLEMENTED
            | UNAUTHENTICATED
    );
    const NOT_TAKEN: [&str; 3] = ["etcdserver: no leader", "tcp connect error", "invalid peer certificate"];
    refused || NOT_TAKEN.iter().any(|part| text.contains(part))
}

fn sentence(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => {
            let mut sentence = status.message().to_owned();
            let mut source = status.source();
            while let Some(error) = source {
                let text = error.to_string();
                if !sentence.contains(&text) {
                    sentence = format!("{sentence}: {text}");
                }
                source = error.source();
            }
            if sentence.is_empty() {
                format!("gRPC code {:?}", status.code())
            } else {
                sentence
            }
        }
        Error::TransportError(error) => {
            let mut sentence = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                sentence = format!("{sentence}: {error}");
                source = error.source();
            }
            sentence
        }
        other => other.to_string(),
    }
}

/// The text without the userinfo of URLs, the part between `//` and `@`.
fn without_userinfo(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::with_capacity(text.len());
    while let Some(start) = rest.find("//") {
        let (before, after) = rest.split_at(start + 2);
        clean.push_str(before);
        let authority = after
            .find(|letter: char| letter == '/' || letter.is_whitespace())
            .unwrap_or(after.len());
        rest = after
            .get(..authority)
            .and_then(|part| part.rfind('@'))
            .map_or(after, |at| &after[at + 1..]);
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn userinfo_leaves_every_url_of_a_sentence() {
        let said = without_userinfo("dial http://root:pw@a:1/x then https://u@b:2, not //c/d@e");
        assert_eq!(said, "dial http://a:1/x then https://b:2, not //c/d@e");
    }

    #[test]
    fn a_canceled_watch_is_classified_by_its_text() {
        let class = |reason, compact_revision| Failure::canceled(reason, compact_revision).class;
        assert_eq!(class("", 7), Class::Compacted);
        assert_eq!(
            class(
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
                0
            ),
            Class::Authentication
        );
        assert_eq!(
            class(
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                0
            ),
            Class::Configuration
        );
        assert_eq!(class("", 0), Class::Retry);
    }

    #[test]
    fn only_a_refusal_proves_that_nothing_was_done() {
        assert!(was_refused(
            RESOURCE_EXHAUSTED,
            "etcdserver: mvcc: database space exceeded"
        ));
        assert!(was_refused(14, "etcdserver: no leader"));
        assert!(was_refused(14, "tcp connect error: Connection refused"));
        assert!(!was_refused(
            2,
            "h2 protocol error: error reading a body from connection"
        ));
        assert!(!was_refused(1, "Timeout expired"));
        assert!(!Failure::timeout("a transaction").not_done);
    }
}
