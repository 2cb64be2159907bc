//! Endpoints of EDS (docs/refused-by-envoy.md, Endpoints).

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, LedsClusterLocalityConfig, LocalityLbEndpoints, locality_lb_endpoints,
};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::addresses;
use crate::document::Rejection;
use crate::document::sentence::quote;
use crate::resource::place::Place;

/// The prefixes of the name of a collection.
const SCHEMES: [&str; 3] = ["xdstp:", "http:", "file:"];

/// NP-03 to NP-09, NP-12.
pub(super) fn assignment(assignment: &ClusterLoadAssignment, at: &Place) -> Result<(), Rejection> {
    hosts(assignment, at)?;
    for (index, locality) in assignment.endpoints.iter().enumerate() {
        let at = at.field("endpoints").index(index);
        let Some(leds) = leds(locality) else { continue };
        if !SCHEMES
            .iter()
            .any(|scheme| leds.leds_collection_name.starts_with(scheme))
        {
            let found = if leds.leds_collection_name.is_empty() {
                "missing or empty".to_owned()
            } else {
                format!("found {}", quote(&leds.leds_collection_name))
            };
            let at = at.field("leds_cluster_locality_config").field("leds_collection_name");
            return Err(at.reject(format!(
                "{found}, expected a name that starts with xdstp:, http: or file:"
            )));
        }
        if !locality.lb_endpoints.is_empty() {
            let reason = "found endpoints beside leds_cluster_locality_config, expected one of the two";
            return Err(at.field("lb_endpoints").reject(reason.to_owned()));
        }
    }

    let drops = assignment
        .policy
        .as_ref()
        .map(|policy| policy.drop_overloads.as_slice())
        .unwrap_or_default();

    let at = at.field("policy").field("drop_overloads");
    if drops.len() > 1 {
        return Err(at.reject(format!("found {} categories, expected one", drops.len())));
    }
    for (index, percent) in drops
        .iter()
        .enumerate()
        .filter_map(|(index, drop)| Some((index, drop.drop_percentage?)))
    {
        let whole = match percent.denominator() {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        if percent.numerator > whole {
            let reason = format!("found {} of {whole}, expected at most all", percent.numerator);
            return Err(at.index(index).field("drop_percentage").reject(reason));
        }
    }

    Ok(())
}

/// NP-10, NP-11: the reason why a cluster that hashes cannot have such endpoints.
pub(in crate::resource) fn too_heavy(assignment: &ClusterLoadAssignment) -> Option<String> {
    let (mut hosts, mut localities): (BTreeMap<u32, u64>, BTreeMap<u32, u64>) = Default::default();
    let mut seen = BTreeSet::new();
    for locality in &assignment.endpoints {
        let own = locality.load_balancing_weight.as_ref().map_or(0, |weight| weight.value);
        *localities.entry(locality.priority).or_default() += u64::from(own);
        for endpoint in &locality.lb_endpoints {
            // Of several endpoints with one address Envoy uses the first.
            if seen.insert(format!("{:?}", endpoint.host_identifier)) {
                let own = endpoint.load_balancing_weight.as_ref().map_or(1, |weight| weight.value);
                *hosts.entry(locality.priority).or_default() += u64::from(own);
            }
        }
    }

    let most = u64::from(u32::MAX);
    [("hosts", hosts), ("localities", localities)]
        .into_iter()
        .find_map(|(what, sums)| {
            let sum = sums.into_values().find(|sum| *sum > most)?;
            Some(format!(
                "found weights of {what} whose sum is {sum}, expected at most {most} for a cluster that hashes"
            ))
        })
}

fn leds(locality: &LocalityLbEndpoints) -> Option<&LedsClusterLocalityConfig> {
    match &locality.lb_config {
        Some(locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(leds)) => Some(leds),
        _ => None,
    }
}

/// NC-13.
pub(super) fn without_leds(assignment: &ClusterLoadAssignment, at: &Place) -> Result<(), Rejection> {
    match assignment
        .endpoints
        .iter()
        .position(|locality| leds(locality).is_some())
    {
        Some(index) => {
            let at = at.field("endpoints").index(index).field("leds_cluster_locality_config");
            Err(at.reject("found on a cluster of type STATIC, expected \"type\": \"EDS\"".to_owned()))
        }
        None => Ok(()),
    }
}

/// The addresses of all endpoints, none of which Envoy resolves.
pub(super) fn hosts(assignment: &ClusterLoadAssignment, at: &Place) -> Result<(), Rejection> {
    each(assignment, at, |endpoint, at| {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
            return Err(at
                .field("endpoint")
                .reject("missing, expected an endpoint with its address".to_owned()));
        };
        let at = at.field("endpoint");
        addresses::unresolved(endpoint.address.as_ref(), &at.field("address"))?;
        addresses::without_namespace(endpoint.address.as_ref(), &at.field("address"))?;
        let more = at.field("additional_addresses");
        endpoint
            .additional_addresses
            .iter()
            .enumerate()
            .try_for_each(|(index, additional)| {
                addresses::unresolved(additional.address.as_ref(), &more.index(index).field("address"))
            })
    })
}

/// Every endpoint of an assignment, with its place.
pub(super) fn each(
    assignment: &ClusterLoadAssignment,
    at: &Place,
    check: impl Fn(&LbEndpoint, &Place) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    for (index, locality) in assignment.endpoints.iter().enumerate() {
        let at = at.field("endpoints").index(index).field("lb_endpoints");
        for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
            check(endpoint, &at.index(index))?;
        }
    }
    Ok(())
}
