//! Where the server of a test keeps its things.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A temporary directory with all that a server needs, and nothing of it outside. Survives the server, so that the next
/// one finds the data of the last.
pub struct Place {
    root: TempDir,
    /// The directory of the server's executable, and of the host beside it.
    executables: PathBuf,
    /// What the kernel lacks on which the server runs, as the hostile executable simulates it.
    kernel_without: Option<&'static str>,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// An empty one: no data, no plugins.
    ///
    /// # Panics
    /// When the directory can't be made.
    #[must_use]
    pub fn new() -> Self {
        // In the usual place for temporary files: the local socket's path must be short.
        let root = tempfile::Builder::new().prefix("photondb-e2e-").tempdir().expect("a temporary directory");
        let place = Self { root, executables: built(&profile()), kernel_without: None };
        for directory in [place.plugins(), place.working_directory(), place.temporary_directory()] {
            fs::create_dir(directory).expect("an empty directory");
        }
        if let Ok(engine) = std::env::var(ENGINE) {
            place.keep_tables_in(&engine);
        }
        place
    }

    /// An empty one, whose server confines plugins without one layer of the sandbox.
    ///
    /// # Panics
    /// When no such host was built.
    #[must_use]
    pub fn without_layer(layer: &str) -> Self {
        let executables = built(&format!("{}-weak", profile())).join(layer);
        assert!(executables.is_dir(), "{} is missing: run `make test`", executables.display());
        Self { executables, ..Self::new() }
    }

    /// An empty one, whose server runs as on a kernel without something: see `tests/hostile/src/kernel_without.rs`.
    #[must_use]
    pub fn on_kernel_without(missing: &'static str) -> Self {
        Self { kernel_without: Some(missing), ..Self::new() }
    }

    /// One with the plugins that PhotonDB comes with.
    #[must_use]
    pub fn with_first_party_plugins() -> Self {
        let place = Self::new();
        place.install("hnsw");
        place.install("stats");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The data directory; the server makes it.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The directory that the server finds plugins in.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        self.path("plugins")
    }

    /// Where the server is started.
    #[must_use]
    pub fn working_directory(&self) -> PathBuf {
        self.path("cwd")
    }

    /// What the server takes for the directory of temporary files.
    #[must_use]
    pub fn temporary_directory(&self) -> PathBuf {
        self.path("tmp")
    }

