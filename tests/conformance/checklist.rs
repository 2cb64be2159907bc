//! The checklist: every ID with its level (MUST, SHOULD, …), its variants, and its rule in one line.
//!
//! The full text of the rules with their sources is in docs/xds-rules.md.

use std::collections::BTreeSet;

use super::rule::{BOTH, DELTA, Noted, Rule, SOTW, Variant};

/// How binding a rule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// A client misbehaves or the written protocol is broken without it.
    Must,
    /// Costs performance, diagnosability or robustness.
    Should,
    /// The protocol leaves it open; this is this server's stance.
    Policy,
    /// No requirement.
    Information,
}

impl Level {
    /// The word in the table.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Policy => "POLICY",
            Self::Information => "INFO",
        }
    }
}

/// One rule of the checklist.
pub(crate) struct Entry {
    pub(crate) id: &'static str,
    pub(crate) level: Level,
    pub(crate) applies: &'static [Variant],
    pub(crate) title: &'static str,
}

const fn entry(id: &'static str, level: Level, applies: &'static [Variant], title: &'static str) -> Entry {
    Entry {
        id,
        level,
        applies,
        title,
    }
}

/// Check that every ID has, for each of its variants, a rule or a reason for having none.
///
/// # Errors
/// Names the IDs that are missing in the tables, or missing in the checklist.
pub(crate) fn complete(
    rules: impl Iterator<Item = &'static Rule>,
    noted: impl Iterator<Item = &'static Noted>,
) -> Result<(), String> {
    let mut found: BTreeSet<(&str, Variant)> = BTreeSet::new();
    found.extend(rules.flat_map(|rule| rule.applies.iter().map(|variant| (rule.id, *variant))));
    found.extend(noted.flat_map(|note| note.applies.iter().map(|variant| (note.id, *variant))));
    let listed = CHECKLIST
        .iter()
        .flat_map(|entry| entry.applies.iter().map(|variant| (entry.id, *variant)));
    let listed: BTreeSet<(&str, Variant)> = listed.collect();
    let missing: Vec<_> = listed
        .difference(&found)
        .map(|(id, variant)| format!("{id} ({})", variant.word()))
        .collect();
    if !missing.is_empty() {
        return Err(format!("neither a rule nor a reason for {}", missing.join(", ")));
    }
    let unknown: Vec<&str> = found
        .iter()
        .map(|(id, _)| *id)
        .filter(|id| CHECKLIST.iter().all(|entry| entry.id != *id))
        .collect();
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(format!("not in the checklist: {}", unknown.join(", ")))
    }
}

