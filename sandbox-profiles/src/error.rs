use std::path::PathBuf;

use crate::layers::Layer;

/// A profile that could not be read, joined or compiled. Each message says what to write instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum ProfileError {
    #[error("{path}: cannot be read ({source}); check that the path exists and that the server's user may read it", path = .path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("{file}: {message}")]
    Parse { file: String, message: String },

    #[error("{file}: unknown key `{key}` in {place}; did you mean `{nearest}`? known keys: {known}")]
    UnknownKey { file: String, place: String, key: String, nearest: String, known: String },

    #[error("{file}: profile `{name}` extends `{parent}`, which does not exist; known profiles: {known}")]
    UnknownParent { file: String, name: String, parent: String, known: String },

    #[error("profiles extend each other in a circle: {chain}; remove one `extends`")]
    ExtendsCycle { chain: String },

    #[error("there is no profile `{name}`; did you mean `{nearest}`? known profiles: {known}")]
    UnknownProfile { name: String, nearest: String, known: String },

    #[error("{file}: profile `{name}` is already defined by {other}; choose another name, or `extends = \"{name}\"`")]
    DuplicateProfile { file: String, name: String, other: String },

    #[error("{file}: `{call}` is not a system call of x86-64 or aarch64; did you mean `{nearest}`?")]
    UnknownCall { file: String, call: String, nearest: String },

    #[error("{file}: `{call}` appears twice; write one entry with several `when` alternatives")]
    DuplicateCall { file: String, call: String },

    #[error("{file}: `{call}` cannot be allowed: the plugin host calls it to see that the filter is in force")]
    ReservedCall { file: String, call: String },

    #[error("{file}: `{call}` cannot be allowed, nor its refusal be softened, by any profile: {why}; remove the entry")]
    NeverAllowed { file: String, call: String, why: String },

    #[error("{file}: `{name}` cannot be a profile's name; use small letters, digits, `-` and `_`, a letter first")]
    BadName { file: String, name: String },

    #[error("{file}: rule for `{call}`: {message}")]
    BadRule { file: String, call: String, message: String },

    #[error(
        "profile `{profile}` has no call that opens a file, so the permission to use {path} cannot be given; \
         use a profile that extends `dynamic`, or the state store", path = .path.display()
    )]
    CannotOpenFiles { profile: String, path: PathBuf },

    #[error("{path} is not an absolute path; name permitted paths from the root", path = .path.display())]
    RelativePath { path: PathBuf },

    #[error(
        "a memory permission of {bytes} bytes is below the {minimum} that a plugin process needs to start; grant more"
    )]
    TooLittleMemory { bytes: u64, minimum: u64 },

    #[error(
        "this kernel has no Landlock, which profile `{profile}` needs; use Linux 5.13 or newer with Landlock enabled, or \
         accept the weaker sandbox for this plugin alone with `accept_degraded = {{ NAME = [\"landlock\"] }}` in [sandbox]"
    )]
    LandlockMissing { profile: String },

    #[error(
        "this kernel has Landlock ABI {found}, and {permission} needs ABI {needed} (Linux {linux}); run a newer kernel or \
         do not grant it (`accept_degraded` is no way around this)"
    )]
    LandlockTooOld { found: u32, needed: u32, linux: &'static str, permission: String },

    #[error("{layer} cannot be given up: a plugin without it is never started; remove it from `accept_degraded`")]
    NotNegotiable { layer: Layer },

    #[error(
        "this kernel has no seccomp filter mode, without which no plugin is started; use a kernel with CONFIG_SECCOMP_FILTER"
    )]
    SeccompMissing,

    #[error("plugins cannot be confined on `{arch}`; supported: x86_64, aarch64")]
    UnsupportedArch { arch: String },

    #[error(
        "profile `{profile}` compiles to {length} instructions, more than the kernel's 4096; allow fewer calls or simpler rules"
    )]
    ProgramTooLong { profile: String, length: usize },

    #[error("internal error while compiling profile `{profile}`: {message}; please report it")]
    Internal { profile: String, message: String },
}

/// The entry of `known` that differs least from `name`: what the author most likely meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    known.into_iter().min_by_key(|candidate| distance(name, candidate)).unwrap_or_default().to_owned()
}

/// Levenshtein distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn nearest_is_the_likely_typo() {
        assert_eq!(nearest("extend", ["extends", "allow", "deny"]), "extends");
        assert_eq!(nearest("opennat", ["open", "openat", "openat2"]), "openat");
    }
}
