use serde_json::{Value as Json, json};

use crate::document::key::Kind;
use crate::document::{Document, Limits, parse};
use crate::proto::json::to_json;

use super::*;

fn key() -> DocumentKey {
    DocumentKey::new(Kind::Listeners, "edge")
}

fn listener(document: &Json) -> Listener {
    let parsed = parse(&key(), document.to_string().as_bytes(), &Limits::default()).unwrap();
    match &*parsed.document {
        Document::Listener(listener) => listener.clone(),
        other => panic!("{other:?}"),
    }
}

fn with_http(http: &Json) -> Listener {
    listener(&json!({ "address": "0.0.0.0:80", "http": http }))
}

fn shown(resource: &Resource) -> Json {
    to_json(&WireListener::type_url(), &resource.body.to_bytes()).unwrap()
}

fn compiled(document: &Json) -> Json {
    shown(&from_document(&key(), &listener(document), &Context::default()).unwrap())
}

fn manager(listener: &Json) -> &Json {
    &listener["filter_chains"][0]["filters"][0]["typed_config"]
}

fn context(http: &Json) -> Context {
    let mut context = Context::default();
    context
        .defaults
        .listener
        .http
        .clone_from(&with_http(http).settings.http);
    context
}

fn refused(http: &Json) -> String {
    let result = from_document(&key(), &with_http(http), &Context::default());
    result.unwrap_err().to_string()
}

#[test]
fn without_documents_there_is_a_plain_listener() {
    let resource = default_listener(&Context::default());
    let mut expected = compiled(&json!({ "address": "0.0.0.0:10000" }));
    let text = expected.to_string().replace("\"edge\"", "\"default\"");
    expected = serde_json::from_str(&text).unwrap();
    assert_eq!(shown(&resource), expected);
    assert_eq!((&*resource.name, resource.documents), ("default", vec![]));
}

#[test]
fn defaults_fill_in_each_field_as_a_whole() {
    let mut context = context(&json!({ "trusted_hops": 3, "access_log": "json" }));
    context.defaults.listener.buffer = Some(2048);
    let filled = shown(&default_listener(&context));
    assert_eq!(manager(&filled)["xff_num_trusted_hops"], json!(3));
    assert_eq!(filled["per_connection_buffer_limit_bytes"], json!(2048));

    let own = with_http(&json!({ "websocket": true }));
    let kept = shown(&from_document(&key(), &own, &context).unwrap());
    assert_eq!(manager(&kept)["xff_num_trusted_hops"], Json::Null);
    assert_eq!(manager(&kept)["access_log"], Json::Null);
    assert_eq!(kept["per_connection_buffer_limit_bytes"], json!(2048));
}

#[test]
fn an_api_listener_names_its_routes_and_nothing_of_envoys_own() {
    let context = context(&json!({ "trusted_hops": 3, "access_log": "json" }));
    let resource = from_document(&key(), &listener(&json!({ "api": true })), &context).unwrap();
    let expected = json!({
        "@type": WireListener::type_url(),
        "name": "edge",
        "api_listener": { "api_listener": {
            "@type": "type.googleapis.com/\
                envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "edge",
            "rds": { "config_source": { "ads": {}, "resource_api_version": "V3" }, "route_config_name": "edge" },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
            }],
        } },
    });
    assert_eq!(shown(&resource), expected);
    assert!(
        resource.on_demand,
        "Envoy's wildcard would get a name that means nothing to it"
    );
}

#[test]
fn logs_and_errors_of_json_have_always_the_same_bytes() {
    let http = json!({ "errors": "json", "access_log": [
        { "to": "stdout", "fields": { "b": "1", "a": "2", "z": "3" } },
        { "to": "otlp:otel" },
        { "to": "file:/var/log/edge.log", "format": { "b": "1", "a": "%PROTOCOL%" } },
    ] });
    let bytes = || {
        from_document(&key(), &with_http(&http), &Context::default())
            .unwrap()
            .body
    };
    let first = bytes();
    for _ in 0..50 {
        assert_eq!(bytes(), first);
    }
}

