//! What the operator sees: metrics and the process log. Neither carries a tenant's names, keys or bytes.

mod log;
mod metrics;

pub use log::start_log;
pub use metrics::{ApiLabel, DecisionLabel, Metrics, ShadowLabel, TenantApi, TenantLabel};
