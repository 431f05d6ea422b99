//! How operators see and steer a running server.
//!
//! - [`metrics`]: counters as text for Prometheus;
//! - [`status`]: what there is to know of plugins, and [`status::PluginControl`], through which they are changed;
//! - [`protocol`]: the requests and replies of the local socket;
//! - [`socket`]: the local socket `DIR/photondb.sock`, where the command line asks;
//! - [`system_tables`]: the database `rethinkdb`, where queries ask.

pub mod metrics;
pub mod protocol;
pub mod socket;
pub mod status;
pub mod system_tables;
