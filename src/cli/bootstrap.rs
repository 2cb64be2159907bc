//! `chancery bootstrap`: a bootstrap for an Envoy of this server. Offline.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use url::{Host, Url};

use super::{WRONG_USAGE, complain, print};

pub(super) const NAME: &str = "bootstrap";

const PLAIN: &str = include_str!("../../envoy-config/ads-delta.yaml");
const MTLS: &str = include_str!("../../envoy-config/mtls.yaml");
/// The address of the server in both.
const SERVER: &str = "socket_address: { address: 127.0.0.1, port_value: 18000 }";
const ADMIN: &str = "socket_address: { address: 127.0.0.1, port_value: 9901 }";
const SERVER_NAME: &str = "chancery.internal";

const AFTER_HELP: &str = "Examples:
  chancery bootstrap --xds chancery-1:18000,chancery-2:18000 --id edge-1 --cluster edge > envoy.yaml
  chancery bootstrap --xds chancery:18000 --mtls-name chancery.internal --mtls-ca ca.pem --mtls-cert client.pem \\
    --mtls-key client.key";

pub(super) fn command() -> Command {
    let flag = |name: &'static str, value: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .default_value(default)
            .help(help)
    };
    let mtls = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .help(help)
            .requires("mtls-ca")
    };
    Command::new(NAME)
        .about("Print a bootstrap for an Envoy")
        .after_help(AFTER_HELP)
        .arg(flag(
            "xds",
            "HOST:PORT[,…]",
            "127.0.0.1:18000",
            "Addresses of the servers' xDS ports",
        ))
        .arg(flag("id", "ID", "envoy-1", "node.id of the Envoy; unique"))
        .arg(flag("cluster", "NAME", "edge", "node.cluster of the Envoy"))
        .arg(flag(
            "envoy-admin",
            "IP:PORT",
            "127.0.0.1:9901",
            "Admin port of the Envoy",
        ))
        .arg(
            Arg::new("mtls-ca")
                .long("mtls-ca")
                .value_name("FILE")
                .requires_all(["mtls-cert", "mtls-key"])
                .help("Both sides show certificates: the CA of the server's, as Envoy finds the file"),
        )
        .arg(mtls("mtls-cert", "FILE", "The Envoy's certificate"))
        .arg(mtls("mtls-key", "FILE", "Its key"))
        .arg(mtls("mtls-name", "NAME", "The name in the server's certificate").default_value(SERVER_NAME))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match bootstrap(matches) {
        Ok(text) => {
            print(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(reason) => {
            complain(reason);
            ExitCode::from(WRONG_USAGE)
        }
    }
}

fn bootstrap(matches: &ArgMatches) -> Result<String, String> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let is_mtls = matches.contains_id("mtls-ca");
    let source = if is_mtls { MTLS } else { PLAIN };

    let endpoints: Vec<String> = text("xds").split(',').map(endpoint).collect::<Result<_, _>>()?;
    let admin: SocketAddr = text("envoy-admin")
        .parse()
        .map_err(|_| format!("--envoy-admin: found {:?}, expected IP:PORT", text("envoy-admin")))?;
    let mut lines = Vec::new();
    // The first lines are about the file in the repository.
    for line in source.lines().skip_while(|line| line.starts_with('#')) {
        match line.split_once("- endpoint:") {
            Some((indent, _)) if line.contains(SERVER) => {
                let of_each = endpoints.iter();
                lines.extend(of_each.map(|address| format!("{indent}- endpoint: {{ address: {{ {address} }} }}")));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    let quoted = |value: &str| serde_json::Value::from(value).to_string();
    let mut shown = lines.join("\n");
    shown = shown.replacen("id: envoy-1", &format!("id: {}", quoted(text("id"))), 1);
    shown = shown.replacen("cluster: edge", &format!("cluster: {}", quoted(text("cluster"))), 1);
    shown = shown.replacen(ADMIN, &socket(&admin.ip().to_string(), admin.port()), 1);
    if is_mtls {
        for (file, name) in [
            ("client.pem", "mtls-cert"),
            ("client.key", "mtls-key"),
            ("ca.pem", "mtls-ca"),
        ] {
            shown = shown.replace(&format!("/etc/envoy/tls/{file}"), &quoted(text(name)));
        }
        shown = shown.replace(SERVER_NAME, &quoted(text("mtls-name")));
    }
    Ok(shown)
}

/// The address of one server.
fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || format!("--xds: found {text:?}, expected HOST:PORT");
    let url = Url::parse(&format!("xds://{}", text.trim())).map_err(|_| wrong())?;
    let (Some(host), Some(port), "" | "/") = (url.host(), url.port(), url.path()) else {
        return Err(wrong());
    };
    let host = match host {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Ok(socket(&host, port))
}

fn socket(host: &str, port: u16) -> String {
    let host = serde_json::Value::from(host);
    format!("socket_address: {{ address: {host}, port_value: {port} }}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(arguments: &[&str]) -> Value {
        let matches = command().try_get_matches_from([&[NAME], arguments].concat()).unwrap();
        serde_saphyr::from_str(&bootstrap(&matches).unwrap()).unwrap()
    }

    #[test]
    fn each_server_is_an_endpoint() {
        let read = read(&["--xds", "a.b:1,[::1]:2", "--id", "x: y", "--envoy-admin", "127.0.0.1:3"]);
        assert_eq!(read["node"], json!({ "id": "x: y", "cluster": "edge" }));
        let cluster = &read["static_resources"]["clusters"][0];
        let endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            .as_array()
            .unwrap();
        let addresses: Vec<&Value> = endpoints
            .iter()
            .map(|one| &one["endpoint"]["address"]["socket_address"])
            .collect();
        let expected = [
            json!({ "address": "a.b", "port_value": 1 }),
            json!({ "address": "::1", "port_value": 2 }),
        ];
        assert_eq!(addresses, expected.iter().collect::<Vec<_>>());
        assert_eq!(read["admin"]["address"]["socket_address"]["port_value"], 3);
    }

    #[test]
    fn both_sides_show_certificates() {
        let flags = [
            "--mtls-ca",
            "/c",
            "--mtls-cert",
            "/a",
            "--mtls-key",
            "/b",
            "--mtls-name",
            "n",
        ];
        let read = read(&flags).to_string();
        for part in [
            "\"filename\":\"/a\"",
            "\"filename\":\"/b\"",
            "\"filename\":\"/c\"",
            "\"sni\":\"n\"",
            "\"exact\":\"n\"",
        ] {
            assert!(read.contains(part), "{part}: {read}");
        }
    }

    #[test]
    fn another_address_is_wrong_usage() {
        for wrong in ["a", "a:b", "a:1/x", ""] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
