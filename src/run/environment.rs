//! What a run ran on, as far as it explains its numbers.

use crate::engine::Engine;
use crate::precision::Precision;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::SystemTime;

/// Program, device and machine. Names of people, machines and folders are no part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of the program.
    pub version: String,
    /// The engine's device in one line.
    pub device: String,
    /// Threads that compute.
    pub threads: usize,
    /// Precision of the operands of matrix products.
    pub precision: Precision,
    /// The processor's own name, where the system tells it.
    pub processor: Option<String>,
    /// Cores that the program may use.
    pub cores: usize,
    /// The operating system.
    pub system: String,
    /// Processor architecture that the program was built for.
    pub architecture: String,
    /// When the run started last, in UTC.
    pub started: String,
}

impl Environment {
    /// This machine with this engine, now.
    pub fn of(engine: &dyn Engine) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            device: engine.device(),
            threads: engine.threads(),
            precision: engine.precision(),
            processor: value("/proc/cpuinfo", "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            system: value("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.into()),
            architecture: std::env::consts::ARCH.into(),
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }
}

/// The first value of `key` in a file of lines `key sign value`.
fn value(path: &str, key: &str, sign: char) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(sign));
    let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().trim_matches('"').to_owned())
}
