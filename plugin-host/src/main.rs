//! Confines itself, then becomes a PhotonDB plugin.

fn main() {}
