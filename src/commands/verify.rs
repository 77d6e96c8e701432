//! `fused-lstm verify`: does an engine compute what a fixture expects?

use super::device::Chosen;
use super::output::{line, scientific};
use crate::cli::{ActivationsName, Device, DeviceArgs, EngineName, VerifyArgs};
use fused_lstm::data::Dataset;
use fused_lstm::engine::{Engine, Model};
use fused_lstm::fixture::Fixture;
use fused_lstm::optimizer::Adam;
use fused_lstm::precision::Precision;
use fused_lstm::reference::{ReferenceEngine, Style};
use fused_lstm::{Error, Result};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Most tensors that a failure names.
const NAMED: usize = 3;

/// Runs the command and returns the exit code. A fixture that is broken or does not hold does not keep the others from
/// being run.
pub fn run(args: &VerifyArgs) -> u8 {
    super::each(&args.fixtures, |path| verify(args, path))
}

/// Runs one fixture.
fn verify(args: &VerifyArgs, path: &Path) -> Result<()> {
    let fixture = Fixture::read(path)?;
    let mut engine = engine(args, &fixture)?;
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
    let comparisons = fixture.compare(&computed, engine.precision()).map_err(fail)?;
    for c in &comparisons {
        let verdict = if c.holds() { "ok" } else { "OUTSIDE" };
        let (error, bound) = (scientific(c.error, 2), scientific(c.bound, 0));
        line(&format!("  {:<20}{:<4}error {error:>9}  bound {bound:>6}  {verdict}", c.name, c.measure))?;
    }
    let outside: Vec<_> = comparisons.iter().filter(|c| !c.holds()).map(|c| c.name.as_str()).collect();
    match comparisons.len() {
        0 => line("  nothing is expected")?,
        all => line(&format!("  {} of {all} comparisons are within their bounds", all - outside.len()))?,
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
    if outside.is_empty() { Ok(()) } else { Err(Error::Failed(failure(path, outside))) }
}

fn engine(args: &VerifyArgs, fixture: &Fixture) -> Result<Box<dyn Engine>> {
    let (model, adam, data) = (fixture.model, fixture.adam, fixture.dataset());
    let on = |device| {
        let (threads, precision) = (args.threads, args.precision);
        let activations = ActivationsName::Accurate;
        let device = DeviceArgs { device, threads, precision, activations, no_cache: false, no_tune: false };
        Chosen::open(&device)?.engine(model, adam, data.clone())
    };
    match args.engine {
        EngineName::Reference => {
            let reference = ReferenceEngine::<f64>::new(model, adam, data);
            match args.precision.into() {
                Precision::F32 => Ok(Box::new(reference)),
                Precision::Bf16 => Ok(Box::new(reference.rounding_to_bf16(Style::Cpu))),
                Precision::Tf32 => Ok(Box::new(reference.rounding_to_tf32())),
            }
        }
        EngineName::Cpu => on(Device::Cpu).map_err(engine_flag),
        EngineName::Cuda => on(Device::Cuda(0)).map_err(engine_flag),
        EngineName::Emulator => emulator(args.precision.into(), model, adam, data),
    }
}

/// The flags of the other commands are none of this one's.
fn engine_flag(error: Error) -> Error {
    match error {
        Error::Device { device, found, remedy } => Error::Device {
            device: device.replace("--device cuda:0", "--engine cuda"),
            found,
            remedy: remedy.replace("--device", "--engine"),
        },
        other => other,
    }
}

#[cfg(feature = "emulator")]
fn emulator(precision: Precision, model: Model, adam: Adam, data: Arc<Dataset>) -> Result<Box<dyn Engine>> {
    use fused_lstm::cuda::{CudaEngine, emulated::Emulated, kept};
    let device = Emulated::new(kept::ptx(), Default::default())?;
    Ok(Box::new(CudaEngine::with_precision(device, model, adam, data, precision)?))
}

#[cfg(not(feature = "emulator"))]
fn emulator(_: Precision, _: Model, _: Adam, _: Arc<Dataset>) -> Result<Box<dyn Engine>> {
    Err(Error::Device {
        device: "--engine emulator".into(),
        found: "this program was built without the emulator".into(),
        remedy: "build it with `cargo build --release --features emulator`".into(),
    })
}

fn failure(path: &Path, mut outside: Vec<&str>) -> String {
    outside.dedup();
    let shown = &outside[..outside.len().min(NAMED)];
    let rest = if outside.len() > NAMED { ", …" } else { "" };
    format!(
        "{}: outside of the bounds: {}{rest}; the lines marked OUTSIDE say by how much",
        path.display(),
        shown.join(", ")
    )
}
