//! Listeners and connection managers (docs/refused-by-envoy.md, Listeners).

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::{CidrRange, SocketAddress, TcpKeepalive, socket_address};
use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener, filter, listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::CodecType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds, http_connection_manager, http_filter,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::xds::r#type::matcher::v3::{Matcher, matcher};
use prost::Message;

use super::{addresses, extensions, sources};
use crate::document::Rejection;
use crate::document::sentence::quote;
use crate::resource::place::Place;

/// The network filter of HTTP.
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// The type with the name of a filter chain, at the end of a matcher.
const CHAIN_NAME: &str = "google.protobuf.StringValue";
/// The HTTP filter that ends a chain.
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
/// Network filters that end a chain.
const TERMINAL: [&str; 5] = [
    MANAGER,
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
    "envoy.extensions.filters.network.echo.v3.Echo",
    "envoy.extensions.filters.network.direct_response.v3.Config",
];
/// Network filters that do not end a chain.
const NOT_TERMINAL: [&str; 5] = [
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.network.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
];
/// Common HTTP filters that do not end a chain.
const HTTP_NOT_TERMINAL: [&str; 16] = [
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
    "envoy.extensions.filters.http.buffer.v3.Buffer",
    "envoy.extensions.filters.http.compressor.v3.Compressor",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.lua.v3.Lua",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
];

/// The beginning of the types of listener filters for TCP.
const TCP_FILTERS: &str = "envoy.extensions.filters.listener.";
/// The longest time of TCP keepalive on Linux, in seconds.
const MAX_KEEPALIVE_S: u32 = 32_767;
/// Most probes of TCP keepalive on Linux.
const MAX_KEEPALIVE_PROBES: u32 = 127;

/// NL-01, NL-02, NL-05, NL-16 to NL-19, NL-34 to NL-38 and the chains.
pub(super) fn listener(listener: &Listener, at: &Place) -> Result<(), Rejection> {
    let internal = matches!(
        listener.listener_specifier,
        Some(listener::ListenerSpecifier::InternalListener(_))
    );
    if internal && listener.address.is_some() {
        return Err(at
            .field("address")
            .reject("found an address of an internal listener, expected none".to_owned()));
    }

    if internal && listener.api_listener.is_some() {
        let reason = "found together with internal_listener, expected one of the two";
        return Err(at.field("api_listener").reject(reason.to_owned()));
    }
    if listener.api_listener.is_some() {
        return Ok(());
    }
    let is_udp = !internal && own_address(listener, at)?;
    let (chains, quic) = (
        listener.filter_chains.len(),
        listener
            .udp_listener_config
            .as_ref()
            .is_some_and(|config| config.quic_options.is_some()),
    );

    if !is_udp && chains == 0 && listener.default_filter_chain.is_none() {
        return Err(at
            .field("filter_chains")
            .reject("missing or empty, expected at least one".to_owned()));
    }

    if is_udp && chains > 0 && !quic {
        return Err(at
            .field("filter_chains")
            .reject("found filter chains on a UDP listener, expected none".to_owned()));
    }

    if is_udp && !quic {
        no_tcp_filters(listener, &at.field("listener_filters"))?;
    }
    if listener.enable_mptcp {
        mptcp(listener, is_udp, &at.field("enable_mptcp"))?;
    }
    let is_pipe = listener
        .address
        .as_ref()
        .is_some_and(|address| matches!(address.address, Some(Address::Pipe(_))));
    let options = [("transparent", &listener.transparent), ("freebind", &listener.freebind)];
    if let Some((name, _)) = options
        .into_iter()
        .find(|(_, option)| is_pipe && option.as_ref().is_some_and(|option| option.value))
    {
        let reason = "found on a pipe, which has no such option, expected an IP address";
        return Err(at.field(name).reject(reason.to_owned()));
    }
    if let Some(probes) = &listener.tcp_keepalive {
        keepalive(probes, &at.field("tcp_keepalive"))?;
    }
    if listener.fcds_config.is_some() && listener.filter_chain_matcher.is_none() {
        let reason = "found without filter_chain_matcher, expected that beside it";
        return Err(at.field("fcds_config").reject(reason.to_owned()));
    }
    filter_chains(listener, quic, at)
}