/// Sections 2 to 7.
#[rustfmt::skip]
pub(crate) const CHECKLIST: &[Entry] = &[
    entry("GEN-01", Level::Must, BOTH, "The node of the first message is kept; later messages may omit it"),
    entry("GEN-02", Level::Policy, BOTH, "A first message without a node id ends the stream with INVALID_ARGUMENT and names the field"),
    entry("GEN-03", Level::Must, BOTH, "Another node id ends the stream; the same id with other metadata gets the view it should have"),
    entry("GEN-04", Level::Must, BOTH, "No type_url: INVALID_ARGUMENT on ADS, the service's own type on a per-type service"),
    entry("GEN-05", Level::Must, BOTH, "An unknown type neither ends the stream nor disturbs others; delta answers it"),
    entry("GEN-06", Level::Must, BOTH, "Every response carries the request's type_url"),
    entry("GEN-07", Level::Must, BOTH, "Nonces are never empty, unique over all types of a stream and mean nothing on another"),
    entry("GEN-08", Level::Must, BOTH, "A type's version changes when and only when its content does, and survives a restart"),
    entry("GEN-09", Level::Should, BOTH, "control_plane.identifier is set in every response"),
    entry("GEN-10", Level::Must, BOTH, "A stream that opens and stays silent is tolerated"),
    entry("GEN-11", Level::Must, BOTH, "No response contains a name twice, nor added and removed"),
    entry("GEN-12", Level::Must, BOTH, "The type_url inside each Any is the response's"),
    entry("GEN-13", Level::Must, BOTH, "Wrapper name, inner name and subscribed name are equal"),
    entry("GEN-14", Level::Must, BOTH, "All parts of a NACK are read, its names too"),
    entry("GEN-15", Level::Must, BOTH, "error_detail alone makes a NACK, versions never do"),
    entry("GEN-16", Level::Must, BOTH, "Refused content is not sent again until it changes"),
    entry("GEN-17", Level::Must, BOTH, "What the client holds after a NACK is unknown, so a later push is not suppressed"),
    entry("GEN-18", Level::Should, BOTH, "Last sent, acknowledged and refused are visible per client and type"),
    entry("GEN-19", Level::Must, BOTH, "64 kB of node and 100 000 names in a request are accepted"),
    entry("GEN-20", Level::Must, BOTH, "Names are a set, compared as bytes"),
    entry("GEN-21", Level::Must, BOTH, "One type's NACK never affects another type"),
    entry("GEN-22", Level::Should, BOTH, "resource_locators count as names"),
    entry("GEN-23", Level::Must, BOTH, "A type that was never requested on a stream is never sent on it"),
    entry("SW-01", Level::Must, SOTW, "A first request is answered at once with the names that exist"),
    entry("SW-02", Level::Must, SOTW, "An empty first list is a wildcard on LDS, CDS and SRDS"),
    entry("SW-03", Level::Must, SOTW, "An empty list is never a wildcard on EDS, RDS, SDS, RTDS and ECDS"),
    entry("SW-04", Level::Must, SOTW, "A wildcard with nothing to serve is answered empty, at once"),
    entry("SW-05", Level::Must, SOTW, "* is a wildcard, also beside names"),
    entry("SW-06", Level::Must, SOTW, "[\"*\",\"X\"] is the union, also where X is not in the wildcard's set"),
    entry("SW-07", Level::Must, SOTW, "From [\"*\",\"A\"] to [\"A\"] ends the wildcard"),
    entry("SW-08", Level::Must, SOTW, "Once a name was listed, an empty list means nothing, for good"),
    entry("SW-09", Level::Must, SOTW, "LDS and CDS responses always hold every subscribed resource"),
    entry("SW-10", Level::Should, SOTW, "Other types hold what changed; SRDS is full-state"),
    entry("SW-11", Level::Must, SOTW, "Deleting a cluster or listener sends the rest, deleting the last an empty response"),
    entry("SW-12", Level::Must, SOTW, "Deleting endpoints or a route is never an empty response"),
    entry("SW-13", Level::Must, SOTW, "A name that does not exist yet is remembered and sent when it exists"),
    entry("SW-14", Level::Must, SOTW, "The existing part is answered at once though some name is missing"),
    entry("SW-15", Level::Must, SOTW, "A plain ACK is answered by nothing"),
    entry("SW-16", Level::Must, SOTW, "An ACK is not answered because a name is missing: no loop"),
    entry("SW-17", Level::Must, SOTW, "A request whose names grew is answered at once"),
    entry("SW-18", Level::Must, SOTW, "A name dropped and listed again is sent again"),
    entry("SW-19", Level::Must, SOTW, "A request that only shrinks the list is not answered"),
    entry("SW-20", Level::Must, SOTW, "A repeated request is answered only where the parent was pushed since"),
    entry("SW-21", Level::Must, SOTW, "A stale nonce is no ACK; its names are adopted"),
    entry("SW-22", Level::Must, SOTW, "An empty nonce is no proof of a first request"),
    entry("SW-23", Level::Must, SOTW, "A NACK is answered by no rollback; the next response carries the current state"),
    entry("SW-24", Level::Must, SOTW, "A first request with a version (reconnect) of named types is always answered"),
    entry("SW-25", Level::Must, SOTW, "EDS, RDS and SDS are served before CDS or LDS was asked for"),
    entry("SW-26", Level::Policy, SOTW, "Endpoints of an unknown name are an empty ClusterLoadAssignment"),
    entry("SW-27", Level::Must, SOTW, "Only the newest state is sent after a stall"),
    entry("SW-28", Level::Should, SOTW, "Responses do not wait for ACKs"),
    entry("SW-29", Level::Must, SOTW, "Resources are bare unless the client understands wrappers"),
    entry("SW-30", Level::Must, SOTW, "No heartbeats for LDS, CDS and SRDS, no TTL on EDS and RDS"),
    entry("SW-31", Level::Must, SOTW, "A heartbeat's version is the one last accepted"),
    entry("SW-32", Level::Should, SOTW, "Named LDS and CDS responses hold only what was asked for"),
    entry("SW-33", Level::Must, SOTW, "Unsubscribing everything keeps the type's state and is not answered"),
    entry("SW-34", Level::Should, SOTW, "Huge EDS sets may be split, each message below 4 MB for gRPC clients"),
    entry("DX-01", Level::Must, DELTA, "A first request that names nothing is a wildcard on LDS, CDS and SRDS"),
    entry("DX-02", Level::Must, DELTA, "A wildcard with nothing to serve is answered empty, once"),
    entry("DX-03", Level::Must, DELTA, "A request that names nothing is no wildcard on EDS, RDS, SDS, RTDS and ECDS"),
    entry("DX-04", Level::Must, DELTA, "* starts and ends a wildcard, explicit names stay"),
    entry("DX-05", Level::Must, DELTA, "Subscriptions apply before unsubscriptions"),
    entry("DX-06", Level::Must, DELTA, "Every subscribed name is answered, known or not"),
    entry("DX-07", Level::Must, DELTA, "A name that does not exist is removed at once and sent when it appears"),
    entry("DX-08", Level::Must, DELTA, "Nothing but an unsubscription is not answered"),
    entry("DX-09", Level::Must, DELTA, "A name unsubscribed under a wildcard is answered"),
    entry("DX-10", Level::Must, DELTA, "response_nonce alone makes an ACK or NACK, also beside a subscription"),
    entry("DX-11", Level::Must, DELTA, "A stale nonce never invalidates the subscription beside it"),
    entry("DX-12", Level::Must, DELTA, "initial_resource_versions counts only in the first request"),
    entry("DX-13", Level::Must, DELTA, "A reconnecting wildcard gets what differs and what is gone"),
    entry("DX-14", Level::Must, DELTA, "A reconnecting named subscription likewise; an empty version is unknown"),
    entry("DX-15", Level::Must, DELTA, "EDS is always sent for every subscribed name"),
    entry("DX-16", Level::Must, DELTA, "Each resource has a version of its content, equal on all replicas"),
    entry("DX-17", Level::Must, DELTA, "Only changed resources are sent"),
    entry("DX-18", Level::Must, DELTA, "Deletions are told only to who knows the name"),
    entry("DX-19", Level::Must, DELTA, "Only a heartbeat or an unresolved alias has no body"),
    entry("DX-20", Level::Must, DELTA, "Heartbeats come within half the time to live"),
    entry("DX-21", Level::Must, DELTA, "What a NACKed response carried is unknown: sent when it changes, removed when it goes"),
    entry("DX-22", Level::Must, DELTA, "Nothing to send, nothing sent"),
    entry("DX-23", Level::Must, DELTA, "What waits to be written is merged per resource"),
    entry("DX-24", Level::Must, DELTA, "Several unacknowledged responses may be outstanding"),
    entry("DX-25", Level::Must, DELTA, "EDS follows a CDS change unasked"),
    entry("DX-26", Level::Must, DELTA, "On-demand CDS: names first are no wildcard; unknown ones are removed at once"),
    entry("DX-27", Level::Should, DELTA, "A name asked for on demand is not part of others' wildcard"),
    entry("DX-28", Level::Must, DELTA, "VHDS resources carry the asked-for name as alias and their own inside"),
    entry("DX-29", Level::Must, DELTA, "A VHDS name that resolves to nothing is a resource without body"),
    entry("DX-30", Level::Must, DELTA, "VHDS asked for nothing is answered with something of each route configuration"),
    entry("DX-31", Level::Should, DELTA, "xdstp globs match whatever the order of their parameters"),
    entry("DX-32", Level::Should, DELTA, "A first wildcard answer is one message"),
    entry("DX-33", Level::Must, DELTA, "What was not asked for is not recorded as known"),
    entry("AD-01", Level::Must, BOTH, "One change goes out as CDS, EDS, LDS, RDS, removals last"),
    entry("AD-02", Level::Must, BOTH, "A cluster stays until the routes that used it are replaced and acknowledged"),
    entry("AD-03", Level::Must, BOTH, "EDS follows a new or changed EDS cluster, unasked and unacknowledged"),
    entry("AD-04", Level::Must, BOTH, "New names are pushed before they are asked for, and answered when they are"),
    entry("AD-05", Level::Must, DELTA, "A changed listener is followed by its route configurations"),
    entry("AD-06", Level::Must, BOTH, "EDS does not wait for the CDS ACK, RDS not for the LDS ACK"),
    entry("AD-07", Level::Must, BOTH, "EDS comes after the CDS that it completes"),
    entry("AD-08", Level::Must, DELTA, "A late first CDS request is followed by the EDS of changed clusters"),
    entry("AD-09", Level::Should, BOTH, "RDS that needs a new cluster comes after its EDS"),
    entry("AD-10", Level::Must, BOTH, "A NACK of one type does not block the others"),
    entry("AD-11", Level::Must, BOTH, "An unknown secret is removed in delta, silence in SotW"),
    entry("AD-12", Level::Should, BOTH, "A burst of commits is few responses, each of one snapshot"),
    entry("AD-13", Level::Should, BOTH, "A client stuck in warming is reported, and freed by the removal of its cluster"),
    entry("AD-14", Level::Must, BOTH, "What comes after the client's timeout is still delivered"),
    entry("GR-01", Level::Must, BOTH, "HTTP/2 keepalive finds half-open connections"),
    entry("GR-02", Level::Must, BOTH, "Client PINGs are answered and never punished"),
    entry("GR-03", Level::Must, BOTH, "No cap on response size below 100 MB; large ones to gRPC clients are warned of"),
    entry("GR-04", Level::Must, BOTH, "Responses are not compressed"),
    entry("GR-05", Level::Must, BOTH, "Thousands of streams on one connection"),
    entry("GR-06", Level::Must, BOTH, "A slow reader costs bounded memory and gets the newest"),
    entry("GR-07", Level::Must, BOTH, "A stream that ends frees its state; two streams of one node are served"),
    entry("GR-08", Level::Should, BOTH, "Every new stream gets a message soon"),
    entry("GR-09", Level::Must, BOTH, "A half-close ends the stream with OK"),
    entry("GR-10", Level::Must, BOTH, "Shutdown and age: GOAWAY, then OK or UNAVAILABLE"),
    entry("GR-11", Level::Should, BOTH, "Status codes say the cause"),
    entry("GR-12", Level::Should, BOTH, "New streams are bounded with UNAVAILABLE"),
    entry("GR-13", Level::Must, BOTH, "Streams have no deadline"),
    entry("GR-14", Level::Must, BOTH, "All services of the protocol, same semantics per type"),
    entry("PX-01", Level::Must, BOTH, "All subscriptions are named; an empty list unsubscribes"),
    entry("PX-02", Level::Must, BOTH, "Named CDS and LDS responses hold all names"),
    entry("PX-03", Level::Must, BOTH, "What exists is answered far below 15 s"),
    entry("PX-04", Level::Should, BOTH, "resource_errors for named resources that do not exist"),
    entry("PX-05", Level::Must, BOTH, "API listeners hold an HTTP connection manager"),
    entry("PX-06", Level::Must, BOTH, "That manager has RDS or inline routes and the router last"),
    entry("PX-07", Level::Must, BOTH, "Route configurations match the authority"),
    entry("PX-08", Level::Must, BOTH, "Clusters are EDS, LOGICAL_DNS or aggregate"),
    entry("PX-09", Level::Must, BOTH, "Localities have weights, priorities are contiguous"),
    entry("PX-10", Level::Must, BOTH, "Listeners of gRPC servers"),
    entry("PX-11", Level::Must, BOTH, "Wrapper, node and NACK rules hold for gRPC clients"),
    entry("PX-12", Level::Must, BOTH, "After a reconnect types come in any order"),
    entry("PX-13", Level::Should, BOTH, "xdstp and plain names on one stream"),
    entry("PX-14", Level::Should, BOTH, "LRS answers the first request"),
    entry("PX-15", Level::Information, BOTH, "CSDS is served by clients"),
    entry("PX-16", Level::Should, BOTH, "Large responses are avoided"),
];
