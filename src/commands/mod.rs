//! One file for each command; the only place that chooses an engine.

pub mod bench;
pub mod data;
pub mod eval;
pub mod help;
pub mod predict;
pub mod train;
pub mod verify;

mod output;
mod progress;

pub use progress::complain;

use crate::cli::{DataArgs, Device, DeviceArgs};
use fused_lstm::checkpoint::{Checkpoint, Config};
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::source::{self, Source};
use fused_lstm::data::{Dataset, Values};
use fused_lstm::engine::{Engine, Model, State};
use fused_lstm::optimizer::Adam;
use fused_lstm::progress::Progress;
use fused_lstm::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// The engine for a device, holding `data`.
fn engine(args: &DeviceArgs, model: Model, adam: Adam, data: Arc<Dataset>) -> Result<Box<dyn Engine>> {
    match args.device {
        Device::Auto | Device::Cpu => {
            let threads = args.threads.unwrap_or(0).into();
            Ok(Box::new(CpuEngine::new(model, adam, data, threads)?))
        }
        Device::Cuda => Err(Error::Device {
            device: "--device cuda".into(),
            found: "this version has no CUDA engine".into(),
            remedy: "use --device cpu".into(),
        }),
    }
}

/// The data set that the flags name; else the `trained_on` of a checkpoint, else the automatic choice.
fn dataset(args: &DataArgs, trained_on: Option<&str>, progress: &dyn Progress) -> Result<Arc<Dataset>> {
    let source = args.data.clone().unwrap_or_else(|| match trained_on {
        Some("synthetic") if args.data_dir.is_none() => Source::Synthetic,
        Some("mnist") => Source::Mnist,
        _ => Source::Auto,
    });
    Ok(Arc::new(source::load(&source, args.data_dir.as_deref(), args.offline, progress)?))
}

/// A model from a checkpoint that is to run on `data`.
fn load_model(folder: &Path, device: &DeviceArgs, data: Option<Arc<Dataset>>) -> Result<(Config, Box<dyn Engine>)> {
    let (config, parameters) = Checkpoint::load_model(folder)?;
    let data = match data {
        Some(data) => {
            check_fit(folder, config.model, &data)?;
            data
        }
        None => Arc::new(nothing(config.model)),
    };
    let mut engine = engine(device, config.model, config.adam, data)?;
    engine.set_state(&State::new(parameters))?;
    Ok((config, engine))
}

/// Makes sure that `data` has the sizes of the model in `folder`.
fn check_fit(folder: &Path, model: Model, data: &Dataset) -> Result<()> {
    let dims = model.dims;
    if (data.train.t(), data.train.i(), data.classes) == (dims.t, dims.i, dims.k) {
        return Ok(());
    }
    Err(Error::checkpoint(
        folder,
        format!(
            "the model is for {} steps of {} inputs and {} classes, the data has {} of {} and {}",
            dims.t,
            dims.i,
            dims.k,
            data.train.t(),
            data.train.i(),
            data.classes
        ),
        "name the data it was trained on with --data or --data-dir",
    ))
}

/// A data set of the model's sizes without sequences, for an engine that only predicts.
fn nothing(model: Model) -> Dataset {
    let none = fused_lstm::data::Sequences::new(model.dims.t, model.dims.i, Values::F32(Vec::new()), Vec::new());
    Dataset {
        description: "no data".into(),
        name: "none",
        classes: model.dims.k,
        train: none.clone(),
        validation: none.clone(),
        test: none,
    }
}
