//! Plugins as real processes. The executables are built by `make test`; where they are missing, these tests say so.

use std::path::PathBuf;
use std::time::Instant;

use photondb_plugin_sdk::{Cause, Datum};

use super::*;
use crate::config::Grant;
use crate::query::nested::Origin;

/// `target/debug`, which holds this test's executable in `deps/`.
fn target() -> PathBuf {
    let executable = std::env::current_exe().expect("a test has an executable");
    executable.ancestors().nth(2).expect("deps/ is in a folder").to_owned()
}

/// A manager with these plugins, and the folder that they are in.
async fn manager(plugins: &[&str]) -> Option<(PluginManager, tempfile::TempDir)> {
    let (host, all) = (target().join("photondb-plugin-host"), target().with_file_name("debug-plugins"));
    if !host.exists() || !all.exists() {
        eprintln!("SKIPPED: {} or {} is missing; run `make test`", host.display(), all.display());
        return None;
    }
    let folder = tempfile::tempdir().expect("tempdir");
    for plugin in plugins {
        std::os::unix::fs::symlink(all.join(plugin), folder.path().join(plugin)).expect("link");
    }
    let mut config = PluginsConfig { paths: vec![folder.path().to_owned()], ..PluginsConfig::default() };
    config.grants.insert("stats".into(), Grant { threads: Some(1), ..Grant::default() });
    let place = Place { host, data: folder.path().to_owned(), ports: Vec::new() };
    Some((PluginManager::start(place, config, SandboxConfig::default()).await.expect("start"), folder))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn numbers(range: std::ops::Range<i32>) -> Vec<Datum> {
    range.map(Datum::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confined_plugin_answers_is_restarted_and_stopped() {
    let Some((manager, _folder)) = manager(&["stats"]).await else { return };
    let status = manager.list().remove(0);
    assert_eq!(status.state, "ready", "{status:?}");
    assert!(status.layers.iter().any(|layer| layer.contains("seccomp")), "{status:?}");
    let pid = status.pid.expect("running");
    let call = {
        let manager = manager.clone();
        move || {
            let function = manager.function("approx")?;
            function.invoke_batch(&[numbers(0..5000), vec![Datum::from(2); 5000]], 5000, &Origin::until(soon()))
        }
    };
    let results = tokio::task::spawn_blocking(call.clone()).await.expect("thread").expect("answer");
    assert_eq!((results.len(), results[1234].as_number()), (5000, Some(1200.0)));

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL).expect("kill");
    tokio::task::spawn_blocking(call.clone()).await.expect("thread").expect("a pure call survives a crash");
    let status = manager.list().remove(0);
    assert_ne!(status.pid, Some(pid));
    assert_eq!(status.restarts, 1, "{status:?}");

    let pid = nix::unistd::Pid::from_raw(status.pid.expect("running") as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("stop");
    tokio::task::spawn_blocking(call).await.expect("thread").expect("a pure call survives that its process is killed");
    assert_eq!(manager.list().remove(0).restarts, 2);

    manager.change(Change::Disable, "stats").await.expect("disable");
    let function = manager.function("approx").expect("known");
    let error = tokio::task::spawn_blocking(move || function.invoke_batch(&[numbers(0..1)], 1, &Origin::until(soon())));
    let error = error.await.expect("thread").expect_err("disabled");
    assert_eq!(error.cause(), Cause::Unavailable);
    assert!(error.message().contains("enable stats"), "{error}");
    manager.change(Change::Enable, "stats").await.expect("enable");
    let before = manager.list().remove(0).pid;
    let status = manager.change(Change::Reload, "stats").await.expect("reload");
    assert_eq!(status.state, "ready");
    assert_ne!(status.pid, before);
    manager.shutdown().await;
    assert_eq!(manager.list().remove(0).pid, None);
}

/// A manager with `stats` linked in, and plugins in `paths`.
async fn linked_in(paths: Vec<PathBuf>, enabled: bool) -> PluginManager {
    let mut config = PluginsConfig { paths, ..PluginsConfig::default() };
    config.enabled.insert("stats".into(), enabled);
    let place = Place { host: target().join("photondb-plugin-host"), data: std::env::temp_dir(), ports: Vec::new() };
    let code: Vec<Box<dyn PluginCode>> = vec![Box::new(photondb_plugin_stats::Stats)];
    PluginManager::start_with(place, config, SandboxConfig::default(), code).await.expect("start")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_linked_in_is_called_as_a_confined_one() {
    let linked_in = linked_in(Vec::new(), true).await;
    let status = linked_in.list().remove(0);
    assert_eq!((status.name.as_str(), status.state.as_str(), status.pid), ("stats", "ready", None));
    assert!(status.grade.as_deref().is_some_and(|grade| grade.contains("not confined")), "{status:?}");
    assert!(status.layers.is_empty() && status.provides.contains(&"function approx".to_owned()), "{status:?}");
    let error = linked_in.change(Change::Disable, "stats").await.expect_err("there is no process to stop");
    assert!(error.message().contains("[plugins.enabled]"), "{error}");

    let managers = [
        Some(linked_in),
        manager(&["stats"]).await.map(|(manager, folder)| {
            std::mem::forget(folder);
            manager
        }),
    ];
    let columns = [numbers(0..5000), vec![Datum::from(2); 5000]];
    let wrong = [vec![Datum::from("text")]];
    let mut answers = Vec::new();
    for manager in managers.into_iter().flatten() {
        let function = manager.function("approx").expect("known");
        let (columns, wrong) = (columns.clone(), wrong.clone());
        let answer = tokio::task::spawn_blocking(move || {
            let origin = Origin::until(soon());
            let refused = function.invoke_batch(&wrong, 1, &origin).expect_err("no number");
            (function.invoke_batch(&columns, 5000, &origin).expect("numbers"), refused)
        });
        answers.push(answer.await.expect("thread"));
        assert_eq!(manager.list().remove(0).calls, 2);
        manager.shutdown().await;
    }
    assert_eq!((answers[0].0.len(), answers[0].0[1234].as_number()), (5000, Some(1200.0)));
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "confined or not, the answers are the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_plugins_of_one_name_the_one_that_is_linked_in_stays() {
    let all = target().with_file_name("debug-plugins");
    if !all.exists() {
        eprintln!("SKIPPED: {} is missing; run `make test`", all.display());
        return;
    }
    let manager = linked_in(vec![all], true).await;
    let conflicts: Vec<_> = manager.events().into_iter().filter(|event| event.kind == "conflict").collect();
    assert!(conflicts.len() == 1 && conflicts[0].message.contains("linked into this server"), "{conflicts:?}");
    assert!(manager.list().iter().any(|status| status.name == "stats" && status.pid.is_none()));
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_linked_in_can_be_turned_off() {
    let manager = linked_in(Vec::new(), false).await;
    assert!(manager.list().is_empty() && manager.function("approx").is_err());
    assert_eq!(manager.events()[0].kind, "disabled");
    manager.shutdown().await;
}
