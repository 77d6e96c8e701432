//! `fused-lstm import`: a checkpoint of a model that another program trained.

use super::output::{line, thousands};
use super::progress::Shown;
use crate::cli::ImportArgs;
use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::engine::State;
use fused_lstm::interchange::{self, Imported};
use fused_lstm::{Error, Result};

/// Runs the command.
pub fn run(args: &ImportArgs) -> Result<()> {
    let imported = interchange::import(&args.file, args.format)?;
    let mut config = config(args, &imported)?;
    config.model.pool = args.pool.unwrap_or(config.model.pool);
    config.batch_size = args.batch_size.unwrap_or(config.batch_size);
    let Config { batch_size, train_sequences, .. } = config;
    if batch_size > train_sequences {
        let found = format!("the training data has only {train_sequences} sequences");
        return Err(Error::usage(format!("--batch-size {batch_size}"), found, "give a smaller one"));
    }
    Checkpoint::prepare(&args.save)?;
    let parameters = thousands(imported.parameters.len() as u64);
    let kind = config.model.extras().unwrap_or_else(|| "a linear layer and an LSTM".into());
    Checkpoint { config, state: State::new(imported.parameters) }.save(&args.save)?;
    line(&format!("imported    {}: {parameters} parameters, {kind}", args.file.display()))?;
    line(&format!("saved       {}", args.save.display()))
}

/// How training goes on with the model: for the data that is named, or as the file tells, if `export` wrote it.
fn config(args: &ImportArgs, imported: &Imported) -> Result<Config> {
    let exported = imported.config.as_ref();
    if args.data.data.is_none() && args.data.data_dir.is_none() {
        super::check_own_flags(&args.data, &args.prepare)?;
        let found = format!("{} does not tell what sequences the model reads", args.file.display());
        return exported.cloned().ok_or_else(|| Error::usage("--data", found, "name data of that kind with --data"));
    }
    let data = super::prepared(&args.data, &args.prepare, exported, &Shown::new(args.progress, false))?;
    let mut config = Config { model: imported.model, ..Config::new(&data, imported.model.dims.h) };
    config.model.dims.t = data.train.t();
    super::check_fit(&args.file, config.model, &data)?;
    Ok(config)
}
