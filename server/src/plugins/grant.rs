//! Declared AND granted: what a plugin may have.

use bytesize::ByteSize;
use photondb_plugin_sdk::manifest;
use photondb_sandbox_profiles::Permissions;

use crate::config::Grant;

/// What a plugin without a grant of its own may have at most.
const DEFAULT_MEMORY: ByteSize = ByteSize::gib(1);
/// As [`DEFAULT_MEMORY`].
const DEFAULT_THREADS: u32 = 4;

/// What the plugin gets: never more than it declares, never more than the operator grants.
#[must_use]
pub fn grant(declared: &manifest::Permissions, granted: Option<&Grant>) -> Permissions {
    let memory = granted.and_then(|grant| grant.memory).unwrap_or(DEFAULT_MEMORY.as_u64());
    let threads = granted.and_then(|grant| grant.threads).unwrap_or(DEFAULT_THREADS);
    Permissions {
        memory_bytes: declared.memory.as_u64().min(memory),
        threads: u32::from(declared.threads).min(threads).max(1),
        ..Permissions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_side_can_raise_the_other() {
        let declared = manifest::Permissions { memory: ByteSize::mib(64), threads: 8, ..Default::default() };
        let got = |memory: Option<u64>, threads| {
            let permissions = grant(&declared, Some(&Grant { memory, threads, ..Grant::default() }));
            (permissions.memory_bytes >> 20, permissions.threads)
        };
        assert_eq!(got(Some(1 << 40), Some(100)), (64, 8));
        assert_eq!(got(Some(32 << 20), Some(2)), (32, 2));
        assert_eq!(got(None, None), (64, DEFAULT_THREADS));
    }
}
