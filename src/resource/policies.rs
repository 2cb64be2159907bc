//! Policies as HTTP filters, and the slots in which they run.
//!
//! The HTTP filters of every listener are fixed, so that no policy changes a Listener. A slot is a filter of the type
//! `filter_chain`: it runs the filters that a RouteConfiguration gives it. Each slot stands twice:
//!
//! | slot | filters |
//! |---|---|
//! | `chancery.edge` | compression, headers, `grpc_web`, cors, `ip_access`, csrf |
//! | `chancery.auth` | `basic_auth`, `api_key`, `ext_authz`, rbac, `global_rate_limit` |
//! | `chancery.app` | `ext_proc`, `body_limit`, buffer, fault, `grpc_json`, sticky |
//!
//! - The filters of the listener stand once, on the RouteConfiguration, under the name of the slot.
//! - A route with other filters disables the slot, and has all of its own under the slot's second name, `.own`. Envoy
//!   would merge two levels of one slot by the names of filters and lose their order.
//! - A filter may have a message for the route beside it (cors). Envoy finds it under the filter's name and merges
//!   levels, too; so the names of a route's own filters end in `.own`.
//!
//! Kinds with a state (`jwt`, `rate_limit`, `lua`) stand between the slots as filters of their own, by ECDS
//! ([`extensions`]): a change of a RouteConfiguration would make a slot's filters anew, and with them buckets, keys and
//! scripts. `oidc` has a filter of its own, too: it makes requests, and its secrets come by SDS. A listener has these
//! filters disabled; a RouteConfiguration or a route enables them ([`Chains`]).
//!
//! `maintenance` is no filter: it replaces the action of routes (`route`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::filter_chain::v3::{
    FilterChain, FilterChainConfig, FilterChainConfigPerRoute,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::document::policy::Policy;
use crate::document::secret::Secret;
use crate::proto::message::{any, append};

pub use extensions::Extension;

mod api_key;
mod basic_auth;
mod conditions;
mod ext_authz;
mod ext_proc;
pub mod extensions;
mod filters;
mod global_rate_limit;
mod grpc_json;
mod jwt;
mod lua;
mod oidc;
mod rate_limit;
pub mod route;
mod service;

/// The first Envoy with slots, major and minor number.
pub const FIRST_ENVOY: (u32, u32) = (1, 40);

/// A place in the fixed list of a listener's HTTP filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Before authentication.
    Edge,
    /// Who may do what.
    Auth,
    /// Next to the upstream.
    App,
}

impl Slot {
    /// All, in the order of requests.
    pub const ALL: [Self; 3] = [Self::Edge, Self::Auth, Self::App];

    /// The name of the filter that runs the listener's filters.
    #[must_use]
    pub fn shared(self) -> &'static str {
        match self {
            Self::Edge => "chancery.edge",
            Self::Auth => "chancery.auth",
            Self::App => "chancery.app",
        }
    }

    /// The name of the filter that runs a route's own filters.
    #[must_use]
    pub fn own(self) -> &'static str {
        match self {
            Self::Edge => "chancery.edge.own",
            Self::Auth => "chancery.auth.own",
            Self::App => "chancery.app.own",
        }
    }
}

/// The HTTP filters of every listener but an API listener, between `on_demand` and the router.
///
/// `is_optional`: an Envoy before 1.40, which has no slots, takes the listener, and refuses a `RouteConfiguration` with
/// policies as a whole.
#[must_use]
pub fn slots() -> Vec<HttpFilter> {
    let slot = |name: &str| HttpFilter {
        name: name.to_owned(),
        is_optional: true,
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&FilterChainConfig::default()))),
        ..HttpFilter::default()
    };
    let pair = |one: Slot| [slot(one.shared()), slot(one.own())];
    let extension = |one: Extension| one.filter();
    pair(Slot::Edge)
        .into_iter()
        .chain([
            extension(Extension::RateLimit),
            oidc::filter(),
            extension(Extension::Jwt),
        ])
        .chain(pair(Slot::Auth))
        .chain([Extension::UserRateLimit, Extension::Lua].map(extension))
        .chain(pair(Slot::App))
        .collect()
}