/// NL-38.
fn no_tcp_filters(listener: &Listener, at: &Place) -> Result<(), Rejection> {
    for (index, filter) in listener.listener_filters.iter().enumerate() {
        let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
            continue;
        };
        let name = extensions::type_of(config);
        if name.starts_with(TCP_FILTERS) {
            let reason = format!("found {name} on a UDP listener, expected a filter of UDP");
            return Err(at.index(index).field("typed_config").reject(reason));
        }
    }
    Ok(())
}

/// NL-34.
fn mptcp(listener: &Listener, is_udp: bool, at: &Place) -> Result<(), Rejection> {
    let additional = listener
        .additional_addresses
        .iter()
        .filter_map(|more| more.address.as_ref());
    let mut kinds = listener
        .address
        .iter()
        .chain(additional)
        .map(|address| &address.address);
    if is_udp || !kinds.all(|kind| matches!(kind, Some(Address::SocketAddress(_)))) {
        return Err(at.reject("found on another address than one of TCP, expected that".to_owned()));
    }
    Ok(())
}

/// NL-35: Linux has no longer times and no more probes.
fn keepalive(keepalive: &TcpKeepalive, at: &Place) -> Result<(), Rejection> {
    let fields = [
        ("keepalive_probes", &keepalive.keepalive_probes, MAX_KEEPALIVE_PROBES),
        ("keepalive_time", &keepalive.keepalive_time, MAX_KEEPALIVE_S),
        ("keepalive_interval", &keepalive.keepalive_interval, MAX_KEEPALIVE_S),
    ];
    for (name, value, most) in fields {
        if let Some(value) = value.as_ref().filter(|value| value.value > most) {
            let reason = format!("found {}, expected at most {most}", value.value);
            return Err(at.field(name).reject(reason));
        }
    }
    Ok(())
}

/// Whether the listener is one for UDP.
fn own_address(listener: &Listener, at: &Place) -> Result<bool, Rejection> {
    let mut protocols = BTreeSet::new();
    let more = at.field("additional_addresses");
    let additional = listener.additional_addresses.iter().enumerate();
    let additional =
        additional.map(|(index, more_of_it)| (more_of_it.address.as_ref(), more.index(index).field("address")));
    for (address, at) in std::iter::once((listener.address.as_ref(), at.field("address"))).chain(additional) {
        addresses::unresolved(address, &at)?;
        match address.and_then(|address| address.address.as_ref()) {
            Some(Address::EnvoyInternalAddress(_)) => {
                return Err(at.reject("found an internal address, expected internal_listener instead".to_owned()));
            }
            Some(Address::SocketAddress(socket)) => {
                if socket.ipv4_compat && addresses::parsed(&socket.address).is_some_and(|ip| ip.is_ipv4()) {
                    let at = at.field("socket_address").field("ipv4_compat");
                    return Err(at.reject("found on an IPv4 address, expected an IPv6 address".to_owned()));
                }
                protocols.insert(is_udp(socket));
            }
            _ => drop(protocols.insert(false)),
        }
    }

    if protocols.len() > 1 {
        return Err(more.reject("found both TCP and UDP addresses, expected one of the two".to_owned()));
    }
    Ok(protocols.contains(&true))
}

fn is_udp(socket: &SocketAddress) -> bool {
    socket.protocol() == socket_address::Protocol::Udp
}

