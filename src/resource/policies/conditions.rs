//! Conditions of documents as matchers of Envoy, where one matcher must do.
//!
//! The reader of documents has refused conditions that one matcher cannot express.

use envoy_types::pb::envoy::config::rbac::v3::{Principal, principal};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use crate::document::route::StringMatch;
use crate::resource::routes::matching::{regex, string};

/// A condition on a text; `None`: one on presence, or an opposite.
pub(super) fn text(condition: &StringMatch) -> Option<StringMatcher> {
    let pattern = match condition {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Suffix(text) => MatchPattern::Suffix(text.clone()),
        StringMatch::Contains(text) => MatchPattern::Contains(text.clone()),
        StringMatch::Regex(text) => regex(text.clone()),
        StringMatch::Present(_) | StringMatch::Not(_) => return None,
    };
    Some(string(pattern))
}

/// A condition on a header. A missing header fulfils the opposite of a condition.
pub(super) fn header(name: &str, condition: &StringMatch) -> HeaderMatcher {
    let matcher = |specifier, inverted| HeaderMatcher {
        name: name.to_owned(),
        invert_match: inverted,
        treat_missing_header_as_empty: inverted,
        header_match_specifier: Some(specifier),
    };
    match condition {
        StringMatch::Present(present) => matcher(HeaderMatchSpecifier::PresentMatch(*present), false),
        StringMatch::Not(inner) => match text(inner) {
            Some(inner) => matcher(HeaderMatchSpecifier::StringMatch(inner), true),
            None => matcher(HeaderMatchSpecifier::PresentMatch(false), false),
        },
        other => matcher(
            HeaderMatchSpecifier::StringMatch(text(other).unwrap_or_default()),
            false,
        ),
    }
}

/// A condition on a header, as a principal.
pub(super) fn principal(name: &str, condition: &StringMatch) -> Principal {
    match condition {
        StringMatch::Not(inner) => not(principal(name, inner)),
        StringMatch::Present(false) => not(principal(name, &StringMatch::Present(true))),
        other => of(principal::Identifier::Header(header(name, other))),
    }
}

/// A principal.
pub(super) fn of(identifier: principal::Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

/// The opposite.
pub(super) fn not(inner: Principal) -> Principal {
    of(principal::Identifier::NotId(Box::new(inner)))
}

/// All of these; every request if there are none.
pub(super) fn all(mut ids: Vec<Principal>) -> Principal {
    match ids.len() {
        0 => of(principal::Identifier::Any(true)),
        1 => ids.remove(0),
        _ => of(principal::Identifier::AndIds(principal::Set { ids })),
    }
}

/// Any of these; at least one.
pub(super) fn any(mut ids: Vec<Principal>) -> Principal {
    match ids.len() {
        1 => ids.remove(0),
        _ => of(principal::Identifier::OrIds(principal::Set { ids })),
    }
}
