//! How long work tells that it goes on, without knowing who listens.

/// A listener for work that is counted in units (bytes, steps, images).
///
/// Implementations must be cheap: they are called from inner loops.
pub trait Progress {
    /// Work named `what` begins; `total` units are expected, 0 where that is not known.
    fn begin(&self, what: &str, total: u64);
    /// `done` units of the work begun last are done.
    fn update(&self, done: u64);
    /// The work begun last has ended, well or not.
    fn end(&self);
    /// One line that the user should read: a mirror that failed, a fallback taken.
    fn note(&self, line: &str);
}

/// Listens to nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: u64) {}
    fn update(&self, _done: u64) {}
    fn end(&self) {}
    fn note(&self, _line: &str) {}
}
