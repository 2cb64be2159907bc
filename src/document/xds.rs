//! `xds/{type}/{resource name}`: a resource of the xDS API as the operator wrote it.
//!
//! In: a key with a type of the API as its first word and the name of the resource, any text, as its rest; and the
//! fields around the resource. Out: an [`Xds`] whose `resource` is an object with an `@type`. [`crate::resource`],
//! which has the descriptors, reads the resource; nothing of it is quoted here, because it may be a secret. Of a
//! document at `xds/secrets/…` nothing is quoted before it has the fields of an xds document, because the whole text
//! may be the secret.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::decode::{Cursor, Field, Fields, Shape};
use super::field::TEXT;
use super::key::{DocumentKey, Kind};
use super::sentence::{did_you_mean, one_of, quote};
use super::{Groups, Limits, Rejection, groups, text};

/// The fields of an xds document.
pub(super) const FIELDS: Fields = Fields::of(&[
    Field::new(
        "resource",
        Shape::Free,
        "The resource, an object with its `@type`. Field names as in the `.proto` files, or in camel case",
    )
    .required(),
    groups::FIELD,
    Field::new(
        "replace",
        Shape::Flag,
        "`true`: the resource serves in place of one that other documents make under its name",
    )
    .or("`false`"),
    Field::new(
        "aliases",
        Shape::List {
            of: &TEXT,
            least: 0,
            most: usize::MAX,
            once: true,
        },
        "Further names under which clients may subscribe to the resource",
    ),
    Field::new(
        "ttl",
        Shape::Duration,
        "Time for which a client may keep the resource without hearing of it again ([decision \
         004](../decisions/004-resource-errors-ttl-and-splitting.md))",
    ),
]);

/// Whether an xds document has a field of this name.
#[must_use]
pub fn is_field(name: &str) -> bool {
    FIELDS.contains(name)
}

/// The words that may stand for `{type}`, in the order of the API's page.
pub const TYPES: [&str; 9] = [
    "listeners",
    "routes",
    "clusters",
    "endpoints",
    "secrets",
    "runtime",
    "scoped_routes",
    "virtual_hosts",
    "extension_configs",
];
/// The type whose resources are secrets as a whole.
pub const SECRETS: &str = "secrets";

/// An xds document.
#[derive(Debug, Clone, PartialEq)]
pub struct Xds {
    /// One of [`TYPES`].
    pub resource_type: &'static str,
    /// The resource's name.
    pub name: Arc<str>,
    /// The resource in proto-JSON, an object.
    pub resource: Value,
    /// The groups of proxies that have it.
    pub groups: Groups,
    /// Whether it replaces a resource of the same name that other documents make.
    pub replace: bool,
    /// Other names under which a client may subscribe to it.
    pub aliases: Vec<Arc<str>>,
    /// How long a client keeps it without a response that carries it.
    pub ttl: Option<Duration>,
    /// The limits at the time of reading the document.
    pub limits: Limits,
}

/// The type and the resource name in a document's name; `None`: one of them is missing.
#[must_use]
pub fn split(name: &str) -> Option<(&'static str, &str)> {
    let (word, rest) = name.split_once('/')?;
    let known = TYPES.into_iter().find(|known| *known == word)?;
    (!rest.is_empty()).then_some((known, rest))
}

/// Whether the document's text may be a secret as a whole.
pub(super) fn is_secret(key: &DocumentKey) -> bool {
    key.kind == Kind::Xds && key.first_segment() == SECRETS
}

/// The word of filters by ECDS.
const EXTENSION_CONFIGS: &str = "extension_configs";
/// The beginning of the names of filters that hold policies.
const RESERVED: &str = "chancery.";

