//! Claims: addresses of listeners, keys of scopes, and domains of a RouteConfiguration. Only one resource of a group can
//! have each.
//!
//! Envoy refuses the second resource; here the document written last is at fault. [`Claims`] follows each document that
//! is set. [`Claims::fault`] looks at one document; [`Examined`] holds those that a change may have put at fault, the
//! oldest first, so that a document that gives way does not put others at fault.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::accepted::{CompiledDocument, ResourceKey};
use super::{Fault, Obstacle};
use crate::document::key::{DocumentKey, Kind};
use crate::document::listener::{self, Listener};
use crate::document::{Document, Groups, Rejection, xds};
use crate::resource::ResourceType;
use crate::resource::compile::translate::Translated;
use crate::resource::verbatim::claims::{tcp, udp};

/// The revision of a document with a claim, and its key (`None`: the default listener). The oldest has the claim.
pub(super) type Claimant = (i64, Option<DocumentKey>);

/// A thing in one group, or in every group (`None`).
type Place = (Arc<str>, Option<Arc<str>>);

/// One claim of a document.
#[derive(Debug, Clone)]
struct Claim {
    place: Place,
    claimant: Claimant,
    /// The field path.
    path: Arc<str>,
}

/// Documents that may be at fault, to be looked at, the oldest first.
pub(super) type Examined = BTreeSet<Claimant>;

/// Every claim of the accepted documents. Persistent.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    claimants: OrdMap<Place, OrdSet<Claimant>>,
    /// The claims of the documents of one resource, sorted by place.
    of: OrdMap<ResourceKey, Arc<[Claim]>>,
}

/// The documents of one resource, of which one serves in each group.
pub(super) struct Makers<'a> {
    /// The xds document.
    pub(super) written: Option<(&'a DocumentKey, &'a CompiledDocument)>,
    /// The listeners document, or the default listener.
    pub(super) compiled: Option<Option<&'a CompiledDocument>>,
}

/// The resource whose documents have claims; `None`: a document of this key has none.
pub(super) fn resource_of(key: &DocumentKey) -> Option<ResourceKey> {
    match key.kind {
        Kind::Listeners => Some((ResourceType::Listener, Arc::clone(&key.name))),
        Kind::Xds => {
            let (word, name) = xds::split(&key.name)?;
            let resource_type = ResourceType::from_word(word)?;
            let has_claims = matches!(
                resource_type,
                ResourceType::Listener | ResourceType::ScopedRoute | ResourceType::VirtualHost
            );
            has_claims.then(|| (resource_type, name.into()))
        }
        _ => None,
    }
}

impl Claims {
    /// The names of all resources with claims.
    pub(super) fn resources(&self) -> impl Iterator<Item = &ResourceKey> {
        self.of.keys()
    }

    /// Set the claims of a resource. `groups` are those that exist.
    pub(super) fn set(
        &mut self,
        resource: &ResourceKey,
        makers: &Makers<'_>,
        groups: &OrdSet<Arc<str>>,
        examined: &mut Examined,
    ) {
        let before = self.of.remove(resource);
        for claim in before.iter().flat_map(|claims| claims.iter()) {
            // The next claimant in line may be at fault for the claimant before this one.
            examined.extend(self.next_in_line(claim));
            if let Some(claimants) = self.claimants.get_mut(&claim.place) {
                claimants.remove(&claim.claimant);
                if claimants.is_empty() {
                    self.claimants.remove(&claim.place);
                }
            }
        }

        let mut claims = makers.claims(groups);
        claims.sort_by(|a, b| a.place.cmp(&b.place));
        for claim in &claims {
            let claimants = self.claimants.entry(claim.place.clone()).or_default();
            claimants.insert(claim.claimant.clone());
            examined.insert(claim.claimant.clone());
        }
        if !claims.is_empty() {
            self.of.insert(resource.clone(), claims.into());
        }
    }

