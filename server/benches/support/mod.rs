//! What the benchmarks of this crate share: rounds that alternate, tables, real plugins, vectors.

pub mod confined;
pub mod data;
pub mod machine;
pub mod report;
pub mod rounds;
