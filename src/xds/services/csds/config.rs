//! Builds the CSDS status of one client from the facts of the fleet and the snapshot. Pure.
//!
//! The fleet keeps facts by stream and type, not by resource. The status of a resource follows the last response of its
//! type:
//!
//! | status | last response of the type |
//! |---|---|
//! | `SYNCED` | ACKed |
//! | `STALE` | neither ACKed nor NACKed |
//! | `ERROR` | NACKed |
//! | `NOT_SENT` | none, or the resource does not exist |
//!
//! A secret is shown without its content.

use std::time::SystemTime;

use envoy_types::pb::envoy::admin::v3::UpdateFailureState;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::{ClientConfig, ConfigStatus};
use envoy_types::pb::google::protobuf::{Any, Timestamp};

use crate::fleet::{ClientView, Nack, Subscribed, TypeView, Variant, warnings};
use crate::resource::{Resource, ResourceType};
use crate::snapshot::{GroupSnapshot, RouteForm, Snapshot};

/// The largest content of one client's status, in bytes. Further resources are shown without content.
const CONTENT_MAX: usize = 16 * 1024 * 1024;

/// The status of a client.
pub(super) fn client_config(view: &ClientView, snapshot: &Snapshot, with_content: bool) -> ClientConfig {
    let mut writer = Writer {
        view,
        group: snapshot.group(&view.group).map(|group| &**group),
        content_left: if with_content { CONTENT_MAX } else { 0 },
        configs: Vec::new(),
    };

    for (resource_type, of_type) in &view.types {
        writer.write_type(*resource_type, of_type);
    }
    ClientConfig {
        node: Some(Node {
            id: view.node_id.to_string(),
            cluster: view.node_cluster.to_string(),
            ..Node::default()
        }),
        generic_xds_configs: writer.configs,
        // A node may have several streams: one for each type, or one for each cluster.
        client_scope: format!("stream {}, {}", view.stream, view.variant.as_str()),
        ..ClientConfig::default()
    }
}

struct Writer<'a> {
    view: &'a ClientView,
    group: Option<&'a GroupSnapshot>,
    content_left: usize,
    configs: Vec<GenericXdsConfig>,
}

impl Writer<'_> {
    fn write_type(&mut self, resource_type: ResourceType, of_type: &TypeView) {
        let withheld = self.view.warnings.contains(&warnings::SECRETS_WITHHELD);
        let form = RouteForm {
            vhds: self.view.variant == Variant::Delta,
            secrets: !withheld,
        };
        let group = self
            .group
            .filter(|_| !withheld || resource_type != ResourceType::Secret);
        let set = group.map(|group| group.set_in(form, resource_type));
        match &of_type.subscribed {
            Subscribed::Wildcard => {
                let wildcard = set
                    .into_iter()
                    .flat_map(|set| set.iter())
                    .filter(|resource| !resource.on_demand);
                for resource in wildcard {
                    self.write(resource_type, of_type, &resource.name, Some(resource));
                }
            }
            Subscribed::Names(names) => {
                for name in names.iter() {
                    let resource = set.and_then(|set| set.get(name));
                    self.write(resource_type, of_type, name, resource.map(|resource| &**resource));
                }
            }
        }
    }

    fn write(&mut self, resource_type: ResourceType, of_type: &TypeView, name: &str, resource: Option<&Resource>) {
        let status = status(of_type, resource.is_some());
        let sent = of_type.sent.as_ref().filter(|_| status != ConfigStatus::NotSent);
        let version_info = sent.zip(resource).map(|(sent, resource)| match self.view.variant {
            Variant::Sotw => sent.version.clone(),
            Variant::Delta => resource.version.to_string(),
        });
        let refused = of_type.nack.as_ref().filter(|_| resource.is_some());
        let shown = resource.filter(|_| status != ConfigStatus::NotSent);
        let xds_config = shown.and_then(|resource| self.content(resource_type, resource));
        self.configs.push(GenericXdsConfig {
            type_url: resource_type.type_url().to_owned(),
            name: name.to_owned(),
            version_info: version_info.unwrap_or_default(),
            xds_config,
            last_updated: sent.map(|sent| timestamp(sent.at)),
            config_status: status.into(),
            error_state: refused.map(error_state),
            ..GenericXdsConfig::default()
        });
    }

    /// The content, if it may be shown and there is room.
    fn content(&mut self, resource_type: ResourceType, resource: &Resource) -> Option<Any> {
        if resource_type == ResourceType::Secret {
            return None;
        }
        self.content_left = self.content_left.checked_sub(resource.body.len())?;
        Some(Any {
            type_url: resource_type.type_url().to_owned(),
            value: resource.body.to_bytes().into(),
        })
    }
}

fn timestamp(at: SystemTime) -> Timestamp {
    let prost_types::Timestamp { seconds, nanos } = at.into();
    Timestamp { seconds, nanos }
}

fn status(of_type: &TypeView, exists: bool) -> ConfigStatus {
    let Some(sent) = of_type.sent.as_ref().filter(|_| exists) else {
        return ConfigStatus::NotSent;
    };
    if of_type
        .acknowledged
        .as_ref()
        .is_some_and(|acknowledged| acknowledged.nonce == sent.nonce)
    {
        return ConfigStatus::Synced;
    }
    let refused = of_type
        .nack
        .as_ref()
        .is_some_and(|nack| nack.exchange.nonce == sent.nonce);
    if refused {
        ConfigStatus::Error
    } else {
        ConfigStatus::Stale
    }
}

