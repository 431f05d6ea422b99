//! Records what a traced process does to the files of a directory.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nix::libc::{self, user_regs_struct};
use nix::unistd::Pid;

use super::record::{FileId, Op, Target};

/// A call that has begun.
enum Pending {
    /// It makes a file of that name.
    Create(PathBuf),
    /// It writes at most so much.
    Write { file: FileId, offset: u64, data: Vec<u8>, length: u64 },
    /// It does what is known already.
    Whole(Op),
}

/// What was done so far below `root`, an absolute path without links.
pub(super) struct Recorder {
    pid: Pid,
    root: PathBuf,
    memory: File,
    /// The last file that had the number of an inode: numbers are used again.
    files: HashMap<u64, FileId>,
    made: usize,
    pending: HashMap<Pid, Pending>,
    pub(super) ops: Vec<Op>,
}

impl Recorder {
    /// Of a process that is traced. What is there already counts as done, and as put on the disk.
    pub(super) fn new(pid: Pid, root: &Path) -> anyhow::Result<Self> {
        let memory = File::open(format!("/proc/{pid}/mem")).context("reading its memory")?;
        let (files, pending) = (HashMap::new(), HashMap::new());
        let mut recorder = Self { pid, root: root.to_owned(), memory, files, made: 0, pending, ops: Vec::new() };
        recorder.find(root)?;
        Ok(recorder)
    }

    fn find(&mut self, directory: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(directory)? {
            let (path, found) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if found.is_dir() {
                self.ops.push(Op::CreateDirectory(path.clone()));
                self.find(&path)?;
                continue;
            }
            self.done(Pending::Create(path.clone()), found.ino())?;
            let file = self.made - 1;
            self.ops.push(Op::Length(file, found.len()));
            let content = File::open(&path)?;
            let mut block = [0; 4096];
            for offset in (0..found.len()).step_by(block.len()) {
                let read = (found.len() - offset).min(block.len() as u64) as usize;
                content.read_exact_at(&mut block[..read], offset)?;
                // A journal that was allocated ahead is zeros, mostly.
                if block[..read].iter().any(|byte| *byte != 0) {
                    self.ops.push(Op::Write { file, offset, data: block[..read].to_vec(), is_longer: false });
                }
            }
            self.ops.push(Op::Sync { target: Target::File(file), before: self.ops.len(), is_data: false });
        }
        let target = Target::Directory(directory.to_owned());
        self.ops.push(Op::Sync { target, before: self.ops.len(), is_data: false });
        Ok(())
    }

    /// A thread enters a call, or leaves it.
    pub(super) fn called(&mut self, thread: Pid, registers: &user_regs_struct, is_entered: bool) -> anyhow::Result<()> {
        if is_entered {
            if let Some(pending) = self.begun(registers).with_context(|| format!("call {}", registers.orig_rax))? {
                self.pending.insert(thread, pending);
            }
            return Ok(());
        }
        match self.pending.remove(&thread) {
            Some(pending) if registers.rax.cast_signed() >= 0 => {
                let result = match pending {
                    Pending::Create(_) => fs::metadata(format!("/proc/{}/fd/{}", self.pid, registers.rax))?.ino(),
                    _ => registers.rax,
                };
                self.done(pending, result)
            }
            _ => Ok(()),
        }
    }

