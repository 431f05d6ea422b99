//! From what was typed after `--` to an executable and its arguments, as a shell would find them.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The kernel reads no more of a script's first line.
const SCRIPT_LINE: u64 = 256;

/// A program to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// The file to execute: the interpreter, for a script.
    pub(super) executable: PathBuf,
    /// What follows the program's own name.
    pub(super) arguments: Vec<String>,
    /// A script that the interpreter must be able to read.
    pub(super) script: Option<PathBuf>,
}

/// Why there is no program, with the exit status that shells use for it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct NoProgram {
    pub(super) message: String,
    pub(super) status: u8,
}

impl Program {
    /// Finds `command[0]`: a path if it has a slash, or else a name to be looked for in PATH.
    pub(super) fn find(command: &[String]) -> Result<Self, NoProgram> {
        let [name, arguments @ ..] = command else {
            return Err(NoProgram { message: "no command; write it after `--`".to_owned(), status: 2 });
        };
        let file = look_up(name)?;
        match shebang(&file) {
            None => Ok(Self { executable: file, arguments: arguments.to_vec(), script: None }),
            Some((interpreter, option)) => {
                let script = std::path::absolute(&file).unwrap_or(file);
                let rest = [script.display().to_string()].into_iter().chain(arguments.iter().cloned());
                let arguments = option.into_iter().chain(rest).collect();
                Ok(Self { executable: look_up(&interpreter)?, arguments, script: Some(script) })
            }
        }
    }
}

fn look_up(name: &str) -> Result<PathBuf, NoProgram> {
    if name.contains('/') {
        return executable(PathBuf::from(name));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut candidates = env::split_paths(&path).map(|directory| directory.join(name));
    let found = candidates.find(|candidate| is_executable(candidate));
    found.ok_or_else(|| NoProgram {
        message: format!("there is no program `{name}` in PATH; name it with its path"),
        status: 127,
    })
}

fn executable(path: PathBuf) -> Result<PathBuf, NoProgram> {
    if is_executable(&path) {
        return Ok(path);
    }
    let shown = path.display();
    Err(match fs::metadata(&path) {
        Err(error) => NoProgram { message: format!("{shown}: {error}"), status: 127 },
        Ok(metadata) if metadata.is_dir() => NoProgram { message: format!("{shown} is a directory"), status: 126 },
        Ok(_) => NoProgram { message: format!("{shown} is not executable; `chmod +x` makes it so"), status: 126 },
    })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The interpreter of a script and its one option. The kernel would start it, but could not in a sandbox that may not
/// execute; `env` would look for it in PATH, which is done here for the same reason.
fn shebang(path: &Path) -> Option<(String, Option<String>)> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(SCRIPT_LINE).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?;
    let line = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next()?).trim().to_owned();
    let (interpreter, option) = match line.split_once([' ', '\t']) {
        Some((interpreter, option)) => (interpreter.to_owned(), Some(option.trim().to_owned())),
        None => (line, None),
    };
    let is_env = Path::new(&interpreter).file_name().is_some_and(|name| name == "env");
    match option {
        Some(name) if is_env && !name.starts_with('-') && !name.contains(['=', ' ']) => Some((name, None)),
        option => Some((interpreter, option)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(first_line: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script");
        fs::write(&path, format!("{first_line}\nexit 0\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let path = path.display().to_string();
        (directory, path)
    }

    #[test]
    fn names_are_looked_for_and_paths_are_not() {
        let found = Program::find(&["sh".into(), "-c".into(), "true".into()]).unwrap();
        assert!(found.executable.ends_with("sh") && found.arguments == ["-c", "true"]);
        assert_eq!(Program::find(&["no-such-program".into()]).unwrap_err().status, 127);
        assert_eq!(Program::find(&["/no/such/program".into()]).unwrap_err().status, 127);
        for unusable in ["/etc/passwd", "/etc/"] {
            assert_eq!(Program::find(&[unusable.into()]).unwrap_err().status, 126, "{unusable}");
        }
    }

    #[test]
    fn a_script_becomes_its_interpreter() {
        for line in ["#!/bin/sh", "#! /bin/sh", "#!/usr/bin/env sh"] {
            let (_directory, path) = script(line);
            let found = Program::find(&[path.clone(), "x".into()]).unwrap();
            assert!(found.executable.ends_with("sh"), "{line}: {found:?}");
            assert_eq!((found.arguments, found.script), (vec![path.clone(), "x".into()], Some(path.into())));
        }
        let (_directory, path) = script("#!/bin/sh -e");
        assert_eq!(Program::find(std::slice::from_ref(&path)).unwrap().arguments, ["-e".to_owned(), path]);
        let (_directory, path) = script("#!/no/such/interpreter");
        assert_eq!(Program::find(&[path]).unwrap_err().status, 127);
    }
}
