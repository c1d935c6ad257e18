//! What a person sees while something takes long: one line per step, with its time.
//!
//! A spinner on a terminal, plain lines elsewhere (CI logs), so that both say what was waited for and how long.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Runs one step, shows it while it works and its time when it is done. `f` may refine the shown message.
pub(crate) fn step<T>(name: impl Display, f: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
    let step = Step::start(name.to_string());
    let result = f(&step);
    step.finish(result.is_ok());
    result
}

/// A running step.
pub(crate) struct Step {
    name: String,
    bar: ProgressBar,
    start: Instant,
}

impl Step {
    fn start(name: String) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}") {
            bar.set_style(style);
        }
        bar.set_message(name.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        if bar.is_hidden() {
            eprintln!("  … {name}");
        }
        Self { name, bar, start: Instant::now() }
    }

    /// Says what exactly is being done right now.
    pub(crate) fn detail(&self, text: impl Display) {
        self.bar.set_message(format!("{}: {text}", self.name));
    }

    /// Hides the spinner while a child writes to the terminal itself.
    pub(crate) fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        self.bar.suspend(f)
    }

    fn finish(self, ok: bool) {
        self.bar.finish_and_clear();
        let mark = if ok { "✔" } else { "✘" };
        eprintln!("  {mark} {} ({:.1} s)", self.name, self.start.elapsed().as_secs_f64());
    }
}
