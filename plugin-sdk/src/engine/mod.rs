//! Storage engines over a lane: what each operation carries, the plugin's half, and an engine in another process as a
//! [`StorageEngine`](crate::kinds::storage::StorageEngine).
//!
//! All numbers are little-endian; `short` is a u16 length and that many bytes, `long` a u32 length and that many bytes.
//!
//! | operation | request | reply |
//! |---|---|---|
//! | validate | kind (short), options (long: an encoded datum) | |
//! | open | kind (short), directory (short: a name), cache bytes (u64), options (long) | |
//! | remove | directory (short) | |
//! | get | keyspace (short), number of keys (u32), keys (short each) | for each key, as many as fit: 0; or 1 and the value (long); or 2: it takes a scan |
//! | stage | bytes of a batch | |
//! | commit | the (last) bytes of a batch | |
//! | release | numbers (u64 each) | |
//! | scan | snapshot (u64), direction (u8), page bytes (u32), keyspace (short), start (short), 0 or 1 and end (short); then nothing, or a selection | a page |
//! | page | page bytes (u32) | a page |
//! | drop keyspace | keyspace (short) | |
//! | statistics | | an encoded datum |
//! | upkeep | now (f64), most changes (u32), keyspace (short), primary key (short) | groups up to the end, as many as fit |
//!
//! A batch is the number of its keyspaces (u16), those (short each), and its changes up to its end: keyspace (u16), key
//! (short), then 0, or 1 and the value (long).
//!
//! A group is the number of its changes (u16) and those: key (short), before and after, each 0, or 1 and the value (long).
//!
//! A selection is 0 or 1, then if 1 the number of wanted fields (u16) and those (short each); and its ranges up to its end: field
//! (short), lower and upper bound: 0, or 1 (included) or 2 (excluded) and an encoded datum (long). It is left away where it takes
//! more than `LARGEST_SELECTION` bytes: then all is given.
//!
//! A page is entries up to its end: key (short) and value (long). Its completion says `MORE`, `END`, or `PART`: then
//! it is one entry that does not fit, a piece of it: key (short), the bytes of the whole value (u64), and the next bytes.

mod message;
mod remote;
mod scan;
mod served;
#[cfg(test)]
mod tests;

pub use remote::{Connection, RemoteEngine, remove, validate};
pub(crate) use served::Engines;

/// More pages follow.
const MORE: u64 = 0;
/// The last page.
const END: u64 = 1;
/// A piece of one entry; more pages follow.
const PART: u64 = 2;

/// What a reply says of a key that has no value.
const ABSENT: u8 = 0;
/// ... that has the value behind it.
const PRESENT: u8 = 1;
/// ... whose value does not fit into a reply.
const TOO_LARGE: u8 = 2;

/// Upkeep: the engine never wants any.
const UNWANTED: u64 = 0;
/// ... the groups are all there is for now.
const ALL: u64 = 1;
/// ... there are more.
const AND_MORE: u64 = 2;

/// The bit of a commit's argument that asks for the disk.
const HARD: u64 = 1;
/// Between where and what in an error of cause [`Damaged`](crate::Cause::Damaged).
const DAMAGED: &str = ": damaged: ";
/// The longest selection that is sent.
const LARGEST_SELECTION: usize = 64 << 10;
/// Room that a page needs beside the value of its only entry.
const ENTRY_OVERHEAD: usize = 16 + u16::MAX as usize;
