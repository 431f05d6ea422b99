//! The frame of a saved index: 8 bytes that say of which kind it is, a version, what the index writes, and a checksum.
//!
//! Everything is little-endian. A reader believes nothing: memory is taken only for bytes that are there, and what was
//! read counts when [`Reader::finish`] has compared the checksum.

use std::fmt::Display;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};

use crate::{Cause, PluginError};

/// What is said of bytes that can't be used.
#[must_use]
pub fn damaged(what: impl Display) -> PluginError {
    PluginError::runtime(Cause::Plugin, format!("the saved index can't be used: {what}; it has to be built again"))
}

fn not_written(error: std::io::Error) -> PluginError {
    PluginError::runtime(Cause::Plugin, format!("the index could not be saved: {error}"))
}

/// Writes through a buffer and computes the checksum.
pub struct Writer<'a> {
    out: BufWriter<&'a mut dyn Write>,
    checksum: crc32fast::Hasher,
}

impl<'a> Writer<'a> {
    /// Begins with the mark of the kind of index, and the version of what it writes.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn new(out: &'a mut dyn Write, mark: &[u8; 8], version: u32) -> Result<Self, PluginError> {
        let mut writer = Self { out: BufWriter::new(out), checksum: crc32fast::Hasher::new() };
        writer.bytes(mark)?;
        writer.number(version)?;
        Ok(writer)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), PluginError> {
        self.checksum.update(bytes);
        self.out.write_all(bytes).map_err(not_written)
    }

    /// Writes a number.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn number(&mut self, number: u32) -> Result<(), PluginError> {
        self.bytes(&number.to_le_bytes())
    }

    /// Writes f32.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn floats(&mut self, values: &[f32]) -> Result<(), PluginError> {
        values.iter().try_for_each(|value| self.bytes(&value.to_le_bytes()))
    }

    /// Ends with the checksum.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn finish(mut self) -> Result<(), PluginError> {
        self.out.write_all(&self.checksum.finalize().to_le_bytes()).map_err(not_written)?;
        self.out.flush().map_err(not_written)
    }
}

/// Reads through a buffer and computes the checksum.
pub struct Reader<'a> {
    input: BufReader<&'a mut dyn Read>,
    checksum: crc32fast::Hasher,
}

impl<'a> Reader<'a> {
    /// Reads the mark and the version. `kind` is the index type that is expected.
    ///
    /// # Errors
    /// When they are others.
    pub fn new(input: &'a mut dyn Read, mark: &[u8; 8], version: u32, kind: &str) -> Result<Self, PluginError> {
        let mut reader = Self { input: BufReader::new(input), checksum: crc32fast::Hasher::new() };
        if reader.bytes()? != *mark {
            return Err(damaged(format_args!("it is not one of an `{kind}` index")));
        }
        let found = reader.number()?;
        if found != version {
            return Err(damaged(format_args!("its version is {found}, and this plugin reads {version}")));
        }
        Ok(reader)
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], PluginError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => damaged("it ends too early"),
            _ => damaged(format_args!("it can't be read: {error}")),
        })?;
        self.checksum.update(&bytes);
        Ok(bytes)
    }

    /// Reads a number.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&mut self) -> Result<u32, PluginError> {
        self.bytes().map(u32::from_le_bytes)
    }

    /// Reads one byte.
    ///
    /// # Errors
    /// When there is none.
    pub fn byte(&mut self) -> Result<u8, PluginError> {
        self.bytes().map(|[byte]| byte)
    }

    /// Reads so many f32, which have to be finite. Memory is taken as they come.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn floats(&mut self, count: usize) -> Result<Vec<f32>, PluginError> {
        let mut values = Vec::new();
        for _ in 0..count {
            let value = f32::from_le_bytes(self.bytes()?);
            if !value.is_finite() {
                return Err(damaged("a number in it is not finite"));
            }
            values.push(value);
        }
        Ok(values)
    }

    /// Compares the checksum.
    ///
    /// # Errors
    /// When it is wrong, or bytes follow.
    pub fn finish(mut self) -> Result<(), PluginError> {
        let checksum = self.checksum.clone().finalize();
        if self.number()? != checksum {
            return Err(damaged("its checksum is wrong"));
        }
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(damaged("it goes on behind its end")),
            Err(error) => Err(damaged(format_args!("it can't be read: {error}"))),
        }
    }
}
