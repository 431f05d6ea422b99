//! Keys: the operator's, and each table's own one, which lies beside the table, wrapped by one of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use photondb_plugin_sdk::kinds::storage::StorageError;
use photondb_plugin_sdk::{Datum, PluginError};

use crate::seal::{KEY, Key, NONCE, Sealer, TAG, new_key};

/// The file with a table's wrapped key.
const FILE: &str = "table.key";
/// What its first line says.
const FORMAT: &str = "photondb-encrypted 1";
/// The setting that names the key for new tables.
const ACTIVE: &str = "active";
/// What the server calls the contents of files that `[plugins.secrets.encrypted]` names.
const SECRETS: &str = "secrets";
/// Bytes of a wrapped key.
const WRAPPED: usize = NONCE + KEY + TAG;

/// The operator's keys.
#[derive(Default)]
pub(crate) struct Keyring {
    keys: BTreeMap<String, Key>,
    /// Names one of them.
    active: Option<String>,
}

impl Keyring {
    /// Reads settings.
    ///
    /// # Errors
    /// What is wrong, and what is accepted; never a part of a key.
    pub(crate) fn from_settings(settings: &Datum) -> Result<Self, PluginError> {
        let wrong = |message: String| Err(PluginError::argument(message));
        let mut keyring = Self::default();
        for (name, value) in settings.as_object().into_iter().flat_map(|settings| settings.iter()) {
            match (&**name, value) {
                (ACTIVE, Datum::String(id)) => keyring.active = Some(id.to_string()),
                (ACTIVE, _) => {
                    return wrong("`active` must be the name of a key of [plugins.secrets.encrypted]".to_owned());
                }
                (SECRETS, Datum::Object(secrets)) => {
                    for (id, text) in secrets.iter() {
                        keyring.keys.insert(checked_id(id)?.to_owned(), read_key(id, text)?);
                    }
                }
                _ => return wrong(format!("unknown key `{name}`; this plugin knows `{ACTIVE}`")),
            }
        }
        match &keyring.active {
            None if keyring.keys.len() == 1 => keyring.active = keyring.keys.keys().next().cloned(),
            None if !keyring.keys.is_empty() => {
                let known = keyring.known();
                return wrong(format!(
                    "several keys are configured: say which one is for new tables, `{ACTIVE} = ...`, one of {known}"
                ));
            }
            Some(id) if !keyring.keys.contains_key(id) => {
                let known = keyring.known();
                return wrong(format!(
                    "`{ACTIVE}` is `{id}`; it must be a key of [plugins.secrets.encrypted], which has {known}"
                ));
            }
            _ => {}
        }
        Ok(keyring)
    }

    fn known(&self) -> String {
        if self.keys.is_empty() {
            return "none".to_owned();
        }
        self.keys.keys().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
    }

    /// The key that new tables are wrapped by.
    ///
    /// # Errors
    /// What to configure.
    pub(crate) fn active(&self) -> Result<(&str, &Key), PluginError> {
        let active = self.active.as_deref().and_then(|id| Some((id, self.keys.get(id)?)));
        active.ok_or_else(|| {
            PluginError::argument(
                "no key is configured: write 64 hexadecimal digits into a file of mode 0600 (`openssl rand -hex 32`) and \
                 name it under [plugins.secrets.encrypted] in photondb.toml, for instance `first = \"first.key\"`",
            )
        })
    }
}

