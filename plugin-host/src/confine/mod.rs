//! The steps of confinement, a file each.

#[expect(unsafe_code, reason = "takes inherited descriptors by number, and close_range has no safe wrapper")]
pub mod descriptors;
pub mod directory;
pub mod landlock;
pub mod limits;
pub mod namespaces;
#[expect(unsafe_code, reason = "capabilities and keyrings have no safe wrapper")]
pub mod rights;
pub mod root;
#[expect(
    unsafe_code,
    reason = "a filter with a listener, and the two calls with the host's token, are raw system calls"
)]
pub mod seccomp;
pub mod verify;
