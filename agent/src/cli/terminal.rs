//! The terminal this command was typed in: raw while a session has it, and as it was afterwards.

use std::{io::IsTerminal as _, os::fd::AsFd as _};

use anyhow::{Context as _, Result, bail};
use orlop_runtime::stream::Window;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// As long as it lives, every key goes to the other side.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn new() -> Result<Raw> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            bail!("standard input is not a terminal: leave out --tty");
        }
        let before = tcgetattr(stdin.as_fd()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).context("change the terminal's settings")?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done with a terminal that is gone.
        tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0).ok();
    }
}

/// Its size; that of a teletype's successor where it does not say.
pub(super) fn window() -> Window {
    tcgetwinsize(std::io::stdin().as_fd())
        .map_or(Window { rows: 24, columns: 80 }, |size| Window { rows: size.ws_row, columns: size.ws_col })
}
