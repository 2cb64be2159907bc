//! One taxonomy of errors, as problem+json (RFC 9457).

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use super::json::Json;
use crate::backend::{ReadError, WriteError};
use crate::document::MAX_BYTES;
use crate::document::key::DocumentKey;
use crate::journal::{NotShown, TextError};

/// Most problems of documents in one answer.
const MOST_ERRORS: usize = 100;

/// The class of an error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Code {
    /// The request cannot be understood.
    InvalidRequest,
    /// No such endpoint, document, resource, type or group.
    NotFound,
    /// The endpoint exists, this method of it does not.
    MethodNotAllowed,
    /// The `Host` is no name of this server.
    ForeignHost,
    /// A page of another origin made the request.
    ForeignOrigin,
    /// A route with the same match exists.
    SameMatch,
    /// Another document makes the resource already.
    NameTaken,
    /// Another document uses this one.
    InUse,
    /// After the deletion another file would stand for the key.
    SecondFile,
    /// The condition of `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed,
    /// Documents changed since the revision that the request names.
    BaseMoved,
    /// Another request had the same id.
    RequestIdUsed,
    /// Some parts of the change are written, and the next one is refused.
    PartFailed,
    /// Larger than a document may be.
    TooLarge,
    /// The content type of the body is not supported.
    UnsupportedMediaType,
    /// The document is bad.
    InvalidDocument,
    /// The document has `"[redacted]"` in the place of a secret.
    RedactedValue,
    /// A test of another document fails through the change.
    BreaksTest,
    /// Several listeners take the request.
    SeveralListeners,
    /// The routes are written in Envoy's own form.
    NotExplained,
    /// An accepted resource cannot be shown as JSON.
    Internal,
    /// No document can be checked before the first list of the store.
    NotReady,
    /// The store does not answer or refuses the write.
    StoreUnavailable,
    /// The store did not answer in time: the write may or may not have happened.
    OutcomeUnknown,
    /// A document was changed after the revision that is to be undone.
    ChangedSince,
    /// The document is frozen.
    Frozen,
    /// No change has this revision yet.
    UnknownRevision,
    /// The journal does not hold the revision any more.
    NotInJournal,
    /// Others ask for the same kind of work.
    TooMany,
    /// Too many large answers are being read.
    Busy,
    /// The answer took too long.
    Timeout,
}

impl Code {
    fn word(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ForeignHost => "foreign_host",
            Self::ForeignOrigin => "foreign_origin",
            Self::SameMatch => "same_match",
            Self::NameTaken => "name_taken",
            Self::InUse => "in_use",
            Self::SecondFile => "second_file",
            Self::PreconditionFailed => "precondition_failed",
            Self::BaseMoved => "base_moved",
            Self::RequestIdUsed => "request_id_used",
            Self::PartFailed => "part_failed",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::InvalidDocument => "invalid_document",
            Self::RedactedValue => "redacted_value",
            Self::BreaksTest => "breaks_test",
            Self::SeveralListeners => "several_listeners",
            Self::NotExplained => "not_explained",
            Self::Internal => "internal",
            Self::NotReady => "not_ready",
            Self::StoreUnavailable => "store_unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::ChangedSince => "changed_since",
            Self::Frozen => "frozen",
            Self::UnknownRevision => "unknown_revision",
            Self::NotInJournal => "not_in_journal",
            Self::TooMany => "too_many",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request cannot be understood",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "The method is not supported here",
            Self::ForeignHost => "The request is for another host",
            Self::ForeignOrigin => "A page of another origin made the request",
            Self::SameMatch => "Another route has the same match",
            Self::NameTaken => "Another document makes this resource",
            Self::InUse => "The document is in use",
            Self::SecondFile => "Another file stands for the same key",
            Self::PreconditionFailed => "The document is not in the expected state",
            Self::BaseMoved => "Documents changed meanwhile",
            Self::RequestIdUsed => "The id of the request was used by another one",
            Self::PartFailed => "A part of the change is refused",
            Self::TooLarge => "The change is too large",
            Self::UnsupportedMediaType => "The content type is not supported",
            Self::InvalidDocument => "The document is not valid",
            Self::RedactedValue => "A secret is redacted",
            Self::BreaksTest => "The change breaks a test of another document",
            Self::SeveralListeners => "Several listeners take the request",
            Self::NotExplained => "The request cannot be explained",
            Self::Internal => "Internal error",
            Self::NotReady => "The first load is not complete",
            Self::StoreUnavailable => "The store is not available",
            Self::OutcomeUnknown => "The outcome of the write is unknown",
            Self::ChangedSince => "A document was changed since",
            Self::Frozen => "The document is frozen",
            Self::UnknownRevision => "There is no such revision yet",
            Self::NotInJournal => "The journal does not hold this revision",
            Self::TooMany => "Too many requests of this kind",
            Self::Busy => "Too many large answers are being read",
            Self::Timeout => "The answer took too long",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::UnknownRevision => StatusCode::NOT_FOUND,
            Self::NotInJournal => StatusCode::GONE,
            Self::Frozen => StatusCode::LOCKED,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::SameMatch
            | Self::NameTaken
            | Self::InUse
            | Self::SecondFile
            | Self::BaseMoved
            | Self::RequestIdUsed
            | Self::ChangedSince
            | Self::PartFailed => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidDocument
            | Self::RedactedValue
            | Self::BreaksTest
            | Self::SeveralListeners
            | Self::NotExplained => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady | Self::StoreUnavailable | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::OutcomeUnknown | Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// True if the same request may succeed later.
    fn retryable(self) -> bool {
        matches!(
            self,
            Self::NotReady | Self::StoreUnavailable | Self::OutcomeUnknown | Self::TooMany | Self::Busy | Self::Timeout
        )
    }
}

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    code: Code,
    detail: String,
    key: Option<String>,
    path: Option<String>,
    /// Those of the other documents of the change.
    others: Vec<Self>,
    /// What is written of a change in parts.
    written: Option<Box<Value>>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    key: Option<&'a str>,
    path: Option<&'a str>,
    retryable: bool,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<OneOf<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<&'a Value>,
}

