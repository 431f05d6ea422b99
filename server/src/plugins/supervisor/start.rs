//! What a start needs: the package, the grant and the configuration, made into a plan.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use photondb_plugin_host::Cgroup;
use photondb_plugin_sdk::PluginError;
use photondb_sandbox_profiles::{Confinement, Layer, Permissions, ProfileError, ResolvedProfile, StateDirectory};

use super::Supervisor;
use crate::config::RequiredLayer;
use crate::plugins::audit::Confined;
use crate::plugins::discover::Package;
use crate::plugins::grant::{Granted, grant};
use crate::plugins::handshake::check_protocol;
use crate::plugins::host::{Host, HostPlan};
use crate::plugins::process::{Process, StartError, StartPlan};
use crate::plugins::services::state::PrivateDirectory;

/// As root, every instance runs as a user of its own, from this range, which distributions and systemd leave unused.
const FIRST_UID: u32 = 1_900_000_000;
const UIDS: u64 = 65_536;

/// A host that is to become a process of the plugin, and how it was confined.
pub(super) struct Prepared {
    host: Host,
    executable: Arc<OwnedFd>,
    granted: Granted,
    state: Option<PrivateDirectory>,
    resolved: ResolvedProfile,
    confinement: Confinement,
    number: u64,
}

impl Supervisor {
    /// Starts a process of `package` and registers what it provides.
    pub(super) async fn spawn(&self, package: &Package) -> Result<Process, StartError> {
        let environment = &self.environment;
        let refused = |message: String| StartError { error: PluginError::init(message).of(self.name()), retry: false };
        if environment.plugins.require_signatures {
            return Err(refused(
                "its signature can't be checked: this server verifies none yet; set `require_signatures = false` in \
                 [plugins] to run it unsigned"
                    .into(),
            ));
        }
        check_protocol(self.name(), package.manifest.plugin.protocol)?;
        let settings = environment.plugins.settings_of(self.name()).map_err(refused)?;
        let is_of_this = |it: &Prepared| Arc::ptr_eq(&it.executable, &package.executable) && it.host.is_alive();
        let prepared = match self.standby.take().filter(is_of_this) {
            Some(standby) => standby,
            None => self.prepare(package, false)?,
        };
        let Prepared { host, granted, state, resolved, confinement, number, .. } = prepared;
        let (sources, journal) = (&environment.sources, &environment.journal);
        let plan = StartPlan { granted: &granted, state, sources, settings, number, plugin: &self.plugin, journal };
        let process = tokio::select! {
            process = Process::start(host, package, plan) => process?,
            // The operator, or a server that stops, need not wait for a plugin that hangs.
            () = self.plugin.unwanted() => {
                let error = PluginError::init("it was to be stopped while it was starting").of(self.name());
                return Err(StartError { error, retry: true });
            }
        };
        environment
            .registry
            .provide(&self.plugin, process.instance().provides())
            .map_err(|error| StartError { error, retry: false })?;
        let report = process.report().clone();
        let confined = Confined::new(self.name(), &environment.host, confinement, report, resolved);
        self.plugin.update(|current| current.confined = Some(Arc::new(confined)));
        Ok(process)
    }

    /// Has a host stand by for the next start. Without one that start takes longer, and says what is wrong.
    pub(super) fn stand_by(&self) {
        let standby = self.package.as_ref().ok().and_then(|package| self.prepare(package, true).ok());
        self.standby.set(standby);
    }

    /// Spawns a host of `package`, confined as it may be now.
    fn prepare(&self, package: &Package, waits: bool) -> Result<Prepared, StartError> {
        let environment = &self.environment;
        let refused = |message: String| StartError { error: PluginError::init(message).of(self.name()), retry: false };
        let granted = self.grant(package).map_err(refused)?;
        let state = self.state(&granted).map_err(refused)?;
        let (resolved, confinement) =
            self.confinement(&granted, state.as_ref()).map_err(|error| refused(error.to_string()))?;
        let number = environment.instances.get() + 1;
        environment.instances.set(number);
        let confinement = match nix::unistd::geteuid().is_root() {
            true => {
                let uid = state.as_ref().and_then(|state| state.uid).unwrap_or(FIRST_UID + (number % UIDS) as u32);
                confinement.run_as(uid, uid)
            }
            false => confinement,
        };
        let cgroup = self.cgroup(&granted, &confinement, number);
        let confinement = match &cgroup {
            Some(cgroup) => confinement.join_cgroup(cgroup.path().to_owned()),
            None => confinement,
        };
        let (host, threads) = (&environment.host, granted.threads);
        let traffic = self.plugin.counters().traffic();
        let plan = HostPlan { host, confinement: confinement.clone(), cgroup, threads, waits, traffic };
        let host = Host::spawn(package, plan)?;
        let executable = Arc::clone(&package.executable);
        Ok(Prepared { host, executable, granted, state, resolved, confinement, number })
    }

    /// A group for the next process. Without one it runs with resource limits and the watch, and its report says so.
    fn cgroup(&self, granted: &Granted, confinement: &Confinement, number: u64) -> Option<Cgroup> {
        let groups = self.environment.cgroups.as_ref()?;
        let made = groups.create(self.name(), number, granted.memory_bytes, confinement.threads_max);
        made.inspect_err(|error| tracing::warn!(plugin = self.name(), "no cgroup: {error}")).ok()
    }

    pub(super) fn grant(&self, package: &Package) -> Result<Granted, String> {
        let granted = self.environment.plugins.grants.get(self.plugin.name());
        grant(self.name(), &package.manifest.permissions, granted)
    }

    /// Its directory, if it was granted one.
    fn state(&self, granted: &Granted) -> Result<Option<PrivateDirectory>, String> {
        let open = |quota| PrivateDirectory::open(&self.environment.data, self.name(), quota);
        granted.state.map(open).transpose()
    }

    fn confinement(
        &self,
        granted: &Granted,
        state: Option<&PrivateDirectory>,
    ) -> Result<(ResolvedProfile, Confinement), ProfileError> {
        let environment = &self.environment;
        let permissions = Permissions {
            memory_bytes: granted.memory_bytes,
            threads: granted.threads,
            state: state.map(|state| StateDirectory {
                path: state.path.clone(),
                bytes: state.quota.bytes,
                files: state.quota.files.into(),
            }),
            connect: !granted.connect.is_empty(),
            ..Permissions::default()
        };
        let layers = |layers: &[RequiredLayer]| layers.iter().map(|layer| layer_of(*layer)).collect::<Vec<_>>();
        let accepted = environment.sandbox.accept_degraded.get(self.plugin.name()).map(|accepted| layers(accepted));
        let required: Vec<Layer> = layers(&environment.sandbox.require)
            .into_iter()
            .filter(|layer| accepted.as_ref().is_none_or(|accepted| !accepted.contains(layer)))
            .collect();
        let resolved = environment
            .profiles
            .resolve(&granted.profile, &permissions)?
            .require(&required)
            .accept_degraded(&accepted.unwrap_or_default())?;
        let confinement = resolved.compile(&environment.kernel)?;
        Ok((resolved, confinement))
    }
}

fn layer_of(layer: RequiredLayer) -> Layer {
    match layer {
        RequiredLayer::Landlock => Layer::Landlock,
        RequiredLayer::UserNamespace => Layer::UserNamespace,
        RequiredLayer::Cgroup => Layer::Cgroup,
        RequiredLayer::Uid => Layer::Uid,
    }
}
