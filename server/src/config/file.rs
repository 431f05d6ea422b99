//! `photondb.toml` -> [`Config`].

use std::path::{Path, PathBuf};

use photondb_plugin_sdk::manifest::{ADDRESS, SCOPE};

use super::reader::{Section, Source, Value};
use super::{
    Config, ConfigError, FailurePolicy, Grant, OnFailure, PluginsConfig, RequiredLayer, RestartsConfig, SandboxConfig,
};

/// Overrides `config` with what `text`, the content of `path`, says.
pub(crate) fn apply(config: &mut Config, path: &Path, text: &str) -> Result<(), ConfigError> {
    let source = Source { path, text };
    let document = source.parse()?;
    let root = Section::root(source, document.get_ref(), &["plugins", "sandbox", "storage"])?;
    if let Some(plugins) = root.get("plugins") {
        apply_plugins(&mut config.plugins, path, &plugins)?;
    }
    if let Some(sandbox) = root.get("sandbox") {
        apply_sandbox(&mut config.sandbox, path, &sandbox)?;
    }
    if let Some(storage) = root.get("storage") {
        let engine = storage.section(&["engine"])?.get("engine").map(|engine| engine.text().map(str::to_owned));
        config.storage.engine = engine.transpose()?;
    }
    Ok(())
}

/// A path that is relative to the file, so that it means the same wherever the server is started.
fn beside(file: &Path, path: &Value<'_>) -> Result<PathBuf, ConfigError> {
    Ok(file.parent().unwrap_or(Path::new("")).join(path.text()?))
}

fn apply_plugins(plugins: &mut PluginsConfig, path: &Path, table: &Value<'_>) -> Result<(), ConfigError> {
    const KEYS: [&str; 9] = [
        "paths",
        "require_signatures",
        "trusted_keys",
        "enabled",
        "settings",
        "secrets",
        "grants",
        "restarts",
        "upkeep",
    ];
    let section = table.section(&KEYS)?;
    if let Some(paths) = section.get("paths") {
        plugins.paths = paths.list(|directory| beside(path, &directory))?;
    }
    if let Some(required) = section.get("require_signatures") {
        plugins.require_signatures = required.boolean()?;
    }
    if let Some(keys) = section.get("trusted_keys") {
        plugins.trusted_keys = keys.list(|key| key.text().map(str::to_owned))?;
    }
    if let Some(enabled) = section.get("enabled") {
        plugins.enabled = enabled.by_plugin(|on| on.boolean())?;
    }
    if let Some(settings) = section.get("settings") {
        plugins.settings = settings.by_plugin(|table| table.verbatim())?;
    }
    if let Some(secrets) = section.get("secrets") {
        plugins.secrets = secrets.by_plugin(|table| table.by_name(|file| beside(path, &file)))?;
    }
    if let Some(grants) = section.get("grants") {
        plugins.grants = grants.by_plugin(|table| grant(&table))?;
    }
    if let Some(table) = section.get("restarts") {
        plugins.restarts = restarts(&table)?;
    }
    if let Some(upkeep) = section.get("upkeep") {
        plugins.upkeep = upkeep.duration()?;
    }
    Ok(())
}

fn restarts(table: &Value<'_>) -> Result<RestartsConfig, ConfigError> {
    const KEYS: [&str; 9] = [
        "first_pause",
        "longest_pause",
        "recovered_after",
        "open_after",
        "failed_starts",
        "give_up_after",
        "give_up_within",
        "per_minute",
        "all_per_minute",
    ];
    let section = table.section(&KEYS)?;
    let duration = |key: &str, usual| section.get(key).map_or(Ok(usual), |value| value.duration());
    let count = |key: &str, usual| section.get(key).map_or(Ok(usual), |value| value.count());
    let usual = RestartsConfig::default();
    let config = RestartsConfig {
        first_pause: duration("first_pause", usual.first_pause)?,
        longest_pause: duration("longest_pause", usual.longest_pause)?,
        recovered_after: duration("recovered_after", usual.recovered_after)?,
        open_after: count("open_after", usual.open_after)?,
        failed_starts: count("failed_starts", usual.failed_starts)?,
        give_up_after: count("give_up_after", usual.give_up_after)?,
        give_up_within: duration("give_up_within", usual.give_up_within)?,
        per_minute: count("per_minute", usual.per_minute)?,
        all_per_minute: count("all_per_minute", usual.all_per_minute)?,
    };
    if config.first_pause > config.longest_pause {
        let longer = section.get("longest_pause").or_else(|| section.get("first_pause"));
        let expected = "a `longest_pause` that is not shorter than `first_pause`";
        return Err(longer.map_or_else(|| table.instead(expected), |value| value.instead(expected)));
    }
    Ok(config)
}

