//! `--device` and `--precision`: the only place that chooses an engine.

use crate::cli::{ActivationsName, Device, DeviceArgs, PrecisionName};
use fused_lstm::cpu::{CpuEngine, Isa};
use fused_lstm::data::Dataset;
use fused_lstm::engine::{Engine, Model};
use fused_lstm::optimizer::Adam;
use fused_lstm::precision::{Activations, Precision};
use fused_lstm::{Error, Result};
use std::sync::Arc;

#[cfg(feature = "cuda")]
use fused_lstm::cuda::{
    CudaEngine,
    driver::Driver,
    tune::{Effort, Tuning},
};

/// What computes, opened before anything else is done: a GPU that is not there is told at once.
pub enum Chosen {
    Cpu {
        /// 0 for one of each core.
        threads: usize,
        isa: Isa,
    },
    #[cfg(feature = "cuda")]
    Cuda { driver: Box<Driver>, precision: Precision, activations: Activations, tuning: Tuning },
}

impl Chosen {
    /// The device that the flags ask for. `auto` takes a GPU if there is one that can be used, else says why not.
    pub fn open(args: &DeviceArgs) -> Result<Self> {
        let precision = args.precision.into();
        let is_fast = Activations::from(args.activations) == Activations::Fast;
        if is_fast && (precision != Precision::Bf16 || args.device == Device::Cpu) {
            return Err(Error::usage("--activations fast", FAST_ONLY, FAST_REMEDY));
        }
        let cpu = || {
            // Nothing that was asked for is left out in silence, but the GPU itself.
            if is_fast {
                return Err(Error::usage("--activations fast", FAST_ONLY, FAST_REMEDY));
            }
            Ok(Self::Cpu { threads: args.threads.unwrap_or(0).into(), isa: Isa::with(precision)? })
        };
        match args.device {
            Device::Cpu => cpu(),
            Device::Auto => gpu_or(cpu, args),
            Device::Cuda(ordinal) => gpu(ordinal, args),
        }
    }

    /// The same for so many training iterations: how the work is divided may be timed before, if they take long enough.
    #[cfg_attr(not(feature = "cuda"), allow(unused_mut, unused_variables))]
    pub fn for_iterations(mut self, count: u64) -> Self {
        #[cfg(feature = "cuda")]
        if let Self::Cuda { tuning, .. } = &mut self {
            tuning.raise(Effort::Iterations(count));
        }
        self
    }

    /// The same for training whose speed is the question.
    #[cfg_attr(not(feature = "cuda"), allow(unused_mut))]
    pub fn for_speed(mut self) -> Self {
        #[cfg(feature = "cuda")]
        if let Self::Cuda { tuning, .. } = &mut self {
            tuning.raise(Effort::Always);
        }
        self
    }

    /// The engine, holding `data`.
    pub fn engine(self, model: Model, adam: Adam, data: Arc<Dataset>) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Self::Cpu { threads, isa } => Box::new(CpuEngine::with_isa(model, adam, data, threads, isa)?),
            #[cfg(feature = "cuda")]
            Self::Cuda { driver, precision, activations, tuning } => {
                let engine = CudaEngine::with_precision(*driver, model, adam, data, precision)?;
                Box::new(engine.with_activations(activations).with_tuning(tuning))
            }
        })
    }
}

/// A GPU's engine for as many of the models with these optimizers as can train at the same time, so many iterations each.
#[cfg(feature = "cuda")]
pub fn side_by_side(
    args: &DeviceArgs,
    model: Model,
    adams: &[Adam],
    data: Arc<Dataset>,
    (batch, iterations): (usize, u64),
) -> Result<CudaEngine<Driver>> {
    match Chosen::open(args)?.for_iterations(iterations) {
        Chosen::Cuda { driver, precision, activations, tuning } => {
            let engine = CudaEngine::with_precision(*driver, model, adams[0], data, precision)?;
            engine.with_activations(activations).with_tuning(tuning).with_models(adams, batch)
        }
        Chosen::Cpu { .. } => Err(Error::Device {
            device: "cuda".into(),
            found: "the GPU that was there is gone".into(),
            remedy: "run `fused-lstm doctor`".into(),
        }),
    }
}

