//! The one form in which instances of all registries become documents.
//!
//! `{"endpoints": [{"scheme", "secure", "address", "weight", …}]}`, each endpoint as below `/services/`; or, for an
//! instance that cannot be used, `{"rejected": {"path", "reason"}}`. So a plan needs to know no format, and a rejection
//! names the field of the text that the registry has.

use serde_json::{Map, Value, json};

use super::super::decode::{Cursor, Fields};
use super::super::endpoint::{self, Endpoint, Offer, Registration};
use super::super::host::in_host_header;
use super::super::{Limits, Rejection, text};

const FIELDS: Fields = Fields::new(&["endpoints", "rejected"]);
const OFFER_FIELDS: Fields = Fields::new(&[
    "scheme", "secure", "address", "zone", "weight", "priority", "state", "metadata",
]);
const REJECTED_FIELDS: Fields = Fields::new(&["path", "reason"]);

/// The text of the document of an instance.
#[must_use]
pub fn text_of(read: &Result<Vec<Offer>, Rejection>) -> Vec<u8> {
    let value = match read {
        Ok(offers) => json!({ "endpoints": offers.iter().map(offered).collect::<Vec<_>>() }),
        Err(Rejection { path, reason }) => json!({ "rejected": { "path": path, "reason": reason } }),
    };
    value.to_string().into_bytes()
}

/// Fields with their defaults are left out.
fn offered(offer: &Offer) -> Value {
    let Offer {
        scheme,
        is_secure,
        endpoint,
    } = offer;
    let Endpoint {
        host,
        port,
        zone,
        weight,
        priority,
        draining,
        metadata,
    } = endpoint;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        fields.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("scheme", scheme.clone().map(Value::from));
    put("secure", is_secure.map(Value::from));
    put("address", Some(format!("{}:{port}", in_host_header(host)).into()));
    put("zone", zone.clone().map(Value::from));
    put("weight", (*weight != 1).then(|| (*weight).into()));
    put("priority", (*priority != 0).then(|| (*priority).into()));
    put("state", draining.then(|| "drain".into()));
    put("metadata", (!metadata.is_empty()).then(|| json!(metadata)));
    fields.into()
}

/// Reads the text of the document of an instance.
pub(in crate::document) fn read(bytes: &[u8], limits: &Limits) -> Result<Registration, Rejection> {
    let value = text::value(bytes)?;
    let root = Cursor::root(&value, limits);
    let object = root.object(&FIELDS)?;
    if let Some(rejected) = object.get("rejected") {
        let rejected = rejected.object(&REJECTED_FIELDS)?;
        let part = |name| Ok(rejected.require(name, "a text")?.string()?.to_owned());
        return Err(Rejection::new(part("path")?, part("reason")?));
    }
    let endpoints = object.require("endpoints", "a list")?;
    let mut offers = endpoints.entries()?.into_iter().map(|entry| read_offer(&entry));
    let Some(first) = offers.next().transpose()? else {
        return Err(endpoints.expected("at least one entry"));
    };
    let others = offers.collect::<Result<_, _>>()?;
    Ok(Registration { first, others })
}

