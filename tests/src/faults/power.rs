//! What a power cut leaves of the files of a directory, by a model of what file systems promise.
//!
//! **Bytes.** What was written to a file before its last `fsync` or `fdatasync` is there. Of what was written later, each
//! sector of 512 bytes holds what it held at some moment since, whatever others hold: the system writes pages when and
//! in which order it likes, and a disk never leaves a part of a sector.
//!
//! **Names and lengths** are changes in a journal, and a power cut leaves a beginning of it. ext4 (one running transaction
//! that all changes are part of), xfs (one log) and btrfs (a tree that is replaced at once, and its log of what was
//! synced) all keep them in order, though POSIX promises nothing of the kind. A sync of a file or of a directory puts the
//! journal on the disk up to the last change of that file or directory; later changes may be lost, since a file system
//! need not write its log for a file that has nothing in it. So `fdatasync` of a file whose length stays says nothing
//! about any name, and a new name of a file is sure only after a sync of its directory or a full one of the file.
//!
//! A write behind the end of a file is a change of its length as well: it is seen only if the journal has that. What was
//! never written is zeros. Nothing of this is kinder than those file systems with their default options, except that they
//! also write on their own after a while, which the losses that keep much stand for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use photondb_plugin_sdk::testing::vector::data::Numbers;

use super::record::{FileId, Op, Target};

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// What becomes of that which was not put on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    Everything,
    /// Only the last change is lost.
    Last,
    /// Of the bytes only the last write is there, and all names are.
    Earlier,
    /// Each write is there or not, and some of the names.
    Writes,
    /// Each sector of each write is there or not, and some of the names.
    Sectors,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Everything, Self::Last, Self::Earlier, Self::Writes, Self::Sectors];
}

/// A power cut after the first `moment` of the things that were done.
pub struct Cut<'a> {
    done: &'a [Op],
    loss: Loss,
    /// How many of them the journal has: a change of names or lengths behind them is lost.
    journal: usize,
    /// The last change that was not put on the disk.
    last: Option<usize>,
    /// Up to where what was written to a file is on the disk.
    synced: BTreeMap<FileId, usize>,
    numbers: Numbers,
    /// Of 16 writes or sectors so many are there.
    kept: u64,
}

enum Node {
    Directory,
    File(FileId),
}

impl<'a> Cut<'a> {
    /// The same for the same arguments.
    #[must_use]
    pub fn new(ops: &'a [Op], moment: usize, loss: Loss, seed: u64) -> Self {
        let done = &ops[..moment];
        let (mut sure, mut synced) = (0, BTreeMap::new());
        for op in done {
            let Op::Sync { target, before, is_data } = op else { continue };
            let last = done[..*before].iter().rposition(|op| op.is_in_journal() && op.is_of(target, *is_data));
            sure = sure.max(last.map_or(0, |last| last + 1));
            if let Target::File(file) = target {
                synced.insert(*file, *before);
            }
        }
        let is_lost = |(at, op): (usize, &Op)| match op {
            Op::Write { file, is_longer, .. } => {
                at >= synced.get(file).copied().unwrap_or(0) || *is_longer && at >= sure
            }
            op => op.is_in_journal() && at >= sure,
        };
        let last = (0..moment).rev().find(|&at| is_lost((at, &done[at])));
        let mut numbers = Numbers(seed ^ ((moment as u64) << 8 | loss as u64));
        // The first ones of neighbouring seeds are alike.
        for _ in 0..4 {
            let _ = numbers.draw();
        }
        let journal = match loss {
            Loss::Everything => sure,
            Loss::Last => last.unwrap_or(moment).max(sure),
            Loss::Earlier => moment,
            // Often all of it: what a write needs is then there, and the other writes are what is lost.
            Loss::Writes | Loss::Sectors if numbers.draw().is_multiple_of(2) => moment,
            Loss::Writes | Loss::Sectors => sure + numbers.draw() as usize % (moment - sure + 1),
        };
        let kept = [2, 8, 14, 15][numbers.draw() as usize % 4];
        Self { done, loss, journal, last, synced, numbers, kept }
    }

