//! The effect of a request on the subscriptions of one type of a stream.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::Fault;
use super::session::{ENDPOINT, HOST, Names, ORDER, Session, State, WHOLE};
use super::store::{Catalog, Entry, Set};

impl Session {
    pub(super) fn subscribe(&self, state: &mut State, names: Names, type_url: &str, catalog: &Catalog) {
        let mut legacy = WHOLE.contains(&type_url) || !ORDER.contains(&type_url);
        legacy &= !self.has(Fault::NoLegacyWildcard);
        legacy |= type_url == ENDPOINT && self.has(Fault::EmptyEndpointListIsWildcard);
        legacy |= type_url == HOST && !self.has(Fault::EmptyHostRequestSilent);
        let was_wildcard = state.wildcard;
        // A client that has everything gets an empty response only if it gets no other.
        let may_be_silent = matches!(&names, Names::Change { initial, .. } if !initial.is_empty()) && self.nonces > 0;
        match names {
            Names::All(names) => self.list(state, &names, legacy),
            Names::Change {
                subscribe,
                unsubscribe,
                initial,
            } => {
                let first = !state.requested;
                if !self.has(Fault::InitIgnored) && (first || self.has(Fault::InitAlwaysRead)) {
                    self.believe(state, &initial, &subscribe, legacy && subscribe.is_empty());
                }
                let empty =
                    subscribe.is_empty() && (unsubscribe.is_empty() || self.has(Fault::FirstUnsubscribeIsWildcard));
                state.wildcard |= first && legacy && empty;
                if self.has(Fault::UnsubscribeFirst) {
                    self.remove(state, &unsubscribe);
                }
                let honoured = type_url != ENDPOINT || self.has(Fault::InitOfEndpointsHonoured);
                let known = |name: &String| first && honoured && initial.get(name).is_some_and(|one| !one.is_empty());
                let subscribe = subscribe
                    .into_iter()
                    .map(|name| resolved(name, catalog.get(type_url)))
                    .collect();
                self.add(state, subscribe, known, catalog.get(type_url));
                if !self.has(Fault::UnsubscribeFirst) {
                    self.remove(state, &unsubscribe);
                }
            }
        }
        state.answer_due |= state.wildcard && !was_wildcard && !may_be_silent && !self.has(Fault::EmptyWildcardSilent);
    }

    /// The list of a SotW request.
    fn list(&self, state: &mut State, names: &[String], legacy: bool) {
        let star = !self.has(Fault::StarIsAName) && names.iter().any(|name| name == "*");
        let listed: BTreeSet<String> = names.iter().filter(|name| *name != "*").cloned().collect();
        state.named |= !names.is_empty();
        if self.has(Fault::NamesAreAList) && state.requested && state.listed != names {
            state.due.extend(listed.iter().cloned());
        }
        state.listed = names.to_vec();
        let shrunk = listed != state.names && listed.is_subset(&state.names);
        state.answer_due |= shrunk && self.has(Fault::ShrinkingAnswered);
        let wildcard = star || (legacy && names.is_empty() && (!state.named || self.has(Fault::LegacyWildcardAgain)));
        let known = |name: &String| self.has(Fault::ReaddedNameSilent) && state.sent.contains_key(name);
        let grown: Vec<String> = listed
            .difference(&state.names)
            .filter(|name| !known(name))
            .cloned()
            .collect();
        state.due.extend(grown);
        if self.has(Fault::UnsubscribedStillSent) {
            state.wildcard |= wildcard;
            state.names.extend(listed);
            return;
        }
        state.wildcard = wildcard;
        state.names = listed;
        if !state.wildcard && !self.has(Fault::ReaddedNameSilent) {
            let State {
                names, pushed, sent, ..
            } = state;
            sent.retain(|name, _| names.contains(name) || pushed.contains(name));
        }
    }

    /// Take over the reported versions: all of them for a wildcard, else those of subscribed names.
    fn believe(&self, state: &mut State, initial: &BTreeMap<String, String>, subscribe: &[String], wildcard: bool) {
        let wildcard = wildcard || state.wildcard || subscribe.iter().any(|name| name == "*");
        let subscribe: BTreeSet<&String> = subscribe.iter().collect();
        for (name, version) in initial.iter().filter(|(name, _)| wildcard || subscribe.contains(name)) {
            let version = version.strip_suffix(&self.salt()).unwrap_or_default().to_owned();
            state.sent.insert(
                name.clone(),
                Entry {
                    version,
                    ..Entry::default()
                },
            );
        }
    }

    fn add(&self, state: &mut State, names: Vec<String>, known: impl Fn(&String) -> bool, set: Option<&Set>) {
        for name in names {
            if name == "*" {
                let members = set
                    .into_iter()
                    .flatten()
                    .filter(|(name, entry)| !entry.on_demand && !known(name));
                state.due.extend(members.map(|(name, _)| name.clone()));
                state.wildcard = true;
                continue;
            }
            let again = state.names.contains(&name) && self.has(Fault::ResubscribeSilent);
            if !known(&name) && !again {
                state.due.insert(name.clone());
            }
            state.names.insert(name);
        }
    }

    fn remove(&self, state: &mut State, names: &[String]) {
        if self.has(Fault::UnsubscribedStillSent) {
            return;
        }
        state.wildcard &= names.iter().all(|name| name != "*");
        for name in names {
            let subscribed = state.names.remove(name);
            state.answer_due |= subscribed && self.has(Fault::ShrinkingAnswered);
            if state.wildcard && subscribed && !self.has(Fault::UnsubscribeUnderWildcardSilent) {
                state.due.insert(name.clone());
            } else if !state.wildcard {
                state.due.remove(name);
            }
        }
        if !state.wildcard {
            let State {
                names, pushed, sent, ..
            } = state;
            sent.retain(|name, _| names.contains(name) || pushed.contains(name));
            state.due.retain(|name| state.names.contains(name));
        }
    }
}

/// The name of the resource with this alias.
fn resolved(name: String, set: Option<&Set>) -> String {
    let mut entries = set.into_iter().flatten();
    let found = entries
        .find(|(_, entry)| entry.aliases.contains(&name))
        .map(|(own, _)| own.clone());
    found.unwrap_or(name)
}
