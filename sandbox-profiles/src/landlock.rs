//! Which Landlock ABI to ask for, and when a missing one means refusal.
//!
//! We ask for a fixed ABI, the newest that we tested, never for "everything that the kernel knows": a right that a
//! newer kernel adds is one that nobody has tried with a plugin.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::ProfileError;
use crate::profile::Access;

/// The newest ABI that we tested (Linux 6.15).
pub const NEWEST_TESTED_ABI: u32 = 7;

/// From here on signals and abstract sockets are scoped: grade A.
pub const SCOPED_ABI: u32 = 6;

/// A ruleset, as data. Every right of `abi` is handled, so what has no rule is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LandlockPlan {
    /// The ABI to ask for, as a hard requirement.
    pub abi: u32,
    /// Paths that may be opened. Empty in the strict profile: a memfd is executed without a rule.
    pub rules: Vec<PathRule>,
}

/// A path and what may be done with it and below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct PathRule {
    pub path: PathBuf,
    pub access: Access,
    /// Whether a missing path is an error (a permission) or passed over (a profile's list of usual places).
    pub must_exist: bool,
}

/// Chooses the ABI for `rules` on a kernel that gives `kernel_abi` (0: none).
///
/// # Errors
/// [`ProfileError::LandlockTooOld`] if a rule needs more than the kernel gives: whoever is granted files on a kernel
/// that cannot keep him to them would have more than was granted.
pub fn plan(kernel_abi: u32, rules: Vec<PathRule>) -> Result<LandlockPlan, ProfileError> {
    for rule in &rules {
        let (needed, linux) = needed_abi(rule.access);
        if kernel_abi < needed {
            return Err(ProfileError::LandlockTooOld {
                found: kernel_abi,
                needed,
                linux,
                permission: format!("access to {}", rule.path.display()),
            });
        }
    }
    Ok(LandlockPlan { abi: kernel_abi.min(NEWEST_TESTED_ABI), rules })
}

/// The ABI without which a grant cannot be kept to: before 3 a file that may be read may be truncated, before 5 a
/// device that may be read may be controlled.
fn needed_abi(access: Access) -> (u32, &'static str) {
    match access {
        Access::Execute => (1, "5.13"),
        Access::Read => (2, "5.19"),
        Access::Write => (3, "6.2"),
        Access::Device => (5, "6.10"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(access: Access) -> Vec<PathRule> {
        vec![PathRule { path: "/srv".into(), access, must_exist: true }]
    }

    #[test]
    fn the_newest_tested_abi_is_the_most_that_is_asked_for() {
        for (kernel, asked) in [(1, 1), (6, 6), (7, 7), (9, 7)] {
            assert_eq!(plan(kernel, Vec::new()).unwrap().abi, asked);
        }
    }

    #[test]
    fn grants_need_the_abi_that_keeps_them() {
        assert!(plan(1, rule(Access::Execute)).is_ok());
        assert!(plan(2, rule(Access::Write)).unwrap_err().to_string().contains("6.2"));
        assert!(plan(3, rule(Access::Write)).is_ok());
        assert!(plan(4, rule(Access::Device)).is_err());
    }
}
