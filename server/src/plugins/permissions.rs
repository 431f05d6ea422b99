//! What a plugin asked for, what it was given, and what the kernel makes of it: `photondb plugin permissions`.

use photondb_plugin_sdk::manifest;
use photondb_sandbox_profiles::LayerReport;
use photondb_sandbox_profiles::landlock::PathRule;
use photondb_sandbox_profiles::limits::Limit;
use serde::{Deserialize, Serialize};

use super::audit::Confined;
use super::grant::OneSided;
use crate::admin::status::GrantedPermissions;
use crate::config::Grant;

/// Everything about one plugin's permissions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PermissionsStatus {
    /// The plugin.
    pub plugin: String,
    /// What its manifest asks for.
    pub declared: Stated,
    /// What the operator gives.
    pub granted: Stated,
    /// What it has: declared and granted.
    pub effective: GrantedPermissions,
    /// Services that it holds a capability for.
    pub services: Vec<String>,
    /// What it asked for and does not have, and why, a sentence each.
    pub withheld: Vec<String>,
    /// What it was given and did not ask for, a sentence each.
    pub unused: Vec<String>,
    /// What the kernel enforces around it; `None`: it has not run.
    pub kernel: Option<Enforced>,
}

/// What one side says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    /// The sandbox profile; of the operator, the one that it may use beside `strict`.
    pub profile: Option<String>,
    /// Private memory.
    pub memory_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u32>,
    /// A directory of its own.
    pub state: bool,
    /// Hosts and ports.
    pub connect: Vec<String>,
    /// What may be queried.
    pub query: Vec<String>,
    /// The server's metrics.
    pub metrics: bool,
}

/// What the kernel enforces around a plugin's process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Enforced {
    /// How well it is confined.
    pub grade: String,
    /// Why not better.
    pub grade_reasons: Vec<String>,
    /// Layers in force, and how.
    pub layers: Vec<LayerReport>,
    /// Layers that were asked for and are not in force, and why.
    pub missing: Vec<LayerReport>,
    /// Calls that the filter lets through.
    pub allowed_calls: usize,
    /// Those with rules for their arguments.
    pub conditional_calls: usize,
    /// Instructions of the filter.
    pub instructions: usize,
    /// Files that may be opened; none: no file at all.
    pub files: Vec<PathRule>,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// The most threads, the SDK's own included.
    pub threads_max: u64,
    /// User and group, where they are not the server's.
    pub user: Option<u32>,
}

/// Both sides, as they stand when a package is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Sides {
    declared: Stated,
    granted: Stated,
    withheld: Vec<String>,
    unused: Vec<String>,
}

impl Sides {
    /// `refusal`: why the plugin gets nothing at all.
    pub(super) fn of(
        name: &str,
        declared: &manifest::Permissions,
        granted: Option<&Grant>,
        refusal: Option<String>,
    ) -> Self {
        let OneSided { not_granted, not_declared } = OneSided::of(name, declared, granted);
        let addresses = |items: &[manifest::Address]| items.iter().map(ToString::to_string).collect();
        let scopes = |items: &[manifest::Scope]| items.iter().map(ToString::to_string).collect();
        let none = Grant::default();
        let grant = granted.unwrap_or(&none);
        Self {
            declared: Stated {
                profile: Some(declared.profile.clone()),
                memory_bytes: Some(declared.memory.as_u64()),
                threads: Some(u32::from(declared.threads)),
                state: declared.state,
                connect: addresses(&declared.connect),
                query: scopes(&declared.query),
                metrics: declared.metrics,
            },
            granted: Stated {
                profile: grant.profile.clone(),
                memory_bytes: grant.memory,
                threads: grant.threads,
                state: grant.state,
                connect: addresses(&grant.connect),
                query: scopes(&grant.query),
                metrics: grant.metrics,
            },
            withheld: refusal.into_iter().chain(not_granted).collect(),
            unused: not_declared,
        }
    }

    pub(super) fn status(
        self,
        plugin: &str,
        effective: GrantedPermissions,
        confined: Option<&Confined>,
    ) -> PermissionsStatus {
        let held = [
            ("query", !effective.query.is_empty()),
            ("connect", !effective.connect.is_empty()),
            ("metrics", effective.metrics),
            ("state", effective.state.is_some()),
        ];
        PermissionsStatus {
            plugin: plugin.to_owned(),
            declared: self.declared,
            granted: self.granted,
            services: held.into_iter().filter(|(_, is_held)| *is_held).map(|(name, _)| name.to_owned()).collect(),
            effective,
            withheld: self.withheld,
            unused: self.unused,
            kernel: confined.map(Enforced::of),
        }
    }
}

impl Enforced {
    fn of(confined: &Confined) -> Self {
        let (confinement, report) = (&confined.confinement, &confined.report);
        let grade = report.grade();
        Self {
            grade: grade.to_string(),
            grade_reasons: grade.reasons,
            layers: report.enforced.clone(),
            missing: report.missing.clone(),
            allowed_calls: confined.resolved.allowed_calls().len(),
            conditional_calls: confined.resolved.conditional_calls(),
            instructions: confinement.seccomp.len(),
            files: confinement.landlock.as_ref().map(|plan| plan.rules.clone()).unwrap_or_default(),
            limits: confinement.limits.clone(),
            threads_max: confinement.threads_max,
            user: confinement.run_as.map(|user| user.uid),
        }
    }
}
