//! The listener that takes a request.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Compiled, Question, Unexplained};
use crate::document::Document;
use crate::document::key::{DocumentKey, Kind};
use crate::document::listener::{DEFAULT_ADDRESS, Http};
use crate::resource::ResourceType;
use crate::resource::compile::input;

/// A listener for HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: Arc<str>,
    /// Its document; `None`: the default listener.
    pub document: Option<DocumentKey>,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
    /// Whether clients speak TLS.
    pub is_tls: bool,
}

impl Compiled {
    /// The listener of a request: the one that the question names, or the only one with the scheme and, if any listener
    /// has the port of Host, with this port. `Ok(Err(why))`: no listener takes the request.
    ///
    /// # Errors
    /// The named listener does not exist, or several listeners take the request.
    pub(super) fn place_of(&self, question: &Question) -> Result<Result<Place, String>, Unexplained> {
        let group = &*question.group;
        if let Some(name) = &question.listener {
            return self.named_place(group, name).map(Ok);
        }

        let fits = |place: &Place| question.is_tls.is_none_or(|is_tls| is_tls == place.is_tls);
        let with_scheme: Vec<Place> = self.places(group).filter(fits).collect();
        let port = port_of(&question.host);
        let has_port = |place: &Place| place.addresses.iter().any(|address| Some(address.port()) == port);
        let candidates: Vec<Place> = match with_scheme.iter().any(has_port) {
            true => with_scheme.into_iter().filter(has_port).collect(),
            false => with_scheme,
        };
        match <[Place; 1]>::try_from(candidates) {
            Ok([place]) => Ok(Ok(place)),
            Err(none) if none.is_empty() => {
                let of_scheme = match question.is_tls {
                    Some(true) => " with TLS",
                    Some(false) => " without TLS",
                    None => "",
                };
                Ok(Err(format!("the group `{group}` has no listener for HTTP{of_scheme}")))
            }
            Err(several) => {
                let names = several.into_iter().map(|place| place.name).collect();
                Err(Unexplained::SeveralListeners(names))
            }
        }
    }

    fn named_place(&self, group: &str, name: &Arc<str>) -> Result<Place, Unexplained> {
        let resource = (ResourceType::Listener, Arc::clone(name));
        if let Some((key, _)) = input::verbatim(&self.inventory, group, &resource) {
            return Err(Unexplained::Verbatim(key));
        }
        let named = self.inventory.listener_in(name, group);
        let place = named.and_then(|compiled| self.place(group, name, compiled.map(|compiled| compiled.document())));
        place.ok_or_else(|| Unexplained::NoListener {
            group: group.into(),
            wanted: Arc::clone(name),
            known: self.places(group).map(|place| place.name).collect(),
        })
    }

    /// The listeners for HTTP of a group, those in Envoy's own form aside; sorted by name.
    fn places(&self, group: &str) -> impl Iterator<Item = Place> {
        let listeners = self.inventory.listeners(group).into_iter();
        listeners
            .filter_map(move |(name, compiled)| self.place(group, &name, compiled.map(|compiled| compiled.document())))
    }

    /// A listener for HTTP; `document`: none of the default listener.
    fn place(&self, group: &str, name: &Arc<str>, document: Option<&Document>) -> Option<Place> {
        let listener = document.and_then(Document::as_listener);
        if listener.is_some_and(|listener| listener.address.is_none() || listener.tcp.is_some()) {
            return None;
        }
        let resource = (ResourceType::Listener, Arc::clone(name));
        if input::verbatim(&self.inventory, group, &resource).is_some() {
            return None;
        }
        Some(Place {
            name: Arc::clone(name),
            document: listener.map(|_| DocumentKey::new(Kind::Listeners, Arc::clone(name))),
            addresses: listener.map_or_else(
                || vec![DEFAULT_ADDRESS],
                |listener| listener.bound().map(|(_, address)| address).collect(),
            ),
            is_tls: listener.is_some_and(|listener| listener.tls.is_some()),
        })
    }

    /// The settings of HTTP on a listener.
    pub(super) fn http_of(&self, name: &Arc<str>) -> Http {
        let document = self
            .inventory
            .document(&DocumentKey::new(Kind::Listeners, Arc::clone(name)));
        let own = document.and_then(Document::as_listener);
        let own = own.and_then(|listener| listener.settings.http.clone());
        let http = own.or_else(|| self.defaults().listener.http.clone());
        http.map(|http| *http).unwrap_or_default()
    }
}

/// The port of a Host header.
fn port_of(host: &str) -> Option<u16> {
    let (_, port) = host.rsplit_once(':')?;
    port.parse().ok()
}
