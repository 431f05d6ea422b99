//! What tests with probes share: the program, compiled once, and the confinements to run it in.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{ftruncate, geteuid};
use photondb_plugin_host::probe::Prober;
use photondb_sandbox_profiles::{Confinement, KernelFeatures, Permissions, Profiles, StateDirectory};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// The host under test.
pub const HOST: &str = env!("CARGO_BIN_EXE_photondb-plugin-host");

/// The probe as a static executable: the host that these tests were built with may be a dynamic one. A user who has no
/// compiler names a compiled one in `PHOTONDB_TEST_PROBER`.
pub fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("PHOTONDB_TEST_PROBER") {
        Some(path) => fs::read(path).expect("the program that PHOTONDB_TEST_PROBER names"),
        None => compile(),
    })
}

fn compile() -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prober.rs");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = directory.path().join("prober");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments = ["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "--target", &target, "-o"];
    let status = Command::new(rustc).args(arguments).args([&output, &source]).status().expect("rustc");
    assert!(status.success(), "the static probe does not compile");
    fs::read(output).expect("the probe")
}

/// Two regions, sealed as the server seals them.
pub fn regions() -> (OwnedFd, OwnedFd) {
    let region = |name: &str, more: SealFlag| {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
        ftruncate(fd.as_fd(), 4096).expect("ftruncate");
        let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL | more;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
        fd
    };
    (region("server", SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE)), region("plugin", SealFlag::empty()))
}

pub fn prober(confinement: Confinement) -> Prober {
    Prober::new(Path::new(HOST), program(), regions(), confinement).expect("a prober")
}

pub fn confinement(profile: &str, permissions: &Permissions) -> Confinement {
    let resolved = Profiles::builtin().resolve(profile, permissions).expect("resolve");
    resolved.compile(&KernelFeatures::probe()).expect("compile")
}

/// With the named permissions; the state directory of the one is any directory.
pub fn confinement_with(profile: &str, names: &[&str]) -> Confinement {
    let state = StateDirectory { path: std::env::temp_dir(), bytes: 1 << 20, files: 10 };
    let permissions = Permissions {
        state: names.contains(&"state").then_some(state),
        connect: names.contains(&"connect"),
        ..Permissions::default()
    };
    confinement(profile, &permissions)
}

/// Every way in which this process may start a plugin with this profile.
pub fn ways(profile: &str) -> Vec<(&'static str, Confinement)> {
    let confinement = confinement(profile, &Permissions::default());
    let mut ways = vec![("as the server's user", confinement.clone())];
    if geteuid().is_root() {
        ways.push(("as a user of its own", confinement.run_as(NOBODY, NOBODY)));
    } else {
        eprintln!("skipped: a user of its own for the probe (needs root)");
    }
    ways
}