fn grant(table: &Value<'_>) -> Result<Grant, ConfigError> {
    const KEYS: [&str; 10] = [
        "memory",
        "threads",
        "profile",
        "state",
        "state_bytes",
        "state_files",
        "connect",
        "query",
        "metrics",
        "on_failure",
    ];
    let section = table.section(&KEYS)?;
    Ok(Grant {
        memory: section.get("memory").map(|value| value.bytes()).transpose()?,
        threads: section.get("threads").map(|value| value.count()).transpose()?,
        profile: section.get("profile").map(|value| value.text().map(str::to_owned)).transpose()?,
        state: section.get("state").map(|value| value.boolean()).transpose()?.unwrap_or_default(),
        state_bytes: section.get("state_bytes").map(|value| value.bytes()).transpose()?,
        state_files: section.get("state_files").map(|value| value.count()).transpose()?,
        connect: section.get("connect").map(|value| value.list(|e| e.parsed(ADDRESS))).transpose()?.unwrap_or_default(),
        query: section.get("query").map(|value| value.list(|e| e.parsed(SCOPE))).transpose()?.unwrap_or_default(),
        metrics: section.get("metrics").map(|value| value.boolean()).transpose()?.unwrap_or_default(),
        on_failure: section.get("on_failure").map(|value| on_failure(&value)).transpose()?.unwrap_or_default(),
    })
}

/// One policy for all kinds, or a table with one for each.
fn on_failure(value: &Value<'_>) -> Result<FailurePolicy, ConfigError> {
    if !value.is_table() {
        return Ok(FailurePolicy { all: Some(value.one_of(&OnFailure::ALL)?), ..FailurePolicy::default() });
    }
    let section = value.section(&["functions", "vector_indexes"])?;
    let functions = section.get("functions").map(|value| value.one_of(&OnFailure::OF_FUNCTIONS));
    let vector_indexes = section.get("vector_indexes").map(|value| value.one_of(&OnFailure::OF_VECTOR_INDEXES));
    Ok(FailurePolicy { all: None, functions: functions.transpose()?, vector_indexes: vector_indexes.transpose()? })
}