    fn begun(&mut self, registers: &user_regs_struct) -> anyhow::Result<Option<Pending>> {
        let user_regs_struct { rdi, rsi, rdx, r10, .. } = *registers;
        let at_cwd = i64::from(libc::AT_FDCWD).cast_unsigned();
        Ok(match registers.orig_rax.cast_signed() {
            // The acknowledgement counts from here on: what is done meanwhile is after it.
            libc::SYS_write if rdi == 1 => {
                let text = self.bytes(rsi, rdx)?;
                self.ops.push(Op::Print(text));
                None
            }
            call @ (libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 | libc::SYS_pwritev) => {
                let Some((file, found)) = self.file(rdi)? else { return Ok(None) };
                let is_one = matches!(call, libc::SYS_write | libc::SYS_pwrite64);
                let data = if is_one { self.bytes(rsi, rdx)? } else { self.gathered(rsi, rdx)? };
                let is_placed = matches!(call, libc::SYS_pwrite64 | libc::SYS_pwritev);
                let offset = if is_placed { r10 } else { self.position(rdi, &found)? };
                Some(Pending::Write { file, offset, data, length: found.len() })
            }
            libc::SYS_openat => self.opened(rdi, rsi, rdx)?,
            libc::SYS_ftruncate => self.file(rdi)?.map(|(file, _)| Pending::Whole(Op::Length(file, rsi))),
            call @ (libc::SYS_fsync | libc::SYS_fdatasync) => self.target(rdi)?.map(|(target, _)| {
                let is_data = call == libc::SYS_fdatasync;
                Pending::Whole(Op::Sync { target, before: self.ops.len(), is_data })
            }),
            libc::SYS_rename => self.renamed((at_cwd, rdi), (at_cwd, rsi))?,
            libc::SYS_renameat => self.renamed((rdi, rsi), (rdx, r10))?,
            libc::SYS_renameat2 => {
                ensure!(registers.r8 & u64::from(libc::RENAME_EXCHANGE) == 0, "an exchange of names is not modelled");
                self.renamed((rdi, rsi), (rdx, r10))?
            }
            libc::SYS_unlink | libc::SYS_rmdir => self.path(at_cwd, rdi)?.map(Op::Remove).map(Pending::Whole),
            libc::SYS_unlinkat => self.path(rdi, rsi)?.map(Op::Remove).map(Pending::Whole),
            libc::SYS_mkdir => self.path(at_cwd, rdi)?.map(Op::CreateDirectory).map(Pending::Whole),
            libc::SYS_mkdirat => self.path(rdi, rsi)?.map(Op::CreateDirectory).map(Pending::Whole),
            // It promises nothing of the disk.
            libc::SYS_sync_file_range => None,
            libc::SYS_mmap => {
                let is_written = rdx & libc::PROT_WRITE as u64 != 0 && r10 & libc::MAP_SHARED as u64 != 0;
                let is_file = r10 & libc::MAP_ANONYMOUS as u64 == 0;
                ensure!(!(is_written && is_file && self.file(registers.r8)?.is_some()), "a file is written by mmap");
                None
            }
            libc::SYS_fallocate | libc::SYS_pwritev2 => {
                ensure!(self.file(rdi)?.is_none(), "the call is not modelled");
                None
            }
            libc::SYS_copy_file_range => {
                ensure!(self.file(rdx)?.is_none(), "the call is not modelled");
                None
            }
            libc::SYS_link
            | libc::SYS_linkat
            | libc::SYS_symlink
            | libc::SYS_symlinkat
            | libc::SYS_truncate
            | libc::SYS_io_uring_setup
            | libc::SYS_openat2
            | libc::SYS_creat => bail!("the call is not modelled"),
            _ => None,
        })
    }

    /// The result of a file that was made is its inode, and that of a write how much was written.
    fn done(&mut self, pending: Pending, result: u64) -> anyhow::Result<()> {
        let op = match pending {
            Pending::Create(path) => {
                self.files.insert(result, self.made);
                self.made += 1;
                Op::Create(path, self.made - 1)
            }
            Pending::Write { file, offset, mut data, length } => {
                data.truncate(usize::try_from(result)?);
                let is_longer = offset + data.len() as u64 > length;
                Op::Write { file, offset, data, is_longer }
            }
            Pending::Whole(op) => op,
        };
        self.ops.push(op);
        Ok(())
    }

    fn opened(&self, directory: u64, name: u64, flags: u64) -> anyhow::Result<Option<Pending>> {
        let has = |flag: libc::c_int| flags & flag as u64 != 0;
        ensure!(flags & libc::O_TMPFILE as u64 != libc::O_TMPFILE as u64, "a file without a name is not modelled");
        if !has(libc::O_CREAT) && !has(libc::O_TRUNC) {
            return Ok(None);
        }
        let Some(path) = self.path(directory, name)? else { return Ok(None) };
        Ok(match fs::metadata(&path) {
            Ok(found) if has(libc::O_TRUNC) && !has(libc::O_EXCL) => {
                Some(Pending::Whole(Op::Length(self.known(&found, &path)?, 0)))
            }
            Ok(_) => None,
            Err(_) => has(libc::O_CREAT).then_some(Pending::Create(path)),
        })
    }

