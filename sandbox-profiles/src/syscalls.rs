//! Names, numbers and argument constants of system calls, for every architecture that we support.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A processor architecture, as the kernel's audit code names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(non_camel_case_types, reason = "the names that Rust, the kernel and the profiles use")]
pub enum Arch {
    /// 64-bit x86; its filter also refuses the 32-bit entry points and x32.
    x86_64,
    /// 64-bit Arm.
    aarch64,
}

impl Arch {
    /// Every supported architecture.
    pub const ALL: [Self; 2] = [Self::x86_64, Self::aarch64];

    /// The architecture that this code was built for, if it is a supported one.
    pub fn current() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::x86_64),
            "aarch64" => Some(Self::aarch64),
            _ => None,
        }
    }

    /// `AUDIT_ARCH_*`: what the kernel writes in the `arch` field that a filter sees.
    pub fn audit(self) -> u32 {
        match self {
            Self::x86_64 => 0xC000_003E,
            Self::aarch64 => 0xC000_00B7,
        }
    }

    /// The architecture of an `AUDIT_ARCH_*` value.
    pub fn from_audit(audit: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.audit() == audit)
    }

    /// The number of the call `name`, `None` where this architecture has none of that name.
    pub fn number(self, name: &str) -> Option<u32> {
        // The table has an older name for it on one of the two.
        let name = if self == Self::aarch64 && name == "newfstatat" { "fstatat" } else { name };
        let number = match self {
            Self::x86_64 => name.parse::<::syscalls::x86_64::Sysno>().ok()?.id(),
            Self::aarch64 => name.parse::<::syscalls::aarch64::Sysno>().ok()?.id(),
        };
        u32::try_from(number).ok()
    }

    /// The name of call `number`, `None` for numbers newer than our table.
    pub fn name(self, number: u32) -> Option<&'static str> {
        let number = usize::try_from(number).ok()?;
        match self {
            Self::x86_64 => ::syscalls::x86_64::Sysno::new(number).map(|call| call.name()),
            Self::aarch64 => ::syscalls::aarch64::Sysno::new(number).map(|call| call.name()),
        }
    }

    /// The greatest number that our table knows: what is above gets ENOSYS, so that libraries fall back.
    pub fn last_number(self) -> u32 {
        (0..1024).rev().find(|number| self.name(*number).is_some()).unwrap_or(0)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::x86_64 => "x86_64",
            Self::aarch64 => "aarch64",
        })
    }
}

/// Whether any supported architecture has a call of this name.
pub fn is_known(name: &str) -> bool {
    Arch::ALL.iter().any(|arch| arch.number(name).is_some())
}

/// The known call whose name is nearest to `name`.
pub fn nearest(name: &str) -> String {
    let known = Arch::ALL.iter().flat_map(|arch| (0..1024).filter_map(|number| arch.name(number)));
    crate::error::nearest(name, known)
}

/// What a report shows for call `number` seen with audit value `audit`: the name, or the number where we know none.
pub fn describe(audit: u32, number: i32) -> String {
    let name = Arch::from_audit(audit).zip(u32::try_from(number).ok()).and_then(|(arch, number)| arch.name(number));
    name.map_or_else(|| format!("call {number}"), str::to_owned)
}

/// Which argument of `name` is a pointer to a path: lets a report say what a plugin tried to open.
pub fn path_argument(name: &str) -> Option<usize> {
    match name {
        "open" | "creat" | "execve" | "truncate" | "unlink" | "mkdir" | "rmdir" | "chmod" | "chown" | "mknod"
        | "rename" | "link" | "symlink" | "chroot" | "statfs" | "readlink" => Some(0),
        "openat" | "openat2" | "execveat" | "unlinkat" | "mkdirat" | "fchmodat" | "fchownat" | "mknodat"
        | "renameat" | "renameat2" | "linkat" => Some(1),
        _ => None,
    }
}

/// Stands for the plugin's own process id, which only the host knows. Never a real one (the kernel's limit is 2^22), so
/// a program in which it was left matches no process.
pub const OWN_PID: u64 = 0x7FFF_FF01;

/// Stand for the descriptors of a plugin's regions. Never real ones (the kernel's limit is below 2^30), so where they are
/// left, as for a command, no descriptor is meant.
pub const SERVER_REGION: u64 = 0x7FFF_FF05;
/// As [`SERVER_REGION`].
pub const PLUGIN_REGION: u64 = 0x7FFF_FF06;

