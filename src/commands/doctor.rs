//! `fused-lstm doctor`: what there is on this machine, what is wrong with it, and what to do.
//!
//! Every check goes the way that `train` goes. A check fails where something that is there does not work; what is missing
//! and can be done without, such as a GPU, is a warning.

#[cfg(feature = "cuda")]
mod cuda;
mod self_test;
mod user;

use super::output::{event, line};
use crate::cli::DoctorArgs;
use fused_lstm::cpu::{CpuEngine, Isa};
use fused_lstm::engine::Engine;
use fused_lstm::{Error, Result};
use serde::Serialize;
use serde_json::json;
use std::time::Instant;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pass,
    /// Works without it, but slower or with less.
    Warn,
    /// Is there and does not work.
    Fail,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    status: Status,
    /// What was found.
    found: String,
    /// What to do; only where it did not pass.
    remedy: Option<String>,
}

impl Check {
    fn pass(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Pass, found: found.into(), remedy: None }
    }

    fn warn(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::warn(name, found, remedy) }
    }

    /// The line for an error, as a warning or a failure.
    fn of(name: impl Into<String>, status: Status, error: Error) -> Self {
        let (found, remedy) = split(error);
        Self { status, ..Self::warn(name, found, remedy) }
    }

    fn line(&self) -> String {
        let remedy = self.remedy.as_ref().map_or_else(String::new, |remedy| format!("; {remedy}"));
        // A compiler's log has many lines, and a check has one.
        let text = format!("{}{remedy}", self.found).split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{}  {:<15} {text}", self.status.word(), self.name)
    }
}

/// What was found, and what to do about it.
fn split(error: Error) -> (String, String) {
    match error {
        Error::Usage { argument: place, found, remedy }
        | Error::Data { place, found, remedy }
        | Error::Checkpoint { place, found, remedy } => (format!("{place}: {found}"), remedy),
        Error::Device { found, remedy, .. } => (found, remedy),
        Error::Io { place, action, source, remedy } => (format!("{place}: cannot {action}: {source}"), remedy),
        other => (other.to_string(), "report it, with the output of `fused-lstm doctor --json`".into()),
    }
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let started = Instant::now();
    let mut told = Told { json: args.json, checks: Vec::new() };
    told.tell(build())?;
    told.tell(processor())?;
    told.tell(self_test::cpu())?;
    told.tell(user::data(&args.data))?;
    for folder in &args.model {
        told.tell(user::model(folder, &args.data))?;
    }
    #[cfg(feature = "cuda")]
    cuda::checks(&mut |check| told.tell(check))?;
    #[cfg(not(feature = "cuda"))]
    told.tell(without_cuda())?;
    told.end(started.elapsed().as_secs_f64())
}

/// The checks so far; as text, each is told when it is done.
struct Told {
    json: bool,
    checks: Vec<Check>,
}

impl Told {
    fn tell(&mut self, check: Check) -> Result<()> {
        if !self.json {
            line(&check.line())?;
        }
        self.checks.push(check);
        Ok(())
    }

    fn end(&self, seconds: f64) -> Result<()> {
        let count = |status| self.checks.iter().filter(|check| check.status == status).count();
        let (passed, warnings) = (count(Status::Pass), count(Status::Warn));
        let failed: Vec<_> = self.checks.iter().filter(|check| check.status == Status::Fail).collect();
        if self.json {
            let version = env!("CARGO_PKG_VERSION");
            let seconds = (seconds * 1e3).round() / 1e3;
            let ok = failed.is_empty();
            event("doctor", json!({ "version": version, "ok": ok, "seconds": seconds, "checks": self.checks }))?;
        } else {
            let failed = failed.len();
            let plural = if warnings == 1 { "" } else { "s" };
            line(&format!("\n{passed} passed, {warnings} warning{plural}, {failed} failed; {seconds:.2} s"))?;
        }
        if failed.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = failed.iter().map(|check| check.name.as_str()).collect();
        Err(Error::Failed(format!("does not work: {}; what to do stands at the end of its line", names.join(", "))))
    }
}

fn build() -> Check {
    let features: Vec<_> = [("cuda", cfg!(feature = "cuda")), ("emulator", cfg!(feature = "emulator"))]
        .into_iter()
        .filter_map(|(name, is_on)| is_on.then_some(name))
        .collect();
    let features = if features.is_empty() { "none".into() } else { features.join(", ") };
    let target = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    Check::pass("build", format!("fused-lstm {} for {target}, features: {features}", env!("CARGO_PKG_VERSION")))
}

/// Vectors and threads, as the engine finds them.
fn processor() -> Check {
    let available: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    let (model, adam, data) = self_test::tiny();
    match CpuEngine::new(model, adam, data, 0) {
        Ok(engine) => Check::pass("cpu", format!("{} (it has {})", engine.device(), available.join(", "))),
        Err(error) => Check::of("cpu", Status::Fail, error),
    }
}

#[cfg(not(feature = "cuda"))]
fn without_cuda() -> Check {
    Check::warn(
        "gpu",
        "this program was built without CUDA: driver, GPUs, NVRTC, cache and kernels are not checked",
        "for a GPU, build it with `cargo build --release --features cuda`",
    )
}
