//! References between documents: documents that name others, and are at fault if those do not serve.
//!
//! In: the documents before and after a change, and what the change made dirty. Out: faults. If a changed document names
//! one that does not fit, the changed document is at fault. If a named document changed under users that served:
//!
//! - another shape or fewer groups: the named document is at fault, and its users keep it as it was;
//! - gone, or the right of use withdrawn: its users are at fault.
//!
//! The check looks at changed documents and at the users of changed documents, and at no others.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::accepted::CompiledDocument;
use super::depends::Dirty;
use super::inventory::Inventory;
use super::{Fault, Obstacle};
use crate::document::key::{DocumentKey, Kind};
use crate::document::reference::{Misfit, Reference, looks_alike};
use crate::document::{Document, Rejection};

/// Mark what the change of a document makes dirty on account of references.
pub(super) fn touch(
    dirty: &mut Dirty,
    key: &DocumentKey,
    old: Option<&CompiledDocument>,
    new: Option<&CompiledDocument>,
) {
    let names = |compiled: Option<&CompiledDocument>| compiled.map(CompiledDocument::names).unwrap_or_default();
    let (before, after) = (names(old), names(new));
    if !after.is_empty() {
        dirty.referring.insert(key.clone());
    }
    let document = |compiled: Option<&CompiledDocument>| compiled.map(|compiled| compiled.accepted.document.clone());
    let (old, new) = (document(old), document(new));
    if key.stays_while_used() && !looks_alike(old.as_deref(), new.as_deref()) {
        dirty.referred.insert(key.clone());
    }

    // A secret goes to the groups of its users.
    let groups = |document: Option<&Document>| document.map(|document| document.groups().clone());
    let named: BTreeSet<&DocumentKey> = match groups(old.as_deref()) == groups(new.as_deref()) {
        true => before.symmetric_difference(&after).collect(),
        false => before.union(&after).collect(),
    };
    let secrets = named.into_iter().filter(|named| named.kind == Kind::Secrets);
    dirty.named.extend(secrets.cloned());
}

/// Documents at fault, one fault each.
pub(super) fn faults(before: &Inventory, after: &Inventory, dirty: &Dirty) -> Vec<Fault> {
    let is_changed = |user: &DocumentKey| match (before.get(user), after.get(user)) {
        (Some(old), Some(new)) => {
            let (old, new) = (&old.accepted.document, &new.accepted.document);
            !Arc::ptr_eq(old, new) && old != new
        }
        (old, new) => old.is_some() != new.is_some(),
    };
    let changed = dirty.referring.iter().filter(|user| is_changed(user));
    let of_changed = changed.filter_map(|user| user_at_fault(after, user, None));
    let of_named = dirty.referred.iter().flat_map(|named| {
        let users = after.users_of(named).filter(|user| !is_changed(user));
        named_at_fault(after, named, users)
    });
    of_changed.chain(of_named).collect()
}

/// The faults about a changed document that others name: its own, or those of its users.
fn named_at_fault<'a>(
    after: &'a Inventory,
    named: &DocumentKey,
    users: impl Iterator<Item = &'a DocumentKey>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for user in users {
        let reason = references_to(after, user, Some(named)).and_then(|(_, misfit)| misfit.of_named);
        match reason {
            Some(reason) => return vec![Fault::of_itself(named.clone(), Rejection::new("", reason))],
            None => faults.extend(user_at_fault(after, user, Some(named))),
        }
    }
    faults
}

/// The fault of a document whose references, or those to one document, do not hold.
fn user_at_fault(after: &Inventory, user: &DocumentKey, named: Option<&DocumentKey>) -> Option<Fault> {
    let (reference, misfit) = references_to(after, user, named)?;
    let obstacle = Obstacle::Reference {
        user: user.clone(),
        named: reference.key,
    };
    Some(Fault {
        obstacle: Some(obstacle),
        ..Fault::of_itself(user.clone(), Rejection::new(reference.path, misfit.reason))
    })
}

/// The first reference of an accepted document that does not hold, among all or those to one document.
fn references_to(after: &Inventory, user: &DocumentKey, named: Option<&DocumentKey>) -> Option<(Reference, Misfit)> {
    let compiled = after.get(user)?;
    let references = compiled.references().into_iter();
    let mut wanted = references.filter(|reference| named.is_none_or(|named| reference.key == *named));
    wanted.find_map(|reference| {
        let misfit = after.misfit(user, compiled.document(), &reference)?;
        Some((reference, misfit))
    })
}