/// What fast activations are part of, and what to do without.
const FAST_ONLY: &str = "only the GPU's kernels in bf16 have them";
const FAST_REMEDY: &str = "give --device cuda --precision bf16 with it, or leave it out";

impl From<ActivationsName> for Activations {
    fn from(name: ActivationsName) -> Self {
        match name {
            ActivationsName::Accurate => Self::Accurate,
            ActivationsName::Fast => Self::Fast,
        }
    }
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::Auto | PrecisionName::F32 => Self::F32,
            PrecisionName::Tf32 => Self::Tf32,
            PrecisionName::Bf16 => Self::Bf16,
        }
    }
}

/// How a GPU multiplies and activates, for a command that is about GPUs alone.
#[cfg(feature = "cuda")]
pub fn gpu_numbers(args: &DeviceArgs) -> Result<(Precision, Activations)> {
    let (precision, activations) = (args.precision.into(), args.activations.into());
    if activations == Activations::Fast && precision != Precision::Bf16 {
        return Err(Error::usage("--activations fast", FAST_ONLY, FAST_REMEDY));
    }
    Ok((precision, activations))
}

/// The number of the GPU, for a command that is about GPUs alone: what it `does` and, for who asks for the processor, what
/// to do `instead`.
pub fn gpu_alone(args: &DeviceArgs, does: &str, instead: &str) -> Result<usize> {
    match args.device {
        Device::Cpu => Err(Error::usage("--device cpu", does, format!("give --device cuda; {instead}"))),
        Device::Auto => Ok(0),
        Device::Cuda(ordinal) => Ok(ordinal),
    }
}

/// What is known of the fastest ways to divide the work, and how far to go to know more; nothing where the flags say so.
#[cfg(feature = "cuda")]
pub fn tuning(args: &DeviceArgs, effort: Effort) -> Tuning {
    Tuning::of_user(if args.no_tune { Effort::None } else { effort }, !args.no_cache)
}

/// The driver of that GPU, with what the user should know of it told.
#[cfg(feature = "cuda")]
pub fn open_gpu(ordinal: usize, args: &DeviceArgs) -> Result<Box<Driver>> {
    let driver = Driver::open(ordinal, !args.no_cache).map_err(|error| match error {
        Error::Device { found, remedy, .. } => {
            Error::Device { device: format!("--device cuda:{ordinal}"), found, remedy }
        }
        other => other,
    })?;
    driver.notes().iter().for_each(|text| super::progress::note(text));
    Ok(Box::new(driver))
}

/// What a program without CUDA says of a GPU.
#[cfg(not(feature = "cuda"))]
pub fn without_cuda(ordinal: usize) -> Error {
    Error::Device {
        device: format!("--device cuda:{ordinal}"),
        found: "this program was built without CUDA".into(),
        remedy: "use --device cpu, or build it with `cargo build --release --features cuda`".into(),
    }
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize, args: &DeviceArgs) -> Result<Chosen> {
    let (precision, activations) = (args.precision.into(), args.activations.into());
    let driver = open_gpu(ordinal, args)?;
    Ok(Chosen::Cuda { driver, precision, activations, tuning: tuning(args, Effort::Known) })
}

#[cfg(feature = "cuda")]
fn gpu_or(cpu: impl Fn() -> Result<Chosen>, args: &DeviceArgs) -> Result<Chosen> {
    match gpu(0, args) {
        // Anything else than a missing device is a fault that must be seen.
        Err(Error::Device { found, .. }) => {
            super::progress::note(&format!("no GPU is used: {found}"));
            cpu()
        }
        opened => opened,
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(ordinal: usize, _: &DeviceArgs) -> Result<Chosen> {
    Err(without_cuda(ordinal))
}

/// Nobody who built the program for the CPU expects a GPU.
#[cfg(not(feature = "cuda"))]
fn gpu_or(cpu: impl Fn() -> Result<Chosen>, _: &DeviceArgs) -> Result<Chosen> {
    cpu()
}
