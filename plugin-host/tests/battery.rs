//! The battery of attempts against the real host and the real kernel.

mod support;

use std::time::Duration;

use photondb_plugin_host::probe::{Attempt, Judge, Outcome, Prober, Target, Verdict, battery};
use photondb_sandbox_profiles::syscalls::Arch;
use photondb_sandbox_profiles::{Confinement, KernelFeatures};

const WATCHDOG: Duration = Duration::from_secs(30);

fn outcomes(confinement: &Confinement) -> Vec<Outcome> {
    let prober = support::prober(confinement.clone());
    let judge = Judge::new(confinement, &KernelFeatures::probe()).expect("a judge");
    let target = target(confinement);
    let control = attempt(&prober, &judge, &battery::CONTROL_ATTEMPT, &target).expect("the control");
    assert_eq!(control.verdict, Verdict::Succeeded, "no probe runs here: {control:?}");
    battery::all().filter_map(|it| attempt(&prober, &judge, it, &target)).collect()
}

fn target(confinement: &Confinement) -> Target {
    let arch = Arch::current().expect("a supported architecture");
    Target { server: std::process::id(), threads: confinement.threads_max, arch }
}

fn attempt(prober: &Prober, judge: &Judge, attempt: &Attempt, target: &Target) -> Option<Outcome> {
    let script = attempt.script(target)?;
    let run = prober.run(&script, WATCHDOG).unwrap_or_else(|error| panic!("{}: {error}", attempt.id));
    Some(judge.judge(attempt, &run))
}

fn print(way: &str, outcomes: &[Outcome]) {
    for Outcome { id, name, verdict, layer, detail } in outcomes {
        let layer = layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string());
        println!("{way}: {id:5} {name:50} {verdict:?} {layer:11} {detail}");
    }
}

#[test]
fn nothing_succeeds_in_the_strict_profile() {
    for (way, confinement) in support::ways("strict") {
        let outcomes = outcomes(&confinement);
        print(way, &outcomes);
        let open: Vec<_> = outcomes.iter().filter(|outcome| outcome.verdict != Verdict::Blocked).collect();
        assert!(open.is_empty(), "{way}: {open:#?}");
        assert!(outcomes.len() >= 120, "{}", outcomes.len());
    }
}

#[test]
fn nothing_succeeds_in_any_profile_but_what_it_gives_openly() {
    for profile in ["dynamic", "interpreter", "jit", "gpu"] {
        for (way, confinement) in support::ways(profile) {
            let outcomes = outcomes(&confinement);
            print(&format!("{profile}, {way}"), &outcomes);
            let holes: Vec<_> = outcomes
                .iter()
                .filter(|outcome| !matches!(outcome.verdict, Verdict::Blocked | Verdict::Granted))
                .collect();
            assert!(holes.is_empty(), "{profile}, {way}: {holes:#?}");
        }
    }
}