fn apply_sandbox(sandbox: &mut SandboxConfig, path: &Path, table: &Value<'_>) -> Result<(), ConfigError> {
    let section = table.section(&["require", "accept_degraded", "profiles"])?;
    if let Some(layers) = section.get("require") {
        sandbox.require = layers.list(|layer| layer.one_of(&RequiredLayer::NAMES))?;
    }
    if let Some(accepted) = section.get("accept_degraded") {
        let layers = |list: Value<'_>| list.list(|layer| layer.one_of(&RequiredLayer::NAMES));
        sandbox.accept_degraded = accepted.by_plugin(layers)?;
    }
    if let Some(profiles) = section.get("profiles") {
        sandbox.profiles = Some(beside(path, &profiles)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parsed(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        apply(&mut config, Path::new("etc/photondb.toml"), text).map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn the_documented_example_is_understood() {
        let config = parsed(
            r#"
            [plugins]
            paths = ["/opt/photondb/plugins", "./plugins"]
            require_signatures = false
            trusted_keys = ["RWQ..."]
            upkeep = "2min"

            [plugins.enabled]
            hnsw = true
            custom_auth = false

            [plugins.settings.hnsw]
            ef_search = 64

            [plugins.secrets.encrypted]
            first = "keys/first"
            "2026.b" = "/etc/keys/second"

            [plugins.grants.geo]
            memory = "512MiB"
            threads = 2
            profile = "dynamic"
            state = true
            state_bytes = "64MiB"
            state_files = 100
            connect = ["api.example.com:443", "[::1]:8080"]
            query = ["read:geo.*"]
            metrics = true
            on_failure = "null"

            [plugins.restarts]
            first_pause = "10ms"
            longest_pause = "2s"
            per_minute = 1000

            [sandbox]
            require = ["landlock"]
            accept_degraded = { geo = ["landlock"] }
            profiles = "profiles"

            [storage]
            engine = "redb"
            "#,
        )
        .unwrap();
        assert_eq!(config.plugins.paths, [Path::new("/opt/photondb/plugins"), Path::new("etc/./plugins")]);
        assert_eq!(config.plugins.upkeep, Duration::from_secs(120));
        assert_eq!(config.storage.engine.as_deref(), Some("redb"));
        assert!(!config.plugins.is_enabled("custom_auth"));
        assert_eq!(config.plugins.settings["hnsw"]["ef_search"].as_integer(), Some(64));
        let secrets = [("2026.b", "/etc/keys/second"), ("first", "etc/keys/first")];
        let secrets = secrets.map(|(name, path)| (name.to_owned(), path.into()));
        assert_eq!(config.plugins.secrets["encrypted"], secrets.into());
        let granted = Grant {
            memory: Some(512 << 20),
            threads: Some(2),
            profile: Some("dynamic".into()),
            state: true,
            state_bytes: Some(64 << 20),
            state_files: Some(100),
            connect: ["api.example.com:443", "[::1]:8080"].map(|address| address.parse().unwrap()).to_vec(),
            query: vec!["read:geo.*".parse().unwrap()],
            metrics: true,
            on_failure: FailurePolicy { all: Some(OnFailure::Null), ..FailurePolicy::default() },
        };
        assert_eq!(config.plugins.grants["geo"], granted);
        let restarts = RestartsConfig {
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_secs(2),
            per_minute: 1000,
            ..RestartsConfig::default()
        };
        assert_eq!(config.plugins.restarts, restarts);
        assert_eq!(config.sandbox.require, [RequiredLayer::Landlock]);
        assert_eq!(config.sandbox.accept_degraded["geo"], [RequiredLayer::Landlock]);
        assert_eq!(config.sandbox.profiles.as_deref(), Some(Path::new("etc/profiles")));
    }

    #[test]
    fn each_mistake_is_one_line_that_names_the_file_the_key_and_the_remedy() {
        #[rustfmt::skip]
        let cases = [
            ("[plugin]", "etc/photondb.toml:1: unknown key `plugin`; the nearest known key is `plugins`"),
            ("[plugins]\n\nrequire_signature = true", "photondb.toml:3: unknown key `plugins.require_signature`; the nearest known key is `require_signatures`"),
            ("[plugins.grants.geo]\nmem = 1", "unknown key `plugins.grants.geo.mem`; the nearest known key is `memory`"),
            ("[plugins]\nrequire_signatures = \"yes\"", ":2: `plugins.require_signatures` is \"yes\"; write true or false"),
            ("[plugins]\npaths = \"/opt\"", "`plugins.paths` is \"/opt\"; write a list"),
            ("[plugins]\npaths = [1]", "`plugins.paths` is 1; write a string"),
            ("plugins = 3", "`plugins` is 3; write a table: [plugins]"),
            ("[plugins.enabled]\nGeo = true", "`plugins.enabled.Geo` is not the name of a plugin"),
            ("[plugins.grants.geo]\nmemory = \"lots\"", "`plugins.grants.geo.memory` is \"lots\"; write a size as \"512MiB\""),
            ("[plugins.grants.geo]\nmemory = -1", "is -1; write a size"),
            ("[plugins.grants.geo]\nthreads = 0", "`plugins.grants.geo.threads` is 0; write a whole number from 1 on"),
            ("[plugins.grants.geo]\nconnect = [\"example.com\"]", "write a host and a port"),
            ("[plugins.grants.geo]\nconnect = [\"*.example.com:443\"]", "`plugins.grants.geo.connect` is \"*.example.com:443\"; write a host and a port"),
            ("[plugins.grants.geo]\nstate_files = 0", "`plugins.grants.geo.state_files` is 0; write a whole number from 1 on"),
            ("[plugins.grants.geo]\nmetrics = 1", "`plugins.grants.geo.metrics` is 1; write true or false"),
            ("[sandbox]\nprofiles = 1", "`sandbox.profiles` is 1; write a string"),
            ("[plugins.grants.geo]\nquery = [\"geo.*\"]", "write what may be done to which tables"),
            ("[plugins.grants.geo]\non_failure = \"panic\"", "write one of \"fail\", \"null\", \"fallback\", \"skip\""),
            ("[plugins.grants.geo]\non_failure = { functions = \"fallback\" }", "`plugins.grants.geo.on_failure.functions` is \"fallback\"; write one of \"fail\", \"null\""),
            ("[plugins.grants.geo]\non_failure = { function = \"null\" }", "the nearest known key is `functions`"),
            ("[sandbox]\nrequire = [\"seccomp2\"]", "`sandbox.require` is \"seccomp2\"; write one of \"landlock\", \"userns\""),
            ("[plugins.settings]\nhnsw = 4", "`plugins.settings.hnsw` is 4; write a table: [plugins.settings.hnsw]"),
            ("[plugins.secrets]\nencrypted = \"key\"", "`plugins.secrets.encrypted` is \"key\"; write a table"),
            ("[plugins.secrets.encrypted]\nfirst = 4", "`plugins.secrets.encrypted.first` is 4; write a string"),
            ("[plugins.restarts]\npause = \"1s\"", "unknown key `plugins.restarts.pause`; the nearest known key is"),
            ("[plugins.restarts]\nfirst_pause = 50", "`plugins.restarts.first_pause` is 50; write a time as \"50ms\", \"5s\" or \"2min\""),
            ("[plugins.restarts]\nfirst_pause = \"soon\"", "is \"soon\"; write a time as"),
            ("[plugins.restarts]\nfirst_pause = \"0s\"", "is \"0s\"; write a time as"),
            ("[plugins.restarts]\nfirst_pause = \"6s\"", "write a `longest_pause` that is not shorter than `first_pause`"),
            ("[plugins.restarts]\nper_minute = 0", "`plugins.restarts.per_minute` is 0; write a whole number from 1 on"),
            ("[plugins\n", "etc/photondb.toml:1: not valid TOML:"),
            ("a = 1\na = 2", "photondb.toml:2: not valid TOML: duplicate key"),
        ];
        for (text, expected) in cases {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(expected), "{text}\n  gives {error}\n  not   {expected}");
            assert!(error.contains("etc/photondb.toml:") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn sizes_are_binary_decimal_or_plain_bytes() {
        for (written, bytes) in
            [("\"512MiB\"", 512 << 20), ("\"2GB\"", 2_000_000_000), ("0x1000", 4096), ("65536", 65536)]
        {
            let config = parsed(&format!("[plugins.grants.geo]\nmemory = {written}")).unwrap();
            assert_eq!(config.plugins.grants["geo"].memory, Some(bytes), "{written}");
        }
    }

    #[test]
    fn secrets_are_settings_and_only_from_files() {
        let mut plugins = parsed("[plugins.settings.encrypted]\nactive = \"a\"").unwrap().plugins;
        assert_eq!(plugins.settings_of("encrypted").unwrap().to_json_string(), r#"{"active":"a"}"#);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        std::fs::write(&path, "00ff\n").unwrap();
        plugins.secrets.insert("encrypted".to_owned(), [("a".to_owned(), path.clone())].into());
        let error = plugins.settings_of("encrypted").unwrap_err();
        assert!(error.starts_with("[plugins.secrets.encrypted]: `a`: ") && error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let settings = plugins.settings_of("encrypted").unwrap().to_json_string();
        assert_eq!(settings, r#"{"active":"a","secrets":{"a":"00ff"}}"#);
        let inline = parsed("[plugins.settings.encrypted]\nsecrets = { a = \"00\" }").unwrap().plugins;
        assert!(inline.settings_of("encrypted").unwrap_err().contains("secrets are in files"));
    }

    #[test]
    fn settings_keep_every_type() {
        let config = parsed("[plugins.settings.geo]\nwhen = 2024-01-02\nnested = { list = [1, 2.5, \"x\"] }").unwrap();
        let settings = &config.plugins.settings["geo"];
        assert!(settings["when"].is_datetime());
        assert_eq!(settings["nested"]["list"].as_array().map(Vec::len), Some(3));
    }
}
