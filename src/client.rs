//! A client of the admin API, for the command line.
//!
//! In: the servers and credentials of [`Options`], a [`Call`]. Out: an [`Answer`], or an [`Error`] that says how the verb
//! ends.
//!
//! | module | job |
//! |---|---|
//! | this file | a call: one server after the other, until one answers |
//! | `connection` | HTTP/1.1 over TCP, TLS or a Unix socket |
//! | `contexts` | `contexts.toml`: named servers and credentials |
//! | `target` | the address of a server |
//!
//! Promises:
//!
//! - A token goes to `https`, to loopback and to Unix sockets only.
//! - If a server cannot be reached or asks for another try, the next one is asked. A write has one request id for all of
//!   them.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use hyper::body::Incoming;
use serde_json::Value;

mod connection;
pub mod contexts;
mod target;

use connection::Tls;
pub use target::Target;

/// Longest wait for an answer, unless the call waits longer on purpose.
const WITHIN: Duration = Duration::from_secs(35);
/// Largest answer.
const LARGEST: usize = 512 * 1024 * 1024;
/// Longest error text that is no problem+json, in characters.
const LONGEST_TEXT: usize = 500;

/// Servers and credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// URLs, or `unix:PATH`; asked in this order.
    pub servers: Vec<String>,
    /// A file with a bearer token.
    pub token_file: Option<PathBuf>,
    /// The CAs that the server's certificate is verified with; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The client certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// The end of a call that has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The options cannot be used.
    #[error("{0}")]
    Usage(String),
    /// No server was reached.
    #[error("{0}")]
    Unreachable(String),
    /// A server refused the call.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
}

/// An error of the API (problem+json).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// One sentence.
    pub detail: String,
    /// The class of the error.
    pub code: String,
    /// Full key of the document.
    pub key: Option<String>,
    /// The bad field.
    pub path: Option<String>,
    /// Whether the same request may succeed later.
    pub is_retryable: bool,
    /// Of a write of several documents: the sentence, the key and the field of each.
    pub errors: Vec<(String, Option<String>, Option<String>)>,
}

/// A request to the API.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    within: Duration,
}

impl Call {
    /// A call of a path with its query.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            within: WITHIN,
        }
    }

    /// A read.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A write with a body of JSON.
    #[must_use]
    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::POST, path).json(body.to_string())
    }

    /// With a body of JSON.
    #[must_use]
    pub fn json(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self
    }

    /// With a header; a value that no header can have is left out.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// With more patience.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
}

/// The answer to a call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, if it is JSON; a text as a string.
    pub body: Value,
}

impl Answer {
    /// The `ETag`.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.headers.get(header::ETAG)?.to_str().ok()
    }

    /// The time of the server; of this machine, if the server says none.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let date = self.headers.get(header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        date.unwrap_or_else(SystemTime::now)
    }
}

/// A client of one or more servers.
#[derive(Debug, Clone)]
pub struct Client {
    targets: Vec<Target>,
    token: Option<HeaderValue>,
    tls: Tls,
}

impl Client {
    /// Read the credentials.
    ///
    /// # Errors
    /// A server whose URL cannot be used, a file that cannot be read, a token for a server in plain text.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let targets: Vec<Target> = options
            .servers
            .iter()
            .map(|server| Target::parse(server).map_err(Error::Usage))
            .collect::<Result<_, _>>()?;
        if targets.is_empty() {
            return Err(Error::Usage(
                "--server: found no server, expected one or more URLs".to_owned(),
            ));
        }

