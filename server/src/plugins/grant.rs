//! Declared AND granted: what a plugin may have.

use bytesize::ByteSize;
use photondb_plugin_sdk::manifest::{self, Address, Scope};

use crate::admin::status::{GrantedPermissions, StateGranted};
use crate::config::Grant;

/// What a plugin without a grant of its own may have at most.
const DEFAULT_MEMORY: ByteSize = ByteSize::gib(1);
/// As [`DEFAULT_MEMORY`].
const DEFAULT_THREADS: u32 = 4;
/// The profile that needs nobody's consent.
pub const DEFAULT_PROFILE: &str = "strict";

/// What a plugin gets: never more than it declares, never more than the operator grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The sandbox profile.
    pub profile: String,
    /// The most private memory.
    pub memory_bytes: u64,
    /// Worker threads.
    pub threads: u32,
    /// A directory of its own.
    pub state: Option<StateQuota>,
    /// Where the server dials to for it.
    pub connect: Vec<Address>,
    /// What it may query.
    pub query: Vec<Scope>,
    /// Whether it may read the server's metrics.
    pub metrics: bool,
}

/// How much a plugin may keep in its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateQuota {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files and directories.
    pub files: u32,
}

/// What one side names and the other does not, as sentences for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneSided {
    /// Asked for by the manifest, not given.
    pub not_granted: Vec<String>,
    /// Given, not asked for by the manifest.
    pub not_declared: Vec<String>,
}

impl From<Granted> for GrantedPermissions {
    fn from(granted: Granted) -> Self {
        let Granted { profile, memory_bytes, threads, state, connect, query, metrics } = granted;
        let state = state.map(|StateQuota { bytes, files }| StateGranted { bytes, files });
        let connect = connect.iter().map(ToString::to_string).collect();
        let query = query.iter().map(ToString::to_string).collect();
        Self { profile, memory_bytes, threads, state, connect, query, metrics }
    }
}

/// What the plugin `name` gets.
///
/// # Errors
/// When it needs a profile that the operator did not consent to: a sentence that says what to write.
pub fn grant(name: &str, declared: &manifest::Permissions, granted: Option<&Grant>) -> Result<Granted, String> {
    let profile = declared.profile.as_str();
    if profile != DEFAULT_PROFILE && granted.and_then(|grant| grant.profile.as_deref()) != Some(profile) {
        return Err(format!(
            "it asks for the sandbox profile `{profile}`, which is weaker than `{DEFAULT_PROFILE}` and needs your consent; \
             to give it, write `profile = \"{profile}\"` under [plugins.grants.{name}]"
        ));
    }
    let none = Grant::default();
    let granted = granted.unwrap_or(&none);
    let quota = StateQuota {
        bytes: granted.state_bytes.unwrap_or(Grant::STATE_BYTES),
        files: granted.state_files.unwrap_or(Grant::STATE_FILES),
    };
    let connect = declared.connect.iter().filter(|address| granted.connect.contains(address));
    let mut query = Vec::new();
    for scope in
        declared.query.iter().flat_map(|declared| granted.query.iter().filter_map(|g| declared.intersection(g)))
    {
        if !query.contains(&scope) {
            query.push(scope);
        }
    }
    Ok(Granted {
        profile: profile.to_owned(),
        memory_bytes: declared.memory.as_u64().min(granted.memory.unwrap_or(DEFAULT_MEMORY.as_u64())),
        threads: u32::from(declared.threads).min(granted.threads.unwrap_or(DEFAULT_THREADS)).max(1),
        state: (declared.state && granted.state).then_some(quota),
        connect: connect.cloned().collect(),
        query,
        metrics: declared.metrics && granted.metrics,
    })
}

impl OneSided {
    /// Compares what the plugin `name` declares with what the operator grants.
    #[must_use]
    pub fn of(name: &str, declared: &manifest::Permissions, granted: Option<&Grant>) -> Self {
        let none = Grant::default();
        let granted = granted.unwrap_or(&none);
        let mut sides = Self::default();
        let mut compare = |permission: String, is_declared: bool, is_granted: bool| {
            match (is_declared, is_granted) {
            (true, false) => sides.not_granted.push(format!(
                "its manifest asks for `{permission}`, which it was not granted and runs without; to grant it, write that \
                 under [plugins.grants.{name}] and restart the server"
            )),
            (false, true) => sides.not_declared.push(format!(
                "the grant `{permission}` has no effect, since the plugin's manifest does not ask for it; take it out of \
                 [plugins.grants.{name}]"
            )),
            _ => {}
        }
        };
        compare("state = true".into(), declared.state, granted.state);
        compare("metrics = true".into(), declared.metrics, granted.metrics);
        for address in union(&declared.connect, &granted.connect) {
            let sides = (declared.connect.contains(address), granted.connect.contains(address));
            compare(format!("connect = [\"{address}\"]"), sides.0, sides.1);
        }
        // A scope has a counterpart when something is within both.
        let meets = |scope: &Scope, others: &[Scope]| others.iter().any(|other| scope.intersection(other).is_some());
        for scope in union(&declared.query, &granted.query) {
            let sides = (meets(scope, &declared.query), meets(scope, &granted.query));
            compare(format!("query = [\"{scope}\"]"), sides.0, sides.1);
        }
        if let Some(profile) = granted.profile.as_deref().filter(|profile| *profile != declared.profile) {
            compare(format!("profile = \"{profile}\""), false, true);
        }
        sides
    }
}

