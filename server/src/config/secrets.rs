//! Secrets of plugins: files that the server reads and hands over, since a confined plugin can't open them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The longest secret, in bytes.
const LONGEST: u64 = 64 << 10;

/// The text of a secret's file, without the space around it.
///
/// # Errors
/// When it can't be read, is no text, too long, or may be read by others than its owner.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let wrong = |problem: String| format!("{}: {problem}", path.display());
    let mut file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(wrong(format!("it must be a file of {LONGEST} bytes at most")));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(wrong(format!("its mode is {mode:03o}, so that others can read it: chmod 600 it")));
    }
    let mut text = String::new();
    file.by_ref().take(LONGEST).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_read_if_nobody_else_can_read_it() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("secret");
        fs::write(&path, "  abc\n").expect("written");
        for mode in [0o604, 0o640, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
            assert!(read(&path).expect_err("too open").ends_with("chmod 600 it"));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("changed");
        assert_eq!(read(&path).as_deref(), Ok("abc"));
        fs::write(&path, [0xff]).expect("written");
        assert!(read(&path).is_err());
        fs::write(&path, vec![b'a'; 70_000]).expect("written");
        assert!(read(&path).expect_err("too long").contains("65536 bytes at most"));
        assert!(read(folder.path()).expect_err("no file").contains("must be a file"));
        assert!(read(&folder.path().join("absent")).is_err());
    }
}
