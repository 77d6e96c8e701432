//! `--device`: the only place that chooses an engine.

use crate::cli::{Device, DeviceArgs};
use fused_lstm::Result;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::Dataset;
use fused_lstm::engine::{Engine, Model};
use fused_lstm::optimizer::Adam;
use std::sync::Arc;

#[cfg(feature = "cuda")]
use fused_lstm::cuda::{CudaEngine, driver::Driver};

/// What computes, opened before anything else is done: a GPU that is not there is told at once.
pub enum Chosen {
    Cpu {
        /// 0 for one of each core.
        threads: usize,
    },
    #[cfg(feature = "cuda")]
    Cuda(Box<Driver>),
}

impl Chosen {
    /// The device that the flags ask for. `auto` takes a GPU if there is one that can be used, else says why not.
    pub fn open(args: &DeviceArgs) -> Result<Self> {
        let cpu = Self::Cpu { threads: args.threads.unwrap_or(0).into() };
        match args.device {
            Device::Cpu => Ok(cpu),
            Device::Auto => gpu_or(cpu, args),
            Device::Cuda(ordinal) => gpu(ordinal, args),
        }
    }

    /// The engine, holding `data`.
    pub fn engine(self, model: Model, adam: Adam, data: Arc<Dataset>) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Self::Cpu { threads } => Box::new(CpuEngine::new(model, adam, data, threads)?),
            #[cfg(feature = "cuda")]
            Self::Cuda(driver) => Box::new(CudaEngine::new(*driver, model, adam, data)?),
        })
    }
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize, args: &DeviceArgs) -> Result<Chosen> {
    use fused_lstm::Error;
    let driver = Driver::open(ordinal, !args.no_cache).map_err(|error| match error {
        Error::Device { found, remedy, .. } => {
            Error::Device { device: format!("--device cuda:{ordinal}"), found, remedy }
        }
        other => other,
    })?;
    driver.notes().iter().for_each(|text| super::progress::note(text));
    Ok(Chosen::Cuda(Box::new(driver)))
}

#[cfg(feature = "cuda")]
fn gpu_or(cpu: Chosen, args: &DeviceArgs) -> Result<Chosen> {
    match gpu(0, args) {
        // Anything else than a missing device is a fault that must be seen.
        Err(fused_lstm::Error::Device { found, .. }) => {
            super::progress::note(&format!("no GPU is used: {found}"));
            Ok(cpu)
        }
        opened => opened,
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(ordinal: usize, _: &DeviceArgs) -> Result<Chosen> {
    Err(fused_lstm::Error::Device {
        device: format!("--device cuda:{ordinal}"),
        found: "this program was built without CUDA".into(),
        remedy: "use --device cpu, or build it with `cargo build --release --features cuda`".into(),
    })
}

/// Nobody who built the program for the CPU expects a GPU.
#[cfg(not(feature = "cuda"))]
fn gpu_or(cpu: Chosen, _: &DeviceArgs) -> Result<Chosen> {
    Ok(cpu)
}