fn checked_id(id: &str) -> Result<&str, PluginError> {
    let is_id =
        (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    is_id.then_some(id).ok_or_else(|| {
        PluginError::argument(format!("the key `{id}` must have a name of 1 to 64 letters, digits, `-`, `_` and `.`"))
    })
}

fn read_key(id: &str, text: &Datum) -> Result<Key, PluginError> {
    let mut key = Key::default();
    let is_key = matches!(text, Datum::String(text) if from_hex(text.trim(), &mut *key));
    is_key.then_some(key).ok_or_else(|| {
        PluginError::argument(format!(
            "the key `{id}` must be 64 hexadecimal digits, as `openssl rand -hex 32` writes them"
        ))
    })
}

/// A table's own key, and the operator's key that it is wrapped by.
pub(crate) struct TableKey {
    pub(crate) key: Key,
    /// The name of the operator's key.
    pub(crate) wrapped_by: String,
}

impl TableKey {
    /// A new key.
    ///
    /// # Errors
    /// Where no key is configured, or the system gives no random bytes.
    pub(crate) fn new(keyring: &Keyring) -> Result<Self, PluginError> {
        let (id, _) = keyring.active()?;
        let key = new_key().map_err(|error| PluginError::init(format!("making a key: {error}")))?;
        Ok(Self { key, wrapped_by: id.to_owned() })
    }

    /// Reads the key of the table in `directory`, and wraps it by the active key where it is not; `None` where there is
    /// none.
    ///
    /// # Errors
    /// Which key is missing or wrong, and what to do.
    pub(crate) fn load(directory: &Path, keyring: &Keyring) -> Result<Option<Self>, PluginError> {
        let path = directory.join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(not_a_key_file()),
            Err(error) => return Err(PluginError::init(format!("reading {}: {error}", path.display()))),
            Ok(text) => text,
        };
        let (id, mut wrapped) = parse(&text).ok_or_else(not_a_key_file)?;
        let Some(wrapping) = keyring.keys.get(id) else {
            return Err(PluginError::init(format!(
                "the table's key is wrapped by the key `{id}`, which is not configured: add it to \
                 [plugins.secrets.encrypted] in photondb.toml, which has {}, and reload the plugin",
                keyring.known()
            )));
        };
        let Ok(opened) = Sealer::new(wrapping).open(&place(id), &mut wrapped) else {
            return Err(StorageError::Damaged {
                keyspace: FILE.to_owned(),
                message: format!(
                    "it does not open with the key `{id}`: either another key is configured under that name, then put the \
                     right one into its file and reload the plugin, or {FILE} was changed, then restore it from a backup"
                ),
            }
            .into());
        };
        let mut loaded = Self { key: Key::default(), wrapped_by: id.to_owned() };
        loaded.key.copy_from_slice(opened);
        zeroize::Zeroize::zeroize(&mut wrapped);
        let (active, _) = keyring.active()?;
        if active != id {
            loaded.wrapped_by = active.to_owned();
            loaded.save(directory, keyring)?;
        }
        Ok(Some(loaded))
    }

    /// Writes the key file, or replaces it: a crash leaves the old or the new one.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn save(&self, directory: &Path, keyring: &Keyring) -> Result<(), PluginError> {
        let (id, wrapping) = keyring.active()?;
        let mut wrapped = [0; WRAPPED];
        wrapped[NONCE..NONCE + KEY].copy_from_slice(&*self.key);
        let written = Sealer::new(wrapping).seal(&place(id), &mut wrapped).and_then(|()| {
            let text = format!("{FORMAT}\nkey {id}\nwrapped {}\n", hex(&wrapped));
            replace(directory, FILE, text.as_bytes())
        });
        written.map_err(|error| PluginError::init(format!("writing {}: {error}", directory.join(FILE).display())))
    }
}

fn not_a_key_file() -> PluginError {
    let message = "it is no key file of this version: restore it from a backup".to_owned();
    StorageError::Damaged { keyspace: FILE.to_owned(), message }.into()
}

/// Name of the operator's key, and the wrapped one.
fn parse(text: &str) -> Option<(&str, [u8; WRAPPED])> {
    let mut lines = text.lines();
    let is_known = lines.next() == Some(FORMAT);
    let (id, digits) = (lines.next()?.strip_prefix("key ")?, lines.next()?.strip_prefix("wrapped ")?);
    let mut wrapped = [0; WRAPPED];
    (is_known && checked_id(id).is_ok() && from_hex(digits, &mut wrapped)).then_some((id, wrapped))
}

