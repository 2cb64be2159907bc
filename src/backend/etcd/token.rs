//! The lifetime that a token states. Pure.
//!
//! etcd has two kinds of tokens. A simple token is a name in etcd's memory; each use prolongs its life. A JWT
//! (`--auth-token jwt`) has three parts, `header.claims.signature`, and the claim `exp`: its end in seconds of Unix
//! time. Only etcd checks the signature.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Shortest lifetime to assume. If the clocks of etcd and this host differ, a token is still not renewed at every use.
const SHORTEST_LIFE: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct Claims {
    exp: u64,
}

/// Lifetime of a new token; `None` if the token states none.
pub(super) fn life(token: &str, now: SystemTime) -> Option<Duration> {
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(claims.exp);
    Some(end.duration_since(now).unwrap_or_default().max(SHORTEST_LIFE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Token of an etcd 3.4.23: `{"exp":1796021440,"revision":7,"username":"gw"}`.
    const JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3OTYwMjE0NDAsInJldmlzaW9uIjo3LCJ1c2VybmFtZSI6Imd3In0.TfdNcZCITM9oHHhuTzEtJbS7B5WinUltqXHeA-PnUME";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_jwt_lives_until_its_claim_exp() {
        assert_eq!(life(JWT, at(1_796_021_140)), Some(Duration::from_secs(300)));
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_life_too_short() {
        assert_eq!(life(JWT, at(1_796_022_000)), Some(SHORTEST_LIFE));
    }

    #[test]
    fn a_simple_token_does_not_say() {
        assert_eq!(life("DHHyiCGkEcTRGwJl.7", at(0)), None);
        assert_eq!(life("a.b.c", at(0)), None);
        assert_eq!(life("", at(0)), None);
    }
}
