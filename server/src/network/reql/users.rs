//! Who may connect. Passwords are kept as salted keys, from which they can't be told.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use thiserror::Error;

use super::scram::Credentials;
use crate::admin::system_tables::User;

/// The user that always exists.
const ADMIN: &str = "admin";
/// The file in the data directory.
const FILE: &str = "users.json";

/// Why users can't be read or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UsersError {
    /// The file can't be read or written.
    #[error("{}: can't keep the users: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{}: damaged ({message}); restore it, or remove it to have `admin` without a password again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        message: String,
    },
    /// The system has no random numbers.
    #[error("The system gives no random numbers: {0}")]
    Random(String),
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Entry {
    has_password: bool,
    credentials: Credentials,
}

/// The users of a server.
pub struct Users {
    entries: RwLock<BTreeMap<String, Entry>>,
    /// Where they are kept; `None`: in memory alone.
    path: Option<PathBuf>,
    secret: [u8; 32],
}

impl Users {
    /// Only `admin`, without a password; kept in memory alone.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn in_memory() -> Result<Self, UsersError> {
        let entries = BTreeMap::from([(ADMIN.to_owned(), entry("")?)]);
        Ok(Self { entries: RwLock::new(entries), path: None, secret: random()? })
    }

    /// The users of a data directory; in a new one, only `admin` without a password.
    ///
    /// # Errors
    /// When the file can't be read or is damaged.
    pub fn open(directory: &Path) -> Result<Self, UsersError> {
        let path = directory.join(FILE);
        let mut users = Self::in_memory()?;
        match std::fs::read(&path) {
            Ok(text) => {
                let entries: BTreeMap<String, Entry> = serde_json::from_slice(&text)
                    .map_err(|error| UsersError::Damaged { path: path.clone(), message: error.to_string() })?;
                users.entries = RwLock::new(entries);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(UsersError::Io { path, source }),
        }
        users.path = Some(path);
        Ok(users)
    }

    /// Sets a user's password, and makes the user if there is none; the empty password is none.
    ///
    /// # Errors
    /// When the file can't be written: then nothing changes.
    pub fn set_password(&self, user: &str, password: &str) -> Result<(), UsersError> {
        let entry = entry(password)?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = entries.clone();
        changed.insert(user.to_owned(), entry);
        self.save(&changed)?;
        *entries = changed;
        Ok(())
    }

    /// The users, by name.
    #[must_use]
    pub fn list(&self) -> Vec<User> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|(name, entry)| User { name: name.clone(), has_password: entry.has_password }).collect()
    }

    /// What the handshake checks a user against, and whether there is such a user.
    pub(super) fn credentials(&self, user: &str) -> (Credentials, bool) {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        match entries.get(user) {
            Some(entry) => (entry.credentials.clone(), true),
            None => (Credentials::unusable(&self.secret, user), false),
        }
    }

    fn save(&self, entries: &BTreeMap<String, Entry>) -> Result<(), UsersError> {
        let Some(path) = &self.path else { return Ok(()) };
        let failed = |source| UsersError::Io { path: path.clone(), source };
        let text = serde_json::to_vec(entries).map_err(|error| failed(error.into()))?;
        let temporary = path.with_extension("json.new");
        write_private(&temporary, &text).and_then(|()| std::fs::rename(&temporary, path)).map_err(failed)
    }
}

/// Writes a file that nobody else can read, through to the disk.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn entry(password: &str) -> Result<Entry, UsersError> {
    Ok(Entry { has_password: !password.is_empty(), credentials: Credentials::new(password, random()?) })
}

/// Random bytes for salts, nonces and secrets.
pub(super) fn random<const N: usize>() -> Result<[u8; N], UsersError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| UsersError::Random(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let users = Users::open(directory.path()).unwrap();
        assert_eq!(users.list(), [User { name: "admin".to_owned(), has_password: false }]);
        users.set_password("admin", "secret").unwrap();
        let again = Users::open(directory.path()).unwrap();
        assert_eq!(again.credentials("admin").0, users.credentials("admin").0);
        assert!(again.list()[0].has_password);
    }

    #[test]
    fn an_unknown_user_looks_like_a_known_one() {
        let users = Users::in_memory().unwrap();
        let (first, exists) = users.credentials("nobody");
        assert!(!exists);
        assert_eq!(users.credentials("nobody").0, first);
    }
}