/// NL-06, NL-07, NL-12, NL-15.
fn filter_chains(listener: &Listener, quic: bool, at: &Place) -> Result<(), Rejection> {
    let chains = at.field("filter_chains");
    for (index, chain) in listener.filter_chains.iter().enumerate() {
        network_filters(chain, quic, &chains.index(index))?;
    }
    if let Some(chain) = &listener.default_filter_chain {
        network_filters(chain, quic, &at.field("default_filter_chain"))?;
    }
    if let Some(matcher) = &listener.filter_chain_matcher {
        chain_actions(matcher, &at.field("filter_chain_matcher"))?;
        return named_chains(&listener.filter_chains, &chains);
    }
    let mut matched: Vec<Dimensions> = Vec::new();
    for (index, chain) in listener.filter_chains.iter().enumerate() {
        let at = chains.index(index).field("filter_chain_match");
        let own = dimensions(chain.filter_chain_match.as_ref(), &at)?;
        if let Some(other) = matched.iter().position(|other| overlap(other, &own)) {
            let reason = format!("found a match that filter_chains[{other}] has too, expected no connection for both");
            return Err(at.reject(reason));
        }
        matched.push(own);
    }

    Ok(())
}

fn named_chains(chains: &[FilterChain], at: &Place) -> Result<(), Rejection> {
    let mut names = BTreeSet::new();
    for (index, chain) in chains.iter().enumerate() {
        let at = at.index(index).field("name");
        if chain.name.is_empty() {
            return Err(at.reject("missing, expected a name beside filter_chain_matcher".to_owned()));
        }
        if !names.insert(&chain.name) {
            return Err(at.reject(format!(
                "found {} a second time, expected each once",
                quote(&chain.name)
            )));
        }
    }
    Ok(())
}

/// NL-12: a matcher ends in the name of a chain. Documents are at most 64 levels deep, so recursion is bounded.
fn chain_actions(matcher: &Matcher, at: &Place) -> Result<(), Rejection> {
    use matcher::matcher_list::FieldMatcher;
    use matcher::{MatcherType, matcher_tree};
    if let Some(end) = &matcher.on_no_match {
        chain_action(end, &at.field("on_no_match"))?;
    }
    match &matcher.matcher_type {
        Some(MatcherType::MatcherList(list)) => {
            let at = at.field("matcher_list").field("matchers");
            let each = |(index, one): (usize, &FieldMatcher)| {
                one.on_match
                    .as_ref()
                    .map_or(Ok(()), |end| chain_action(end, &at.index(index).field("on_match")))
            };
            list.matchers.iter().enumerate().try_for_each(each)
        }
        Some(MatcherType::MatcherTree(tree)) => {
            let (field, map) = match &tree.tree_type {
                Some(matcher_tree::TreeType::ExactMatchMap(map)) => ("exact_match_map", map),
                Some(matcher_tree::TreeType::PrefixMatchMap(map)) => ("prefix_match_map", map),
                _ => return Ok(()),
            };
            let at = at.field("matcher_tree").field(field).field("map");
            let sorted: BTreeMap<_, _> = map.map.iter().collect();
            sorted
                .into_iter()
                .try_for_each(|(value, end)| chain_action(end, &at.field(value)))
        }
        None => Ok(()),
    }
}

fn chain_action(end: &matcher::OnMatch, at: &Place) -> Result<(), Rejection> {
    match &end.on_match {
        Some(matcher::on_match::OnMatch::Matcher(inner)) => chain_actions(inner, &at.field("matcher")),
        Some(matcher::on_match::OnMatch::Action(action)) => {
            let known = action
                .typed_config
                .as_ref()
                .is_some_and(|config| extensions::type_of(config) == CHAIN_NAME);
            if known {
                return Ok(());
            }
            let at = at.field("action").field("typed_config");
            Err(at.reject("found no name of a filter chain, expected one as google.protobuf.StringValue".to_owned()))
        }
        None => Ok(()),
    }
}

/// The match of a filter chain: the values of each property; an empty set matches any.
type Dimensions = Vec<BTreeSet<String>>;

fn overlap(one: &Dimensions, other: &Dimensions) -> bool {
    one.iter()
        .zip(other)
        .all(|(one, other)| (one.is_empty() && other.is_empty()) || !one.is_disjoint(other))
}