/// The secrets of a group, by name.
pub type Secrets<'a> = dyn Fn(&Arc<str>) -> Option<&'a Secret> + 'a;

/// One HTTP filter of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// Where it runs.
    pub slot: Slot,
    /// The name of the kind, or of a part of it.
    pub name: &'static str,
    /// Its configuration.
    pub config: Any,
    /// The message for a route that Envoy looks up under the name of the filter.
    pub for_route: Option<Any>,
}

impl Filter {
    fn new(slot: Slot, name: &'static str, config: Any) -> Self {
        Self {
            slot,
            name,
            config,
            for_route: None,
        }
    }
}

/// The filters of a policy in slots, in order. `client` is the header with the client that another policy found.
#[must_use]
pub fn of_policy(policy: &Policy, secrets: &Secrets<'_>, client: Option<&str>) -> Vec<Filter> {
    filters::of(&policy.rule, secrets, client)
}

/// The filter of a policy for a proxy that may not have its secrets: it refuses every request. `None`: the policy has no
/// secret that a RouteConfiguration would show or wait for.
#[must_use]
pub fn withheld(policy: &Policy) -> Option<Filter> {
    filters::withheld(&policy.rule)
}

/// `ip_access` as a network filter: its name and configuration. `None`: another kind.
#[must_use]
pub fn of_connections(policy: &Policy) -> Option<(&'static str, Any)> {
    filters::network(&policy.rule)
}

/// The filters of each slot, in two forms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chains {
    given: Form,
    /// The filters for a proxy that may not have secrets; `None`: the same.
    withheld: Option<Form>,
}

