//! Resource limits of a plugin process.
//!
//! Memory is limited by RLIMIT_DATA: it counts heap, stacks of threads and other private memory, and does not count
//! shared mappings, so a lane or a vector column of gigabytes costs a plugin nothing of its grant. RLIMIT_AS would
//! count them, and is only a far outer bound. RLIMIT_FSIZE 0 keeps it from growing any file, a memfd included, which no
//! other limit counts; with a state directory it is that directory's quota, for each file. There is no RLIMIT_NPROC here: it counts all processes of a user, the server's included; the
//! host sets it where a user namespace gives the plugin a count of its own.

use serde::{Deserialize, Serialize};

use crate::error::ProfileError;
use crate::permissions::Permissions;
use crate::profile::LimitsTable;

/// Below this a static executable with one thread does not start.
pub const MINIMUM_MEMORY_BYTES: u64 = 4 << 20;

const DEFAULT_OPEN_FILES: u64 = 64;
const DEFAULT_STACK_BYTES: u64 = 8 << 20;
const DEFAULT_EXTRA_ADDRESS_SPACE_BYTES: u64 = 64 << 30;
const DEFAULT_EXTRA_THREADS: u32 = 16;

/// A resource that the kernel limits for each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the kernel's RLIMIT_* names, written out")]
pub enum Resource {
    Data,
    AddressSpace,
    FileSize,
    Core,
    OpenFiles,
    Stack,
    LockedMemory,
    MessageQueue,
    RealtimePriority,
}

/// A limit: soft and hard are the same, or else the plugin could raise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Limit {
    pub resource: Resource,
    pub value: u64,
}

/// The limits for a plugin with these permissions.
///
/// # Errors
/// [`ProfileError::TooLittleMemory`]
pub fn limits(table: &LimitsTable, permissions: &Permissions) -> Result<Vec<Limit>, ProfileError> {
    let memory_bytes = permissions.memory_bytes;
    if memory_bytes < MINIMUM_MEMORY_BYTES {
        return Err(ProfileError::TooLittleMemory { bytes: memory_bytes, minimum: MINIMUM_MEMORY_BYTES });
    }
    let extra = table.extra_address_space_bytes.unwrap_or(DEFAULT_EXTRA_ADDRESS_SPACE_BYTES);
    // Who may write to directories at large is bounded there, not here.
    let file_bytes = match &permissions.state {
        _ if !permissions.write.is_empty() => u64::MAX,
        Some(state) => state.bytes,
        None => 0,
    };
    let values = [
        (Resource::Data, memory_bytes),
        (Resource::AddressSpace, memory_bytes.saturating_add(extra)),
        (Resource::FileSize, file_bytes),
        (Resource::Core, 0),
        (Resource::OpenFiles, table.open_files.unwrap_or(DEFAULT_OPEN_FILES)),
        (Resource::Stack, table.stack_bytes.unwrap_or(DEFAULT_STACK_BYTES)),
        (Resource::LockedMemory, 0),
        (Resource::MessageQueue, 0),
        (Resource::RealtimePriority, 0),
    ];
    Ok(values.into_iter().map(|(resource, value)| Limit { resource, value }).collect())
}

/// The most threads of a plugin that was granted `threads`.
pub fn threads_max(table: &LimitsTable, threads: u32) -> u64 {
    u64::from(threads) + u64::from(table.extra_threads.unwrap_or(DEFAULT_EXTRA_THREADS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permissions::StateDirectory;

    #[test]
    fn memory_is_limited_as_data_and_generously_as_address_space() {
        let limits = limits(&LimitsTable::default(), &Permissions::default()).unwrap();
        let value = |resource| limits.iter().find(|limit| limit.resource == resource).unwrap().value;
        assert_eq!(value(Resource::Data), 256 << 20);
        assert_eq!(value(Resource::AddressSpace), (256 << 20) + (64 << 30));
        assert_eq!(value(Resource::FileSize), 0);
    }

    #[test]
    fn a_state_directory_lets_files_grow_to_its_quota() {
        let state = StateDirectory { path: "/srv/state".into(), bytes: 1 << 30, files: 100 };
        let permissions = Permissions { state: Some(state), ..Permissions::default() };
        let limits = limits(&LimitsTable::default(), &permissions).unwrap();
        assert!(limits.contains(&Limit { resource: Resource::FileSize, value: 1 << 30 }));
    }

    #[test]
    fn too_little_memory_is_refused_with_the_least_that_works() {
        let error = limits(&LimitsTable::default(), &Permissions { memory_bytes: 1 << 20, ..Permissions::default() })
            .unwrap_err()
            .to_string();
        assert!(error.contains("4194304"), "{error}");
    }
}
