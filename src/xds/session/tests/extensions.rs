//! Extension configurations: scripts in a response of their own, and the order beside routes.

use super::*;
use crate::document::key::{DocumentKey, Kind};
use crate::resource::compile::parts::Part;

const EXTENSION: ResourceType = ResourceType::ExtensionConfig;

/// An extension that is made of parts of these routes.
fn extension(name: &str, content: u8, routes: &[&str]) -> Resource {
    let part = |route: &&str| {
        let part = Part {
            revision: 1,
            upstreams: Arc::new([]),
        };
        (DocumentKey::new(Kind::Routes, *route), part)
    };
    Resource {
        parts: Some(Arc::new(routes.iter().map(part).collect())),
        ..resource(name, content)
    }
}

/// Publish extensions, and the route configuration with this content.
fn publish(client: &mut Client, extensions: &[(&str, u8, &[&str])], route: u8) {
    let change = |resource_type, resource: Resource| ResourceChange {
        group: "default".into(),
        resource_type,
        name: Arc::clone(&resource.name),
        resource: Some(Arc::new(resource)),
    };
    let extensions = extensions.iter();
    let mut changes: Vec<_> = extensions
        .map(|(name, content, routes)| change(EXTENSION, extension(name, *content, routes)))
        .collect();
    changes.push(change(ROUTE, resource("r1", route)));
    client.snapshot = changed(&client.snapshot, changes);
}

/// A client with two extensions and the routes.
fn running(variant: Variant) -> Client {
    let mut client = client(variant);
    publish(
        &mut client,
        &[("chancery.jwt", 1, &["a", "b"]), ("chancery.lua", 1, &[])],
        1,
    );
    for (resource_type, names) in [(EXTENSION, &["chancery.jwt", "chancery.lua"][..]), (ROUTE, &["r1"])] {
        match variant {
            Variant::Sotw => client.sotw(resource_type, names),
            Variant::Delta => client.delta(resource_type, names, &[]),
        };
        for said in client.all() {
            let names = if said.resource_type == ROUTE {
                &["r1"][..]
            } else {
                names
            };
            client.ack(&said, names);
        }
    }
    assert_eq!(client.says(), [""; 0]);
    client
}

#[test]
fn scripts_travel_alone() {
    for variant in BOTH {
        let mut client = client(variant);
        publish(&mut client, &[("chancery.jwt", 1, &[]), ("chancery.lua", 1, &[])], 1);
        let names = ["chancery.jwt", "chancery.lua"];
        match variant {
            Variant::Sotw => client.sotw(EXTENSION, &names),
            Variant::Delta => client.delta(EXTENSION, &names, &[]),
        };
        let apart = ["extension_configs[chancery.jwt@1]", "extension_configs[chancery.lua@1]"];
        assert_eq!(client.says(), apart, "{variant:?}");

        let mut client = running(variant);
        publish(
            &mut client,
            &[("chancery.jwt", 2, &["a", "b", "c"]), ("chancery.lua", 2, &[])],
            1,
        );
        let apart = ["extension_configs[chancery.jwt@2]", "extension_configs[chancery.lua@2]"];
        assert_eq!(client.says(), apart, "{variant:?}");
    }
}

#[test]
fn a_policy_that_a_route_drops_goes_after_the_route() {
    for variant in BOTH {
        let mut client = running(variant);
        publish(&mut client, &[("chancery.jwt", 2, &["a"])], 2);
        assert_eq!(
            client.says(),
            ["RDS[r1@2]", "extension_configs[chancery.jwt@2]"],
            "{variant:?}"
        );

        // The other way around, and a change of both kinds: the extension comes first.
        publish(&mut client, &[("chancery.jwt", 3, &["a", "c"])], 3);
        assert_eq!(
            client.says(),
            ["extension_configs[chancery.jwt@3]", "RDS[r1@3]"],
            "{variant:?}"
        );
        publish(&mut client, &[("chancery.jwt", 4, &["c", "d"])], 4);
        assert_eq!(
            client.says(),
            ["extension_configs[chancery.jwt@4]", "RDS[r1@4]"],
            "{variant:?}"
        );

        // Routes that the client has already.
        publish(&mut client, &[("chancery.jwt", 5, &["c"])], 4);
        assert_eq!(client.says(), ["extension_configs[chancery.jwt@5]"], "{variant:?}");
    }
}
