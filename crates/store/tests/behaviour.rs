//! One behaviour suite for every store: the same operations, the same answers.

use skiff_base::SystemClock;
use skiff_store::EtcdOptions;

#[path = "../../testkit/src/etcd.rs"]
mod etcd_server;
#[path = "behaviour/faults.rs"]
mod faults;
#[path = "behaviour/model.rs"]
mod model;
#[path = "behaviour/properties.rs"]
mod properties;
#[path = "behaviour/scenarios.rs"]
mod scenarios;
mod scratch;

/// A store whose keys may begin with anything, under a prefix in etcd.
fn etcd_options(etcd: &etcd_server::TestEtcd, prefix: &str) -> EtcdOptions {
    EtcdOptions {
        root: String::new(),
        prefix: prefix.into(),
        ..EtcdOptions::new(vec![etcd.url()], SystemClock::shared())
    }
}
