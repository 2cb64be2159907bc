//! `lb`: the balancer of a Cluster.

use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    ConsistentHashingLbConfig, LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::{
    LbSubsetFallbackPolicy, LbSubsetSelector,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbSubsetConfig, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig,
    RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster as WireCluster, cluster};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt64Value;

use crate::document::cluster::{LbPolicy, LoadBalancing, LocalityMode};
use crate::proto::message::{duration, uint32};

/// Puts the balancer into a Cluster.
pub(super) fn apply(message: &mut WireCluster, lb: &LoadBalancing) {
    message.lb_policy = lb_policy(lb.policy) as i32;
    message.lb_config = lb_config(lb);
    let common = common_lb_config(lb);
    message.common_lb_config = Some(common).filter(|common| *common != CommonLbConfig::default());
    message.lb_subset_config = (!lb.subsets.is_empty()).then(|| lb_subset_config(lb));
}

/// The health below which Envoy panics, alone; `None`: Envoy's own.
pub(super) fn panic_threshold(lb: &LoadBalancing) -> Option<CommonLbConfig> {
    let value = lb.panic_percent?;
    Some(CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value }),
        ..CommonLbConfig::default()
    })
}

fn lb_policy(policy: LbPolicy) -> cluster::LbPolicy {
    match policy {
        LbPolicy::RoundRobin => cluster::LbPolicy::RoundRobin,
        LbPolicy::LeastRequest => cluster::LbPolicy::LeastRequest,
        LbPolicy::Random => cluster::LbPolicy::Random,
        LbPolicy::RingHash => cluster::LbPolicy::RingHash,
        LbPolicy::Maglev => cluster::LbPolicy::Maglev,
    }
}

/// The parameters of the policy; `None`: all are Envoy's.
fn lb_config(lb: &LoadBalancing) -> Option<LbConfig> {
    let slow_start_config = lb.slow_start.map(|window| SlowStartConfig {
        slow_start_window: Some(duration(window)),
        ..SlowStartConfig::default()
    });
    match lb.policy {
        LbPolicy::RoundRobin => {
            slow_start_config.as_ref()?;
            Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config }))
        }
        LbPolicy::LeastRequest => {
            let config = LeastRequestLbConfig {
                choice_count: lb.choices.map(uint32),
                slow_start_config,
                ..LeastRequestLbConfig::default()
            };
            let is_written = config != LeastRequestLbConfig::default();
            is_written.then_some(LbConfig::LeastRequestLbConfig(config))
        }
        LbPolicy::Random => None,
        LbPolicy::RingHash => {
            let ring = lb.ring?;
            Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                minimum_ring_size: Some(uint64(ring.min)),
                maximum_ring_size: Some(uint64(ring.max)),
                ..RingHashLbConfig::default()
            }))
        }
        LbPolicy::Maglev => {
            let table_size = Some(uint64(lb.table?));
            Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }))
        }
    }
}

fn common_lb_config(lb: &LoadBalancing) -> CommonLbConfig {
    let locality = lb.locality.map(|mode| match mode {
        LocalityMode::ZoneAware => LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
            min_cluster_size: lb.min_zone_size.map(uint64),
            ..ZoneAwareLbConfig::default()
        }),
        LocalityMode::Weighted => LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}),
    });
    let hashing = lb.hash_balance.map(|percent| ConsistentHashingLbConfig {
        hash_balance_factor: Some(uint32(percent)),
        ..ConsistentHashingLbConfig::default()
    });
    CommonLbConfig {
        healthy_panic_threshold: lb.panic_percent.map(|value| Percent { value }),
        consistent_hashing_lb_config: hashing,
        locality_config_specifier: locality,
        ..CommonLbConfig::default()
    }
}

/// A request that names no subset goes to any endpoint; without this, the answer would be 503.
fn lb_subset_config(lb: &LoadBalancing) -> LbSubsetConfig {
    let selector = |keys: &Vec<String>| LbSubsetSelector {
        keys: keys.clone(),
        ..LbSubsetSelector::default()
    };
    LbSubsetConfig {
        fallback_policy: LbSubsetFallbackPolicy::AnyEndpoint as i32,
        subset_selectors: lb.subsets.iter().map(selector).collect(),
        locality_weight_aware: lb.locality == Some(LocalityMode::Weighted),
        ..LbSubsetConfig::default()
    }
}

fn uint64(value: u32) -> UInt64Value {
    UInt64Value {
        value: u64::from(value),
    }
}