        let token = options.token_file.as_ref().map(|path| {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::Usage(format!("--token-file: read {}: {error}", path.display())))?;
            let mut token = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
                .map_err(|_| Error::Usage(format!("--token-file: {} has no token", path.display())))?;
            token.set_sensitive(true);
            Ok(token)
        });
        let token = token.transpose()?;
        if token.is_some()
            && let Some(plain) = targets.iter().find(|target| !target.is_private())
        {
            let reason = format!("{plain}: a token is sent to https, to loopback and to Unix sockets only");
            return Err(Error::Usage(reason));
        }

        let tls = Tls::new(options, targets.iter().any(Target::is_tls)).map_err(Error::Usage)?;
        Ok(Self { targets, token, tls })
    }

    /// A client of each server alone.
    #[must_use]
    pub fn each(&self) -> Vec<Self> {
        let alone = |target: &Target| Self {
            targets: vec![target.clone()],
            token: self.token.clone(),
            tls: self.tls.clone(),
        };
        self.targets.iter().map(alone).collect()
    }

    /// The name of the first server.
    #[must_use]
    pub fn name(&self) -> String {
        self.targets.first().map(ToString::to_string).unwrap_or_default()
    }

    /// Call one server after the other until one answers.
    ///
    /// # Errors
    /// No server is reached, or one refuses the call.
    pub async fn call(&self, call: Call) -> Result<Answer, Error> {
        let call = self.prepared(call);
        let mut last = None;
        for target in &self.targets {
            match self.ask(target, &call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let ends = matches!(&error, Error::Refused(problem) if !problem.is_retryable);
                    // What a server said is worth more than that another one is away.
                    let is_better = matches!(error, Error::Refused(_)) || last.is_none();
                    if is_better {
                        last = Some(error);
                    }
                    if ends {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Usage("no server".to_owned())))
    }

    /// Open a stream of server-sent events.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn stream(&self, call: Call) -> Result<Incoming, Error> {
        let call = self.prepared(call.header("accept", "text/event-stream"));
        let mut last = None;
        for target in &self.targets {
            match self.send(target, &call).await {
                Ok(response) if response.status().is_success() => return Ok(response.into_body()),
                Ok(response) => {
                    let answer = self.read(target, response).await?;
                    return Err(problem(&answer));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Usage("no server".to_owned())))
    }

    /// With the token, and for a write with a request id.
    fn prepared(&self, mut call: Call) -> Call {
        if call.method != Method::GET && !call.headers.contains_key("x-request-id") {
            call = call.header("x-request-id", &format!("{:032x}", rand::random::<u128>()));
        }
        if let Some(token) = &self.token {
            call.headers.insert(header::AUTHORIZATION, token.clone());
        }
        call
    }

    async fn ask(&self, target: &Target, call: &Call) -> Result<Answer, Error> {
        let late = || Error::Unreachable(format!("{target} did not answer within {} s", call.within.as_secs()));
        let ask = async {
            let response = self.send(target, call).await?;
            self.read(target, response).await
        };
        let answer = tokio::time::timeout(call.within, ask).await.map_err(|_| late())??;
        match answer.status {
            200..=399 => Ok(answer),
            _ => Err(problem(&answer)),
        }
    }

    async fn send(&self, target: &Target, call: &Call) -> Result<http::Response<Incoming>, Error> {
        let mut request = http::Request::builder()
            .method(&call.method)
            .uri(&call.path)
            .header(header::HOST, target.host())
            .header(header::USER_AGENT, concat!("chancery/", env!("CARGO_PKG_VERSION")))
            .body(call.body.clone())
            .map_err(|error| Error::Usage(format!("{}: {error}", call.path)))?;
        request.headers_mut().extend(call.headers.clone());
        connection::send(target, &self.tls, request)
            .await
            .map_err(|reason| Error::Unreachable(format!("{target} cannot be reached: {reason}")))
    }

    async fn read(&self, target: &Target, response: http::Response<Incoming>) -> Result<Answer, Error> {
        use http_body_util::BodyExt as _;

        let (head, body) = response.into_parts();
        let body = http_body_util::Limited::new(body, LARGEST).collect().await;
        let body = body.map_err(|error| Error::Unreachable(format!("{target}: the answer breaks off: {error}")))?;
        let body = body.to_bytes();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_slice(&body)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())),
        })
    }
}

fn problem(answer: &Answer) -> Error {
    let body = &answer.body;
    let text = |value: &Value, field: &str| value[field].as_str().map(str::to_owned);
    let detail = text(body, "detail").unwrap_or_else(|| match body.as_str().map(str::trim) {
        Some(text) if !text.is_empty() => text.chars().take(LONGEST_TEXT).collect(),
        _ => format!("the server answers {}", answer.status),
    });
    let errors = body["errors"].as_array().into_iter().flatten();
    Error::Refused(Box::new(Problem {
        status: answer.status,
        detail,
        code: text(body, "code").unwrap_or_default(),
        key: text(body, "key"),
        path: text(body, "path"),
        is_retryable: body["retryable"].as_bool().unwrap_or(answer.status == 503),
        errors: errors
            .map(|error| {
                let detail = text(error, "detail").unwrap_or_default();
                (detail, text(error, "key"), text(error, "path"))
            })
            .collect(),
    }))
}
