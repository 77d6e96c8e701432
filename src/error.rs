//! Every way in which this crate can fail, with the exit code that the program gives for it.

use std::io;
use std::path::Path;

/// `Result` with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, with which value, and what to do about it, in one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument that cannot be used.
    #[error("{argument}: {found}; {remedy}")]
    Usage {
        /// The flag or parameter as the user types it, with its value: `--lr nan`.
        argument: String,
        /// What is wrong with it.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// Data that is missing or broken.
    #[error("{place}: {found}; {remedy}")]
    Data {
        /// File, folder or address.
        place: String,
        /// What was found there.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// A device that was asked for and is not there.
    #[error("{device}: {found}; {remedy}")]
    Device {
        /// The device as the user named it.
        device: String,
        /// What was found.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// A checkpoint that cannot be used.
    #[error("{place}: {found}; {remedy}")]
    Checkpoint {
        /// File or folder.
        place: String,
        /// What was found there.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// The loss is no longer a finite number.
    #[error("the loss became {loss} at step {step}; {remedy}")]
    Diverged {
        /// Training step, from 1, whose loss is not finite.
        step: u64,
        /// That loss.
        loss: f32,
        /// What to do; it says which checkpoint was kept.
        remedy: String,
    },
    /// The user stopped the run.
    #[error("interrupted after step {step}; {remedy}")]
    Interrupted {
        /// Steps done.
        step: u64,
        /// Where the state was saved and how to go on.
        remedy: String,
    },
    /// The user stopped work that has no steps.
    #[error("{found}; {remedy}")]
    Stopped {
        /// How far it came.
        found: String,
        /// Where that is.
        remedy: String,
    },
    /// The operating system refused something.
    #[error("{place}: cannot {action}: {source}; {remedy}")]
    Io {
        /// File or folder.
        place: String,
        /// What was tried: `write`, `create the folder`.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
        /// What to do.
        remedy: String,
    },
    /// A check whose result is the answer, such as `verify`, did not hold.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// An unusable argument (exit code 2).
    pub fn usage(argument: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { argument: argument.into(), found: found.into(), remedy: remedy.into() }
    }

    /// Missing or broken data at `place` (exit code 3).
    pub fn data(place: impl AsRef<Path>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Data { place: place.as_ref().display().to_string(), found: found.into(), remedy: remedy.into() }
    }

    /// An unusable checkpoint at `place` (exit code 5).
    pub fn checkpoint(place: impl AsRef<Path>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Checkpoint { place: place.as_ref().display().to_string(), found: found.into(), remedy: remedy.into() }
    }

    /// A refusal of the operating system at `place` (exit code 1).
    pub fn io(place: impl AsRef<Path>, action: &'static str, source: io::Error, remedy: impl Into<String>) -> Self {
        Self::Io { place: place.as_ref().display().to_string(), action, source, remedy: remedy.into() }
    }

    /// The program's exit code for this error: 1 failed, 2 usage, 3 data, 4 device, 5 checkpoint, 6 diverged,
    /// 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Io { .. } => 1,
            Self::Usage { .. } => 2,
            Self::Data { .. } => 3,
            Self::Device { .. } => 4,
            Self::Checkpoint { .. } => 5,
            Self::Diverged { .. } => 6,
            Self::Interrupted { .. } | Self::Stopped { .. } => 130,
        }
    }
}
