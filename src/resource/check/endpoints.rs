//! Endpoints of EDS (conformance.md 9.4).

use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, locality_lb_endpoints};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::addresses;
use crate::document::Rejection;
use crate::resource::place::Place;

/// NP-03 to NP-08, NP-12.
pub(super) fn assignment(assignment: &ClusterLoadAssignment, at: &Place) -> Result<(), Rejection> {
    hosts(assignment, at)?;
    for (index, locality) in assignment.endpoints.iter().enumerate() {
        let leds = matches!(locality.lb_config, Some(locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(_)));
        if leds && !locality.lb_endpoints.is_empty() {
            let at = at.field("endpoints").index(index).field("lb_endpoints");
            return Err(
                at.reject("found endpoints beside leds_cluster_locality_config, expected one of the two".to_owned())
            );
        }
    }
    let drops = assignment.policy.as_ref().map(|policy| policy.drop_overloads.as_slice()).unwrap_or_default();
    let at = at.field("policy").field("drop_overloads");
    if drops.len() > 1 {
        return Err(at.reject(format!("found {} categories, expected one", drops.len())));
    }
    for (index, percent) in drops.iter().enumerate().filter_map(|(index, drop)| Some((index, drop.drop_percentage?))) {
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

/// The addresses of all endpoints, none of which Envoy resolves.
pub(super) fn hosts(assignment: &ClusterLoadAssignment, at: &Place) -> Result<(), Rejection> {
    each(assignment, at, |endpoint, at| {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
            return Err(at.field("endpoint").reject("missing, expected an endpoint with its address".to_owned()));
        };
        let at = at.field("endpoint");
        addresses::unresolved(endpoint.address.as_ref(), &at.field("address"))?;
        let more = at.field("additional_addresses");
        endpoint.additional_addresses.iter().enumerate().try_for_each(|(index, additional)| {
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
