//! Finds plugins in the configured directories. Ignores nothing silently.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use photondb_plugin_host::spawn::{Use, memfd};
use photondb_plugin_sdk::manifest::Manifest;

/// The file that makes a folder a plugin.
const MANIFEST: &str = "plugin.toml";
/// A manifest is some hundred bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// The largest executable that is taken.
const MAX_EXECUTABLE_BYTES: u64 = 512 << 20;

/// A plugin as it lies on the disk, read once: what runs is what was read.
#[derive(Clone, Debug)]
pub struct Package {
    /// Where it was found.
    pub directory: PathBuf,
    /// What it says about itself.
    pub manifest: Manifest,
    /// A sealed copy of the executable.
    pub executable: Arc<OwnedFd>,
}

/// What lies in a plugin directory.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a handful of them exist, each for a moment")]
pub enum Found {
    /// A plugin.
    Package(Package),
    /// A folder whose manifest is readable enough to have a name, and that can't run.
    Broken {
        /// The plugin's name.
        name: String,
        /// Where it was found.
        directory: PathBuf,
        /// One sentence.
        reason: String,
    },
    /// Something else.
    Ignored {
        /// What.
        path: PathBuf,
        /// One sentence.
        reason: String,
    },
}

/// Everything in the directories, in their order, and by name within each.
#[must_use]
pub fn scan(directories: &[PathBuf]) -> Vec<Found> {
    directories.iter().flat_map(|directory| scan_one(directory)).collect()
}

fn scan_one(directory: &Path) -> Vec<Found> {
    let ignored = |path: &Path, reason: String| Found::Ignored { path: path.to_owned(), reason };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return vec![ignored(directory, "there is no such directory; remove it from [plugins] paths".into())];
        }
        Err(error) => return vec![ignored(directory, format!("can't be read: {error}"))],
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| match path.is_dir() {
            true => load(path),
            false => ignored(path, format!("not a plugin: a plugin is a folder with a {MANIFEST}")),
        })
        .collect()
}

/// The plugin in one folder.
#[must_use]
pub fn load(directory: &Path) -> Found {
    let ignored = |reason: String| Found::Ignored { path: directory.to_owned(), reason };
    let text = match read(&directory.join(MANIFEST), MAX_MANIFEST_BYTES) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) => return ignored(format!("{MANIFEST} is not UTF-8 text")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return ignored(format!("no {MANIFEST} in it")),
        Err(error) => return ignored(format!("{MANIFEST} can't be read: {error}")),
    };
    let manifest = match Manifest::parse(&text) {
        Ok(manifest) => manifest,
        Err(error) => return ignored(format!("{MANIFEST}: {error}")),
    };
    let name = manifest.plugin.name.clone();
    let executable = directory.join(&manifest.plugin.executable);
    match read(&executable, MAX_EXECUTABLE_BYTES).and_then(|bytes| memfd(&name, &bytes, Use::Executable)) {
        Ok(copy) => Found::Package(Package { directory: directory.to_owned(), manifest, executable: Arc::new(copy) }),
        Err(error) => {
            let reason = format!("its executable {} can't be used: {error}", executable.display());
            Found::Broken { name, directory: directory.to_owned(), reason }
        }
    }
}

/// A regular file, at most `limit` bytes. Does not wait at a FIFO.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("has more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST_TEXT: &str = "[plugin]\nname = \"a\"\nversion = \"1.0.0\"\nprotocol = 1\nexecutable = \"a\"\n";

    #[test]
    fn plugins_are_told_from_rubbish() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| directory.path().join(name);
        for name in ["good", "broken", "empty", "rubbish"] {
            fs::create_dir(path(name)).expect("mkdir");
        }
        fs::write(path("good/plugin.toml"), MANIFEST_TEXT).expect("write");
        fs::write(path("good/a"), b"\x7fELF").expect("write");
        fs::write(path("broken/plugin.toml"), MANIFEST_TEXT).expect("write");
        fs::write(path("rubbish/plugin.toml"), b"\xff\xfe").expect("write");
        fs::write(path("file.txt"), b"hello").expect("write");
        let found = scan(&[directory.path().to_owned(), path("absent")]);
        let described: Vec<String> = found
            .iter()
            .map(|found| match found {
                Found::Package(package) => format!("package {}", package.manifest.plugin.name),
                Found::Broken { name, .. } => format!("broken {name}"),
                Found::Ignored { path, .. } => format!("ignored {}", path.file_name().unwrap_or_default().display()),
            })
            .collect();
        assert_eq!(
            described,
            ["broken a", "ignored empty", "ignored file.txt", "package a", "ignored rubbish", "ignored absent"]
        );
    }
}
