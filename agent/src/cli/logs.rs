//! `orlop logs`: a container's CRI log file, as `kubectl logs` shows it.

use std::{io::Write as _, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use orlop::args::{DirArgs, TargetArgs};
use orlop_runtime::{
    ContainerState,
    log::{Options, Reader},
};

use super::find;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Prints what is there, and with `follow` what comes until the container ends.
///
/// # Errors
/// There is no such container here, or its log cannot be read.
pub(crate) fn logs(follow: bool, part: &Options, target: &TargetArgs, dirs: &DirArgs) -> Result<()> {
    let runs = || -> Result<_> {
        let pods = orlop_runtime::list(&dirs.run_dir);
        let (_, container) = find::container(&pods, &target.pod, target.container.as_deref())?;
        let runs = matches!(container.state, ContainerState::Running { .. });
        Ok((container.id.clone(), container.log_path.clone(), runs))
    };
    let (id, path, mut running) = runs()?;
    let mut reader = Reader::open(&path, part).with_context(|| format!("open {}", path.display()))?;
    let mut out = std::io::stdout().lock();
    loop {
        while let Some(piece) = reader.next().with_context(|| format!("read {}", path.display()))? {
            out.write_all(&piece).and_then(|()| out.flush()).context("print")?;
        }
        if !follow || !running || reader.finished() {
            return Ok(());
        }
        sleep(LOOK);
        // Once more after its end: it may have written until then.
        running = runs().is_ok_and(|(now, _, runs)| now == id && runs);
    }
}
