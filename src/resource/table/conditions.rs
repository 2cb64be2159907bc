//! The conditions of an entry's Routes, read from their bytes when a request is first asked about.

use std::sync::OnceLock;

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::Route;
use prost::Message;

use crate::resource::matcher::Seen;
use crate::resource::matcher::conditions::{Conditions, Paths, Unmet};

/// See the module. Two are equal: their entries have the Routes. A copy reads again, because its entry may get others.
#[derive(Debug, Default)]
pub(super) struct Lazy(OnceLock<Box<[Option<Conditions>]>>);

impl Lazy {
    /// The first of these Routes that takes a request.
    pub(super) fn first(&self, routes: &[Bytes], request: &Seen) -> Option<usize> {
        self.of(routes)
            .iter()
            .position(|route| route.as_ref().is_some_and(|conditions| conditions.hold(request)))
    }

    /// The paths that these Routes may take.
    pub(super) fn paths(&self, routes: &[Bytes]) -> impl Iterator<Item = Paths<'_>> {
        self.of(routes).iter().flatten().map(Conditions::paths)
    }

    /// The first condition that a request does not fulfil, of the Route that comes closest. `None`: a Route takes it.
    pub(super) fn first_unmet(&self, routes: &[Bytes], request: &Seen) -> Option<Unmet<'_>> {
        let mut closest = Some(Unmet::Path);
        for conditions in self.of(routes).iter().flatten() {
            closest = closest.max(Some(conditions.first_unmet(request)?));
        }
        closest
    }

    fn of(&self, routes: &[Bytes]) -> &[Option<Conditions>] {
        self.0.get_or_init(|| routes.iter().map(read).collect())
    }
}

impl Clone for Lazy {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Lazy {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Lazy {}

/// `None`: the bytes are not ours.
fn read(route: &Bytes) -> Option<Conditions> {
    Conditions::of(&Route::decode(route.clone()).ok()?).ok()
}
