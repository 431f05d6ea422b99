//! What every vector index needs: settings that say what they accept, sets of rows, a lock, and a saved form with a
//! checksum.
//!
//! None of it has to be used by an index of one's own.

pub mod lock;
pub mod rows;
pub mod saved;
pub mod settings;

pub use lock::FairLock;
pub use rows::RowSet;
pub use settings::Setting;