    /// Makes the files below `to` that the cut leaves of those below `root`.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn leave(mut self, root: &Path, to: &Path) -> io::Result<()> {
        for (path, node) in self.names() {
            let Ok(path) = path.strip_prefix(root) else { continue };
            let path = to.join(path);
            match node {
                Node::Directory => fs::create_dir_all(path)?,
                Node::File(file) => self.write(file, &File::create(path)?)?,
            }
        }
        Ok(())
    }

    fn names(&self) -> BTreeMap<PathBuf, Node> {
        let mut names = BTreeMap::new();
        for op in &self.done[..self.journal] {
            match op {
                Op::Create(path, file) => drop(names.insert(path.clone(), Node::File(*file))),
                Op::CreateDirectory(path) => drop(names.insert(path.clone(), Node::Directory)),
                Op::Remove(path) => drop(names.remove(path)),
                Op::Rename { from, to, .. } => {
                    let moved: Vec<PathBuf> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                    for path in moved {
                        let Some(node) = names.remove(&path) else { continue };
                        let behind = path.strip_prefix(from).unwrap_or(Path::new(""));
                        // An empty path would make it end in a slash.
                        let path = if behind.as_os_str().is_empty() { to.clone() } else { to.join(behind) };
                        names.insert(path, node);
                    }
                }
                Op::Write { .. } | Op::Length(..) | Op::Sync { .. } | Op::Print(_) => {}
            }
        }
        names
    }

    /// The content of one file.
    fn write(&mut self, file: FileId, into: &File) -> io::Result<()> {
        let synced = self.synced.get(&file).copied().unwrap_or(0);
        let is_there = |at: usize, is_longer: bool| at < synced || !is_longer || at < self.journal;
        // The last write that each sector has something of. It has the earlier ones as well: there is one page of it.
        let mut newest: BTreeMap<u64, usize> = BTreeMap::new();
        let (loss, last, kept) = (self.loss, self.last, self.kept);
        for (at, op) in self.done.iter().enumerate().skip(synced) {
            let Op::Write { file: of, offset, data, is_longer } = op else { continue };
            if *of != file || !is_there(at, *is_longer) {
                continue;
            }
            let mut is_drawn = || self.numbers.draw() % 16 < kept;
            let is_kept = match loss {
                Loss::Everything => false,
                Loss::Last => Some(at) != last,
                Loss::Earlier => Some(at) == last,
                Loss::Writes => is_drawn(),
                Loss::Sectors => true,
            };
            for sector in offset / SECTOR..(offset + data.len() as u64).div_ceil(SECTOR) {
                if is_kept && (loss != Loss::Sectors || is_drawn()) {
                    newest.insert(sector, at);
                }
            }
        }
        let mut length = 0;
        for (at, op) in self.done.iter().enumerate() {
            match op {
                Op::Length(of, wanted) if *of == file && (at < self.journal || at < synced) => {
                    length = *wanted;
                    into.set_len(length)?;
                }
                Op::Write { file: of, offset, data, is_longer } if *of == file && is_there(at, *is_longer) => {
                    if at < synced {
                        into.write_all_at(data, *offset)?;
                        length = length.max(offset + data.len() as u64);
                        continue;
                    }
                    // Behind the end there is nothing: the length that it was written below is lost.
                    let end = if *is_longer { u64::MAX } else { length };
                    for (start, part) in sectors(*offset, data) {
                        if start < end && newest.get(&(start / SECTOR)).is_some_and(|&newest| newest >= at) {
                            let part = &part[..part.len().min((end - start) as usize)];
                            into.write_all_at(part, start)?;
                            length = length.max(start + part.len() as u64);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The parts of a write that lie in one sector each, and where they begin.
fn sectors(offset: u64, mut data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut start = offset;
    std::iter::from_fn(move || {
        let until = ((start / SECTOR + 1) * SECTOR - start) as usize;
        let (part, rest) = data.split_at(until.min(data.len()));
        let found = (start, part);
        (start, data) = (start + part.len() as u64, rest);
        (!part.is_empty()).then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/r";

    fn at(name: &str) -> PathBuf {
        Path::new(ROOT).join(name)
    }

    fn write(file: FileId, offset: u64, data: &[u8], is_longer: bool) -> Op {
        Op::Write { file, offset, data: data.to_vec(), is_longer }
    }

    fn sync(target: Target, before: usize, is_data: bool) -> Op {
        Op::Sync { target, before, is_data }
    }

    /// The names and contents that a cut at the end leaves.
    fn left(ops: &[Op], loss: Loss, seed: u64) -> BTreeMap<String, Vec<u8>> {
        let place = tempfile::tempdir().unwrap();
        Cut::new(ops, ops.len(), loss, seed).leave(Path::new(ROOT), place.path()).unwrap();
        let files = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
    }

    fn files<const N: usize>(files: [(&str, &[u8]); N]) -> BTreeMap<String, Vec<u8>> {
        files.into_iter().map(|(name, content)| (name.to_owned(), content.to_vec())).collect()
    }

    #[test]
    fn what_was_synced_is_there_and_the_rest_may_not_be() {
        let ops = [Op::Create(at("a"), 0), write(0, 0, b"one", true), sync(Target::File(0), 2, true)];
        for loss in Loss::ALL {
            assert_eq!(left(&ops, loss, 1), files([("a", b"one")]), "{loss:?}");
        }
        assert_eq!(left(&ops[..2], Loss::Everything, 1), files([]));
        assert_eq!(left(&ops[..2], Loss::Last, 1), files([("a", b"")]));
        let later =
            [&ops[..], &[write(0, 3, b"two", true), Op::Create(at("b"), 1), write(0, 0, b"ONE", false)]].concat();
        assert_eq!(left(&later, Loss::Everything, 1), files([("a", b"one")]));
        assert_eq!(left(&later, Loss::Last, 1), files([("a", b"onetwo"), ("b", b"")]));
        let kept: Vec<_> = (0..50).map(|seed| left(&later, Loss::Writes, seed)).collect();
        assert!(kept.contains(&files([("a", b"one"), ("b", b"")])), "{kept:?}");
        // One sector: what was written to it later does not come without what was written earlier.
        assert!(kept.iter().all(|kept| kept["a"] != b"ONE" || !kept.contains_key("b")), "{kept:?}");
    }

    #[test]
    fn a_new_name_is_sure_with_its_directory_or_a_full_sync_of_the_file() {
        let renamed = Op::Rename { from: at("new"), to: at("a"), file: Some(0) };
        let start = [Op::Create(at("new"), 0), write(0, 0, b"x", true), sync(Target::File(0), 2, false), renamed];
        for (target, is_data, name) in [
            (Target::File(0), true, "new"),
            (Target::File(0), false, "a"),
            (Target::Directory(at("")), false, "a"),
            (Target::Directory(at("other")), false, "new"),
        ] {
            let ops = [&start[..], &[sync(target.clone(), 4, is_data)]].concat();
            assert_eq!(left(&ops, Loss::Everything, 1), files([(name, b"x")]), "{target:?}");
        }
    }

    #[test]
    fn sectors_are_lost_in_any_order_and_never_in_part() {
        let ops = [
            Op::Create(at("a"), 0),
            Op::Length(0, 2048),
            sync(Target::File(0), 2, true),
            write(0, 0, &[1; 2048], false),
        ];
        let mut seen = [false; 4];
        for seed in 0..50 {
            let content = left(&ops, Loss::Sectors, seed).remove("a").unwrap();
            let sectors: Vec<&[u8]> = content.chunks(512).collect();
            assert!(sectors.len() == 4 && sectors.iter().all(|sector| **sector == [0; 512] || **sector == [1; 512]));
            (0..3).for_each(|at| seen[at] |= sectors[at][0] == 0 && sectors[at + 1][0] == 1);
            seen[3] |= sectors[0][0] == 1 && sectors[3][0] == 0;
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn a_directory_moves_with_what_is_in_it() {
        let moved = Op::Rename { from: at("d.new"), to: at("d"), file: None };
        let start =
            [Op::CreateDirectory(at("d")), Op::CreateDirectory(at("d.new")), Op::Create(at("d.new/a"), 0), moved];
        let place = tempfile::tempdir().unwrap();
        let ops = [&start[..], &[sync(Target::Directory(at("")), 4, false)]].concat();
        Cut::new(&ops, 5, Loss::Everything, 1).leave(Path::new(ROOT), place.path()).unwrap();
        assert!(place.path().join("d/a").exists() && !place.path().join("d.new").exists());
    }
}
