//! Requests and responses in a shape that fits both variants.

use std::collections::BTreeMap;
use std::fmt;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    self as discovery, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    ResourceLocator,
};
use envoy_types::pb::google::protobuf::{Any, Duration as ProtoDuration};
use prost::Message;

use super::super::fixture::Type;
use super::super::support::ads_client::{node, refusal};
use super::inner_name;

/// The type URL of the wrapper that a SotW resource may be in.
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// A request, built field by field; the other fields are empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(super) type_url: String,
    version: String,
    nonce: String,
    pub(super) names: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    initial: Vec<(String, String)>,
    locators: Vec<String>,
    error: Option<String>,
    node: Introduction,
}

/// Which node a request carries.
#[derive(Debug, Clone, Default)]
enum Introduction {
    /// `n1` of cluster `c` in the first request of the stream.
    #[default]
    Usual,
    /// This one, or none.
    Own(Option<Box<Node>>),
}

impl Request {
    /// A request of this type.
    pub(crate) fn of(resource_type: Type) -> Self {
        Self::of_url(resource_type.type_url())
    }

    /// A request with this type URL.
    pub(crate) fn of_url(type_url: &str) -> Self {
        Self {
            type_url: type_url.to_owned(),
            ..Self::default()
        }
    }

    /// `resource_names`, or `resource_names_subscribe`.
    pub(crate) fn names(mut self, names: &[&str]) -> Self {
        self.names = names.iter().map(ToString::to_string).collect();
        self
    }

    /// `resource_names_unsubscribe`; delta only.
    pub(crate) fn unsubscribe(mut self, names: &[&str]) -> Self {
        self.unsubscribe = names.iter().map(ToString::to_string).collect();
        self
    }

    /// `initial_resource_versions`; delta only.
    pub(crate) fn initial(mut self, versions: &[(&str, &str)]) -> Self {
        self.initial = versions
            .iter()
            .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
            .collect();
        self
    }

    /// `version_info`; SotW only, delta has none.
    pub(crate) fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// `response_nonce`.
    pub(crate) fn nonce(mut self, nonce: &str) -> Self {
        nonce.clone_into(&mut self.nonce);
        self
    }

    /// `resource_locators`, or `resource_locators_subscribe`, by their names.
    pub(crate) fn locators(mut self, names: &[&str]) -> Self {
        self.locators = names.iter().map(ToString::to_string).collect();
        self
    }

    /// `error_detail`: this is a NACK.
    pub(crate) fn error(mut self, why: &str) -> Self {
        self.error = Some(why.to_owned());
        self
    }

    /// Carry this node, or none at all.
    pub(crate) fn with_node(mut self, node: Option<Node>) -> Self {
        self.node = Introduction::Own(node.map(Box::new));
        self
    }

    pub(super) fn node(&self, first: bool) -> Option<Node> {
        match &self.node {
            Introduction::Usual if first => node("n1"),
            Introduction::Usual => None,
            Introduction::Own(own) => own.as_deref().cloned(),
        }
    }

    fn located(&self) -> Vec<ResourceLocator> {
        let locate = |name: &String| ResourceLocator {
            name: name.clone(),
            ..ResourceLocator::default()
        };
        self.locators.iter().map(locate).collect()
    }

    pub(super) fn into_sotw(self, node: Option<Node>) -> DiscoveryRequest {
        assert!(
            self.unsubscribe.is_empty() && self.initial.is_empty(),
            "SotW has no such field: {self}"
        );
        DiscoveryRequest {
            resource_locators: self.located(),
            error_detail: self.error.as_deref().and_then(refusal),
            version_info: self.version,
            node,
            resource_names: self.names,
            type_url: self.type_url,
            response_nonce: self.nonce,
        }
    }

    pub(super) fn into_delta(self, node: Option<Node>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            resource_locators_subscribe: self.located(),
            error_detail: self.error.as_deref().and_then(refusal),
            node,
            type_url: self.type_url,
            resource_names_subscribe: self.names,
            resource_names_unsubscribe: self.unsubscribe,
            initial_resource_versions: self.initial.into_iter().collect(),
            response_nonce: self.nonce,
            ..DeltaDiscoveryRequest::default()
        }
    }
}

/// The last word of a type URL.
fn short(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

/// A list as a person reads it, cut where it gets long.
fn few<Item: AsRef<str>>(items: &[Item]) -> String {
    const FEW: usize = 8;
    let shown: Vec<&str> = items.iter().take(FEW).map(AsRef::as_ref).collect();
    let more = if items.len() > FEW {
        format!(" and {} more", items.len() - FEW)
    } else {
        String::new()
    };
    format!("[{}{more}]", shown.join(","))
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}{{v:{:?} n:{:?} names:{}",
            short(&self.type_url),
            self.version,
            self.nonce,
            few(&self.names)
        )?;
        if !self.unsubscribe.is_empty() {
            write!(formatter, " unsub:{}", few(&self.unsubscribe))?;
        }
        if !self.initial.is_empty() {
            let initial: Vec<String> = self
                .initial
                .iter()
                .map(|(name, version)| format!("{name}@{version}"))
                .collect();
            write!(formatter, " init:{}", few(&initial))?;
        }
        if !self.locators.is_empty() {
            write!(formatter, " locators:{}", few(&self.locators))?;
        }
        if let Some(error) = &self.error {
            write!(formatter, " err:{error:?}")?;
        }
        formatter.write_str("}")
    }
}

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) type_url: String,
    /// `version_info`, or `system_version_info`.
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Received>,
    /// `removed_resources`; delta only.
    pub(crate) removed: Vec<String>,
    /// `control_plane.identifier`.
    pub(crate) control_plane: String,
    /// The names of `resource_errors` and their codes.
    pub(crate) errors: BTreeMap<String, i32>,
    /// Bytes of the message.
    pub(crate) size: usize,
}

