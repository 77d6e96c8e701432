//! Standard error: what goes on meanwhile.

use crate::cli::ProgressStyle;
use fused_lstm::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

/// Shows progress as the user asked.
pub struct Shown {
    style: ProgressStyle,
    bar: Mutex<Option<ProgressBar>>,
}

impl Shown {
    /// Progress in this style; `quiet` leaves only notes.
    pub fn new(style: ProgressStyle, quiet: bool) -> Self {
        let style = match style {
            _ if quiet => ProgressStyle::None,
            ProgressStyle::Auto if std::io::stderr().is_terminal() => ProgressStyle::Bar,
            ProgressStyle::Auto => ProgressStyle::Plain,
            chosen => chosen,
        };
        Self { style, bar: Mutex::new(None) }
    }

    /// Writes to the terminal with the bar out of the way.
    pub fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        match &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Progress for Shown {
    fn begin(&self, what: &str, total: u64) {
        match self.style {
            ProgressStyle::Bar => {
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
                // Work of unknown length has no bar to fill.
                let form = if total == 0 { "{msg}" } else { "{msg} [{wide_bar}] {percent} % {eta}" };
                bar.set_style(BarStyle::with_template(form).expect("the template is right").progress_chars("=> "));
                bar.set_message(what.to_owned());
                *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
            }
            ProgressStyle::Plain => self.note(what),
            ProgressStyle::Auto | ProgressStyle::None => {}
        }
    }

    fn update(&self, done: u64) {
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_position(done);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    fn note(&self, line: &str) {
        // Where standard error is closed there is nobody to tell.
        self.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }
}

/// Writes a line that the user should know, where no bar is shown.
#[cfg(feature = "cuda")]
pub fn note(text: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes an error as the program ends with it, or goes on in spite of it.
pub fn complain(error: &fused_lstm::Error) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {error}");
}
