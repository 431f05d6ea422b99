//! Sandbox profiles as data, compiled to what the kernel takes: a seccomp program, a Landlock plan, limits.
//!
//! This crate confines nobody. It reads profiles (TOML, the shipped ones embedded), joins them with the permissions
//! of one plugin, and produces a [`Confinement`]: plain data that the server sends to `photondb-plugin-host`, which
//! applies it to itself and answers with a [`Report`]. It contains no `unsafe`.
//!
//! ```
//! use photondb_sandbox_profiles::{KernelFeatures, Permissions, Profiles};
//!
//! let profiles = Profiles::builtin();
//! let resolved = profiles.resolve("strict", &Permissions::default())?;
//! assert!(resolved.allowed_calls().len() <= 45);
//! let confinement = resolved.compile(&KernelFeatures { landlock_abi: 7, ..KernelFeatures::probe() })?;
//! assert_eq!(confinement.profile, "strict");
//! # Ok::<(), photondb_sandbox_profiles::ProfileError>(())
//! ```
//!
//! # Map
//! - [`profile`]: the TOML model. An allow-list is the only thing it can say: a `deny` entry chooses how a refusal
//!   looks (an errno, a kill, a named stop), never that a call is let through.
//! - [`permissions`]: what one plugin was granted beyond it; files that can only add.
//! - [`resolve`]: `extends`, then the permissions.
//! - [`seccomp`]: policy to BPF. [`verdict`]: what a program answers. [`syscalls`]: names, numbers, constants.
//! - [`landlock`]: which ABI to ask for, and when to refuse. [`limits`]: resource limits.
//! - [`probe`]: what this kernel gives. [`layers`]: what was enforced, and the grade.
//! - [`confinement`]: the messages between server and host, and the descriptor numbers they agree on.
//!
//! # Limits
//! x86-64 and aarch64 only. The seccomp program of the strict profile is about 820 instructions (kernel limit: 4096).
#![forbid(unsafe_code)]

pub mod confinement;
mod describe;
mod error;
pub mod landlock;
pub mod layers;
pub mod limits;
mod never;
pub mod permissions;
pub mod probe;
pub mod profile;
pub mod resolve;
pub mod seccomp;
pub mod syscalls;
pub mod verdict;

pub use confinement::{Confinement, HostReply, Launch, StartMessage};
pub use describe::CallDescription;
pub use error::ProfileError;
pub use layers::{Grade, Layer, LayerReport, Letter, Report};
pub use permissions::{Permissions, StateDirectory};
pub use probe::KernelFeatures;
pub use profile::{Profile, Profiles};
pub use resolve::{Learning, ResolvedProfile};
