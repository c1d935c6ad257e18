//! Size of what is shipped.

use std::fs;

use anyhow::{Context as _, Result};

use super::row::{Aim, Row};
use super::summary::Summary;
use crate::build::Built;

pub(crate) fn measure(built: &Built) -> Result<Vec<Row>> {
    let size = |path: &std::path::Path| -> Result<f64> {
        let meta = fs::metadata(path).with_context(|| format!("size of {}", path.display()))?;
        #[expect(clippy::cast_precision_loss, reason = "binaries are far below 2^53 bytes")]
        let megabytes = meta.len() as f64 / 1e6;
        Ok(megabytes)
    };
    Ok(vec![
        Row::new("size of orlop (static, stripped)", "MB", Summary::single(size(&built.orlop)?))
            .aim(Aim::AtMost(40.0)),
        Row::new("size of orlop-shim (static, stripped)", "MB", Summary::single(size(&built.shim)?)),
    ])
}
