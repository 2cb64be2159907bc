//! Whole secrets documents. `tests/data/bad_documents` has the bad ones.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::document::key::Kind;
use crate::document::{Document, Limits, Parsed, parse};

fn pem(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/secrets");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn parsed(document: &Value) -> Parsed {
    let key = DocumentKey::new(Kind::Secrets, "a");
    parse(&key, document.to_string().as_bytes(), &Limits::default()).unwrap()
}

fn secret(document: &Value) -> Secret {
    parsed(document).document.as_secret().unwrap().clone()
}

fn pair(certificate: &str, key: &str) -> Value {
    json!({ "certificate": pem(certificate), "private_key": pem(key) })
}

#[test]
fn every_key_that_envoy_takes_is_taken() {
    for (certificate, key) in [
        ("p256.pem", "p256.key"),
        ("p256.pem", "p256.sec1.key"),
        ("p521.pem", "p521.key"),
        ("rsa2048.pem", "rsa2048.key"),
        ("rsa2048.pem", "rsa2048.pkcs1.key"),
    ] {
        let secret = secret(&pair(certificate, key));
        assert_eq!(secret.shape(), Shape::Certificate, "{key}");
        let Content::Certificate { chain, private_key, .. } = &secret.content else {
            panic!("{secret:?}");
        };
        assert_eq!((&**chain, private_key.expose()), (&*pem(certificate), &*pem(key)));
    }
}

#[test]
fn text_around_the_pem_is_left_out() {
    let bare = secret(&pair("p256.pem", "p256.key"));
    let dressed = json!({
        "certificate": format!("subject=CN=p256\r\n{}", pem("p256.pem").replace('\n', "\r\n")),
        "private_key": format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{}", pem("p256.key")),
    });
    assert_eq!(secret(&dressed), bare);
}

#[test]
fn what_may_be_shown_of_a_certificate_is_read() {
    let secret = secret(&pair("p256.pem", "p256.key"));
    let [certificate] = secret.certificates() else {
        panic!("{secret:?}");
    };
    assert_eq!(certificate.subject, "CN=p256.example.com");
    assert_eq!(
        certificate.names,
        ["p256.example.com", "10.0.0.1", "spiffe://example.org/p256"]
    );
    assert_eq!(certificate.fingerprint.len(), 64);
    let validity = secret.validity();
    assert_eq!(
        (validity.starts, validity.ends),
        (Some(certificate.not_before), Some(certificate.not_after))
    );
    assert_eq!(certificate.not_after - certificate.not_before, 36500 * 24 * 3600);
}

#[test]
fn an_authority_without_a_revocation_list_beside_others_is_a_warning() {
    let both = |ca: &str| parsed(&json!({ "ca": ca, "crl": pem("crl.pem") })).warnings;
    assert_eq!(both(&pem("ca.pem")), [""; 0]);
    assert_eq!(
        both(&(pem("ca.pem") + &pem("rsa2048.pem"))),
        [
            "crl: no revocation list of \"CN=rsa2048.example.com\"; Envoy refuses every certificate that this authority \
          signed"
        ]
    );
}

#[test]
fn authorities_are_of_use_until_the_last_expires_or_a_revocation_list_does() {
    let ends = |document: &Value| secret(document).validity().ends.unwrap();
    let authority = ends(&json!({ "ca": pem("ca.pem") }));
    assert_eq!(
        ends(&json!({ "ca": pem("ca.pem") + &pem("p256.pem") })),
        authority.max(ends(&json!({ "ca": pem("p256.pem") })))
    );
    assert!(ends(&json!({ "ca": pem("ca.pem"), "crl": pem("crl.pem") })) <= authority);
}

#[test]
fn values_are_read() {
    let hash = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=";
    let by_object = secret(&json!({ "users": { "alice": hash, "bob": hash } }));
    let by_text = secret(&json!({ "htpasswd": format!("# people\nbob:{hash}\n\n alice:{hash}\n") }));
    assert_eq!((by_object.shape(), &by_object), (Shape::Users, &by_text));

    let keys = secret(&json!({ "api_keys": { "shop": "0123456789abcdef", "app": ["fedcba9876543210"] } }));
    let Content::ApiKeys(clients) = &keys.content else {
        panic!("{keys:?}");
    };
    assert_eq!(clients["app"][0].expose(), "fedcba9876543210");

    let public = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB" }, { "kty": "new" }] });
    assert_eq!(secret(&json!({ "jwks": public })).shape(), Shape::Jwks);
}