/// Constants that profiles name. The same on x86-64 and aarch64.
const CONSTANTS: &[(&str, u64)] = &[
    ("OWN_PID", OWN_PID),
    ("PROT_NONE", 0),
    ("PROT_READ", 1),
    ("PROT_WRITE", 2),
    ("PROT_EXEC", 4),
    ("MAP_SHARED", 0x1),
    ("MAP_PRIVATE", 0x2),
    ("MAP_FIXED", 0x10),
    ("MAP_ANONYMOUS", 0x20),
    ("MAP_DENYWRITE", 0x800),
    ("MAP_LOCKED", 0x2000),
    ("MAP_NORESERVE", 0x4000),
    ("MAP_POPULATE", 0x8000),
    ("MAP_STACK", 0x20000),
    ("MAP_FIXED_NOREPLACE", 0x10_0000),
    ("MREMAP_MAYMOVE", 1),
    ("MADV_NORMAL", 0),
    ("MADV_RANDOM", 1),
    ("MADV_SEQUENTIAL", 2),
    ("MADV_WILLNEED", 3),
    ("MADV_DONTNEED", 4),
    ("MADV_FREE", 8),
    ("MADV_HUGEPAGE", 14),
    ("MADV_NOHUGEPAGE", 15),
    ("MADV_DONTDUMP", 16),
    ("FUTEX_WAIT", 0),
    ("FUTEX_WAKE", 1),
    ("FUTEX_WAIT_BITSET", 9),
    ("FUTEX_WAKE_BITSET", 10),
    ("FUTEX_PRIVATE_FLAG", 128),
    ("FUTEX_CLOCK_REALTIME", 256),
    ("F_DUPFD", 0),
    ("F_GETFD", 1),
    ("F_SETFD", 2),
    ("F_GETFL", 3),
    ("F_SETFL", 4),
    ("F_GETLK", 5),
    ("F_SETLK", 6),
    ("F_SETLKW", 7),
    ("F_OFD_GETLK", 36),
    ("F_OFD_SETLK", 37),
    ("F_OFD_SETLKW", 38),
    ("F_DUPFD_CLOEXEC", 1030),
    ("F_GET_SEALS", 1034),
    ("O_RDONLY", 0),
    ("O_WRONLY", 1),
    ("O_RDWR", 2),
    ("O_CREAT", 0o100),
    ("O_EXCL", 0o200),
    ("O_TRUNC", 0o1000),
    ("O_APPEND", 0o2000),
    ("O_NONBLOCK", 0o4000),
    ("O_DSYNC", 0o1_0000),
    ("O_SYNC", 0o401_0000),
    ("O_CLOEXEC", 0o200_0000),
    ("FALLOC_FL_KEEP_SIZE", 1),
    ("RENAME_NOREPLACE", 1),
    ("SOL_SOCKET", 1),
    ("SO_TYPE", 3),
    ("SO_ERROR", 4),
    ("SO_KEEPALIVE", 9),
    ("SO_RCVTIMEO", 20),
    ("SO_SNDTIMEO", 21),
    ("IPPROTO_TCP", 6),
    ("TCP_NODELAY", 1),
    ("FIONBIO", 0x5421),
    ("FIONREAD", 0x541B),
    ("TIOCGWINSZ", 0x5413),
    ("PR_SET_NAME", 15),
    ("PR_GET_NAME", 16),
    ("PR_SET_VMA", 0x5356_4D41),
    ("FIOCLEX", 0x5451),
    ("TCGETS", 0x5401),
    ("TIOCSTI", 0x5412),
    ("TIOCLINUX", 0x541C),
    // Not the same on both: each is the union, which lets O_DIRECT and O_NOFOLLOW through as well. None opens for writing.
    ("O_LARGEFILE", 0x8000 | 0x2_0000),
    ("O_DIRECTORY", 0x1_0000 | 0x4000),
    ("CLONE_VM", 0x100),
    ("CLONE_FS", 0x200),
    ("CLONE_FILES", 0x400),
    ("CLONE_SIGHAND", 0x800),
    ("CLONE_THREAD", 0x1_0000),
    ("CLONE_SYSVSEM", 0x4_0000),
    ("CLONE_SETTLS", 0x8_0000),
    ("CLONE_PARENT_SETTID", 0x10_0000),
    ("CLONE_CHILD_CLEARTID", 0x20_0000),
    ("CLONE_DETACHED", 0x40_0000),
    ("CLOCK_REALTIME", 0),
    ("CLOCK_MONOTONIC", 1),
    ("CLOCK_PROCESS_CPUTIME_ID", 2),
    ("CLOCK_THREAD_CPUTIME_ID", 3),
    ("CLOCK_MONOTONIC_RAW", 4),
    ("CLOCK_REALTIME_COARSE", 5),
    ("CLOCK_MONOTONIC_COARSE", 6),
    ("CLOCK_BOOTTIME", 7),
    ("ARCH_SET_FS", 0x1002),
    ("SERVER_REGION", SERVER_REGION),
    ("PLUGIN_REGION", PLUGIN_REGION),
];

/// The value of `expression`: constant names joined by `|`.
///
/// # Errors
/// The name that is not known, and the nearest one that is.
pub fn constant(expression: &str) -> Result<u64, String> {
    expression.split('|').map(str::trim).try_fold(0, |sum, name| {
        let known = CONSTANTS.iter().find(|(known, _)| *known == name);
        known.map(|(_, value)| sum | value).ok_or_else(|| {
            let nearest = crate::error::nearest(name, CONSTANTS.iter().map(|(known, _)| *known));
            format!("`{name}` is not a constant that profiles can name; did you mean `{nearest}`?")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_in_both_directions() {
        for arch in Arch::ALL {
            for number in 0..=arch.last_number() {
                if let Some(name) = arch.name(number) {
                    assert_eq!(arch.number(name), Some(number), "{arch} {name}");
                }
            }
            assert!(arch.last_number() >= 462, "{arch} table is too old");
        }
        assert_eq!(Arch::x86_64.number("openat"), Some(257));
        assert_eq!(Arch::aarch64.number("openat"), Some(56));
        assert_eq!(Arch::aarch64.number("open"), None);
        assert_eq!(describe(Arch::x86_64.audit(), 257), "openat");
        assert_eq!(describe(Arch::x86_64.audit(), -1), "call -1");
    }

    #[test]
    fn constants_join_and_unknown_ones_name_the_nearest() {
        assert_eq!(constant("PROT_READ|PROT_WRITE"), Ok(3));
        assert!(constant("PROT_REED").is_err_and(|message| message.contains("PROT_READ")));
    }
}
