//! `xdstp://` names and globs (DX-31, PX-13).

use super::*;

const FOO: &str = "xdstp://a/envoy.config.cluster.v3.Cluster/foo";

fn name(rest: &str) -> String {
    format!("{FOO}{rest}")
}

fn subscribed(variant: Variant, names: &[&str]) -> Client {
    let mut client = client(variant);
    for (rest, content) in [
        ("/x?a=1&b=2", 1),
        ("/y?b=2&a=1", 1),
        ("/z", 1),
        ("/x/deep?a=1&b=2", 1),
        ("0/x?a=1&b=2", 1),
    ] {
        client.serve(CLUSTER, resource(&name(rest), content));
    }
    match variant {
        Variant::Sotw => client.sotw(CLUSTER, names),
        Variant::Delta => client.delta(CLUSTER, names, &[]),
    };
    client
}

fn says(client: &mut Client) -> Vec<String> {
    client.says().into_iter().map(|said| said.replace(FOO, "")).collect()
}

#[test]
fn a_glob_is_all_that_is_directly_below_with_the_same_parameters_in_any_order() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = subscribed(variant, &[&name("/*?b=2&a=1")]);
        assert_eq!(says(&mut client), ["CDS[/x?a=1&b=2@1,/y?b=2&a=1@1]"]);
        client
            .serve(CLUSTER, resource(&name("/w?a=1&b=2"), 1))
            .serve(CLUSTER, resource(&name("/w"), 1));
        client.commit(&[(CLUSTER, &name("/x?a=1&b=2"), None), (CLUSTER, "A", Some(2))]);
        let expected = match variant {
            Variant::Sotw => "CDS[/w?a=1&b=2@1,/y?b=2&a=1@1]",
            Variant::Delta => "CDS[/w?a=1&b=2@1,-/x?a=1&b=2]",
        };
        assert_eq!(says(&mut client), [expected]);
    }
}

#[test]
fn the_wildcard_and_xdstp_names_have_nothing_to_do_with_each_other() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = subscribed(variant, &["*"]);
        assert_eq!(says(&mut client), ["CDS[A@1,B@1,S@1]"]);
        client.serve(CLUSTER, resource(&name("/z"), 2));
        assert_eq!(says(&mut client), [""; 0]);
        let mut client = subscribed(variant, &["*", &name("/*")]);
        assert_eq!(says(&mut client), ["CDS[A@1,B@1,S@1,/z@1]"]);
    }
}

#[test]
fn one_name_is_found_whatever_the_order_of_its_parameters() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = subscribed(variant, &[&name("/x?b=2&a=1"), &name("/y?b=2&a=1"), "A"]);
        assert_eq!(says(&mut client), ["CDS[A@1,/x?a=1&b=2@1,/y?b=2&a=1@1]"]);
        client.serve(CLUSTER, resource(&name("/y?b=2&a=1"), 2));
        let expected = match variant {
            Variant::Sotw => "CDS[A@1,/x?a=1&b=2@1,/y?b=2&a=1@2]",
            Variant::Delta => "CDS[/y?b=2&a=1@2]",
        };
        assert_eq!(says(&mut client), [expected]);
    }
}

#[test]
fn what_is_below_nothing_is_answered_as_nothing() {
    let glob = name("/none/*");
    assert_eq!(says(&mut subscribed(Variant::Sotw, &[&glob])), ["CDS[]"]);
    assert_eq!(says(&mut subscribed(Variant::Delta, &[&glob])), ["CDS[-/none/*]"]);
    // An authority without documents.
    let mut client = client(Variant::Delta);
    assert_eq!(
        client.delta(CLUSTER, &["xdstp://b/t/x", "A"], &[]).says(),
        ["CDS[A@1,-xdstp://b/t/x]"]
    );
}

#[test]
fn a_glob_that_is_asked_for_later_or_no_longer() {
    let (glob, one) = (name("/*?a=1&b=2"), name("/x?a=1&b=2"));
    let mut client = subscribed(Variant::Sotw, &["A"]);
    let said = client.all().remove(0);
    client.ack(&said, &["A", &glob]);
    assert_eq!(says(&mut client), ["CDS[A@1,/x?a=1&b=2@1,/y?b=2&a=1@1]"]);
    let mut client = subscribed(Variant::Delta, &["A"]);
    client.all();
    client.delta(CLUSTER, &[&glob, &one], &[]);
    assert_eq!(says(&mut client), ["CDS[/x?a=1&b=2@1,/y?b=2&a=1@1]"]);
    client
        .delta(CLUSTER, &[], &[&glob])
        .serve(CLUSTER, resource(&name("/y?b=2&a=1"), 2));
    assert_eq!(says(&mut client), [""; 0]);
    client.serve(CLUSTER, resource(&one, 2));
    assert_eq!(says(&mut client), ["CDS[/x?a=1&b=2@2]"]);
}
