//! `/`: plugins and what happened to them, for people.

use std::fmt::{self, Display, Write};

use bytesize::ByteSize;
use photondb_plugin_sdk::datum::Time;

use crate::admin::status::{PluginEvent, PluginStatus};

/// Events on the page, the latest first.
const EVENTS: usize = 50;

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>PhotonDB</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.ready { color: #1a7f37 } .failed, .refused { color: #b42318; font-weight: 600 }
footer { margin-top: 2rem; color: #57606a }
</style>
</head>
<body>
<h1>PhotonDB</h1>
";

const FOOT: &str = "<footer><a href=\"/api/plugins\">plugins as JSON</a> · <a href=\"/metrics\">metrics</a> · \
<a href=\"/healthz\">health</a></footer>
</body>
</html>
";

/// The page. Everything that came from a plugin, its name included, is escaped.
pub(super) fn render(plugins: &[PluginStatus], events: &[PluginEvent]) -> String {
    let mut html = String::from(HEAD);
    // Writing to a string cannot fail.
    let _ = write_plugins(&mut html, plugins).and_then(|()| write_events(&mut html, events));
    html.push_str(FOOT);
    html
}

fn write_plugins(html: &mut String, plugins: &[PluginStatus]) -> fmt::Result {
    html.push_str("<h2>Plugins</h2>\n");
    if plugins.is_empty() {
        html.push_str("<p>There are none. See <code>plugins.paths</code> of <code>photondb.toml</code>.</p>\n");
        return Ok(());
    }
    html.push_str(
        "<table><tr><th>name<th>state<th>provides<th>grade<th class=number>memory<th class=number>calls\
         <th class=number>errors<th class=number>p50<th class=number>p99<th class=number>restarts</tr>\n",
    );
    for plugin in plugins {
        let problem = plugin.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        writeln!(
            html,
            "<tr><td>{} {}<td class=\"{}\">{}{}<td>{}<td title=\"{}\">{}<td class=number>{}<td class=number>{}\
             <td class=number>{}<td class=number>{}<td class=number>{}<td class=number>{}</tr>",
            Escaped(&plugin.name),
            Escaped(&plugin.version),
            Escaped(&plugin.state),
            Escaped(&plugin.state),
            Escaped(&problem),
            Escaped(&plugin.provides.join(", ")),
            Escaped(&plugin.grade_reasons.join("; ")),
            Escaped(plugin.grade.as_deref().unwrap_or("-")),
            or_dash(plugin.memory_bytes.map(ByteSize::b)),
            plugin.calls,
            plugin.errors,
            or_dash(plugin.p50_ms.map(|ms| format!("{ms:.3} ms"))),
            or_dash(plugin.p99_ms.map(|ms| format!("{ms:.3} ms"))),
            plugin.restarts,
        )?;
    }
    html.push_str("</table>\n");
    Ok(())
}

fn write_events(html: &mut String, events: &[PluginEvent]) -> fmt::Result {
    html.push_str("<h2>Events</h2>\n<table><tr><th>time<th>plugin<th>event<th>what happened</tr>\n");
    for event in events.iter().rev().take(EVENTS) {
        let time = Time::new(event.time, 0).ok().and_then(|time| time.to_iso8601().ok());
        writeln!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{}</tr>",
            or_dash(time),
            Escaped(&event.plugin),
            Escaped(&event.kind),
            Escaped(&event.message),
        )?;
    }
    html.push_str("</table>\n");
    Ok(())
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Text that stays text, between tags as well as within a quoted attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}
