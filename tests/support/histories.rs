//! What random histories of replicas write: `tests/it/histories.rs` on a real etcd, `reconcile::plan::tests::replicas`
//! without one.

/// Keys below the prefix of documents, or `services/` and a key below the prefix of registrations; and texts that are
/// good there.
pub const DOCUMENTS: &[(&str, &[&str])] = &[
    ("routes/a", ROUTES),
    ("routes/b", ROUTES),
    ("clusters/x", CLUSTERS),
    ("clusters/y", CLUSTERS),
    ("listeners/l", LISTENERS),
    ("listeners/m", LISTENERS),
    ("groups/edge", &[r#"{"match": [{"id": "edge-*"}]}"#]),
    (
        "defaults",
        &[r#"{"route": {"timeout": "7s"}}"#, r#"{"route": {"timeout": "8s"}}"#],
    ),
    ("services/x/1", &["10.0.0.8:80", "10.0.0.9:80"]),
];

pub const ROUTES: &[&str] = &[
    r#"{"match": "/v1", "to": "x"}"#,
    r#"{"match": "/v2", "to": "y"}"#,
    r#"{"match": "example.com/v1/*", "to": "y", "listeners": ["l"]}"#,
    r#"{"match": "/v1", "to": "http://10.0.0.1:80", "groups": ["edge"]}"#,
];

const CLUSTERS: &[&str] = &[
    r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#,
    r#"{"endpoints": [{"address": "10.0.0.2:80"}], "groups": ["edge"]}"#,
    "{}",
];

/// Both listeners claim the same addresses: the last good text of one may conflict with the latest text of the other.
const LISTENERS: &[&str] = &[r#"{"address": "0.0.0.0:8080"}"#, r#"{"address": "0.0.0.0:8081"}"#];

pub const BAD: &[&str] = &["{", r#"{"match": 5}"#, r#"{"endpoints": 7}"#];

/// So many documents that their deletion at once is held.
pub const MANY: usize = 14;
