//! What a process did to the files of a directory, in order.

use std::path::{Path, PathBuf};

/// A file that was made, whatever its name is meanwhile.
pub type FileId = usize;

/// What can be put on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file.
    File(FileId),
    /// A directory.
    Directory(PathBuf),
}

/// One thing that was done, successfully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A file was made.
    Create(PathBuf, FileId),
    /// A directory was made.
    CreateDirectory(PathBuf),
    /// Something got another name, in place of whatever had it.
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
        /// The file; `None` for a directory.
        file: Option<FileId>,
    },
    /// A file or a directory was removed.
    Remove(PathBuf),
    /// Bytes of a file were written.
    Write {
        /// The file.
        file: FileId,
        /// Where.
        offset: u64,
        /// What.
        data: Vec<u8>,
        /// Whether the file is longer than before.
        is_longer: bool,
    },
    /// A file got another length.
    Length(FileId, u64),
    /// Everything that was done to a target was put on the disk.
    Sync {
        /// The target.
        target: Target,
        /// How many things were done when the call began: what came later may not be on the disk.
        before: usize,
        /// Whether all that it has beside its bytes and its length may be left out (`fdatasync`).
        is_data: bool,
    },
    /// Something was printed, or is about to be.
    Print(Vec<u8>),
}

/// What was done, in order.
#[derive(Clone, Debug)]
pub struct Record {
    /// All of it.
    pub ops: Vec<Op>,
    /// So many of them stand for what was there before.
    pub found: usize,
}

impl Op {
    /// Whether it changes names or lengths, which the file system keeps in its journal.
    #[must_use]
    pub fn is_in_journal(&self) -> bool {
        match self {
            Self::Create(..) | Self::CreateDirectory(_) | Self::Rename { .. } | Self::Remove(_) | Self::Length(..) => {
                true
            }
            Self::Write { is_longer, .. } => *is_longer,
            Self::Sync { .. } | Self::Print(_) => false,
        }
    }

    /// Whether a sync of that target has to put it on the disk.
    #[must_use]
    pub fn is_of(&self, target: &Target, is_data: bool) -> bool {
        let is_file = |file: &FileId| *target == Target::File(*file);
        let is_in = |path: &Path| matches!(target, Target::Directory(of) if path.parent() == Some(of) || path == of);
        match self {
            Self::Create(path, file) => is_file(file) || is_in(path),
            Self::CreateDirectory(path) | Self::Remove(path) => is_in(path),
            Self::Rename { from, to, file } => {
                is_in(from) || is_in(to) || !is_data && file.as_ref().is_some_and(is_file)
            }
            Self::Write { file, .. } | Self::Length(file, _) => is_file(file),
            Self::Sync { .. } | Self::Print(_) => false,
        }
    }

    /// In a few words.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Create(path, file) => format!("create {} as file {file}", path.display()),
            Self::CreateDirectory(path) => format!("mkdir {}", path.display()),
            Self::Rename { from, to, .. } => format!("rename {} to {}", from.display(), to.display()),
            Self::Remove(path) => format!("remove {}", path.display()),
            Self::Write { file, offset, data, is_longer } => {
                let longer = if *is_longer { ", longer now" } else { "" };
                format!("write file {file}: {} bytes at {offset}{longer}", data.len())
            }
            Self::Length(file, length) => format!("ftruncate file {file} to {length}"),
            Self::Sync { target: Target::File(file), before, is_data } => {
                format!("{} file {file}, all before {before}", if *is_data { "fdatasync" } else { "fsync" })
            }
            Self::Sync { target: Target::Directory(path), before, .. } => {
                format!("fsync {}, all before {before}", path.display())
            }
            Self::Print(text) => format!("print {}", String::from_utf8_lossy(text).trim_end()),
        }
    }
}