/// A resource in a response.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The wrapper's name; without a wrapper the resource's own.
    pub(crate) name: String,
    /// The wrapper's version; empty without one.
    pub(crate) version: String,
    /// True if the resource is in a wrapper; always true in delta.
    pub(crate) wrapped: bool,
    /// The resource; `None`: a wrapper without a body.
    pub(crate) body: Option<Any>,
    pub(crate) aliases: Vec<String>,
    pub(crate) ttl: Option<ProtoDuration>,
}

impl Received {
    fn bare(body: Any) -> Self {
        if body.type_url == WRAPPER {
            return Self::wrapped(discovery::Resource::decode(&*body.value).expect("a wrapper"));
        }
        let name = inner_name(&body);
        Self {
            name,
            version: String::new(),
            wrapped: false,
            body: Some(body),
            aliases: Vec::new(),
            ttl: None,
        }
    }

    fn wrapped(wrapper: discovery::Resource) -> Self {
        Self {
            name: wrapper.name,
            version: wrapper.version,
            wrapped: true,
            body: wrapper.resource,
            aliases: wrapper.aliases,
            ttl: wrapper.ttl,
        }
    }

    /// The resource decoded.
    pub(crate) fn decode<M: Message + Default>(&self) -> M {
        let body = self
            .body
            .as_ref()
            .unwrap_or_else(|| panic!("{} has no body", self.name));
        M::decode(&*body.value).unwrap_or_else(|error| panic!("decode {}: {error}", self.name))
    }
}

impl Response {
    pub(super) fn from_sotw(response: DiscoveryResponse) -> Self {
        Self {
            size: response.encoded_len(),
            errors: errors(&response.resource_errors),
            type_url: response.type_url,
            version: response.version_info,
            nonce: response.nonce,
            resources: response.resources.into_iter().map(Received::bare).collect(),
            removed: Vec::new(),
            control_plane: response.control_plane.map(|plane| plane.identifier).unwrap_or_default(),
        }
    }

    pub(super) fn from_delta(response: DeltaDiscoveryResponse) -> Self {
        Self {
            size: response.encoded_len(),
            errors: errors(&response.resource_errors),
            type_url: response.type_url,
            version: response.system_version_info,
            nonce: response.nonce,
            resources: response.resources.into_iter().map(Received::wrapped).collect(),
            removed: response.removed_resources,
            control_plane: response.control_plane.map(|plane| plane.identifier).unwrap_or_default(),
        }
    }

    /// The names of its resources, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.resources.iter().map(|resource| &*resource.name).collect();
        names.sort_unstable();
        names
    }

    /// The removed names, sorted.
    pub(crate) fn removed(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.removed.iter().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }

    /// True if the response has neither resources nor removals.
    pub(crate) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }

    /// The resource of this name.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn get(&self, name: &str) -> &Received {
        let found = self.resources.iter().find(|resource| resource.name == name);
        found.unwrap_or_else(|| panic!("expected {name} in {self}"))
    }

    /// It carries exactly these resources and no others, and removes nothing.
    #[track_caller]
    pub(crate) fn carries(&self, names: &[&str]) -> &Self {
        assert!(
            self.names() == names && self.removed.is_empty(),
            "expected {names:?}, found {self}"
        );
        self
    }

    /// It removes exactly these and carries nothing.
    #[track_caller]
    pub(crate) fn removes(&self, names: &[&str]) -> &Self {
        assert!(
            self.resources.is_empty() && self.removed() == names,
            "expected -{names:?}, found {self}"
        );
        self
    }
}

fn errors(errors: &[discovery::ResourceError]) -> BTreeMap<String, i32> {
    let entry = |error: &discovery::ResourceError| {
        let name = error
            .resource_name
            .as_ref()
            .map(|name| name.name.clone())
            .unwrap_or_default();
        (
            name,
            error
                .error_detail
                .as_ref()
                .map(|status| status.code)
                .unwrap_or_default(),
        )
    };
    errors.iter().map(entry).collect()
}

impl fmt::Display for Response {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let item = |resource: &Received| {
            let version = resource.version.get(..6).unwrap_or(&resource.version);
            let body = if resource.body.is_none() { " (no body)" } else { "" };
            let at = if resource.wrapped { "@" } else { "" };
            format!("{}{at}{version}{body}", resource.name)
        };
        let items: Vec<String> = self.resources.iter().map(item).collect();
        let version = self.version.get(..6).unwrap_or(&self.version);
        write!(
            formatter,
            "{}{{v:{version:?} n:{:?} {}",
            short(&self.type_url),
            self.nonce,
            few(&items)
        )?;
        if !self.removed.is_empty() {
            write!(formatter, " -{}", few(&self.removed))?;
        }
        if !self.errors.is_empty() {
            write!(formatter, " errors:{:?}", self.errors)?;
        }
        formatter.write_str("}")
    }
}
