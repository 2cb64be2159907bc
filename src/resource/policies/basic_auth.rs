//! `basic_auth`. Envoy has no SDS for users, so these stand in the filter.

use std::fmt::Write as _;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::filters::http::basic_auth::v3::BasicAuth as Message;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation as HeaderMutationFilter, Mutations,
};

use super::service::closed;
use super::{Filter, Secrets, Slot};
use crate::document::policy::basic_auth::BasicAuth;
use crate::document::secret::Content;
use crate::proto::message::any;

/// The filter, and one behind authorization that removes the credentials.
pub(super) fn filters(basic: &BasicAuth, secrets: &Secrets<'_>) -> Vec<Filter> {
    let Some(Content::Users(users)) = secrets(&basic.users.name).map(|secret| &secret.content) else {
        return closed(["basic_auth.unavailable", "basic_auth"]);
    };
    let mut lines = String::new();
    for (name, hash) in users {
        // Writing to a string cannot fail.
        writeln!(lines, "{name}:{}", hash.expose()).unwrap_or_default();
    }
    let message = Message {
        users: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(lines)),
            ..DataSource::default()
        }),
        forward_username_header: basic.user_header.clone().unwrap_or_default(),
        ..Message::default()
    };
    let hiding = basic.hides_credentials.then(|| {
        let removal = HeaderMutationFilter {
            mutations: Some(Mutations {
                request_mutations: vec![HeaderMutation {
                    action: Some(header_mutation::Action::Remove("authorization".to_owned())),
                }],
                ..Mutations::default()
            }),
            ..HeaderMutationFilter::default()
        };
        Filter::new(Slot::App, "basic_auth.hidden", any(&removal))
    });
    std::iter::once(Filter::new(Slot::Auth, "basic_auth", any(&message)))
        .chain(hiding)
        .collect()
}