/// What a key is wrapped for.
fn place(id: &str) -> Vec<u8> {
    format!("photondb table key 1 {id}").into_bytes()
}

/// Replaces a file at once, and so that it stays.
fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fills `bytes` from digits; whether they were so many.
fn from_hex(digits: &str, bytes: &mut [u8]) -> bool {
    let digits = digits.as_bytes();
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    digits.len() == bytes.len() * 2
        && bytes.iter_mut().zip(digits.chunks_exact(2)).all(|(byte, pair)| {
            let value = nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| (high * 16 + low) as u8);
            value.map(|value| *byte = value).is_some()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const SECOND: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

    fn settings(keys: &[(&str, &str)], active: Option<&str>) -> Datum {
        let secrets = Datum::object(keys.iter().map(|(id, key)| (*id, Datum::from(*key))));
        let active = active.map(|id| (ACTIVE, Datum::from(id)));
        Datum::object([(SECRETS, secrets)].into_iter().chain(active))
    }

    fn keyring(keys: &[(&str, &str)], active: &str) -> Keyring {
        Keyring::from_settings(&settings(keys, Some(active))).expect("keys")
    }

    #[test]
    fn settings_are_checked_and_no_key_is_told() {
        for (settings, hint) in [
            (settings(&[("a", FIRST), ("b", SECOND)], None), "one of `a`, `b`"),
            (settings(&[("a", FIRST)], Some("b")), "which has `a`"),
            (settings(&[("a", &FIRST[1..])], None), "64 hexadecimal digits"),
            (settings(&[("a b", FIRST)], None), "letters, digits"),
            (Datum::object([("activ", "a")]), "unknown key `activ`; this plugin knows `active`"),
        ] {
            let error = Keyring::from_settings(&settings).map(drop).expect_err(hint);
            assert!(error.message().contains(hint), "{error}");
            assert!(!error.message().contains("112233"), "{error}");
        }
        let error = Keyring::default().active().map(drop).expect_err("no key");
        assert!(error.message().contains("[plugins.secrets.encrypted]"), "{error}");
    }

    #[test]
    fn a_key_comes_back_and_moves_to_the_active_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let first = keyring(&[("a", FIRST)], "a");
        assert!(TableKey::load(path, &first).expect("no file").is_none());
        let made = TableKey::new(&first).expect("a key");
        made.save(path, &first).expect("saved");
        let both = keyring(&[("a", FIRST), ("b", SECOND)], "b");
        let loaded = TableKey::load(path, &both).expect("opens").expect("is there");
        assert_eq!((loaded.key, &*loaded.wrapped_by), (made.key.clone(), "b"));
        let error = TableKey::load(path, &first).map(drop).expect_err("`a` no longer opens it");
        assert!(error.message().contains("`b`, which is not configured"), "{error}");
        let second = keyring(&[("b", SECOND)], "b");
        let again = TableKey::load(path, &second).expect("opens").expect("is there");
        assert_eq!(again.key, made.key, "the old key is no longer needed");
    }

    #[test]
    fn a_wrong_key_and_a_changed_file_are_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let right = keyring(&[("a", FIRST)], "a");
        TableKey::new(&right).expect("a key").save(path, &right).expect("saved");
        let wrong = keyring(&[("a", SECOND)], "a");
        let error = TableKey::load(path, &wrong).map(drop).expect_err("another key");
        assert!(error.message().contains("does not open with the key `a`"), "{error}");
        let file = path.join(FILE);
        let good = fs::read(&file).expect("the file");
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            // The case of a digit says nothing.
            bad[at] = if bad[at] == b'7' { b'8' } else { b'7' };
            fs::write(&file, &bad).expect("written");
            assert!(TableKey::load(path, &right).is_err(), "byte {at}");
        }
    }
}
