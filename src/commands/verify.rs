//! `fused-lstm verify`: does an engine compute what a fixture expects?

use super::output::line;
use crate::cli::{DeviceArgs, EngineName, VerifyArgs};
use fused_lstm::engine::Engine;
use fused_lstm::fixture::Fixture;
use fused_lstm::reference::ReferenceEngine;
use fused_lstm::{Error, Result};
use std::fs;
use std::path::Path;

/// Runs the command.
pub fn run(args: &VerifyArgs) -> Result<()> {
    let mut outside = 0;
    for path in &args.fixtures {
        outside += verify(args, path)?;
    }
    match outside {
        0 => Ok(()),
        n => Err(Error::Failed(format!("{n} tensors are outside their bounds"))),
    }
}

/// Runs one fixture; returns how many comparisons did not hold.
fn verify(args: &VerifyArgs, path: &Path) -> Result<usize> {
    let fixture = Fixture::read(path)?;
    let mut engine: Box<dyn Engine> = match args.engine {
        EngineName::Reference => Box::new(ReferenceEngine::<f64>::new(fixture.model, fixture.adam, fixture.dataset())),
        EngineName::Cpu => {
            let device = DeviceArgs { device: crate::cli::Device::Cpu, threads: args.threads };
            super::engine(&device, fixture.model, fixture.adam, fixture.dataset())?
        }
    };
    let dims = fixture.model.dims;
    line(&format!(
        "{}: B {}, T {}, I {}, P {}, H {}, K {}; {}",
        path.display(),
        fixture.batch.len(),
        dims.t,
        dims.i,
        dims.p,
        dims.h,
        dims.k,
        engine.device()
    ))?;
    let computed = fixture.compute(engine.as_mut())?;
    let fail = |found| Error::data(path, found, "give a fixture whose tensors fit together");
    let comparisons = fixture.compare(&computed).map_err(fail)?;
    for c in &comparisons {
        let verdict = if c.holds() { "ok" } else { "OUTSIDE" };
        line(&format!("  {:<24}{:>5} error {:>9.2e}  bound {:>7.0e}  {verdict}", c.name, c.measure, c.error, c.bound))?;
    }
    if comparisons.is_empty() {
        line("  nothing is expected")?;
    }
    if let Some(folder) = &args.dump {
        let name = path.file_name().unwrap_or_default();
        let to = folder.join(name);
        let remedy = "choose another folder with --dump";
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create the folder", e, remedy))?;
        if fs::canonicalize(&to).is_ok_and(|to| fs::canonicalize(path).is_ok_and(|path| path == to)) {
            let flag = format!("--dump {}", folder.display());
            return Err(Error::usage(flag, "that would replace the fixture itself", "choose another folder"));
        }
        fixture.dump(computed).write(&to, "--dump")?;
        line(&format!("  written to {}", to.display()))?;
    }
    Ok(comparisons.iter().filter(|c| !c.holds()).count())
}