    /// Writes a file, and gives its path.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("within the place")).expect("its directory");
        fs::write(&path, text).expect("a file");
        path
    }

    /// Installs a plugin that PhotonDB comes with.
    ///
    /// # Panics
    /// When it was not built.
    pub fn install(&self, name: &str) {
        let built = built(&format!("{}-plugins", profile())).join(name);
        assert!(built.is_dir(), "{} is missing: run `make test`", built.display());
        symlink(built, self.plugins().join(name)).expect("a link to the plugin");
    }

    /// The names of the plugins that PhotonDB comes with.
    ///
    /// # Panics
    /// When none was built.
    #[must_use]
    pub fn built_plugins() -> Vec<String> {
        let built = built(&format!("{}-plugins", profile()));
        let entries = fs::read_dir(&built).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        assert!(!names.is_empty(), "{} is empty: run `make test`", built.display());
        names
    }

    /// Keeps tables that name no engine in that of the plugin of this name.
    fn keep_tables_in(&self, engine: &str) {
        self.install(engine);
        let configuration = format!("[storage]\nengine = {engine:?}\n{}", self.configuration_of(engine));
        self.write("data/photondb.toml", &configuration);
    }

    /// What a plugin that PhotonDB comes with needs in `photondb.toml`: a directory, and what is secret.
    ///
    /// # Panics
    /// When no file can be written.
    #[must_use]
    pub fn configuration_of(&self, plugin: &str) -> String {
        let mut configuration = format!("[plugins.grants.{plugin}]\nstate = true\n");
        if plugin == "encrypted" {
            let key = self.write("secrets/first.key", &"0123456789abcdef".repeat(4));
            fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("a file for its owner alone");
            configuration += &format!("[plugins.secrets.encrypted]\nfirst = {:?}\n", key.display().to_string());
        }
        configuration
    }

    /// Installs the hostile plugin as `name`, with a manifest that declares these functions.
    pub fn install_hostile(&self, name: &str, functions: &[&str]) {
        self.install_hostile_in(name, &manifest(name, functions));
    }

    /// Installs the hostile plugin in a folder of its own, with this manifest.
    ///
    /// # Panics
    /// When it was not built.
    pub fn install_hostile_in(&self, folder: &str, manifest: &str) {
        let built = built(&format!("{}-hostile", profile())).join(HOSTILE);
        assert!(built.is_file(), "{} is missing: run `make test`", built.display());
        self.write(&format!("plugins/{folder}/plugin.toml"), manifest);
        symlink(built, self.plugins().join(folder).join(HOSTILE)).expect("a link to the plugin");
    }

    /// The names of the attacks of the hostile executable that begin like this.
    ///
    /// # Panics
    /// When it was not built.
    #[must_use]
    pub fn hostile_names(&self, prefix: &str) -> Vec<String> {
        let built = built(&format!("{}-hostile", profile())).join(HOSTILE);
        let listed = crate::processes::run(Command::new(built).arg("--list"), "").stdout;
        listed.lines().filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
    }

    /// Files that a server, or a plugin, left where it had no business.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let places = [self.working_directory(), self.temporary_directory()];
        let entries = places.iter().flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
        entries.map(|entry| entry.path().display().to_string()).collect()
    }

    /// What confines the plugins, for tests that are their server themselves.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.executables.join("photondb-plugin-host")
    }

    /// `photondb ARGUMENTS`, in this place.
    ///
    /// # Panics
    /// When the server was not built.
    #[must_use]
    pub fn photondb(&self, arguments: &[&str]) -> Command {
        let executable = self.executables.join("photondb");
        assert!(executable.is_file(), "{} is missing: run `make test`", executable.display());
        let mut command = match self.kernel_without.filter(|_| arguments.first() == Some(&"serve")) {
            Some(missing) => {
                let mut command = Command::new(built(&format!("{}-hostile", profile())).join(HOSTILE));
                command.args(["--kernel-without", missing]).arg(executable);
                command
            }
            None => Command::new(executable),
        };
        command.args(arguments).current_dir(self.working_directory()).env_clear();
        for (name, value) in std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "PHOTONDB_LOG") {
            command.env(name, value);
        }
        command.env("TMPDIR", self.temporary_directory()).env("HOME", self.working_directory());
        command
    }

    /// `photondb serve` on free ports, with the data and the plugins of this place.
    #[must_use]
    pub fn serve(&self, arguments: &[&str]) -> Command {
        let mut command = self.photondb(&["serve"]);
        command.arg("--data").arg(self.data()).arg("--plugin-dir").arg(self.plugins());
        command.args(["--reql-port", "0", "--http-port", "0", "--rpc-port", "0"]).args(arguments);
        command
    }
}

/// Names the engine that tables of tests are kept in, where it is not the embedded one: `make test` runs those that are of
/// queries over each.
const ENGINE: &str = "PHOTONDB_TEST_ENGINE";

/// The name of the hostile executable.
const HOSTILE: &str = "photondb-hostile-plugin";

/// A manifest for the hostile executable.
#[must_use]
pub fn manifest(name: &str, functions: &[&str]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "[plugin]\nname = \"{name}\"\nversion = \"{version}\"\nprotocol = 1\nexecutable = \"{HOSTILE}\"\n\n\
         [provides]\nfunctions = {functions:?}\n\n[permissions]\nmemory = \"64MiB\"\n"
    )
}

/// The directory that this test was built into: `target/PROFILE`.
fn target() -> PathBuf {
    let executable = std::env::current_exe().expect("the path of this executable");
    let directory = executable.ancestors().nth(2).expect("target/PROFILE/deps/e2e");
    directory.to_owned()
}

fn profile() -> String {
    let name = target().file_name().map(OsString::from).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn built(name: &str) -> PathBuf {
    target().with_file_name(name)
}

/// The repository.
#[must_use]
pub fn repository() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}
