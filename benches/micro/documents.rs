//! Documents as texts in etcd, and worlds made of them.

use std::time::SystemTime;

use chancery::backend::{Change, Entry, Event, ListReason};
use chancery::document::key::{Layout, Root};
use chancery::reconcile::plan::{Input, Moment};
use chancery::reconcile::run::now;
use chancery::reconcile::world::{Options, World};

/// How many documents there are beside the one that changes.
pub(crate) const SIZES: [usize; 4] = [100, 1_000, 10_000, 100_000];

pub(crate) fn entry(key: String, value: String, revision: i64) -> Entry {
    Entry {
        key: key.into(),
        value: value.into(),
        create_revision: 1,
        mod_revision: revision,
        leased: false,
    }
}

/// One of many routes, each with a host of its own; the revision is in the text.
pub(crate) fn route(number: usize, revision: i64) -> Entry {
    let value = format!(r#"{{"match": "host-{number}.example.com/v{revision}", "to": "x"}}"#);
    entry(format!("/gateway/routes/route-{number:06}"), value, revision)
}

/// The one instance that changes of the hundred that cluster `x` has.
pub(crate) fn instance(revision: i64) -> Entry {
    let octet = revision % 250 + 1;
    entry("/services/x/050".to_owned(), format!("10.0.1.{octet}:80"), revision)
}

pub(crate) fn moment() -> Moment {
    Moment {
        wall: SystemTime::UNIX_EPOCH,
        ..now()
    }
}

pub(crate) fn changed(root: Root, entry: Entry) -> Vec<Input> {
    vec![Input::Event {
        root,
        event: Event::Changed {
            revision: entry.mod_revision,
            changes: vec![Change::Put(entry)],
        },
    }]
}

/// A world without documents.
pub(crate) fn empty() -> World {
    let layout = Layout::default();
    World::new(Options {
        layout,
        confirm_mass_loss: false,
        has_leases: true,
        re2_max_program_size: 100,
        ca_bundle: None,
        access_log_dir: "/var/log".into(),
        vault: chancery::document::secret::Vault::default(),
    })
}

/// So many routes to one cluster with a hundred registered instances.
pub(crate) fn listed(routes: usize) -> Vec<Input> {
    let mut documents = vec![entry("/gateway/clusters/x".to_owned(), "{}".to_owned(), 1)];
    documents.extend((0..routes).map(|number| route(number, 1)));
    let instances = (0..100)
        .map(|n| entry(format!("/services/x/{n:03}"), format!("10.0.0.{n}:80"), 1))
        .collect();
    let listed = |root, entries| Input::Event {
        root,
        event: Event::Listed {
            revision: 1,
            reason: ListReason::Start,
            entries,
        },
    };
    vec![
        listed(Root::Documents, documents),
        listed(Root::Registrations, instances),
    ]
}

/// The same, with virtual hosts on demand.
pub(crate) fn listed_on_demand(routes: usize) -> Vec<Input> {
    let value = r#"{"address": "0.0.0.0:10000", "http": {"virtual_hosts": "on_demand"}}"#;
    listed_with(
        routes,
        [entry("/gateway/listeners/edge".to_owned(), value.to_owned(), 1)],
    )
}

/// The same, with a policy of the listener.
pub(crate) fn listed_policed(routes: usize) -> Vec<Input> {
    let value = r#"{"address": "0.0.0.0:10000", "policies": ["marked"]}"#;
    let listener = entry("/gateway/listeners/edge".to_owned(), value.to_owned(), 1);
    listed_with(routes, [listener, policy(1)])
}

/// A policy that marks answers with its revision.
pub(crate) fn policy(revision: i64) -> Entry {
    let value = format!(r#"{{"headers": {{"response": {{"set": {{"x-mark": "{revision}"}}}}}}}}"#);
    entry("/gateway/policies/marked".to_owned(), value, revision)
}

fn listed_with<const N: usize>(routes: usize, more: [Entry; N]) -> Vec<Input> {
    let mut inputs = listed(routes);
    if let Some(Input::Event {
        event: Event::Listed { entries, .. },
        ..
    }) = inputs.first_mut()
    {
        entries.extend(more);
        entries.sort_by(|one, other| one.key.cmp(&other.key));
    }
    inputs
}
