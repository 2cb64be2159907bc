//! Routes: rules to Route messages, and those, already encoded, to VirtualHosts and RouteConfigurations.
//!
//! A rule usually becomes one Route; it becomes several that stand together where one Envoy matcher cannot say it: when
//! the matched prefix is replaced by `/` ([`paths`]), and when the names of many methods do not fit one regex
//! ([`matching`]). What happens to the request is the same in all of them ([`action`]).
//!
//! Each entry is encoded once. A VirtualHost holds its own routes and those of wider patterns, so the same bytes go into
//! many of them: VirtualHost and RouteConfiguration are written by putting encoded members one after another.
//! Which entries stand in which VirtualHost, and in what order, is [`super::table`]'s part.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use prost::Message;

use crate::document::Rejection;
use crate::document::defaults::LegacyPath;
use crate::document::key::DocumentKey;
use crate::document::route::{Action, HeaderEdits, HostPattern, Rule, Settings};
use crate::proto::message::append;

mod action;
mod matching;
mod paths;

/// The encoded `envoy.config.route.v3.Route` messages of one rule, in the order in which they must stand; usually one.
///
/// `settings` are the rule's with the defaults filled in. A Route is named like the document.
///
/// # Errors
/// What Envoy would refuse or cannot express.
pub fn entries(
    key: &DocumentKey,
    rule: &Rule,
    settings: &Settings,
    legacy_path: LegacyPath,
) -> Result<Vec<Bytes>, Rejection> {
    let name = key.to_string();
    let conditions = matching::conditions(rule)?;
    let mut entries = Vec::new();
    for path in paths::variants(&rule.matches.path, legacy_path, replacement(rule)) {
        for method in matching::methods(&rule.matches.methods) {
            let route = Route {
                name: name.clone(),
                r#match: Some(conditions.with(path.specifier.clone(), method)),
                action: Some(action::of(rule, settings, &path.replacement)?),
                ..with_header_edits(rule, settings)
            };
            entries.push(route.encode_to_vec().into());
        }
    }
    Ok(entries)
}

/// What the matched part of the path becomes, where the rule says so.
fn replacement(rule: &Rule) -> Option<&str> {
    match &rule.action {
        Action::Forward(_) => rule.rewrite.prefix.as_deref(),
        Action::Redirect(redirect) => redirect.prefix.as_deref(),
        Action::Respond(_) => None,
    }
}

/// A Route with nothing but its edits of headers; the headers of a fixed response are edits that come first.
fn with_header_edits(rule: &Rule, settings: &Settings) -> Route {
    let mut route = Route::default();
    if let Action::Respond(respond) = &rule.action {
        route.response_headers_to_add = respond.headers.iter().map(overwritten).collect();
    }
    if let Some(edits) = &settings.request_headers {
        route.request_headers_to_add = added(edits);
        route.request_headers_to_remove.clone_from(&edits.remove);
    }
    if let Some(edits) = &settings.response_headers {
        route.response_headers_to_add.extend(added(edits));
        route.response_headers_to_remove.clone_from(&edits.remove);
    }
    route
}

fn added(edits: &HeaderEdits) -> Vec<HeaderValueOption> {
    let appended = edits.add.iter().map(|header| header_option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    edits.set.iter().map(overwritten).chain(appended).collect()
}

fn overwritten(header: (&String, &String)) -> HeaderValueOption {
    header_option(header, HeaderAppendAction::OverwriteIfExistsOrAdd)
}

fn header_option((key, value): (&String, &String), action: HeaderAppendAction) -> HeaderValueOption {
    let header = HeaderValue { key: key.clone(), value: value.clone(), ..HeaderValue::default() };
    HeaderValueOption { header: Some(header), append_action: action as i32, ..HeaderValueOption::default() }
}

/// The encoded VirtualHost of one host pattern, from encoded routes in their order; it is named like the pattern.
#[must_use]
pub fn virtual_host(host: &HostPattern, routes: &[Bytes]) -> Bytes {
    let pattern = match host {
        HostPattern::Exact(pattern) | HostPattern::Wildcard(pattern) => pattern,
        HostPattern::Any => "*",
    };
    let head = VirtualHost { name: pattern.to_owned(), domains: vec![pattern.to_owned()], ..VirtualHost::default() };
    with_members(&head, 3, routes)
}

/// The encoded RouteConfiguration of the listener `name`, from encoded virtual hosts.
#[must_use]
pub fn configuration<'a>(name: &str, virtual_hosts: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let head = RouteConfiguration {
        name: name.to_owned(),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    };
    with_members(&head, 2, virtual_hosts)
}

/// The encoded `head` with encoded messages as its repeated field `tag`.
fn with_members<'a>(head: &impl Message, tag: u32, members: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut bytes = head.encode_to_vec();
    for member in members {
        append(&mut bytes, tag, member);
    }
    bytes.into()
}
