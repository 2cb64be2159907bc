//! Addresses of listeners, keys of scopes, and domains of a RouteConfiguration: only one resource of a group can have
//! each.
//!
//! Envoy refuses the second resource; here the document written last is at fault. `group` checks compiled listeners
//! among themselves, so a claim without an xds document is not looked at here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::Fault;
use super::input::{ResourceKey, verbatim};
use super::inventory::Inventory;
use crate::document::key::{DocumentKey, Kind};
use crate::document::{Rejection, listener};
use crate::resource::compile::translate::Translated;
use crate::resource::verbatim::claims::tcp;
use crate::resource::{Resource, ResourceType};

/// A claim: the revision of the document, its key (`None`: the default listener), and the field path.
type Claimant = (i64, Option<DocumentKey>, String);

/// The documents with a claim that an older document has.
pub(super) fn conflicts(documents: &Inventory, group: &str, served: &OrdMap<ResourceKey, Arc<Resource>>) -> Vec<Fault> {
    let mut claimants: BTreeMap<String, Vec<Claimant>> = BTreeMap::new();
    for (key, compiled) in documents
        .of_kind(Kind::Xds)
        .filter(|(_, compiled)| compiled.document().is_for(group))
    {
        let Translated::Verbatim(written) = &compiled.translated else {
            continue;
        };
        let name = (written.resource_type, Arc::clone(&written.resource.name));
        if written.claims.is_empty()
            || !served
                .get(&name)
                .is_some_and(|served| Arc::ptr_eq(served, &written.resource))
        {
            continue;
        }
        for claim in &*written.claims {
            let claimant = (compiled.accepted.mod_revision, Some(key.clone()), claim.path.clone());
            claimants.entry(claim.what.clone()).or_default().push(claimant);
        }
    }

    if claimants.is_empty() {
        return Vec::new();
    }

    for (what, claimant) in listener_addresses(documents, group) {
        claimants.entry(what).or_default().push(claimant);
    }

    claimants
        .into_iter()
        .flat_map(|(what, claimants)| faults(&what, claimants))
        .collect()
}

/// The addresses of compiled listeners that are served.
fn listener_addresses(documents: &Inventory, group: &str) -> Vec<(String, Claimant)> {
    let mut claims = Vec::new();
    for (name, compiled) in documents.listeners(group) {
        let key = (ResourceType::Listener, Arc::clone(&name));
        let over = verbatim(documents, group, &key).map(|(_, compiled)| compiled);
        if over.is_some_and(|compiled| compiled.document().as_xds().is_some_and(|xds| xds.replace)) {
            continue;
        }
        let claim = match compiled {
            Some(compiled) => compiled
                .document()
                .as_listener()
                .and_then(|listener| listener.address)
                .map(|address| {
                    let key = DocumentKey::new(Kind::Listeners, Arc::clone(&name));
                    (
                        address,
                        (compiled.accepted.mod_revision, Some(key), "address".to_owned()),
                    )
                }),
            None => Some((listener::DEFAULT_ADDRESS, (i64::MIN, None, String::new()))),
        };
        claims.extend(claim.map(|(address, claimant): (SocketAddr, Claimant)| (tcp(address), claimant)));
    }

    claims
}

/// Every claimant but the oldest is at fault.
fn faults(what: &str, mut claimants: Vec<Claimant>) -> Vec<Fault> {
    claimants.sort_unstable();
    let mut claimants = claimants.into_iter();
    let Some((_, first, _)) = claimants.next() else {
        return Vec::new();
    };
    let owner = first.as_ref().map_or_else(
        || "the listener that exists while no listeners document does".to_owned(),
        ToString::to_string,
    );
    // A document may claim the same twice: Envoy's own rules apply to that.
    let others = claimants.filter(|(_, key, _)| *key != first);
    others
        .filter_map(|(_, key, path)| {
            let reason = format!("found {what}, which {owner} has already, expected one of its own");
            Some(Fault {
                key: key?,
                rejection: Rejection::new(path, reason),
            })
        })
        .collect()
}
