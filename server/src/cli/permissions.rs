//! `photondb plugin permissions`, as it is shown.

use bytesize::ByteSize;

use super::table::{Align, Table};
use crate::admin::status::GrantedPermissions;
use crate::plugins::permissions::{Enforced, PermissionsStatus, Stated};

/// A table of both sides and their sum, what is withheld, and what the kernel enforces.
pub(super) fn show(status: &PermissionsStatus) -> String {
    let mut table = Table::new([
        (status.plugin.as_str(), Align::Left),
        ("DECLARED", Align::Left),
        ("GRANTED", Align::Left),
        ("HAS", Align::Left),
    ]);
    let (declared, granted, effective) = (row(&status.declared), row(&status.granted), effective(&status.effective));
    let names = ["profile", "memory", "threads", "state", "connect", "query", "metrics"];
    for (name, ((declared, granted), effective)) in
        names.into_iter().zip(declared.into_iter().zip(granted).zip(effective))
    {
        table.row([name.to_owned(), declared, granted, effective]);
    }
    let mut text = format!("{table}\nservices given: {}\n", list(&status.services));
    for (title, sentences) in [("withheld", &status.withheld), ("granted in vain", &status.unused)] {
        for sentence in sentences {
            text += &format!("{title}: {sentence}\n");
        }
    }
    text += &match &status.kernel {
        Some(kernel) => enforced(kernel),
        None => "the kernel enforces nothing: it has not run yet\n".to_owned(),
    };
    text
}

fn row(stated: &Stated) -> [String; 7] {
    [
        stated.profile.clone().unwrap_or_else(|| "-".into()),
        stated.memory_bytes.map_or_else(|| "default".into(), |bytes| ByteSize::b(bytes).to_string()),
        stated.threads.map_or_else(|| "default".into(), |threads| threads.to_string()),
        yes(stated.state),
        list(&stated.connect),
        list(&stated.query),
        yes(stated.metrics),
    ]
}

fn effective(has: &GrantedPermissions) -> [String; 7] {
    let state = has.state.map(|state| format!("{}, {} files", ByteSize::b(state.bytes), state.files));
    [
        has.profile.clone(),
        ByteSize::b(has.memory_bytes).to_string(),
        has.threads.to_string(),
        state.unwrap_or_else(|| "no".into()),
        list(&has.connect),
        list(&has.query),
        yes(has.metrics),
    ]
}

fn enforced(kernel: &Enforced) -> String {
    let mut text = format!("\nthe kernel enforces, grade {}:\n", kernel.grade);
    let mut line = |name: &str, detail: &str| text += &format!("    {name:14}{detail}\n");
    for layer in &kernel.layers {
        line(&layer.layer.to_string(), &layer.detail);
    }
    line(
        "calls",
        &format!(
            "{} allowed, {} of them with rules for their arguments; {} instructions",
            kernel.allowed_calls, kernel.conditional_calls, kernel.instructions
        ),
    );
    let files: Vec<_> =
        kernel.files.iter().map(|rule| format!("{:?} {}", rule.access, rule.path.display()).to_lowercase()).collect();
    line("files", &list(&files));
    for limit in &kernel.limits {
        line("limit", &super::sandbox::limit(*limit));
    }
    line("limit", &format!("threads: {}", kernel.threads_max));
    if let Some(user) = kernel.user {
        line("user", &user.to_string());
    }
    for layer in &kernel.missing {
        line("without", &format!("{}: {}", layer.layer, layer.detail));
    }
    for reason in &kernel.grade_reasons {
        line("not better", reason);
    }
    text
}

fn yes(is_so: bool) -> String {
    if is_so { "yes".into() } else { "no".into() }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_has_not_run_shows_both_sides() {
        let status = PermissionsStatus {
            plugin: "geo".into(),
            declared: Stated { connect: vec!["example.com:443".into()], ..Stated::default() },
            withheld: vec!["its manifest asks for `connect`".into()],
            ..PermissionsStatus::default()
        };
        let text = show(&status);
        assert!(text.contains("example.com:443") && text.contains("withheld: its manifest"), "{text}");
        assert!(text.contains("has not run yet"), "{text}");
    }
}
