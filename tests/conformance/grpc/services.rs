//! GR-04, GR-11 and GR-14: methods, encodings, status codes.

use tonic::Code;

use super::raw::Connection;
use crate::client::{Request, method};
use crate::fixture::{
    CDS, ECDS, EDS, LDS, RDS, RTDS, Resource, SDS, SRDS, Type, VHDS, any_of, delete, f1, put, secret,
};
use crate::rule::{Context, Rule, Variant, rules};
use crate::support::ads_client::node;
use crate::target::Options;

pub(crate) const RULES: &[Rule] = rules![
    "GR-04" BOTH messages_are_not_compressed,
    "GR-11" BOTH a_status_says_the_cause,
    "GR-14" BOTH every_type_has_a_service_of_its_own,
    "GR-14" SOTW virtual_hosts_have_no_sotw_method,
];

async fn messages_are_not_compressed(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    for headers in [
        &[][..],
        &[
            ("grpc-accept-encoding", "gzip,deflate,identity"),
            ("user-agent", "envoy"),
        ],
    ] {
        let mut stream = connection.stream(method::ads(context.variant), headers).await;
        stream.ask(context.variant, CDS.type_url(), &[]);
        let (flag, _) = stream.message().await.expect("a response");
        assert_eq!(flag, 0, "the flag of a compressed message with {headers:?}");
        let encoding = stream.headers.get("grpc-encoding");
        assert!(
            encoding.is_none_or(|encoding| encoding == "identity"),
            "found {encoding:?}"
        );
    }
}

async fn a_status_says_the_cause(context: Context) {
    let arguments = vec!["--max-streams".to_owned(), "8".to_owned()];
    let world = context
        .serve_with(
            f1(),
            Options {
                arguments,
                ..Options::default()
            },
        )
        .await;
    let no_type = Request::of_url("");
    let no_node = Request::of(CDS).with_node(None);
    let no_id = Request::of(CDS).with_node(node(""));
    for request in [no_type, no_node, no_id] {
        let mut client = world.open().await;
        client.send(request);
        assert_eq!(client.refused().await.code(), Code::InvalidArgument);
    }
    let mut client = world.open().await;
    client.fetch(CDS, &[]).await;
    client.send(Request::of(EDS).with_node(node("n2")).names(&["A"]));
    assert_eq!(client.refused().await.code(), Code::InvalidArgument, "another node");
    let mut client = world.open_service(CDS).await;
    client.subscribe(LDS, &[]);
    assert_eq!(
        client.refused().await.code(),
        Code::InvalidArgument,
        "another type than the service's"
    );
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    for path in [
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/Nothing",
        "/acme.Nothing/Nothing",
    ] {
        assert_eq!(
            connection.stream(path, &[]).await.status().await,
            Some(Code::Unimplemented.into()),
            "{path}"
        );
    }
    too_many_streams(&mut connection, method::ads(context.variant)).await;
}

/// For a server with a limit of eight streams.
async fn too_many_streams(connection: &mut Connection, path: &str) {
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(connection.stream(path, &[]).await);
    }
    let mut refused = connection.stream(path, &[]).await;
    assert_eq!(
        refused.status().await,
        Some(Code::Unavailable.into()),
        "one stream too many"
    );
    drop(open);
}

/// The types that have a service, each with a name; VHDS, which is delta only, has rules of its own.
const SERVICES: [(Type, &str); 8] = [
    (CDS, "n"),
    (EDS, "n"),
    (LDS, "n"),
    (RDS, "n"),
    (SRDS, "n"),
    (SDS, "n"),
    (ECDS, "n"),
    (RTDS, "n"),
];

async fn every_type_has_a_service_of_its_own(context: Context) {
    let resources: Vec<Resource> = SERVICES.iter().map(|(of, name)| any_of(*of, name, 1)).collect();
    let world = context.serve(resources).await;
    for (of, name) in SERVICES {
        let mut client = world.open_service(of).await;
        // DX-01, SW-01: an empty type is the service's own. DX-07, SW-13: a missing resource does not end the stream.
        client.send(Request::of_url("").names(&[name]));
        let first = client.expect(of).await;
        client.ack(first.carries(&[name]));
        client.quiet().await;
        // SW-18, DX-06
        client.shrink(of, &[name]);
        client.grow(of, &[name]);
        let again = client.expect(of).await;
        client.ack(again.carries(&[name]));
        // SW-10, DX-17
        world.commit(vec![put(any_of(of, name, 2))]).await;
        let changed = client.expect(of).await;
        client.ack(changed.carries(&[name]));
        // GEN-04
        client.subscribe(if of == CDS { EDS } else { CDS }, &[]);
        assert_eq!(
            client.refused().await.code(),
            Code::InvalidArgument,
            "another type on the service of {of}"
        );
    }
    if context.variant == Variant::Delta {
        world.commit(vec![put(secret("n", 3))]).await;
        let mut client = world.open_service(SDS).await;
        client.fetch(SDS, &["n", "x"]).await;
        world.commit(vec![delete(SDS, "n")]).await;
        client.expect(SDS).await.removes(&["n"]);
    }
    wildcards(&context).await;
}

/// SW-02, DX-01 on the services that have a wildcard.
async fn wildcards(context: &Context) {
    let world = context
        .serve([CDS, LDS, SRDS].iter().map(|of| any_of(*of, "n", 1)).collect())
        .await;
    for of in [CDS, LDS, SRDS] {
        let mut client = world.open_service(of).await;
        let all = client.fetch(of, &[]).await;
        all.carries(&["n"]);
        world.commit(vec![put(any_of(of, "m", 1))]).await;
        let more = client.expect(of).await;
        more.get("m");
    }
}

async fn virtual_hosts_have_no_sotw_method(context: Context) {
    let world = context.f1().await;
    let mut connection = Connection::open(&world.target.address(), |_| {}).await;
    let path = method::of(VHDS, Variant::Delta).replace("Delta", "Stream");
    assert_eq!(
        connection.stream(&path, &[]).await.status().await,
        Some(Code::Unimplemented.into())
    );
}
