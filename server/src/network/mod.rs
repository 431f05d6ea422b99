//! What listens on the network.
//!
//! - [`http`]: pages, metrics and the JSON interface;
//! - [`reql`]: the RethinkDB protocol;
//! - [`rpc`]: Cap'n Proto.

pub mod http;
pub mod reql;
pub mod rpc;
