//! What was enforced against what was required. Each step has read its own result back from the kernel; here the sum.

use photondb_sandbox_profiles::layers::{Layer, Report};

use crate::refusal::Refusal;
use crate::weak;

/// Refuses if a required layer is not in force.
pub fn require(required: &[Layer], report: &Report) -> Result<(), Refusal> {
    let mut lacking = report.lacking(required);
    lacking.retain(|layer| !weak::is_left_out(*layer));
    if lacking.is_empty() {
        return Ok(());
    }
    let reason = |layer: &Layer| {
        let missing = report.missing.iter().find(|missing| missing.layer == *layer);
        let detail = missing.map_or("not asked for by the profile", |missing| missing.detail.as_str());
        format!("{layer} ({detail})")
    };
    let reasons: Vec<_> = lacking.iter().map(reason).collect();
    Err(Refusal::new("enforce what is required", reasons.join(", ")))
}
