//! One file for each command; `device` chooses an engine.

pub mod bench;
pub mod data;
mod device;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod help;
pub mod import;
pub mod kernels;
pub mod micro;
pub mod predict;
pub mod profile;
pub mod report;
mod stream;
pub mod sweep;
pub mod train;
pub mod verify;

mod output;
mod progress;

pub use output::written;
pub use progress::complain;

use crate::cli::{DataArgs, NormalizeName, PrepareArgs};
use device::Chosen;
use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::data::own;
use fused_lstm::data::source::{self, Source};
use fused_lstm::data::{Dataset, Values};
use fused_lstm::engine::{Engine, Model, State};
use fused_lstm::progress::Progress;
use fused_lstm::run;
use fused_lstm::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folder with MNIST's files for whoever gives no `--data-dir`.
const DATA_DIR: &str = "FUSED_LSTM_DATA_DIR";

/// Bytes that training takes for each parameter: the parameters, their gradients, Adam's two means, and copies of them
/// that are packed for the kernels, in checkpoints, or on their way.
const BYTES_PER_PARAMETER: usize = 40;

/// Does `work` for each file, those after a broken one too: every error is told, and the exit code of the first one (0 if
/// there is none) is the program's.
fn each(files: &[PathBuf], mut work: impl FnMut(&Path) -> Result<()>) -> u8 {
    let mut code = 0;
    for file in files {
        if let Err(error) = work(file) {
            complain(&error);
            code = if code == 0 { error.exit_code() } else { code };
        }
    }
    code
}

/// Checks the sizes that `flag` (with its value) asked for: that they can be counted, and that a model of them and
/// `more` bytes have a place in memory.
fn check_sizes(model: &Model, flag: String, more: usize) -> Result<()> {
    model.check().map_err(|error| match error {
        // A flag that has nothing to do with sizes is named already.
        Error::Usage { argument, found, .. } if !argument.starts_with("--") => {
            Error::usage(&flag, found, "give a smaller one")
        }
        other => other,
    })?;
    let parameters = model.layout().len();
    let bytes = more.saturating_add(parameters * BYTES_PER_PARAMETER);
    // Asked for and given back, never touched: costs nothing, and is refused where it is more than the machine has.
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| {
        let found = format!("that takes about {:.1} GB of memory, more than there is", bytes as f64 / 1e9);
        Error::usage(flag, found, "give a smaller one")
    })
}

/// The folder in the environment for whoever gives no `--data-dir`.
fn data_dir_from_environment() -> Option<PathBuf> {
    std::env::var_os(DATA_DIR).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// The data set that the flags name; else what a checkpoint was trained on, else the automatic choice.
fn dataset(args: &DataArgs, trained: Option<&Config>, progress: &dyn Progress) -> Result<Arc<Dataset>> {
    prepared(args, &PrepareArgs::default(), trained, progress)
}

/// The same where the user may say how data is prepared.
fn prepared(
    args: &DataArgs,
    prepare: &PrepareArgs,
    trained: Option<&Config>,
    progress: &dyn Progress,
) -> Result<Arc<Dataset>> {
    if let Some(path) = own_path(args) {
        let known = trained.and_then(|config| config.own.as_ref());
        let mut options = own_options(args, prepare);
        if let Some(config) = trained.filter(|_| known.is_some() && options.steps.is_none()) {
            // Tables are cut as those that the model was trained on.
            options.inputs = options.inputs.or(Some(config.model.dims.i));
        }
        return Ok(Arc::new(own::load(path, &options, known)?));
    }
    check_own_flags(args, prepare)?;
    let trained_on = trained.map(|config| config.data.as_str());
    if trained_on == Some(own::NAME) && args.data.is_none() && args.data_dir.is_none() {
        let found = "the model was trained on a file of its user's, which it does not name";
        return Err(Error::usage("--data", found, "name the file with --data"));
    }
    let source = args.data.clone().unwrap_or_else(|| match trained_on {
        Some("synthetic") if args.data_dir.is_none() => Source::Synthetic,
        Some("mnist") => Source::Mnist,
        _ => Source::Auto,
    });
    // A flag stands above the environment: that folder is for those who did not say which data they want.
    let is_mnist = matches!(source, Source::Auto | Source::Mnist);
    let folder = args.data_dir.clone().or_else(|| data_dir_from_environment().filter(|_| is_mnist));
    Ok(Arc::new(source::load(&source, folder.as_deref(), args.offline, progress)?))
}

/// Makes sure that no flag is given that is for files of the user's own.
fn check_own_flags(args: &DataArgs, prepare: &PrepareArgs) -> Result<()> {
    let flags = [
        ("--test-data", args.test_data.is_some()),
        ("--label-column", args.label_column.is_some()),
        ("--steps-per-sequence", args.steps_per_sequence.is_some()),
        ("--inputs", args.inputs.is_some()),
        ("--split", prepare.split.is_some()),
        ("--split-seed", prepare.split_seed.is_some()),
        ("--normalize", prepare.normalize.is_some()),
    ];
    if let Some((flag, _)) = flags.iter().find(|(_, given)| *given) {
        return Err(Error::usage(*flag, "it is for files of your own", "name one with --data, or leave the flag out"));
    }
    Ok(())
}

/// The file or folder of the user's own sequences, if `--data` names one.
fn own_path(args: &DataArgs) -> Option<&Path> {
    match &args.data {
        Some(Source::Folder(path)) if args.data_dir.is_none() && own::is_own(path) => Some(path),
        _ => None,
    }
}

fn own_options(args: &DataArgs, prepare: &PrepareArgs) -> own::Options {
    own::Options {
        test: args.test_data.clone(),
        label_column: args.label_column.clone(),
        steps: args.steps_per_sequence,
        inputs: args.inputs,
        split: prepare.split,
        split_seed: prepare.split_seed,
        normalize: prepare.normalize.map(|name| match name {
            NormalizeName::None => own::Normalize::None,
            NormalizeName::Feature => own::Normalize::Feature,
            NormalizeName::Sequence => own::Normalize::Sequence,
        }),
        read_whole: None,
    }
}

/// Configuration and parameters of the checkpoint in `folder`. A run has two, so its folder is refused.
fn load_parameters(folder: &Path) -> Result<(Config, Vec<f32>)> {
    Checkpoint::load_model(folder).map_err(|error| {
        if run::run_of(folder).is_none_or(|run| run != folder) {
            return error;
        }
        let (last, best) = (folder.join(run::LAST), folder.join(run::BEST));
        let remedy = format!("name one of its checkpoints, {} or {}", best.display(), last.display());
        Error::checkpoint(folder, "this is the folder of a run", remedy)
    })
}

/// A model from a checkpoint that is to run on `data`.
fn load_model(folder: &Path, device: Chosen, data: Option<Arc<Dataset>>) -> Result<(Config, Box<dyn Engine>)> {
    let (mut config, parameters) = load_parameters(folder)?;
    let data = match data {
        Some(data) => {
            // Its parameters are those for any number of steps.
            if reads_any_length(&config) {
                config.model.dims.t = data.train.t();
            }
            check_fit(folder, config.model, &data)?;
            data
        }
        None => Arc::new(nothing(config.model)),
    };
    let mut engine = device.engine(config.model, config.adam, data)?;
    engine.set_state(&State::new(parameters))?;
    Ok((config, engine))
}

/// Whether a model was trained on sequences of different lengths.
fn reads_any_length(config: &Config) -> bool {
    config.own.as_ref().is_some_and(|own| own.any_length)
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
        own: None,
    }
}
