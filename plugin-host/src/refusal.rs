//! Why a host did not become the plugin.

use std::fmt;

/// One sentence for the operator.
#[derive(Debug)]
pub struct Refusal(String);

impl Refusal {
    /// `attempted` completes "the plugin host cannot ...".
    pub fn new(attempted: &str, cause: impl fmt::Display) -> Self {
        Self(format!("the plugin host cannot {attempted}: {cause}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
