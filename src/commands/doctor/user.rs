//! The user's own things: the data and the models that the flags name, read as training and predicting read them.

use super::{Check, Status, split};
use crate::cli::{DataArgs, PrepareArgs};
use crate::commands::output::thousands;
use crate::commands::{
    check_fit, data_dir_from_environment, dataset, load_parameters, own_options, own_path, reads_any_length,
};
use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::source::Source;
use fused_lstm::data::{Sequences, Values, own};
use fused_lstm::engine::{Engine, State};
use fused_lstm::progress::Silent;
use fused_lstm::shape::Dims;
use fused_lstm::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// The data that the flags name, else what `train` would take, with nothing fetched and no digits drawn.
pub fn data(args: &DataArgs) -> Check {
    if own_path(args).is_some() {
        return own_data(args).unwrap_or_else(|error| Check::of("data", Status::Fail, error));
    }
    let is_named = args.data.is_some() || args.data_dir.is_some() || data_dir_from_environment().is_some();
    let source = args.data.clone().unwrap_or(Source::Mnist);
    let args = DataArgs { data: Some(source), offline: true, ..args.clone() };
    match dataset(&args, None, &Silent) {
        Ok(data) => Check::pass("data", data.description.clone()),
        // Training goes on without MNIST, but not without what the user has named.
        Err(error @ (Error::Data { .. } | Error::Io { .. })) if !is_named => {
            let (found, remedy) = split(error);
            let instead =
                "training fetches it or, if it cannot, takes synthetic digits, whose accuracy is not comparable";
            Check::warn("data", format!("no MNIST ({found}): {instead}"), remedy)
        }
        Err(error) => Check::of("data", Status::Fail, error),
    }
}

/// Sequences of the user's own: what cannot be trained on fails, and what is doubtful is a warning.
fn own_data(args: &DataArgs) -> Result<Check> {
    let path = own_path(args).expect("it was asked for before");
    let own::Inspection { data, faults, warnings, .. } =
        own::inspect(path, &own_options(args, &PrepareArgs::default()))?;
    let see = || format!("see `fused-lstm data info --data {}`", path.display());
    Ok(match (&faults[..], &warnings[..]) {
        ([], []) => Check::pass("data", data.description),
        ([], doubts) => Check::warn("data", format!("{}: {}", data.description, doubts.join("; ")), see()),
        (faults, _) => Check::fail("data", faults.join("; "), see()),
    })
}

/// The checkpoint in `folder`: all its files, its numbers, what it predicts, and that it reads the data that the flags name.
pub fn model(folder: &Path, args: &DataArgs) -> Check {
    match look(folder, args) {
        Ok(found) => Check::pass("model", found),
        Err(error) => Check::of("model", Status::Fail, error),
    }
}

fn look(folder: &Path, args: &DataArgs) -> Result<String> {
    load_parameters(folder)?;
    let Checkpoint { mut config, state } = Checkpoint::load(folder)?;
    let State { parameters, m, v, step } = state;
    if let Some((what, bad)) = [("parameter", &parameters), ("mean of Adam", &m), ("second mean of Adam", &v)]
        .into_iter()
        .find_map(|(what, all)| all.iter().find(|value| !value.is_finite()).map(|bad| (what, bad)))
    {
        let remedy = "its training diverged: train again with a smaller --lr, or give --grad-clip";
        return Err(Error::checkpoint(folder, format!("it has a {what} of {bad}"), remedy));
    }
    let count = thousands(parameters.len() as u64);
    predicts(folder, &config, parameters)?;
    let Dims { t, i, k, .. } = config.model.dims;
    let kind = config.model.extras().unwrap_or_else(|| "a linear layer and an LSTM".into());
    let (steps, data) = (thousands(step), config.data.clone());
    if own_path(args).is_some() || args.data_dir.is_some() {
        let data = dataset(args, Some(&config), &Silent)?;
        if reads_any_length(&config) {
            config.model.dims.t = data.train.t();
        }
        check_fit(folder, config.model, &data)?;
    }
    let folder = folder.display();
    Ok(format!(
        "{folder}: {count} parameters, {kind}; {t} steps of {i} inputs, {k} classes; {steps} steps on {data} data"
    ))
}

/// Makes sure that the model gives probabilities, of a sequence of zeros.
fn predicts(folder: &Path, config: &Config, parameters: Vec<f32>) -> Result<()> {
    let nothing = Arc::new(crate::commands::nothing(config.model));
    let mut engine = CpuEngine::new(config.model, config.adam, nothing, 1)?;
    engine.set_state(&State::new(parameters))?;
    let Dims { t, i, .. } = config.model.dims;
    let zeros = Sequences::new(t, i, Values::F32(vec![0.0; t * i]), vec![0]);
    let sum: f32 = engine.predict(&zeros)?.iter().sum();
    if (sum - 1.0).abs() < 1e-3 {
        return Ok(());
    }
    Err(Error::checkpoint(folder, format!("the probabilities of all classes add up to {sum}"), "train again"))
}