/// Checks the form of the key.
pub(super) fn check_key(key: &DocumentKey) -> Result<(), Rejection> {
    if split(&key.name).is_some() {
        return Ok(());
    }
    let word = key.first_segment();
    if TYPES.contains(&word) {
        let found = quote(&key.to_string());
        return Err(Rejection::new(
            "",
            format!("found the key {found}, expected xds/{word}/ and the resource's name"),
        ));
    }

    let hint = match did_you_mean(word, TYPES) {
        hint if hint.is_empty() => format!(", expected {}", one_of(&TYPES.map(|word| format!("{word:?}")))),
        hint => hint,
    };
    Err(Rejection::new(
        "",
        format!("found the type {} in the key{hint}", quote(word)),
    ))
}

/// Reads an xds document.
pub(super) fn read(key: &DocumentKey, root: &Cursor<'_>) -> Result<Xds, Rejection> {
    if is_secret(key) {
        root.confidential_object(&FIELDS)?;
    }
    let object = root.object(&FIELDS)?;
    let Some((resource_type, name)) = split(&key.name) else {
        check_key(key)?;
        return Err(Rejection::new(
            "",
            "found no type and name in the key, expected xds/{type}/{resource name}",
        ));
    };

    if resource_type == EXTENSION_CONFIGS && name.starts_with(RESERVED) {
        return Err(Rejection::new(
            "",
            format!(
                "found the name {}, expected none that begins with {RESERVED:?}: the server's own filters do",
                quote(name)
            ),
        ));
    }
    let field = object.require("resource", "the resource, an object with its \"@type\"")?;
    if !field.value().is_object() {
        return Err(field.confidential("the resource, an object with its \"@type\""));
    }
    Ok(Xds {
        resource_type,
        name: name.into(),
        resource: field.value().clone(),
        groups: groups::read(&object)?,
        replace: object.read("replace", |field| field.bool())?.unwrap_or(false),
        aliases: object
            .read("aliases", |field| read_aliases(&field))?
            .unwrap_or_default(),
        ttl: object.read("ttl", |field| field.duration())?,
        limits: *root.limits(),
    })
}

fn read_aliases(cursor: &Cursor<'_>) -> Result<Vec<Arc<str>>, Rejection> {
    let mut aliases: Vec<Arc<str>> = Vec::new();
    for entry in cursor.list()? {
        let alias = entry.text()?;
        if aliases.iter().any(|earlier| &**earlier == alias) {
            return Err(entry.expected("each alias once"));
        }
        aliases.push(alias.into());
    }
    Ok(aliases)
}

