//! Texts of packages and operators, and what plugins print.

use std::sync::OnceLock;

use photondb_plugin_sdk::calls::{MAX_MESSAGE, escape, quote};
use photondb_plugin_sdk::manifest::Manifest;
use photondb_sandbox_profiles::{KernelFeatures, Permissions, Profiles};
use photondb_server::fuzzing;

/// A `plugin.toml`.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(manifest) = Manifest::parse(text) else { return };
    let name = &manifest.plugin.name;
    assert!((1..=32).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')));
    assert!(!manifest.plugin.executable.contains('/') && !manifest.plugin.executable.contains('\0'));
}

/// A profile in the operator's directory, resolved and compiled.
pub fn profile(bytes: &[u8]) {
    static BUILTIN: OnceLock<(Profiles, KernelFeatures)> = OnceLock::new();
    let (builtin, kernel) = BUILTIN.get_or_init(|| (Profiles::builtin(), KernelFeatures::probe()));
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("fuzz.toml"), bytes).expect("written");
    let mut profiles = builtin.clone();
    if profiles.load_dir(directory.path()).is_err() {
        return;
    }
    for name in profiles.names().into_iter().filter(|name| builtin.get(name).is_none()) {
        if let Ok(resolved) = profiles.resolve(name, &Permissions::default()) {
            let _ = resolved.compile(kernel);
        }
    }
}

/// A `photondb.toml`.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(message) = fuzzing::config(text) {
        assert!(!message.is_empty());
    }
}

/// What a plugin prints, in pieces, and says in its errors.
pub fn plugin_output(bytes: &[u8]) {
    let size = bytes.first().map_or(1, |size| usize::from(*size).max(1));
    for line in fuzzing::lines(bytes.chunks(size)) {
        let shown = escape(&line);
        assert!(!shown.chars().any(char::is_control));
    }
    assert!(quote(&String::from_utf8_lossy(bytes)).len() <= MAX_MESSAGE);
}