#[test]
fn only_documents_of_used_by_may_name_it() {
    let admits = |used_by: Value, key: &str| {
        let secret = secret(&json!({ "generic": "a", "used_by": used_by }));
        let (word, name) = key.split_once('/').unwrap_or((key, ""));
        secret.admits(&DocumentKey::new(Kind::from_word(word).unwrap(), name))
    };
    assert!(admits(Value::Null, "clusters/pay"));
    assert!(admits(json!(["policies/*", "clusters/pay*"]), "clusters/pay-eu"));
    assert!(!admits(json!(["clusters/pay*"]), "clusters/orders"));
    assert!(!admits(json!(["clusters/pay*"]), "xds/clusters/pay"));
    assert!(admits(json!(["defaults"]), "defaults"));
    assert!(!admits(json!([]), "clusters/pay"));
}

#[test]
fn a_document_is_debugged_without_its_secrets() {
    let shown = |document: &Value| {
        let parsed = parsed(document);
        assert!(matches!(*parsed.document, Document::Secret(_)));
        format!("{parsed:?}")
    };
    let key = shown(&pair("p256.pem", "p256.key"));
    assert!(key.contains("CERTIFICATE") && !key.contains("PRIVATE KEY"), "{key}");
    for document in [
        json!({ "generic": "hunter2hunter2hunter" }),
        json!({ "api_keys": { "shop": "hunter2hunter2hunter" } }),
        json!({ "jwks": { "keys": [{ "kty": "oct", "k": "hunter2hunter2hunter" }] } }),
    ] {
        assert!(!shown(&document).contains("hunter2"), "{document}");
    }
}

/// Every text in the place of every field, none of which is quoted.
#[test]
fn no_value_of_a_secret_is_quoted() {
    let key = DocumentKey::new(Kind::Secrets, "a");
    let values = [
        json!("hunter2"),
        json!(["hunter2"]),
        json!({ "hunter2": "hunter2" }),
        json!({ "keys": [{ "kty": "hunter2", "hunter2": "hunter2" }] }),
        json!("-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n"),
        json!("hunter2:hunter2"),
    ];
    let fields = [
        "certificate",
        "private_key",
        "ca",
        "crl",
        "generic",
        "users",
        "htpasswd",
        "api_keys",
        "jwks",
        "session_tickets",
        "used_by",
        "name",
        "hunter2",
    ];
    for field in fields {
        for value in &values {
            let mut document = json!({ field: value });
            if field == "private_key" {
                document["certificate"] = pem("p256.pem").into();
            }
            if field == "crl" {
                document["ca"] = pem("ca.pem").into();
            }
            if let Err(rejection) = parse(&key, document.to_string().as_bytes(), &Limits::default()) {
                let sentence = rejection.to_string();
                assert!(!sentence.contains("hunter2"), "{sentence}");
            }
        }
    }
}

fn vault(requires_sealed: bool, files: &[(&str, &str)]) -> Vault {
    let keys = sealed::Keys::read("k1 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
    let files = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), Arc::from(*text)))
        .collect();
    Vault::new("/gateway/", Some(keys), requires_sealed, Some(Arc::new(Texts(files))))
}

/// Files by path.
#[derive(Debug)]
struct Texts(BTreeMap<String, Arc<str>>);

impl Files for Texts {
    fn content(&self, _: &DocumentKey, path: &str) -> Result<Bytes, String> {
        self.0
            .get(path)
            .map(|text| Bytes::copy_from_slice(text.as_bytes()))
            .ok_or_else(|| format!("found {path:?}, which is not there"))
    }

    fn warning(&self, _: &DocumentKey) -> Option<String> {
        None
    }
}

fn parsed_with(name: &str, text: &str, vault: &Vault) -> Result<Parsed, String> {
    let key = DocumentKey::new(Kind::Secrets, name);
    crate::document::parse_with(&key, text.as_bytes(), &Limits::default(), vault)
        .map_err(|rejection| rejection.to_string())
}