fn error_state(nack: &Nack) -> UpdateFailureState {
    UpdateFailureState {
        last_update_attempt: Some(timestamp(nack.exchange.at)),
        details: nack.message.clone(),
        version_info: nack.exchange.version.clone(),
        ..UpdateFailureState::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::fleet::Exchange;
    use crate::resource::compile::{Difference, ResourceChange};
    use crate::snapshot::Facts;

    fn snapshot(resources: &[(ResourceType, &str, usize)]) -> Snapshot {
        let change = |(resource_type, name, size): &(ResourceType, &str, usize)| ResourceChange {
            group: "default".into(),
            resource_type: *resource_type,
            name: (*name).into(),
            resource: Some(Arc::new(Resource::new(*name, vec![1; *size], Vec::new()))),
        };
        let difference = Difference {
            resources: resources.iter().map(change).collect(),
            ..Difference::default()
        };
        let before = Snapshot::unpublished();
        before.next(&difference, Facts::after(&before))
    }

    fn exchange(nonce: &str) -> Exchange {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        Exchange {
            version: format!("v{nonce}"),
            nonce: nonce.to_owned(),
            at,
        }
    }

    fn nack(nonce: &str) -> Nack {
        Nack {
            exchange: exchange(nonce),
            code: 13,
            message: "no".to_owned(),
        }
    }

    fn of_type(sent: Option<&str>, acknowledged: Option<&str>, nack: Option<Nack>) -> TypeView {
        TypeView {
            subscribed: Subscribed::Wildcard,
            sent: sent.map(exchange),
            acknowledged: acknowledged.map(exchange),
            nack,
        }
    }

    fn view(resource_type: ResourceType, of_type: TypeView) -> ClientView {
        ClientView {
            stream: 7,
            node_id: "n1".into(),
            node_cluster: "c".into(),
            user_agent: "envoy".into(),
            version: Some((1, 40, 0)),
            group: "default".into(),
            address: None,
            variant: Variant::Sotw,
            connected_at: SystemTime::UNIX_EPOCH,
            lacks_slots: false,
            gone_at: None,
            place: None,
            warnings: Vec::new(),
            types: [(resource_type, of_type)].into(),
        }
    }

    #[test]
    fn the_status_follows_the_last_exchange() {
        use ConfigStatus::{Error, NotSent, Stale, Synced};
        let of = |sent, acknowledged, refused| status(&of_type(sent, acknowledged, refused), true);
        assert_eq!(of(None, None, None), NotSent);
        assert_eq!(of(Some("1"), None, None), Stale);
        assert_eq!(of(Some("1"), Some("1"), None), Synced);
        assert_eq!(of(Some("2"), Some("1"), None), Stale);
        assert_eq!(of(Some("2"), Some("1"), Some(nack("2"))), Error);
        assert_eq!(
            of(Some("3"), Some("1"), Some(nack("2"))),
            Stale,
            "a mended one is on its way"
        );
        assert_eq!(status(&of_type(Some("1"), Some("1"), None), false), NotSent);
    }

    #[test]
    fn a_resource_is_shown_with_its_version_its_time_and_its_content() {
        let snapshot = snapshot(&[(ResourceType::Cluster, "a", 3)]);
        let refused = Some(nack("2"));
        let view = view(ResourceType::Cluster, of_type(Some("2"), Some("1"), refused));
        let client = client_config(&view, &snapshot, true);
        assert_eq!(
            (&*client.node.unwrap().id, &*client.client_scope),
            ("n1", "stream 7, sotw")
        );
        let [config] = &client.generic_xds_configs[..] else {
            panic!("one resource")
        };
        assert_eq!(
            (&*config.type_url, &*config.name),
            (ResourceType::Cluster.type_url(), "a")
        );
        assert_eq!((&*config.version_info, config.last_updated.unwrap().seconds), ("v2", 5));
        assert_eq!(config.xds_config.as_ref().unwrap().value, [1; 3]);
        assert_eq!(config.error_state.as_ref().unwrap().details, "no");
        let delta = ClientView {
            variant: Variant::Delta,
            ..view
        };
        let client = client_config(&delta, &snapshot, false);
        let [config] = &client.generic_xds_configs[..] else {
            panic!("one resource")
        };
        assert_eq!(
            config.version_info,
            crate::resource::ResourceVersion::of(&[1; 3]).to_string()
        );
        assert_eq!(config.xds_config, None);
    }

    #[test]
    fn a_secret_is_a_name_and_a_withheld_one_was_not_sent() {
        let snapshot = snapshot(&[(ResourceType::Secret, "s", 3)]);
        let names = Subscribed::Names(["s".into()].into());
        let of_type = TypeView {
            subscribed: names,
            ..of_type(Some("1"), Some("1"), None)
        };
        let mut view = view(ResourceType::Secret, of_type);
        let status = |view: &ClientView| {
            let config = client_config(view, &snapshot, true).generic_xds_configs.remove(0);
            assert_eq!((&*config.name, &config.xds_config), ("s", &None));
            config.config_status()
        };
        assert_eq!(status(&view), ConfigStatus::Synced);
        view.warnings.push(warnings::SECRETS_WITHHELD);
        assert_eq!(status(&view), ConfigStatus::NotSent);
    }

    #[test]
    fn content_beyond_the_bound_is_left_out() {
        let half = CONTENT_MAX / 2 + 1;
        let snapshot = snapshot(&[(ResourceType::Cluster, "a", half), (ResourceType::Cluster, "b", half)]);
        let client = client_config(
            &view(ResourceType::Cluster, of_type(Some("1"), None, None)),
            &snapshot,
            true,
        );
        let with_content = |config: &GenericXdsConfig| (config.name.clone(), config.xds_config.is_some());
        let seen: Vec<_> = client.generic_xds_configs.iter().map(with_content).collect();
        assert_eq!(seen, [("a".to_owned(), true), ("b".to_owned(), false)]);
    }
}