fn union<'a, T: PartialEq>(one: &'a [T], other: &'a [T]) -> impl Iterator<Item = &'a T> {
    one.iter().chain(other.iter().filter(|item| !one.contains(item)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> manifest::Permissions {
        manifest::Permissions { memory: ByteSize::mib(64), threads: 8, ..Default::default() }
    }

    #[test]
    fn neither_side_can_raise_the_other() {
        let got = |memory: Option<u64>, threads| {
            let granted = grant("p", &declared(), Some(&Grant { memory, threads, ..Grant::default() })).unwrap();
            (granted.memory_bytes >> 20, granted.threads)
        };
        assert_eq!(got(Some(1 << 40), Some(100)), (64, 8));
        assert_eq!(got(Some(32 << 20), Some(2)), (32, 2));
        assert_eq!(got(None, None), (64, DEFAULT_THREADS));
    }

    #[test]
    fn a_service_needs_both_sides() {
        let addresses = |list: &[&str]| list.iter().map(|address| address.parse().unwrap()).collect::<Vec<Address>>();
        let scopes = |list: &[&str]| list.iter().map(|scope| scope.parse().unwrap()).collect::<Vec<Scope>>();
        let declared = manifest::Permissions {
            state: true,
            metrics: true,
            connect: addresses(&["a.example:443", "b.example:443"]),
            query: scopes(&["read:geo.places", "read:geo.roads", "write:geo.places"]),
            ..declared()
        };
        let nothing = grant("p", &declared, None).unwrap();
        assert_eq!((nothing.state, nothing.metrics), (None, false));
        assert!(nothing.connect.is_empty() && nothing.query.is_empty());

        let operator = Grant {
            state: true,
            state_files: Some(3),
            metrics: true,
            connect: addresses(&["a.example:443", "a.example:80"]),
            query: scopes(&["read:geo.*", "read:sea.*"]),
            ..Grant::default()
        };
        let granted = grant("p", &declared, Some(&operator)).unwrap();
        assert_eq!(granted.state, Some(StateQuota { bytes: Grant::STATE_BYTES, files: 3 }));
        assert!(granted.metrics);
        assert_eq!(granted.connect, addresses(&["a.example:443"]));
        assert_eq!(granted.query, scopes(&["read:geo.places", "read:geo.roads"]));
        let undeclared = grant("p", &tests::declared(), Some(&operator)).unwrap();
        assert_eq!((undeclared.state, undeclared.metrics, undeclared.connect.len()), (None, false, 0));

        let sides = OneSided::of("p", &declared, Some(&operator));
        let named = |sentences: &[String], names: &[&str]| {
            assert_eq!(sentences.len(), names.len(), "{sentences:?}");
            for (sentence, name) in sentences.iter().zip(names) {
                assert!(sentence.contains(name) && sentence.contains("[plugins.grants.p]"), "{sentence}");
            }
        };
        named(&sides.not_granted, &["connect = [\"b.example:443\"]", "query = [\"write:geo.places\"]"]);
        named(&sides.not_declared, &["connect = [\"a.example:80\"]", "query = [\"read:sea.*\"]"]);
    }

    #[test]
    fn a_weaker_profile_needs_consent_by_name() {
        let declared = manifest::Permissions { profile: "dynamic".into(), ..declared() };
        let with = |profile: Option<&str>| {
            let grant_of = Grant { profile: profile.map(str::to_owned), ..Grant::default() };
            grant("p", &declared, Some(&grant_of)).map(|granted| granted.profile)
        };
        for refused in [grant("p", &declared, None).map(|granted| granted.profile), with(None), with(Some("jit"))] {
            let error = refused.unwrap_err();
            assert!(error.contains("`profile = \"dynamic\"` under [plugins.grants.p]"), "{error}");
        }
        assert_eq!(with(Some("dynamic")).as_deref(), Ok("dynamic"));
        let strict = grant("p", &tests::declared(), Some(&Grant { profile: Some("jit".into()), ..Grant::default() }));
        assert_eq!(strict.unwrap().profile, "strict", "a grant does not weaken what asks for nothing");
    }
}
