//! The etcd backend against real etcd processes.

use crate::support::etcd::Etcd;

#[tokio::test]
async fn an_etcd_of_the_tests_keeps_its_data_over_a_restart() {
    let etcd = Etcd::start().await;
    etcd.client().await.put("/a", "1", None).await.expect("put");
    etcd.restart().await;
    assert_eq!(etcd.etcdctl(&["get", "/a", "--print-value-only"]), "1\n");
}
