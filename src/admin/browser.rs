//! A browser is not an operator: requests that a page of another site makes are refused.
//!
//! A page can point a name of its own at this address (DNS rebinding), and can have a browser send requests here. The
//! first shows in `Host`, the second in `Origin`. The paths of probes are answered for any `Host`: load balancers send
//! their own, and nothing there is secret.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Code, Problem};

/// Paths without a check of `Host`.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Refuse a request of a foreign `Host` (421) or a foreign `Origin` (403). `hosts`: names of this server beside
/// `localhost`.
pub(super) async fn check(State(hosts): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    match refusal(&hosts, request.uri(), request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(hosts: &[String], uri: &Uri, headers: &HeaderMap) -> Option<Problem> {
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?")),
    };
    if let Some(text) = host.filter(|_| !PROBES.contains(&uri.path())) {
        let own = text
            .parse::<Authority>()
            .is_ok_and(|authority| is_own(hosts, authority.host()));
        if !own {
            let detail =
                format!("found the Host {text:?}, expected an IP address, localhost or a name of --admin-host");
            return Some(Problem::new(Code::ForeignHost, detail));
        }
    }

    let origin = headers.get(header::ORIGIN)?;
    let same = origin
        .to_str()
        .is_ok_and(|origin| is_same(origin, host.unwrap_or_default()));
    let detail = || {
        format!(
            "found the Origin {origin:?} on a request to {:?}, expected none or the same",
            host.unwrap_or_default()
        )
    };

    (!same).then(|| Problem::new(Code::ForeignOrigin, detail()))
}

/// Whether a host is this server's for sure: no other site can have a page there.
fn is_own(hosts: &[String], host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_name = |own: &str| own.eq_ignore_ascii_case(name);
    bare.parse::<IpAddr>().is_ok() || is_name("localhost") || hosts.iter().any(|own| is_name(own))
}

/// Whether an origin has the host and the port of `Host`. `null` has neither.
fn is_same(origin: &str, host: &str) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else {
        return false;
    };
    let default_port = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let target = |authority: &Authority| {
        let port = authority.port_u16().unwrap_or(default_port);
        (authority.host().to_ascii_lowercase(), port)
    };
    let host = host.parse::<Authority>().ok();
    host.is_some_and(|host| origin.authority().is_some_and(|origin| target(origin) == target(&host)))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// The status of the refusal; 0: there is none.
    fn status(path: &str, host: &str, origin: &str) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
            if !value.is_empty() {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        let hosts = ["chancery.internal".to_owned()];
        refusal(&hosts, &path.parse().unwrap(), &headers).map_or(0, |problem| problem.into_response().status().as_u16())
    }

    #[test]
    fn a_name_that_is_not_this_servers_is_misdirected() {
        for own in [
            "127.0.0.1",
            "10.1.2.3:18001",
            "[::1]:18001",
            "localhost:1",
            "LOCALHOST.",
            "Chancery.internal:99",
            "",
        ] {
            assert_eq!(status("/", own, ""), 0, "{own}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io:18001",
            "a b",
        ] {
            assert_eq!(status("/api/v1/documents", foreign, ""), 421, "{foreign}");
            assert_eq!(status("/readyz", foreign, ""), 0, "{foreign}");
        }
        assert_eq!(
            status("http://evil.example/api/v1/documents", "localhost", ""),
            421,
            ":authority"
        );
    }

    #[test]
    fn a_page_of_another_origin_is_forbidden() {
        assert_eq!(status("/", "localhost:18001", "http://localhost:18001"), 0);
        assert_eq!(status("/", "chancery.internal", "https://chancery.internal"), 0);
        for foreign in [
            "null",
            "http://localhost",
            "http://localhost:3000",
            "http://evil.example:18001",
            "file:///x",
        ] {
            assert_eq!(status("/", "localhost:18001", foreign), 403, "{foreign}");
            assert_eq!(status("/metrics", "localhost:18001", foreign), 403, "{foreign}");
        }
    }
}
