//! The services that policies ask: authorization over gRPC and HTTP, rate limits, changes of requests, keys of tokens; and
//! a gRPC upstream for JSON.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response,
};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HeaderMutation, HeadersResponse, ProcessingRequest, ProcessingResponse, processing_response,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Status, Streaming};
use tower_service::Service;

use super::raw_codec::Raw;

/// The gRPC services on one port of 127.0.0.1.
pub struct GrpcServices {
    address: SocketAddr,
    running: AbortHandle,
}

impl GrpcServices {
    /// Start them.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the services");
        let address = listener.local_addr().expect("a bound listener has an address");
        let server = Server::builder()
            .add_service(AuthorizationServer::new(Judge))
            .add_service(RateLimitServiceServer::new(Judge))
            .add_service(ExternalProcessorServer::new(Judge))
            .add_service(Greeter::<false>)
            .add_service(Greeter::<true>);
        let running = tokio::spawn(async move {
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("serve until aborted");
        });
        Self {
            address,
            running: running.abort_handle(),
        }
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `grpc://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }
}

impl Drop for GrpcServices {
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[derive(Clone, Copy)]
struct Judge;

fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}

/// The form that Envoy reads from a service that changes requests.
fn raw_header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}

#[tonic::async_trait]
impl Authorization for Judge {
    /// `x-allow: yes` passes; the upstream gets the context of the policy.
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.unwrap_or_default().http.unwrap_or_default();
        let is_allowed = http.headers.get("x-allow").is_some_and(|value| value == "yes");
        let of_context = |name: &str| attributes.context_extensions.get(name).cloned().unwrap_or_default();
        let (code, answer) = match is_allowed {
            true => (
                0,
                check_response::HttpResponse::OkResponse(OkHttpResponse {
                    headers: vec![
                        header("x-site", &of_context("site")),
                        header("x-zone", &of_context("zone")),
                    ],
                    ..OkHttpResponse::default()
                }),
            ),
            false => (
                7,
                check_response::HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(HttpStatus { code: 403 }),
                    headers: vec![header("x-why", "no")],
                    body: "denied".to_owned(),
                }),
            ),
        };
        Ok(tonic::Response::new(CheckResponse {
            status: Some(rpc::Status {
                code,
                ..rpc::Status::default()
            }),
            http_response: Some(answer),
            ..CheckResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl RateLimitService for Judge {
    /// A descriptor with the value `limited` is over its limit.
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<tonic::Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let mut entries = request.descriptors.iter().flat_map(|descriptor| &descriptor.entries);
        let is_over =
            ["shop", "edge"].contains(&request.domain.as_str()) && entries.any(|entry| entry.value == "limited");
        let code = match is_over {
            true => Code::OverLimit,
            false => Code::Ok,
        };
        Ok(tonic::Response::new(RateLimitResponse {
            overall_code: code as i32,
            ..RateLimitResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Judge {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    /// The upstream gets `x-processed`.
    async fn process(
        &self,
        request: tonic::Request<Streaming<ProcessingRequest>>,
    ) -> Result<tonic::Response<Self::ProcessStream>, Status> {
        let answers = request.into_inner().map(|message| {
            message.map(|_| {
                let response = CommonResponse {
                    header_mutation: Some(HeaderMutation {
                        set_headers: vec![raw_header("x-processed", "yes")],
                        ..HeaderMutation::default()
                    }),
                    ..CommonResponse::default()
                };
                ProcessingResponse {
                    response: Some(processing_response::Response::RequestHeaders(HeadersResponse {
                        response: Some(response),
                    })),
                    ..ProcessingResponse::default()
                }
            })
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

/// `greet.Greeter`, or of the first version `greeter.v1.Greeter`: the one field of the request comes back in the one field
/// of the answer.
#[derive(Clone, Copy)]
struct Greeter<const IS_FIRST: bool>;

impl<const IS_FIRST: bool> NamedService for Greeter<IS_FIRST> {
    const NAME: &'static str = match IS_FIRST {
        true => "greeter.v1.Greeter",
        false => "greet.Greeter",
    };
}

impl<const IS_FIRST: bool> Service<Request<Body>> for Greeter<IS_FIRST> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(Raw).unary(Self, request).await) })
    }
}

impl<const IS_FIRST: bool> UnaryService<Bytes> for Greeter<IS_FIRST> {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        Box::pin(async move { Ok(tonic::Response::new(request.into_inner())) })
    }
}

/// The key of tokens from the start.
const FIRST_KEY: u8 = 1;

/// An issuer of tokens, with the server of its keys; the same server authorizes requests over HTTP.
pub struct HttpServices {
    address: SocketAddr,
    /// The keys that the server shows, each by its number.
    published: Arc<Mutex<Vec<u8>>>,
    running: AbortHandle,
}

impl HttpServices {
    /// Start it: `/keys` answers with the keys; `/check/…` with 200 if the request has `x-allow: yes`; `/token` with the
    /// token of a login, for the code `good`.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the services");
        let address = listener.local_addr().expect("a bound listener has an address");
        let published = Arc::new(Mutex::new(vec![FIRST_KEY]));
        let shown = Arc::clone(&published);
        let token = token(FIRST_KEY, &access_claims());
        let running = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let shown = Arc::clone(&shown);
                let token = token.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let jwks = jwks(&shown.lock()).to_string();
                    let token = token.clone();
                    async move {
                        Ok::<_, Infallible>(match request.uri().path() {
                            "/token" => tokens(request, &token).await,
                            _ => answer(&request, &jwks),
                        })
                    }
                });
                tokio::spawn(async move {
                    let connection = auto::Builder::new(TokioExecutor::new());
                    drop(connection.serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
        Self {
            address,
            published,
            running: running.abort_handle(),
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The keys as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        jwks(&self.published.lock())
    }

    /// Show these keys from now on.
    pub fn publish(&self, keys: &[u8]) {
        *self.published.lock() = keys.to_vec();
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_by(FIRST_KEY, claims)
    }

    /// A token with these claims, signed with this key.
    pub fn token_by(&self, key: u8, claims: &Value) -> String {
        token(key, claims)
    }

    /// The token of a login.
    pub fn access_token(&self) -> String {
        token(FIRST_KEY, &access_claims())
    }
}

impl Drop for HttpServices {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn pair(key: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[key; 32]).expect("a seed of 32 bytes")
}

fn token(key: u8, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = json!({ "alg": "EdDSA", "kid": key.to_string(), "typ": "JWT" });
    let signed = format!("{}.{}", encode(&head), encode(claims));
    let signature = pair(key).sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Ann, until the year 2100.
fn access_claims() -> Value {
    json!({ "iss": "me", "aud": "web", "sub": "ann", "roles": ["a", "b"], "exp": 4_102_444_800_u64 })
}

/// The tokens of a login: the code, the proof of the one who asked for it, and the secret of the client must be there.
async fn tokens(request: Request<Incoming>, token: &str) -> Response<Full<Bytes>> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes());
    let text = String::from_utf8(body.unwrap_or_default().to_vec()).unwrap_or_default();
    let has = |part: &str| text.split('&').any(|pair| pair.starts_with(part));
    let is_right = has("code=good")
        && has("code_verifier=")
        && has("client_id=web")
        && has("client_secret=the-secret-of-the-client")
        && has("grant_type=authorization_code");
    let response = match is_right {
        true => Response::builder()
            .header("content-type", "application/json")
            .body(Full::from(
                json!({ "access_token": token, "id_token": token, "token_type": "Bearer", "expires_in": 3600 })
                    .to_string(),
            )),
        false => Response::builder().status(400).body(Full::from(text)),
    };
    response.expect("a well-formed response")
}

fn jwks(keys: &[u8]) -> Value {
    let jwk = |key: &u8| {
        let x = URL_SAFE_NO_PAD.encode(pair(*key).public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": key.to_string(), "alg": "EdDSA", "x": x })
    };
    json!({ "keys": keys.iter().map(jwk).collect::<Vec<_>>() })
}

fn answer(request: &Request<Incoming>, jwks: &str) -> Response<Full<Bytes>> {
    let is_allowed = request.headers().get("x-allow").is_some_and(|value| value == "yes");
    let response = match request.uri().path() {
        "/keys" => Response::builder().body(Full::from(jwks.to_owned())),
        path if path.starts_with("/check/") && is_allowed => {
            Response::builder().header("x-user", "bob").body(Full::default())
        }
        _ => Response::builder()
            .status(401)
            .header("www-authenticate", "Basic")
            .header("x-inner", "secret")
            .body(Full::from("who are you")),
    };
    response.expect("a well-formed response")
}
