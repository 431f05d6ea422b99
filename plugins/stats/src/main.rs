//! Statistics functions for PhotonDB: approx, zscore, quantile, histogram and more.

fn main() {}