/// The text of an xds document as a value, to be shown; `None`: neither JSON nor YAML.
#[must_use]
pub fn value(bytes: &[u8]) -> Option<Value> {
    text::value(bytes).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Document, parse};
    use super::*;

    fn parsed(name: &str, document: &Value) -> Result<Xds, String> {
        let key = DocumentKey::new(Kind::Xds, name);
        let parsed = parse(&key, document.to_string().as_bytes(), &Limits::default());
        match &*parsed.map_err(|rejection| rejection.to_string())?.document {
            Document::Xds(xds) => Ok(xds.clone()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_rest_of_the_key_is_the_name_whatever_it_is() {
        let long = "ü".repeat(200);
        for name in [
            "a",
            "A b",
            "r/h.example.com",
            "http://10.0.0.1:80",
            "100%/",
            "a%2Fb",
            "/",
            "*",
            &long,
        ] {
            let xds = parsed(&format!("clusters/{name}"), &json!({ "resource": {} })).unwrap();
            assert_eq!((xds.resource_type, &*xds.name), ("clusters", name));
        }
    }

    #[test]
    fn the_key_has_a_type_and_a_name() {
        let rejected = |name| parsed(name, &json!({ "resource": {} })).unwrap_err();
        assert_eq!(
            rejected("cluster/a"),
            r#"found the type "cluster" in the key, did you mean "clusters"?"#
        );
        assert_eq!(
            rejected("clusters/"),
            r#"found the key "xds/clusters/", expected xds/clusters/ and the resource's name"#
        );
        assert_eq!(
            rejected("clusters"),
            r#"found the key "xds/clusters", expected xds/clusters/ and the resource's name"#
        );
        assert!(rejected("zzz/a").starts_with(r#"found the type "zzz" in the key, expected "listeners", "routes""#));
    }

    #[test]
    fn every_field_is_read_and_absent_ones_have_defaults() {
        let xds = parsed("clusters/a", &json!({ "resource": { "name": "a" } })).unwrap();
        assert_eq!(
            (xds.groups, xds.replace, xds.aliases, xds.ttl),
            (None, false, vec![], None)
        );
        let full = json!({
            "resource": {}, "groups": ["edge"], "replace": true, "aliases": ["r/b", "r/a"], "ttl": "90s",
        });
        let xds = parsed("virtual_hosts/r/a", &full).unwrap();
        assert_eq!(xds.groups, Some(["edge".into()].into()));
        assert_eq!((xds.replace, xds.ttl), (true, Some(Duration::from_secs(90))));
        assert_eq!(xds.aliases, ["r/b".into(), "r/a".into()]);
    }

    #[test]
    fn a_raw_text_in_the_place_of_a_secret_is_never_quoted() {
        let texts = [
            "hunter2",
            "hunter2: hunter2",
            "hunter2: &hunter2 [*hunter3, !hunter2 x]",
            "*hunter2",
            "!hunter2 a",
            "-----BEGIN hunter2-----\nhunter2\n-----END hunter2-----\n",
            "hunter2: a\nhunter2: b",
            r#"{"hunter2": 1}"#,
            r#"{"hunter2": 1, "hunter2": 2}"#,
            r#"{"resource": {"hunter2": 1, "hunter2": 2}}"#,
            r#"{"resource": hunter2}"#,
            r#"{"resource": "hunter2"}"#,
            r#"{"resource": {}, "hunter2": {}}"#,
            r#""hunter2""#,
            r#"["hunter2"]"#,
            "\"hunter2",
            "%hunter2",
            "hunter2\0",
            "{\"resource\": \"hunter2\",",
        ];
        for text in texts {
            let key = DocumentKey::new(Kind::Xds, "secrets/a");
            let rejection = parse(&key, text.as_bytes(), &Limits::default())
                .unwrap_err()
                .to_string();
            assert!(!rejection.contains("hunter"), "{text}: {rejection}");
        }
        let key = DocumentKey::new(Kind::Xds, "secrets/a");
        let rejection = |bytes: &[u8]| parse(&key, bytes, &Limits::default()).unwrap_err().to_string();
        assert_eq!(
            rejection(b"{\"resource\":\n {}"),
            "not valid JSON at line 2, column 3 (the text may be a secret and is not quoted)"
        );
        assert_eq!(
            rejection(b"\xff\xfe"),
            "found bytes that are not UTF-8, expected an object in JSON or YAML"
        );
        assert_eq!(
            rejection(br#"{"resorce": {}}"#),
            r#"found an unknown field, did you mean "resource"?"#
        );
    }

    #[test]
    fn what_is_wrong_around_the_resource_is_named() {
        let rejected = |document: Value| parsed("clusters/a", &document).unwrap_err();
        assert_eq!(
            rejected(json!({ "resouce": {} })),
            r#"resouce: unknown field, did you mean "resource"?"#
        );
        assert_eq!(
            rejected(json!({})),
            r#"resource: missing, expected the resource, an object with its "@type""#
        );
        assert_eq!(
            rejected(json!({ "resource": "hunter2" })),
            r#"resource: found a string, expected the resource, an object with its "@type""#
        );
        assert_eq!(
            rejected(json!({ "resource": {}, "aliases": ["a", "a"] })),
            r#"aliases[1]: found the string "a", expected each alias once"#
        );
        assert!(
            rejected(json!({ "resource": {}, "ttl": 5 })).starts_with("ttl: found the number 5, expected a duration")
        );
    }
}
