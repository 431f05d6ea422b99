//! Plugins' aggregates: `reduce(r.js("plugin.NAME"))`.
//!
//! Values go to the plugin in parts, of which it makes states; while it works on one, the next is read. The states are
//! merged, so that memory does not grow with the number of values.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::batch::Value;
use photondb_plugin_sdk::kinds::aggregate::Step;

use super::error::{ReqlError, Result};
use super::eval::Context;
use super::plugin::{Outcome, PluginCall, Started};

/// The most values of a part ...
const VALUES: usize = 16 << 10;
/// ... and about the most bytes: less than a message may have.
const BYTES: usize = 512 << 10;

impl PluginCall {
    /// The aggregate of `values`.
    ///
    /// # Errors
    /// Those of the values, and of the plugin.
    pub fn aggregate(&self, ctx: &Context, values: impl IntoIterator<Item = Result<Datum>>) -> Result<Datum> {
        let mut states = Part::default();
        let mut part = Part::default();
        let mut running: Option<Running> = None;
        for value in values {
            if part.push(value?) {
                let next = self.accumulate(ctx, part.take());
                if let Some(running) = running.replace(next) {
                    self.collect(ctx, &mut states, running)?;
                }
            }
        }
        if let Some(running) = running {
            self.collect(ctx, &mut states, running)?;
        }
        if !part.values.is_empty() {
            let running = self.accumulate(ctx, part.take());
            self.collect(ctx, &mut states, running)?;
        }
        self.step(ctx, Step::Finish, states.take())
    }

    fn accumulate(&self, ctx: &Context, values: Datum) -> Running {
        let step = Value::Computed(Step::Accumulate.name().into());
        let started = self.begin(ctx, &[&[step], &[Value::Computed(values.clone())]], 1);
        Running { values, started }
    }

    /// Adds the state of a part, and merges states that have become many.
    fn collect(&self, ctx: &Context, states: &mut Part, running: Running) -> Result<()> {
        let state = match running.started.map(|started| started.finish(ctx)) {
            Some(Outcome::Results(mut results)) => results.pop(),
            Some(Outcome::Late(error)) => return Err(error),
            None | Some(Outcome::OneByOne | Outcome::Lost) => None,
        };
        let state = state.map_or_else(|| self.step(ctx, Step::Accumulate, running.values), Ok)?;
        if states.push(state) {
            let merged = self.step(ctx, Step::Merge, states.take())?;
            states.push(merged);
        }
        Ok(())
    }

    fn step(&self, ctx: &Context, step: Step, values: Datum) -> Result<Datum> {
        let (step, values) = (Value::Computed(step.name().into()), Value::Computed(values));
        let mut results = self.send(ctx, &[&[step], &[values]], 1)?;
        results.pop().ok_or_else(|| ReqlError::internal("A plugin's result was lost."))
    }
}

/// Values that a plugin makes a state of, perhaps already.
struct Running {
    values: Datum,
    started: Option<Started>,
}

/// Values that go in one message.
#[derive(Default)]
struct Part {
    values: Vec<Datum>,
    bytes: usize,
}

impl Part {
    /// Adds a value; `true` when the part is as large as it should get.
    fn push(&mut self, value: Datum) -> bool {
        self.bytes += match &value {
            Datum::Number(_) => 8,
            Datum::String(text) => 8 + text.len(),
            Datum::Binary(bytes) => 8 + bytes.len(),
            other => other.encoded().len(),
        };
        self.values.push(value);
        self.values.len() >= VALUES || (self.bytes >= BYTES && self.values.len() > 1)
    }

    fn take(&mut self) -> Datum {
        self.bytes = 0;
        Datum::array(self.values.drain(..))
    }
}
