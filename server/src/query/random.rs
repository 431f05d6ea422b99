//! Random numbers for queries: for samples and dice, not for secrets.

/// A float in [0, 1).
pub fn fraction() -> f64 {
    rand::random::<f64>()
}

/// An integer below `limit`, or 0 if that is 0.
pub fn below(limit: u64) -> u64 {
    if limit == 0 { 0 } else { rand::random_range(0..limit) }
}
