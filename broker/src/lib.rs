#![doc = include_str!("../manual/README.md")]

pub mod api;
pub mod authorize;
pub mod backup;
pub mod broker;
pub mod broker_config;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod fetch_session;
pub mod groups;
pub mod http;
pub mod key_states;
pub mod keys;
pub mod manual;
pub mod net;
mod operate_keys;
pub mod producers;
mod quickstart_files;
pub mod session;
mod starting;
pub mod telemetry;
pub mod tenancy;
pub mod topic_config;