impl Chains {
    /// Add the filters of a policy behind those that are there, and the messages that let filters of their own run.
    /// `withheld` stands for both where secrets are withheld.
    pub fn add(&mut self, filters: &[Filter], messages: Vec<(&'static str, Any)>, withheld: Option<Filter>) {
        if withheld.is_some() && self.withheld.is_none() {
            self.withheld = Some(self.given.clone());
        }
        if let Some(form) = &mut self.withheld {
            match withheld {
                Some(filter) => form.slot_mut(filter.slot).push(filter),
                None => form.add(filters, messages.clone()),
            }
        }
        self.given.add(filters, messages);
    }

    fn form(&self, is_withheld: bool) -> &Form {
        let withheld = self.withheld.as_ref().filter(|_| is_withheld);
        withheld.unwrap_or(&self.given)
    }
}

/// The filters of each slot.
#[derive(Debug, Clone, Default, PartialEq)]
struct Form {
    edge: Vec<Filter>,
    auth: Vec<Filter>,
    app: Vec<Filter>,
    /// The messages of filters that run only where these are, by name.
    enabled: BTreeMap<&'static str, Any>,
}

impl Form {
    fn add(&mut self, filters: &[Filter], messages: Vec<(&'static str, Any)>) {
        for filter in filters {
            self.slot_mut(filter.slot).push(filter.clone());
        }
        self.enabled.extend(messages);
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut Vec<Filter> {
        match slot {
            Slot::Edge => &mut self.edge,
            Slot::Auth => &mut self.auth,
            Slot::App => &mut self.app,
        }
    }

    fn slot(&self, slot: Slot) -> &[Filter] {
        match slot {
            Slot::Edge => &self.edge,
            Slot::Auth => &self.auth,
            Slot::App => &self.app,
        }
    }

    /// The entries of `typed_per_filter_config` for these filters as those of a listener, sorted by name.
    fn shared(&self) -> Vec<PerFilter> {
        let mut entries = Vec::new();
        for slot in Slot::ALL {
            let filters = self.slot(slot);
            if !filters.is_empty() {
                entries.extend(chain(slot.shared(), filters, ""));
            }
        }
        let enabled = self.enabled.iter();
        entries.extend(enabled.map(|(name, message)| PerFilter::new(name, message)));
        entries.sort();
        entries
    }

    /// The entries for these filters as those of a route on a listener with others, sorted by name; none if both are
    /// equal.
    fn beside(&self, listener: &Self) -> Vec<PerFilter> {
        let mut entries = Vec::new();
        for slot in Slot::ALL {
            let (own, shared) = (self.slot(slot), listener.slot(slot));
            if own == shared {
                continue;
            }
            if !shared.is_empty() {
                entries.push(PerFilter::new(slot.shared(), &disabled()));
            }
            if !own.is_empty() {
                entries.extend(chain(slot.own(), own, ".own"));
            }
        }
        let names: BTreeSet<&str> = self.enabled.keys().chain(listener.enabled.keys()).copied().collect();
        for name in names {
            let own = self.enabled.get(name);
            if own != listener.enabled.get(name) {
                let message = own.cloned().unwrap_or_else(disabled);
                entries.push(PerFilter::new(name, &message));
            }
        }
        entries.sort();
        entries
    }
}

/// An entry of an encoded map.
fn entry(name: &str, message: &impl Message) -> Vec<u8> {
    let mut entry = Vec::new();
    append(&mut entry, 1, name.as_bytes());
    append(&mut entry, 2, &message.encode_to_vec());
    entry
}

/// The message that keeps a filter from running.
fn disabled() -> Any {
    any(&FilterConfig {
        disabled: true,
        ..FilterConfig::default()
    })
}

/// The entries of a slot: its filters, and their messages for the route.
fn chain(name: &str, filters: &[Filter], suffix: &str) -> Vec<PerFilter> {
    let named = |filter: &Filter| format!("{}{suffix}", filter.name);
    let config = |filter: &Filter| TypedExtensionConfig {
        name: named(filter),
        typed_config: Some(filter.config.clone()),
    };
    let chain = FilterChainConfigPerRoute {
        filter_chain: Some(FilterChain {
            filters: filters.iter().map(config).collect(),
        }),
    };

    let beside = filters.iter().filter_map(|filter| {
        let message = filter.for_route.as_ref()?;
        Some(PerFilter::new(&named(filter), message))
    });
    std::iter::once(PerFilter::new(name, &any(&chain)))
        .chain(beside)
        .collect()
}

/// An encoded entry of `typed_per_filter_config`, ordered by its name.
///
/// Generated messages have this map in a `HashMap`, whose order is random, so the entries are put into encoded messages
/// ([`append`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerFilter {
    name: String,
    entry: Bytes,
}

impl PerFilter {
    fn new(name: &str, message: &Any) -> Self {
        Self {
            name: name.to_owned(),
            entry: entry(name, message).into(),
        }
    }
}

/// Put the entries into an encoded message whose `typed_per_filter_config` has the number `tag`.
fn append_all(message: &mut Vec<u8>, tag: u32, entries: &[PerFilter]) {
    entries.iter().for_each(|entry| append(message, tag, &entry.entry));
}

/// The number of `RouteConfiguration.typed_per_filter_config`.
const OF_CONFIGURATION: u32 = 16;

/// The encoded fields of a RouteConfiguration for the filters of its listener, in two forms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields {
    /// With everything.
    pub given: Bytes,
    /// For a proxy that may not have secrets; `None`: the same.
    pub withheld: Option<Bytes>,
}

impl Fields {
    /// The fields for these filters.
    #[must_use]
    pub fn of(chains: &Chains) -> Self {
        let encoded = |form: &Form| {
            let mut fields = Vec::new();
            append_all(&mut fields, OF_CONFIGURATION, &form.shared());
            Bytes::from(fields)
        };
        Self {
            given: encoded(&chains.given),
            withheld: chains.withheld.as_ref().map(encoded),
        }
    }
}