#[test]
fn a_sealed_document_is_what_was_sealed() {
    let vault = vault(true, &[]);
    let key = DocumentKey::new(Kind::Secrets, "a");
    let text = json!({ "generic": "hunter2", "used_by": ["clusters/*"] }).to_string();
    let sealed = vault.seal(&key, text.as_bytes()).unwrap().unwrap();
    assert!(!sealed.contains("hunter2"));

    let parsed = parsed_with("a", &sealed, &vault).unwrap();
    let opened = parsed.document.as_secret().unwrap();
    assert_eq!(opened.sealed_with.as_deref(), Some("k1"));
    let unsealed = Secret {
        sealed_with: None,
        ..opened.clone()
    };
    assert_eq!(unsealed, secret(&serde_json::from_str(&text).unwrap()));
    assert_eq!(parsed.warnings, [""; 0]);
    assert!(vault.is_stored(&key, sealed.as_bytes(), text.as_bytes()));
    assert!(vault.is_stored(&key, sealed.as_bytes(), sealed.as_bytes()));
    assert!(!vault.is_stored(&key, sealed.as_bytes(), b"{}"));
    assert!(
        !vault.is_stored(&key, text.as_bytes(), text.as_bytes()),
        "it is sealed now"
    );
    assert!(Vault::default().is_stored(&key, text.as_bytes(), text.as_bytes()));

    let unusable =
        "encrypted: found a sealed text that does not open, expected one sealed with that key for this document's key";
    assert_eq!(parsed_with("b", &sealed, &vault).unwrap_err(), unusable);
    assert_eq!(
        parsed_with("a", &sealed, &Vault::default()).unwrap_err(),
        "encrypted: found a sealed document, but the server has no keys (--secret-keys-file)"
    );
    let twice = vault.seal(&key, sealed.as_bytes()).unwrap().unwrap();
    assert!(
        parsed_with("a", &twice, &vault)
            .unwrap_err()
            .starts_with("found an unknown field")
    );
}

#[test]
fn a_secret_in_the_clear_is_a_warning_or_rejected_where_there_are_keys() {
    let clear = r#"{"generic": "hunter2"}"#;
    assert_eq!(
        parsed_with("a", clear, &vault(false, &[])).unwrap().warnings,
        ["not sealed, although the server has keys; \"chancery secret seal\" or a PUT seals it"]
    );
    assert_eq!(
        parsed_with("a", clear, &vault(true, &[])).unwrap_err(),
        "found a secret in the clear, expected a sealed one (--require-sealed-secrets)"
    );
}

#[test]
fn the_content_of_files_is_as_if_it_stood_in_the_document() {
    let (certificate, key) = (pem("p256.pem"), pem("p256.key"));
    let vault = vault(
        true,
        &[
            ("/s/tls.crt", &certificate),
            ("/s/tls.key", &key),
            ("/s/token", "hunter2\n"),
            ("/s/keys", "shop: 0123456789abcdef"),
        ],
    );
    let of_files = |files: Value| parsed_with("a", &json!({ "files": files }).to_string(), &vault);
    let content = |files: Value| of_files(files).unwrap().document.as_secret().unwrap().content.clone();
    assert_eq!(
        content(json!({ "certificate": "/s/tls.crt", "private_key": "/s/tls.key" })),
        secret(&pair("p256.pem", "p256.key")).content
    );
    assert_eq!(
        content(json!({ "generic": "/s/token" })),
        secret(&json!({ "generic": "hunter2" })).content
    );
    assert_eq!(
        content(json!({ "api_keys": "/s/keys" })),
        secret(&json!({ "api_keys": { "shop": "0123456789abcdef" } })).content
    );

    assert_eq!(
        of_files(json!({ "certificate": "/s/tls.crt", "private_key": "/s/token" })).unwrap_err(),
        "files.private_key: found no private key in PEM, expected one"
    );
    assert_eq!(
        of_files(json!({ "generic": "/etc/shadow" })).unwrap_err(),
        "files.generic: found \"/etc/shadow\", which is not there"
    );
    let both = r#"{"generic": "hunter2", "files": {"generic": "/s/token"}}"#;
    assert_eq!(
        parsed_with("a", both, &vault).unwrap_err(),
        "files: found beside a secret, expected one of the two"
    );
    let none = parsed_with("a", r#"{"files": {"generic": "/s/token"}}"#, &Vault::default());
    assert_eq!(
        none.unwrap_err(),
        "files.generic: found a file, but the server reads none (--secret-dir)"
    );
}
