//! What plugins do and cost, as text for Prometheus: for `/metrics`, and for plugins that were granted it.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::admin::status::PluginStatus;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The counters live with the plugins; a scrape takes what they are at that moment.
#[derive(Debug)]
struct Plugins(Vec<PluginStatus>);

/// The text of all metrics.
///
/// # Errors
/// When a metric can't be written as text.
pub fn encode(plugins: Vec<PluginStatus>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Plugins(plugins)));
    let mut text = String::new();
    encode_text(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Plugins {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ready = |plugin: &PluginStatus| Some(i64::from(plugin.state == "ready"));
        self.gauge(&mut encoder, "photondb_plugin_ready", "1 while the plugin takes calls", None, ready)?;
        self.counter(&mut encoder, "photondb_plugin_calls", "Calls answered, well or badly", None, |p| p.calls)?;
        self.counter(&mut encoder, "photondb_plugin_errors", "Calls that failed", None, |p| p.errors)?;
        self.counter(&mut encoder, "photondb_plugin_restarts", "Starts after a death", None, |p| p.restarts)?;
        let open = |plugin: &PluginStatus| Some(i64::from(plugin.breaker == "open"));
        self.gauge(&mut encoder, "photondb_plugin_breaker_open", "1 while calls fail at once", None, open)?;
        let busy = "Times that it used the processor while no call was on its way";
        self.counter(&mut encoder, "photondb_plugin_busy_between_calls", busy, None, |p| p.busy_between_calls)?;
        let dropped = "Log lines that were not kept, because there were too many at once";
        self.counter(&mut encoder, "photondb_plugin_dropped_log_lines", dropped, None, |p| p.dropped_log_lines)?;
        let bytes = Some(&Unit::Bytes);
        let resident = |plugin: &PluginStatus| plugin.memory_bytes.and_then(|bytes| i64::try_from(bytes).ok());
        self.gauge(&mut encoder, "photondb_plugin_memory", "Resident memory", bytes, resident)?;
        let shared = "Bytes that went through shared memory in place";
        self.counter(&mut encoder, "photondb_plugin_bytes_shared", shared, None, |p| p.bytes_shared)?;
        let copied = "Bytes that were copied out of what a plugin wrote";
        self.counter(&mut encoder, "photondb_plugin_bytes_copied", copied, None, |p| p.bytes_copied)?;
        self.latency(&mut encoder)
    }
}

impl Plugins {
    /// One counter a plugin; `_total` is added to the name.
    fn counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl Fn(&PluginStatus) -> u64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for plugin in &self.0 {
            let labels = [("plugin", plugin.name.as_str())];
            ConstCounter::new(value(plugin)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// One gauge for each plugin that has a value; the unit is added to the name.
    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl Fn(&PluginStatus) -> Option<i64>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for plugin in &self.0 {
            if let Some(value) = value(plugin) {
                let labels = [("plugin", plugin.name.as_str())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn latency(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("photondb_plugin_call", "Duration of recent calls, by quantile");
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for plugin in &self.0 {
            for (quantile, ms) in [("0.5", plugin.p50_ms), ("0.99", plugin.p99_ms)] {
                if let Some(ms) = ms {
                    let labels = [("plugin", plugin.name.as_str()), ("quantile", quantile)];
                    ConstGauge::new(ms / 1000.0).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}