/// One of several problems of a change.
#[derive(Serialize)]
struct OneOf<'a> {
    code: &'static str,
    key: Option<&'a str>,
    path: Option<&'a str>,
    detail: &'a str,
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            key: None,
            path: None,
            others: Vec::new(),
            written: None,
        }
    }

    /// The problem of a change with several bad documents: the first of theirs.
    ///
    /// # Errors
    /// There is a problem.
    pub(super) fn of_all(problems: impl IntoIterator<Item = Self>) -> Result<(), Self> {
        let mut problems = problems.into_iter();
        let Some(first) = problems.next() else {
            return Ok(());
        };
        let others = problems.take(MOST_ERRORS - 1).collect();
        Err(Self { others, ..first })
    }

    /// The answer about the parts that are written.
    pub(super) fn after(mut self, written: Value) -> Self {
        self.written = Some(Box::new(written));
        self
    }

    /// The full key of the document that the problem is about.
    pub(super) fn of_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The path of the bad field.
    pub(super) fn at(mut self, path: Option<String>) -> Self {
        self.path = path;
        self
    }

    /// Write the body of a response that is a problem; leave any other response as it is.
    pub(super) fn write_body(response: &mut Response, request_id: &str) {
        let Some(problem) = response.extensions_mut().remove::<Self>() else {
            return;
        };
        let body = Body {
            r#type: format!("urn:chancery:problem:{}", problem.code.word()),
            title: problem.code.title(),
            status: problem.code.status().as_u16(),
            detail: &problem.detail,
            code: problem.code.word(),
            key: problem.key.as_deref(),
            path: problem.path.as_deref(),
            retryable: problem.code.retryable(),
            request_id,
            errors: match problem.others.is_empty() {
                true => Vec::new(),
                false => [&problem]
                    .into_iter()
                    .chain(&problem.others)
                    .map(Self::as_one)
                    .collect(),
            },
            written: problem.written.as_deref(),
        };

        *response.body_mut() = Json(body).into_response().into_body();

        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        let content_type = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, content_type);
    }

    /// The problem, and those of the other documents of the change.
    pub(super) fn each(&self) -> impl Iterator<Item = &Self> {
        [self].into_iter().chain(&self.others)
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_retryable(&self) -> bool {
        self.code.retryable()
    }

    /// Whether the problem is about the document of this full key.
    pub(super) fn is_of(&self, full_key: &str) -> bool {
        self.key.as_deref() == Some(full_key)
    }

    fn as_one(&self) -> OneOf<'_> {
        OneOf {
            code: self.code.word(),
            key: self.key.as_deref(),
            path: self.path.as_deref(),
            detail: &self.detail,
        }
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn no_document(key: &DocumentKey) -> Self {
        Self::new(Code::NotFound, format!("there is no document {key}"))
    }
}

impl IntoResponse for Problem {
    /// Without the body, which has the id of the request: see [`Problem::write_body`].
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(
            Code::InvalidRequest,
            format!("the path cannot be decoded: {}", rejection.body_text()),
        )
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::new(
                Code::TooLarge,
                format!("the body is too large, expected at most {MAX_BYTES} bytes"),
            );
        }
        Self::new(
            Code::InvalidRequest,
            format!("the body cannot be read: {}", rejection.body_text()),
        )
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::new(Code::StoreUnavailable, error.to_string())
    }
}

impl From<NotShown> for Problem {
    fn from(error: NotShown) -> Self {
        let code = match error {
            NotShown::Unknown(_) => Code::UnknownRevision,
            NotShown::NotHeld { .. } => Code::NotInJournal,
            NotShown::Behind => Code::NotReady,
        };
        Self::new(code, error.to_string())
    }
}

impl From<TextError> for Problem {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Store(error) => error.into(),
            TextError::Sealed(reason) => Self::new(Code::InvalidDocument, reason),
        }
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let code = match error {
            WriteError::Conflict { .. } => Code::PreconditionFailed,
            WriteError::InvalidKey(_) => Code::InvalidRequest,
            WriteError::SecondFile(_) => Code::SecondFile,
            WriteError::TooLarge(_) => Code::TooLarge,
            WriteError::Unknown(_) => Code::OutcomeUnknown,
            WriteError::Unavailable(_) | WriteError::Moved(_) => Code::StoreUnavailable,
        };
        Self::new(code, error.to_string())
    }
}