    fn renamed(&self, from: (u64, u64), to: (u64, u64)) -> anyhow::Result<Option<Pending>> {
        let (from, to) = match (self.path(from.0, from.1)?, self.path(to.0, to.1)?) {
            (Some(from), Some(to)) => (from, to),
            (None, None) => return Ok(None),
            _ => bail!("something is moved into or out of {}", self.root.display()),
        };
        let file = match fs::metadata(&from) {
            Ok(found) if found.is_file() => Some(self.known(&found, &from)?),
            _ => None,
        };
        Ok(Some(Pending::Whole(Op::Rename { from, to, file })))
    }

    fn known(&self, found: &Metadata, path: &Path) -> anyhow::Result<FileId> {
        let file = self.files.get(&found.ino()).copied();
        file.with_context(|| format!("{} was there before", path.display()))
    }

    /// What a descriptor stands for, where it lies below the root.
    fn target(&self, descriptor: u64) -> anyhow::Result<Option<(Target, Metadata)>> {
        let link = PathBuf::from(format!("/proc/{}/fd/{}", self.pid, descriptor as i32));
        let Ok(path) = fs::read_link(&link) else { return Ok(None) };
        if !path.starts_with(&self.root) {
            return Ok(None);
        }
        let found = fs::metadata(&link)?;
        let target = match found.is_dir() {
            true => Target::Directory(path),
            false => Target::File(self.known(&found, &path)?),
        };
        Ok(Some((target, found)))
    }

    fn file(&self, descriptor: u64) -> anyhow::Result<Option<(FileId, Metadata)>> {
        Ok(match self.target(descriptor)? {
            Some((Target::File(file), found)) => Some((file, found)),
            _ => None,
        })
    }

    /// Where the next write of a descriptor goes.
    fn position(&self, descriptor: u64, found: &Metadata) -> anyhow::Result<u64> {
        let told = fs::read_to_string(format!("/proc/{}/fdinfo/{descriptor}", self.pid))?;
        let value = |key: &str| told.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let flags = i32::from_str_radix(value("flags:").context("no flags")?, 8)?;
        match flags & libc::O_APPEND {
            0 => Ok(value("pos:").context("no position")?.parse()?),
            _ => Ok(found.len()),
        }
    }

    /// The path that a call names, where it lies below the root.
    fn path(&self, directory: u64, name: u64) -> anyhow::Result<Option<PathBuf>> {
        let mut bytes = Vec::new();
        let mut byte = [0];
        // The length is not known, and behind it there may be no memory.
        while bytes.len() < libc::PATH_MAX as usize {
            self.memory.read_exact_at(&mut byte, name + bytes.len() as u64)?;
            if byte == [0] {
                break;
            }
            bytes.push(byte[0]);
        }
        let mut path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        if path.is_relative() {
            let directory = directory as i32;
            let base = if directory == libc::AT_FDCWD { "cwd".to_owned() } else { format!("fd/{directory}") };
            path = fs::read_link(format!("/proc/{}/{base}", self.pid))?.join(path);
        }
        Ok(path.starts_with(&self.root).then_some(path))
    }

    fn bytes(&self, address: u64, length: u64) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length)?];
        self.memory.read_exact_at(&mut bytes, address).context("reading its memory")?;
        Ok(bytes)
    }

    /// The bytes of an array of addresses and lengths.
    fn gathered(&self, address: u64, count: u64) -> anyhow::Result<Vec<u8>> {
        let table = self.bytes(address, count * 16)?;
        let mut bytes = Vec::new();
        for entry in table.chunks_exact(16) {
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap_or_default());
            bytes.extend(self.bytes(word(0), word(8))?);
        }
        Ok(bytes)
    }
}
