//! A plan in one sentence.

use std::collections::BTreeMap;

use super::bytes::Bytes;
use super::risk::counted;
use super::{Facts, Resources};
use crate::journal::intent::Action;
use crate::resource::compile::Owners;

/// Routes whose requests another route takes, or none any more. A request that no route took before is no loss.
pub(super) fn moved(owners: &Owners) -> usize {
    owners.moved.iter().filter(|moved| moved.before.is_some()).count()
}

pub(super) fn sentence(
    facts: &Facts<'_>,
    resources: &BTreeMap<&'static str, Resources>,
    proxies: &BTreeMap<String, usize>,
    bytes: &Bytes,
) -> String {
    if let Some(refusal) = facts.inputs.refusal {
        return format!("The change is refused: {refusal}.");
    }
    let what = what(facts, resources);
    if resources.is_empty() {
        return format!("{what}; no proxy gets anything.");
    }
    let to = match proxies.iter().max_by_key(|(_, count)| **count) {
        Some((group, count)) if proxies.len() == 1 => {
            let proxies = counted(*count, "proxy", "proxies");
            let get = if *count == 1 { "gets" } else { "get" };
            let each = if *count == 1 { "" } else { " each" };
            format!("{proxies} of group {group} {get} {}{each}", size(bytes.delta))
        }
        _ => {
            let count = proxies.values().sum();
            let proxies_of = counted(count, "proxy", "proxies");
            format!(
                "{proxies_of} of {} groups get up to {} each",
                proxies.len(),
                size(bytes.delta)
            )
        }
    };
    let drains = match facts.drains.as_slice() {
        [] => "no listener drains".to_owned(),
        [alone] => format!("listener {} drains", alone.listener),
        several => format!("{} listeners drain", several.len()),
    };
    format!("{what}; {to}; {drains}.")
}

fn what(facts: &Facts<'_>, resources: &BTreeMap<&'static str, Resources>) -> String {
    let mut parts = Vec::new();
    let moved = moved(&facts.owners);
    if moved > 0 {
        parts.push(counted(moved, "route changes owner", "routes change owner"));
    }
    if let Some(clusters) = resources.get("clusters") {
        for (names, one, many) in [
            (&clusters.added, "cluster is new", "clusters are new"),
            (&clusters.changed, "cluster changes", "clusters change"),
            (&clusters.removed, "cluster goes", "clusters go"),
        ] {
            if !names.is_empty() {
                parts.push(counted(names.len(), one, many));
            }
        }
    }
    if parts.is_empty() {
        let documents = facts.inputs.documents.iter();
        let changed = documents
            .filter(|document| document.action != Action::Unchanged)
            .count();
        parts.push(match changed {
            0 => "Nothing changes".to_owned(),
            changed => counted(changed, "document changes", "documents change"),
        });
    }
    parts.join(", ")
}

/// `1.4 KiB`
fn size(bytes: usize) -> String {
    let tenths = |unit: usize| {
        let tenths = (bytes * 10 + unit / 2) / unit;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", tenths(1024)),
        _ => format!("{} MiB", tenths(1_048_576)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_to_tenths() {
        assert_eq!([size(999), size(1433), size(3 << 20)], ["999 B", "1.4 KiB", "3.0 MiB"]);
    }
}