/// NL-07 to NL-09, NL-11.
fn dimensions(matched: Option<&FilterChainMatch>, at: &Place) -> Result<Dimensions, Rejection> {
    let Some(matched) = matched else {
        return Ok(vec![BTreeSet::new(); 9]);
    };
    if matched.suffix_len.is_some() || !matched.address_suffix.is_empty() {
        return Err(
            at.reject("found suffix_len or address_suffix, which Envoy does not implement, expected none".to_owned())
        );
    }

    let names = at.field("server_names");
    for (index, name) in matched.server_names.iter().enumerate() {
        if name.contains('*') && !name.starts_with("*.") {
            let reason = format!(
                "found {}, expected \"*\" only as the whole first label (\"*.example.com\")",
                quote(name)
            );
            return Err(names.index(index).reject(reason));
        }
    }

    let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
    let one = |text: String, is_there: bool| if is_there { vec![text] } else { Vec::new() };
    let lists: [(&str, Vec<String>); 9] = [
        (
            "destination_port",
            matched
                .destination_port
                .iter()
                .map(|port| port.value.to_string())
                .collect(),
        ),
        (
            "prefix_ranges",
            ranges(&matched.prefix_ranges, &at.field("prefix_ranges"))?,
        ),
        ("server_names", lower(&matched.server_names)),
        (
            "transport_protocol",
            one(
                matched.transport_protocol.clone(),
                !matched.transport_protocol.is_empty(),
            ),
        ),
        ("application_protocols", matched.application_protocols.clone()),
        (
            "direct_source_prefix_ranges",
            ranges(
                &matched.direct_source_prefix_ranges,
                &at.field("direct_source_prefix_ranges"),
            )?,
        ),
        (
            "source_type",
            one(matched.source_type.to_string(), matched.source_type != 0),
        ),
        (
            "source_prefix_ranges",
            ranges(&matched.source_prefix_ranges, &at.field("source_prefix_ranges"))?,
        ),
        (
            "source_ports",
            matched.source_ports.iter().map(ToString::to_string).collect(),
        ),
    ];

    let mut dimensions = Vec::with_capacity(lists.len());
    for (field, list) in lists {
        let mut values = BTreeSet::new();
        for (index, value) in list.into_iter().enumerate() {
            if values.contains(&value) {
                let reason = format!("found {} a second time, expected each once", quote(&value));
                return Err(at.field(field).index(index).reject(reason));
            }
            values.insert(value);
        }
        dimensions.push(values);
    }

    Ok(dimensions)
}

/// Ranges as Envoy compares them: the address cut to its prefix.
fn ranges(ranges: &[CidrRange], at: &Place) -> Result<Vec<String>, Rejection> {
    let range = |(index, range): (usize, &CidrRange)| {
        let address = addresses::range(range, &at.index(index))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = range.prefix_len.as_ref().map_or(0, |length| length.value).min(most);
        let network = u8::try_from(length)
            .ok()
            .and_then(|length| ipnet::IpNet::new(address, length).ok());
        Ok(network.map_or_else(|| range.address_prefix.clone(), |network| network.trunc().to_string()))
    };
    ranges.iter().enumerate().map(range).collect()
}

/// NL-13, NL-15, NL-26.
fn network_filters(chain: &FilterChain, quic: bool, at: &Place) -> Result<(), Rejection> {
    let filters = at.field("filters");
    let last = chain.filters.len().saturating_sub(1);
    for (index, filter) in chain.filters.iter().enumerate() {
        let at = filters.index(index);
        let url = match &filter.config_type {
            None => continue,
            Some(filter::ConfigType::TypedConfig(config)) => {
                codec(config, quic, &at.field("typed_config"))?;
                extensions::type_of(config)
            }
            Some(filter::ConfigType::ConfigDiscovery(_)) => continue,
        };
        let is = |types: &[&str]| types.contains(&&*url);
        if index != last && is(&TERMINAL) {
            return Err(at.reject("found a filter that ends a chain before others, expected it last".to_owned()));
        }
        if index == last && is(&NOT_TERMINAL) {
            return Err(at.reject("found a filter last that ends no chain, expected one such as tcp_proxy".to_owned()));
        }
    }

    Ok(())
}

