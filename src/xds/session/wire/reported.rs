//! The resources of an earlier stream that a client reports in its first request of a type.

use std::collections::HashMap;

use bytes::Bytes;

use crate::resource::ResourceVersion;
use crate::snapshot::version::SetVersion;
use crate::xds::error::Error;
use crate::xds::session::wire::fields::{Field, Fields, NameList};

/// See the module.
#[derive(Debug, Default)]
pub(in crate::xds) enum Reported {
    #[default]
    Nothing,
    /// SotW: `version_info`.
    Version(String),
    /// Delta: `initial_resource_versions`.
    Versions(Versions),
}

/// Names and versions as a slice of the request. Most reconnecting clients have the current resources, and the sum of
/// the versions shows that, without a comparison of each.
#[derive(Debug, Default)]
pub(in crate::xds) struct Versions(NameList);

impl Versions {
    /// Add an entry of the map, a field of `message`.
    pub(in crate::xds) fn push(&mut self, message: &Bytes, field: &Field<'_>) -> Result<(), Error> {
        entry(field.payload)?;
        self.0.push(message, field);
        Ok(())
    }

    pub(in crate::xds) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drop the names that are no longer subscribed.
    pub(in crate::xds) fn retain(&mut self, keeps: impl Fn(&str) -> bool) {
        let mut kept = NameList::default();
        let stay = self
            .0
            .iter()
            .filter(|payload| entry(payload).is_ok_and(|(name, _)| keeps(name)));
        stay.for_each(|payload| kept.add(payload));
        self.0 = kept;
    }

    /// The version of the set of these resources.
    pub(in crate::xds) fn sum(&self) -> SetVersion {
        let members = self.iter().map(|(name, version)| match number(version) {
            Some(version) => SetVersion::of_member(name, ResourceVersion(version)),
            // No resource has this version, so the sum must differ from that of any set.
            None => SetVersion::of_member(version, ResourceVersion(0)),
        });
        members.fold(SetVersion::default(), SetVersion::with)
    }

    /// The version of each name; `None`: a text that is no version of ours.
    pub(in crate::xds) fn by_name(&self) -> HashMap<&str, Option<ResourceVersion>> {
        let mut by_name = HashMap::with_capacity(self.0.len());
        by_name.extend(
            self.iter()
                .map(|(name, version)| (name, number(version).map(ResourceVersion))),
        );
        by_name
    }

    /// The entries as texts.
    #[cfg(test)]
    pub(in crate::xds) fn by_text(&self) -> std::collections::BTreeMap<String, String> {
        self.iter()
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect()
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        // Each entry was validated when it was added.
        self.0.iter().filter_map(|payload| entry(payload).ok())
    }
}

/// An entry of the map: a name and a version.
fn entry(payload: &[u8]) -> Result<(&str, &str), Error> {
    let (mut name, mut version) = ("", "");
    let mut fields = Fields::new(payload, 2);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => name = field.text()?,
            _ => version = field.text()?,
        }
    }
    Ok((name, version))
}

/// The number of a version text, of a resource or a set: 32 hex digits.
pub(in crate::xds) fn number(text: &str) -> Option<u128> {
    let (high, low) = text.split_at_checked(16).filter(|(_, low)| low.len() == 16)?;
    let half = |digits| u64::from_str_radix(digits, 16).ok().map(u128::from);
    Some((half(high)? << 64) | half(low)?)
}
