//! What listens on the network.
//!
//! - [`http`]: pages, metrics and the JSON interface;
//! - [`reql`]: the RethinkDB protocol.

pub mod http;
pub mod reql;
