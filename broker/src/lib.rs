#![doc = include_str!("../manual/README.md")]

pub mod abroad;
pub mod acls;
pub mod api;
pub mod authorize;
pub mod broker;
pub mod broker_config;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod dispatch;
pub mod fetch_session;
pub mod groups;
pub mod http;
pub mod keys;
pub mod login;
pub mod manual;
pub mod net;
pub mod producers;
mod quickstart_files;
pub mod session;
pub mod sts;
pub mod telemetry;
pub mod tenancy;
pub mod topic_config;