#[test]
fn a_clients_request_id_is_removed_where_envoy_does_not_replace_it() {
    let removed = |http: Json| {
        let listener = compiled(&json!({ "address": "0.0.0.0:80", "http": http }));
        let config = &manager(&listener)["early_header_mutation_extensions"][0]["typed_config"]["mutations"];
        let names = config.as_array().into_iter().flatten();
        names
            .map(|mutation| mutation["remove"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let by_header = || json!({ "header": "x-real-ip" });
    assert_eq!(removed(json!({})), Vec::<String>::new());
    assert_eq!(removed(json!({ "client_ip": by_header() })), ["x-request-id"]);
    assert_eq!(
        removed(json!({ "client_ip": by_header(), "request_id": "keep", "remove_request_headers": ["X-User"] })),
        ["x-user"]
    );
    assert_eq!(
        removed(json!({ "tracing": { "to": "otel", "trust_parent": false } })),
        ["traceparent", "tracestate"]
    );
}

#[test]
fn formats_have_commands_of_envoy_and_files_are_below_the_folder() {
    assert_eq!(
        refused(&json!({ "access_log": [{ "to": "stdout" }, { "to": "stdout", "format": { "a": "%PROTOCL%" } }] })),
        "http.access_log[1].format.a: found \"%…%\" that is no command of Envoy, expected one (\"%%\" is a percent \
         sign), did you mean \"PROTOCOL\"?"
    );
    assert_eq!(
        refused(&json!({ "access_log": [{ "to": "file:/var/logs/a" }] })),
        "http.access_log[0].to: found the file \"/var/logs/a\", expected one below /var/log/ (--access-log-dir)"
    );
    let elsewhere = Context {
        access_log_dir: "/srv/logs".into(),
        ..Context::default()
    };
    let log = with_http(&json!({ "access_log": [{ "to": "file:/srv/logs/edge/a.log" }] }));
    assert!(from_document(&key(), &log, &elsewhere).is_ok());
    assert!(from_document(&key(), &log, &Context::default()).is_err());
    let defaults = Settings {
        http: log.settings.http,
        ..Settings::default()
    };
    let reason = check_defaults(&defaults, &Context::default()).unwrap_err().to_string();
    assert!(
        reason.starts_with("listener.http.access_log[0].to: found the file"),
        "{reason}"
    );
}

#[test]
fn the_clusters_of_logs_and_traces_are_named_before_the_listener() {
    let http = json!({ "tracing": { "to": "otel" }, "access_log": [{ "to": "grpc:grpc://10.0.0.1:90" }] });
    let resource = from_document(&key(), &with_http(&http), &Context::default()).unwrap();
    let parts = resource.parts.unwrap();
    let named: Vec<&str> = parts
        .values()
        .flat_map(|part| part.upstreams.iter())
        .map(|name| &**name)
        .collect();
    assert_eq!(named, ["grpc://10.0.0.1:90", "otel"]);
}

#[test]
fn http3_is_a_listener_of_its_own_with_the_routes_and_secrets_of_the_first() {
    let document = |http3: Json| {
        listener(&json!({
            "address": "0.0.0.0:443", "addresses": ["[::]:443"], "http": { "http3": http3 },
            "tls": { "certificates": ["b", "a"], "client_ca": "ca", "client_certificate": "optional" },
        }))
    };
    let context = Context::default();
    let on = document(json!(true));
    let over_udp = quic(&key(), &on, &context).unwrap();
    assert_eq!(&*over_udp.name, "edge/quic");
    let shown = shown(&over_udp);
    let udp = |address: &str| json!({ "socket_address": { "protocol": "UDP", "address": address, "port_value": 443 } });
    assert_eq!(shown["address"], udp("0.0.0.0"));
    assert_eq!(shown["additional_addresses"][0]["address"], udp("::"));
    assert_eq!(
        (&shown["tcp_keepalive"], &manager(&shown)["codec_type"]),
        (&Json::Null, &json!("HTTP3"))
    );
    let over_tcp = from_document(&key(), &on, &context).unwrap();
    let names = |resource: &Resource| -> Vec<String> {
        let refers = resource.refers.iter().flat_map(|refers| refers.iter());
        refers
            .map(|reference| format!("{} {}", reference.resource_type, reference.name))
            .collect()
    };
    let expected = [
        "secrets a",
        "secrets b",
        "secrets ca",
        "extension_configs chancery.jwt",
        "extension_configs chancery.lua",
        "extension_configs chancery.rate_limit",
        "extension_configs chancery.rate_limit.user",
        "routes edge",
    ];
    assert_eq!(names(&over_udp), expected);
    assert_eq!(names(&over_tcp), names(&over_udp));
    assert_eq!(routing(&on, &context).unwrap().http3_port, Some(443));
    let advertised = document(json!({ "advertise_port": 8443 }));
    assert_eq!(routing(&advertised, &context).unwrap().http3_port, Some(8443));
    assert!(quic(&key(), &document(json!(false)), &context).is_none());
}

#[test]
fn every_address_is_claimed() {
    let document = listener(&json!({ "address": "0.0.0.0:80", "addresses": ["[::]:80"] }));
    let resource = from_document(&key(), &document, &Context::default()).unwrap();
    let claims: Vec<&str> = resource.claims().collect();
    assert_eq!(claims, ["the address 0.0.0.0:80 (TCP)", "the address [::]:80 (TCP)"]);
}

#[test]
fn http3_beside_a_proxy_protocol_of_defaults_is_rejected() {
    let mut context = Context::default();
    let with = listener(&json!({ "address": "0.0.0.0:80", "proxy_protocol": true }));
    context.defaults.listener.proxy_protocol = with.settings.proxy_protocol;
    let mut document = json!({ "address": "0.0.0.0:443", "http": { "http3": true }, "tls": { "certificates": ["a"] } });
    let rejection = from_document(&key(), &listener(&document), &context).unwrap_err();
    assert!(
        rejection.to_string().starts_with("http.http3: found HTTP/3 beside"),
        "{rejection}"
    );
    document["proxy_protocol"] = json!(false);
    assert!(from_document(&key(), &listener(&document), &context).is_ok());
}