/// NL-26.
fn codec(config: &Any, quic: bool, at: &Place) -> Result<(), Rejection> {
    if extensions::type_of(config) != MANAGER {
        return Ok(());
    }
    let Ok(manager) = HttpConnectionManager::decode(config.value.as_slice()) else {
        return Ok(());
    };
    let at = at.field("codec_type");
    match (manager.codec_type() == CodecType::Http3, quic) {
        (true, false) => Err(at.reject("found HTTP3 on a listener without QUIC, expected another codec".to_owned())),
        (false, true) => Err(at.reject("found another codec on a listener of QUIC, expected \"HTTP3\"".to_owned())),
        _ => Ok(()),
    }
}

/// NL-13, NL-15, NL-27 to NL-29.
pub(super) fn connection_manager(manager: &HttpConnectionManager, at: &Place) -> Result<(), Rejection> {
    http_filters(manager, &at.field("http_filters"))?;
    let mut upgrades = BTreeSet::new();
    for (index, upgrade) in manager.upgrade_configs.iter().enumerate() {
        if !upgrades.insert(upgrade.upgrade_type.to_ascii_lowercase()) {
            let reason = format!(
                "found {} a second time, expected each once",
                quote(&upgrade.upgrade_type)
            );
            return Err(at
                .field("upgrade_configs")
                .index(index)
                .field("upgrade_type")
                .reject(reason));
        }
    }

    let any_port = matches!(
        manager.strip_port_mode,
        Some(http_connection_manager::StripPortMode::StripAnyHostPort(true))
    );
    if manager.strip_matching_host_port && any_port {
        let reason = "found together with strip_matching_host_port, expected one of the two";
        return Err(at.field("strip_any_host_port").reject(reason.to_owned()));
    }
    let remote = manager.use_remote_address.as_ref().is_some_and(|switch| switch.value);
    let other = match manager.xff_num_trusted_hops {
        _ if remote => "use_remote_address",
        0 => return Ok(()),
        _ => "xff_num_trusted_hops",
    };

    if !manager.original_ip_detection_extensions.is_empty() {
        let reason = format!("found together with {other}, expected one of the two");
        return Err(at.field("original_ip_detection_extensions").reject(reason));
    }
    Ok(())
}

fn http_filters(manager: &HttpConnectionManager, at: &Place) -> Result<(), Rejection> {
    let last = manager.http_filters.len().saturating_sub(1);
    for (index, filter) in manager.http_filters.iter().enumerate() {
        let at = at.index(index);
        let url = match &filter.config_type {
            None => continue,
            Some(http_filter::ConfigType::TypedConfig(config)) => extensions::type_of(config),
            Some(http_filter::ConfigType::ConfigDiscovery(_)) => continue,
        };
        if index != last && url == ROUTER {
            return Err(at.reject("found the router before other filters, expected it last".to_owned()));
        }
        if index == last && HTTP_NOT_TERMINAL.contains(&&*url) {
            return Err(at.reject("found a filter last that ends no chain, expected the router".to_owned()));
        }
    }

    Ok(())
}

/// NL-24, NS-08.
pub(super) fn rds(rds: &Rds, at: &Place) -> Result<(), Rejection> {
    sources::subscribed(&rds.route_config_name, &at.field("route_config_name"))?;
    let source = rds
        .config_source
        .as_ref()
        .and_then(|source| source.config_source_specifier.as_ref());
    match source {
        Some(_) => Ok(()),
        None => Err(at
            .field("config_source")
            .reject("missing, expected a source such as \"ads\"".to_owned())),
    }
}