    /// The fault of a document, if an older one has one of its claims. If none has, the next in line are examined: they
    /// may want what this document has.
    pub(super) fn fault(
        &self,
        claimant: &Claimant,
        groups: &OrdSet<Arc<str>>,
        examined: &mut Examined,
        documents: &OrdMap<DocumentKey, Arc<CompiledDocument>>,
    ) -> Option<Fault> {
        let claims = self.of_document(claimant.1.as_ref())?;
        let own = || claims.iter().filter(|claim| claim.claimant == *claimant);
        for claim in own() {
            let lines = self.lines(&claim.place).filter(|(group, _)| exists(group, groups));
            let oldest = lines.filter_map(|(_, claimants)| claimants.get_min()).min();
            if let Some(oldest) = oldest.filter(|oldest| *oldest < claimant && oldest.1 != claimant.1)
                && exists(&claim.place.1, groups)
            {
                let rival = self
                    .claims_on(oldest.1.as_ref(), &claim.place.0)
                    .find(|theirs| theirs.claimant == *oldest);
                let rival = rival.and_then(|theirs| fault(theirs, claimant, documents));
                return Some(Fault {
                    rival: rival.map(Box::new),
                    ..fault(claim, oldest, documents)?
                });
            }
        }
        for claim in own() {
            examined.extend(self.next_in_line(claim));
        }
        None
    }

    /// Whether the document `key` claims a thing in a group that `document` is for, too.
    pub(super) fn claims(&self, document: &Document, what: &Arc<str>, key: Option<&DocumentKey>) -> bool {
        self.claims_on(key, what).any(|claim| {
            let is_shared = |group: &Arc<str>| document.is_for(group);
            claim.claimant.1.as_ref() == key && claim.place.1.as_ref().is_none_or(is_shared)
        })
    }

    /// The claims of the documents of a document's resource.
    fn of_document(&self, key: Option<&DocumentKey>) -> Option<&Arc<[Claim]>> {
        self.of.get(&match key {
            Some(key) => resource_of(key)?,
            None => (ResourceType::Listener, listener::DEFAULT_NAME.into()),
        })
    }

    /// The claims on one thing, of the documents of a document's resource.
    fn claims_on(&self, key: Option<&DocumentKey>, what: &Arc<str>) -> impl Iterator<Item = &Claim> {
        let claims = self.of_document(key).map_or(&[][..], |claims| claims);
        let first = claims.partition_point(|claim| claim.place.0 < *what);
        claims[first..].iter().take_while(move |claim| claim.place.0 == *what)
    }

    /// All claimants that may be in the way of a claim at a place: claimants of its group and of every group; for a
    /// claim in every group, those of any.
    fn lines<'a>(
        &'a self,
        (what, group): &'a Place,
    ) -> impl Iterator<Item = (&'a Option<Arc<str>>, &'a OrdSet<Claimant>)> {
        let from = (Arc::clone(what), None);
        let everywhere = self.claimants.get_key_value(&from).filter(|_| group.is_some());
        let everywhere = everywhere.into_iter();
        let of_group = self
            .claimants
            .get_key_value(&(Arc::clone(what), group.clone()))
            .filter(|_| group.is_some());
        let any = self.claimants.range(from..).take_while(move |((of, _), _)| of == what);
        let any = group.is_none().then_some(any).into_iter().flatten();
        everywhere
            .chain(of_group)
            .chain(any)
            .map(|((_, group), claimants)| (group, claimants))
    }

    /// The first claimants after that of a claim.
    fn next_in_line(&self, claim: &Claim) -> Vec<Claimant> {
        let after = (Bound::Excluded(&claim.claimant), Bound::<&Claimant>::Unbounded);
        let lines = self.lines(&claim.place);
        lines
            .filter_map(|(_, claimants)| claimants.range::<_, Claimant>(after).next().cloned())
            .collect()
    }
}

/// `None`: every group.
fn exists(group: &Option<Arc<str>>, groups: &OrdSet<Arc<str>>) -> bool {
    group.as_ref().is_none_or(|group| groups.contains(group))
}

impl Makers<'_> {
    fn claims(&self, groups: &OrdSet<Arc<str>>) -> Vec<Claim> {
        let written = self
            .written
            .map(|(key, compiled)| written_claims(key, compiled))
            .unwrap_or_default();
        let compiled: Vec<_> = self.compiled.map(compiled_claims).unwrap_or_default();
        let (Some((_, over)), Some(under)) = (self.written, self.compiled) else {
            let of_groups = |document: Option<&CompiledDocument>| {
                document.and_then(|compiled| compiled.document().groups().clone())
            };
            let mut claims = placed(written, &of_groups(self.written.map(|(_, compiled)| compiled)));
            claims.extend(placed(compiled, &of_groups(self.compiled.flatten())));
            return claims;
        };

        // Which of the two serves differs by group.
        let replaces = over.document().as_xds().is_some_and(|xds| xds.replace);
        let is_under = |group: &Arc<str>| under.is_none_or(|under| under.document().is_for(group));
        let is_over = |group: &Arc<str>| over.document().is_for(group) && (replaces || !is_under(group));
        let of = |wanted: &dyn Fn(&Arc<str>) -> bool| groups.iter().filter(|group| wanted(group)).cloned().collect();
        let mut claims = placed(written, &Some(of(&is_over)));
        claims.extend(placed(compiled, &Some(of(&|group| is_under(group) && !is_over(group)))));
        claims
    }
}

