//! Standard error: what goes on meanwhile.

use crate::cli::ProgressStyle;
use fused_lstm::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two plain lines about the same work.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Shows progress as the user asked.
pub struct Shown {
    style: ProgressStyle,
    bar: Mutex<Option<ProgressBar>>,
    pace: Mutex<Option<Pace>>,
}

/// How work that plain lines tell of is getting on.
struct Pace {
    what: String,
    total: u64,
    /// When the first units were done, and how many: what an earlier run did says nothing of the pace of this one.
    first: Option<(Instant, u64)>,
    told: Instant,
}

impl Pace {
    /// A line for `done` units if it is time for one.
    fn line(&mut self, now: Instant, done: u64) -> Option<String> {
        let (started, before) = *self.first.get_or_insert((now, done));
        if now - self.told < BETWEEN_LINES || done <= before || self.total < done {
            return None;
        }
        self.told = now;
        let rest = (now - started).as_secs_f64() / (done - before) as f64 * (self.total - done) as f64;
        let share = 100 * done / self.total;
        // Whole seconds: the estimate is no better than that.
        let rest = humantime::format_duration(Duration::from_secs(rest.ceil() as u64));
        Some(format!("{}: {share} %, about {rest} left", self.what))
    }
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
        Self { style, bar: Mutex::new(None), pace: Mutex::new(None) }
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
                let form = if total == 0 { "{msg}" } else { "{msg} [{wide_bar}] {percent} %, {eta} left" };
                bar.set_style(BarStyle::with_template(form).expect("the template is right").progress_chars("=> "));
                bar.set_message(what.to_owned());
                *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
            }
            ProgressStyle::Plain => {
                self.note(what);
                let pace = Pace { what: what.to_owned(), total, first: None, told: Instant::now() };
                *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = Some(pace);
            }
            ProgressStyle::Auto | ProgressStyle::None => {}
        }
    }

    fn update(&self, done: u64) {
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            let first = bar.position() == 0;
            bar.set_position(done);
            if first {
                // What an earlier run did says nothing of the pace of this one.
                bar.reset_eta();
            }
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = pace.as_mut().and_then(|pace| pace.line(Instant::now(), done)) {
            self.note(&line);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn note(&self, line: &str) {
        // Where standard error is closed there is nobody to tell.
        self.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }
}

/// Writes a line that the user should know, where no bar is shown.
pub fn note(text: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "note: {text}");
}

/// Writes an error as the program ends with it, or goes on in spite of it.
pub fn complain(error: &fused_lstm::Error) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_tell_the_time_left() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace { what: "training".into(), total: 1000, first: None, told: start };
        // Of a run that goes on at step 400.
        assert_eq!(pace.line(start, 400), None);
        assert_eq!(pace.line(after(9), 420), None, "too soon");
        // 40 steps in 20 s leave 560 steps of half a second.
        assert_eq!(pace.line(after(20), 440).unwrap(), "training: 44 %, about 4m 40s left");
        assert_eq!(pace.line(after(29), 900), None, "too soon after the last");
        assert_eq!(pace.line(after(60), 1000).unwrap(), "training: 100 %, about 0s left");
        let mut unknown = Pace { what: "fetching".into(), total: 0, first: None, told: start };
        unknown.line(start, 1);
        assert_eq!(unknown.line(after(60), 5), None, "work of unknown length");
    }
}