fn read_offer(cursor: &Cursor<'_>) -> Result<Offer, Rejection> {
    let object = cursor.object(&OFFER_FIELDS)?;
    Ok(Offer {
        scheme: object.read("scheme", |field| field.string().map(str::to_owned))?,
        is_secure: object.read("secure", |field| field.bool())?,
        endpoint: endpoint::read_common(&object)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn registered(format: Format, prefix: &str, key: &str, value: &str) -> Result<Registration, String> {
        let offers = format.read(prefix, key.as_bytes(), value.as_bytes());
        let read = read(&text_of(&offers), &Limits::default());
        assert_eq!(
            read.as_ref()
                .map(|read| read.offers().cloned().collect())
                .map_err(Clone::clone),
            offers,
            "the text says the same"
        );
        read.map_err(|rejection| rejection.to_string())
    }

    fn shown(offer: &Offer) -> Value {
        offered(offer)
    }

    fn kratos(value: &str) -> Result<Vec<Value>, String> {
        let read = registered(
            Format::Kratos,
            "/microservices/",
            "/microservices/helloworld/7f3c",
            value,
        )?;
        Ok(read.offers().map(shown).collect())
    }

    #[test]
    fn kratos_offers_an_endpoint_for_each_scheme() {
        // As go-kratos/kratos contrib/registry/etcd writes registry.ServiceInstance.
        let value = r#"{"id":"7f3c","name":"helloworld","version":"v1.2.0","metadata":{"weight":"20"},
            "endpoints":["http://10.0.2.4:8000?isSecure=false","grpc://[2001:db8::4]:9000?isSecure=true"]}"#;
        let metadata = json!({ "version": "v1.2.0", "weight": "20" });
        assert_eq!(
            kratos(value).unwrap(),
            [
                json!({ "scheme": "http", "secure": false, "address": "10.0.2.4:8000", "weight": 20, "metadata": metadata }),
                json!({ "scheme": "grpc", "secure": true, "address": "[2001:db8::4]:9000", "weight": 20, "metadata": metadata }),
            ]
        );
        let bare =
            r#"{"id":"7f3c","name":"helloworld","version":"","metadata":null,"endpoints":["grpc://10.0.2.4:9000"]}"#;
        assert_eq!(
            kratos(bare).unwrap(),
            [json!({ "scheme": "grpc", "secure": false, "address": "10.0.2.4:9000" })]
        );
    }

    #[test]
    fn an_instance_of_kratos_that_cannot_be_used_is_rejected_with_its_field() {
        let rejected = |value| kratos(value).unwrap_err();
        assert_eq!(
            rejected(r#"{"name":"helloworld2","endpoints":["grpc://10.0.2.4:9000"]}"#),
            r#"name: found the string "helloworld2", expected "helloworld", the name in its key"#
        );
        assert_eq!(
            rejected(r#"{"name":"helloworld","endpoints":[]}"#),
            "endpoints: found an empty list, expected at least one entry"
        );
        assert_eq!(
            rejected(r#"{"name":"helloworld"}"#),
            "endpoints: missing, expected a list of URLs"
        );
        assert_eq!(
            rejected(r#"{"endpoints":["grpc://orders.internal:9000"]}"#),
            r#"endpoints[0]: found the string "grpc://orders.internal:9000", expected an IP address: a registration cannot be a name"#
        );
        assert_eq!(
            rejected(r#"{"endpoints":["10.0.2.4:9000"]}"#),
            r#"endpoints[0]: found the string "10.0.2.4:9000", expected a URL such as "grpc://10.0.2.4:9000""#
        );
        assert!(rejected("[]").contains("expected an object"));
        assert!(rejected("{").contains("JSON"));
    }

    #[test]
    fn go_zero_and_the_naming_package_write_an_address() {
        let address = json!({ "address": "10.0.2.4:8080" });
        let zero = registered(Format::GoZero, "user.rpc/", "user.rpc/7587863", "10.0.2.4:8080").unwrap();
        assert_eq!(shown(&zero.first), address);
        let naming = r#"{"Op":0,"Addr":"10.0.2.4:8080","Metadata":{"zone":"a"}}"#;
        let naming = registered(Format::EtcdNaming, "/naming/", "/naming/orders/a", naming).unwrap();
        assert_eq!(
            shown(&naming.first),
            json!({ "address": "10.0.2.4:8080", "metadata": { "zone": "a" } })
        );
        assert_eq!(
            registered(Format::GoZero, "user.rpc/", "user.rpc/7587863", "10.0.2.4").unwrap_err(),
            "found \"10.0.2.4\", expected host:port, with a port"
        );
    }

    #[test]
    fn dubbo_writes_a_provider_into_the_key() {
        let provider = |parameters: &str| {
            let url = format!("dubbo://10.0.2.4:20880/com.foo.Bar?anyhost=true&application=shop&{parameters}");
            let url: String = form_urlencoded::byte_serialize(url.as_bytes()).collect();
            let key = format!("/dubbo/com.foo.Bar/providers/{url}");
            registered(Format::DubboInterface, "/dubbo/", &key, "").map(|read| shown(&read.first))
        };
        assert_eq!(
            provider("interface=com.foo.Bar&version=1.0.0&timestamp=1700000000000").unwrap(),
            json!({ "scheme": "dubbo", "address": "10.0.2.4:20880", "weight": 100,
                    "metadata": { "application": "shop", "version": "1.0.0" } })
        );
        let drains = json!({ "scheme": "dubbo", "address": "10.0.2.4:20880", "state": "drain",
                             "weight": 100, "metadata": { "application": "shop" } });
        assert_eq!(provider("enabled=false").unwrap(), drains);
        assert_eq!(provider("disabled=true").unwrap(), drains);
        assert_eq!(provider("weight=0").unwrap()["state"], "drain");
        assert!(
            provider("weight=much")
                .unwrap_err()
                .contains("a weight that is a whole number")
        );
        let name = registered(
            Format::DubboInterface,
            "/dubbo/",
            "/dubbo/com.foo.Bar/providers/dubbo%3A%2F%2Fshop.internal%3A20880%2Fcom.foo.Bar",
            "",
        );
        assert!(name.unwrap_err().contains("a registration cannot be a name"));
    }

    fn one(format: Format, value: &str) -> Result<Value, String> {
        registered(format, "/r/", "/r/a/b/1", value).map(|read| shown(&read.first))
    }

    #[test]
    fn dubbo_writes_an_application() {
        // As dubbo.apache.org/dubbo-go registry/etcdv3 writes registry.DefaultServiceInstance.
        let go = r#"{"ID":"1","ServiceName":"shop","Host":"10.0.2.4","Port":20880,"Enable":true,"Healthy":true,
            "Metadata":{"dubbo.metadata.revision":"1"},"ServiceMetadata":null,"Address":"","GroupName":"","Tag":""}"#;
        let metadata = json!({ "dubbo.metadata.revision": "1" });
        assert_eq!(
            one(Format::DubboApplication, go).unwrap(),
            json!({ "address": "10.0.2.4:20880", "weight": 100, "metadata": metadata })
        );
        let lower = r#"{"host":"2001:db8::4","port":20880,"enable":false,"weight":7}"#;
        assert_eq!(
            one(Format::DubboApplication, lower).unwrap(),
            json!({ "address": "[2001:db8::4]:20880", "weight": 7, "state": "drain" })
        );
        assert_eq!(
            one(Format::DubboApplication, r#"{"Host":"10.0.2.4"}"#).unwrap_err(),
            "port: missing, expected a port"
        );
    }

    #[test]
    fn kitex_writes_a_weight_and_tags() {
        // As kitex-contrib/registry-etcd writes instanceInfo.
        let value = r#"{"network":"tcp","address":"10.0.2.4:8888","weight":10,"tags":{"cluster":"blue"}}"#;
        assert_eq!(
            one(Format::Kitex, value).unwrap(),
            json!({ "address": "10.0.2.4:8888", "weight": 10, "metadata": { "cluster": "blue" } })
        );
        assert_eq!(
            one(Format::Kitex, r#"{"address":"10.0.2.4:8888","weight":0,"tags":null}"#).unwrap()["weight"],
            10
        );
        assert_eq!(
            one(Format::Kitex, r#"{"network":"unix","address":"/run/a.sock"}"#).unwrap_err(),
            r#"network: found the string "unix", expected "tcp""#
        );
        assert_eq!(
            one(Format::Kitex, "{}").unwrap_err(),
            r#"address: missing, expected an address such as "10.0.2.4:8080""#
        );
    }

    #[test]
    fn go_micro_writes_a_node() {
        // As go-micro.dev/v4 plugins/registry/etcd writes registry.Service, one node a key.
        let value = r#"{"name":"greeter","version":"latest","metadata":{"team":"a"},"endpoints":[],
            "nodes":[{"id":"greeter-1","address":"10.0.2.4:8080","metadata":{"protocol":"grpc"}}]}"#;
        assert_eq!(
            one(Format::GoMicro, value).unwrap(),
            json!({ "address": "10.0.2.4:8080", "metadata": { "team": "a", "protocol": "grpc", "version": "latest" } })
        );
        assert_eq!(
            one(Format::GoMicro, r#"{"nodes":[]}"#).unwrap_err(),
            "nodes: found an empty list, expected at least one entry"
        );
        assert_eq!(
            one(Format::GoMicro, r#"{"nodes":[{"address":"a:1"},{"address":"b:1"}]}"#).unwrap_err(),
            "nodes: found a list, expected one node: each has a key of its own"
        );
    }

    #[test]
    fn skydns_writes_a_host_and_a_port() {
        // As CoreDNS's etcd plugin documents a record.
        let value = r#"{"host":"10.0.2.4","port":8080,"priority":20,"weight":30,"ttl":60,"group":"g1"}"#;
        assert_eq!(
            one(Format::SkyDns, value).unwrap(),
            json!({ "address": "10.0.2.4:8080", "weight": 30, "priority": 20, "metadata": { "group": "g1" } })
        );
        assert_eq!(
            one(Format::SkyDns, r#"{"host":"10.0.2.4","port":8080}"#).unwrap(),
            json!({ "address": "10.0.2.4:8080", "weight": 100 })
        );
        assert_eq!(
            one(Format::SkyDns, r#"{"host":"orders.internal","port":8080}"#).unwrap_err(),
            r#"host: found the string "orders.internal", expected an IP address: a registration cannot be a name"#
        );
    }

    use url::form_urlencoded;
}
