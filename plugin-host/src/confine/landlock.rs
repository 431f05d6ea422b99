//! The Landlock ruleset: every right of the ABI is handled, so what has no rule is refused.

use std::fs::File;
use std::io;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use photondb_sandbox_profiles::confinement::Confinement;
use photondb_sandbox_profiles::landlock::{LandlockPlan, PathRule};
use photondb_sandbox_profiles::layers::{Layer, Report};
use photondb_sandbox_profiles::profile::Access;

use crate::refusal::Refusal;
use crate::weak;

/// Asks for exactly the planned ABI, as a hard requirement: less than all of it is an error, not a weaker sandbox.
pub fn restrict(asked: &Confinement, report: &mut Report) -> Result<(), Refusal> {
    if weak::leaves_out(Layer::Landlock, report) {
        return Ok(());
    }
    let Some(plan) = &asked.landlock else {
        report.missing(
            Layer::Landlock,
            "not asked for: the operator accepted a machine without it, or this is learning mode",
        );
        return Ok(());
    };
    let mut ruleset =
        create(plan).map_err(|error| Refusal::new(&format!("make a Landlock ruleset of ABI {}", plan.abi), error))?;
    for rule in &plan.rules {
        // The plugin's user may not be able to walk to it; we are there already.
        let is_here = asked.state.as_ref() == Some(&rule.path);
        let path = if is_here { Path::new(".") } else { &rule.path };
        ruleset = add(ruleset, plan, rule, path)?;
    }
    let status = ruleset.restrict_self().map_err(|error| Refusal::new("apply its Landlock ruleset", error))?;
    if status.ruleset != RulesetStatus::FullyEnforced || !status.no_new_privs {
        return Err(Refusal::new("apply its Landlock ruleset", "the kernel enforces less than was asked"));
    }
    check(plan)?;
    report.landlock_abi = plan.abi;
    report.enforced(Layer::Landlock, format!("ABI {}, {} rules", plan.abi, plan.rules.len()));
    Ok(())
}

/// Opens the root directory, which everybody may without Landlock: it must be refused, unless a rule gives it.
fn check(plan: &LandlockPlan) -> Result<(), Refusal> {
    let root = Path::new("/");
    if plan.rules.iter().any(|rule| rule.path == root) {
        return Ok(());
    }
    match File::open(root) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err(Refusal::new("trust its Landlock ruleset", "the root directory can still be opened")),
    }
}

fn create(plan: &LandlockPlan) -> Result<RulesetCreated, RulesetError> {
    let abi = abi(plan);
    let mut ruleset =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(abi))?;
    if abi >= ABI::V4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let created = ruleset.create()?;
    // The plugin is "another program" to the kernel, whose refusals it would not log otherwise.
    if abi >= ABI::V7 { created.log_new_exec(true) } else { Ok(created) }
}

fn add(ruleset: RulesetCreated, plan: &LandlockPlan, rule: &PathRule, path: &Path) -> Result<RulesetCreated, Refusal> {
    let failed = |error: &dyn std::fmt::Display| {
        Refusal::new(
            &format!("permit {} (does it exist, and may the plugin's user see it?)", rule.path.display()),
            error,
        )
    };
    let opened = match PathFd::new(path) {
        Ok(opened) => opened,
        Err(_) if !rule.must_exist => return Ok(ruleset),
        Err(error) => return Err(failed(&error)),
    };
    let mut rights = rights(abi(plan), rule.access);
    if !path.is_dir() {
        rights &= AccessFs::from_file(abi(plan));
    }
    ruleset.add_rule(PathBeneath::new(opened, rights)).map_err(|error| failed(&error))
}

fn rights(abi: ABI, access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::Read => read,
        Access::Execute => read | AccessFs::Execute,
        // Files and directories; no devices, no sockets, no ioctl.
        Access::Write => {
            read | (AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir)
        }
        Access::Device => (read | AccessFs::WriteFile | AccessFs::IoctlDev) & AccessFs::from_all(abi),
    }
}

fn abi(plan: &LandlockPlan) -> ABI {
    match plan.abi {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        // The plan never asks for more than the newest that we tested.
        _ => ABI::V7,
    }
}