/// What a claim is, without its group.
type Unplaced = (Arc<str>, Claimant, Arc<str>);

fn placed(claims: Vec<Unplaced>, groups: &Groups) -> Vec<Claim> {
    let mut placed = Vec::new();
    for (what, claimant, path) in claims {
        let claim = |group: Option<Arc<str>>| Claim {
            place: (Arc::clone(&what), group),
            claimant: claimant.clone(),
            path: Arc::clone(&path),
        };
        match groups {
            None => placed.push(claim(None)),
            Some(groups) => placed.extend(groups.iter().cloned().map(Some).map(claim)),
        }
    }
    placed
}

fn written_claims(key: &DocumentKey, compiled: &CompiledDocument) -> Vec<Unplaced> {
    let Translated::Verbatim(written) = &compiled.translated else {
        return Vec::new();
    };
    let claimant = (compiled.accepted.mod_revision, Some(key.clone()));
    // If a document claims one thing twice, Envoy's own rules apply to that.
    let claims: BTreeMap<&str, &str> = written
        .claims
        .iter()
        .rev()
        .map(|claim| (&*claim.what, &*claim.path))
        .collect();
    let unplaced = |(what, path): (&str, &str)| (what.into(), claimant.clone(), path.into());
    claims.into_iter().map(unplaced).collect()
}

/// The addresses of a compiled listener; `None`: of the default listener.
fn compiled_claims(compiled: Option<&CompiledDocument>) -> Vec<Unplaced> {
    let Some(compiled) = compiled else {
        return vec![(tcp(listener::DEFAULT_ADDRESS).into(), (i64::MIN, None), "".into())];
    };
    let Translated::Listener(served) = &compiled.translated else {
        return Vec::new();
    };
    let key = DocumentKey::new(Kind::Listeners, Arc::clone(&served.listener.name));
    let claimant = (compiled.accepted.mod_revision, Some(key));
    let bound = compiled.document().as_listener().into_iter().flat_map(Listener::bound);
    let mut claims: Vec<Unplaced> = Vec::new();
    for (field, address) in bound {
        claims.push((tcp(address).into(), claimant.clone(), field.clone().into()));
        if served.quic.is_some() {
            claims.push((udp(address).into(), claimant.clone(), field.into()));
        }
    }
    claims
}

/// The fault of a document with a claim, if another one has the thing. `None`: the default listener gives way to none.
fn fault(claim: &Claim, owner: &Claimant, documents: &OrdMap<DocumentKey, Arc<CompiledDocument>>) -> Option<Fault> {
    Some(Fault {
        key: claim.claimant.1.clone()?,
        rejection: rejection(claim, owner, documents),
        obstacle: Some(Obstacle::Claimant {
            what: Arc::clone(&claim.place.0),
            key: owner.1.clone(),
        }),
        rival: None,
    })
}

fn rejection(
    claim: &Claim,
    (_, owner): &Claimant,
    documents: &OrdMap<DocumentKey, Arc<CompiledDocument>>,
) -> Rejection {
    let is_listener = |key: &&DocumentKey| key.kind == Kind::Listeners;
    let own = claim
        .claimant
        .1
        .as_ref()
        .filter(is_listener)
        .and_then(|key| documents.get(key));
    let address = own.and_then(|own| match own.document() {
        Document::Listener(listener) => listener.address,
        _ => None,
    });
    if let (Some(address), Some(owner)) = (address, owner.as_ref().filter(is_listener)) {
        let reason = format!("found {address}, which {owner} has already, expected an address of its own");
        return Rejection::new(&*claim.path, reason);
    }
    let owner = owner.as_ref().map_or_else(
        || "the listener that exists while no listeners document does".to_owned(),
        ToString::to_string,
    );
    let what = &claim.place.0;
    let reason = format!("found {what}, which {owner} has already, expected one of its own");
    Rejection::new(&*claim.path, reason)
}
