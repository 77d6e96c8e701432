//! `fused-lstm predict`: what a checkpoint takes pictures and other sequences for.

use super::device::Chosen;
use super::output::{event, line, percent};
use crate::cli::PredictArgs;
use fused_lstm::config::Config;
use fused_lstm::data::{BYTE_SCALE, Sequences, Values, idx, own, picture};
use fused_lstm::engine::{Engine, Model};
use fused_lstm::shape::Dims;
use fused_lstm::{Error, Result};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// How many classes are told.
const TOP: usize = 3;

/// Runs the command and returns the exit code. A file that cannot be used does not keep the others from being classified.
pub fn run(args: &PredictArgs) -> Result<u8> {
    if args.stream {
        return super::stream::run(args).map(|()| 0);
    }
    let (config, mut engine) = super::load_model(&args.model, Chosen::open(&args.device)?, None)?;
    Ok(super::each(&args.files, |file| predict(args, &config, engine.as_mut(), file)))
}

fn predict(args: &PredictArgs, config: &Config, engine: &mut dyn Engine, file: &Path) -> Result<()> {
    let model = config.model;
    if own::is_own_file(file) {
        predict_own(args, config, engine, file)
    } else if config.own.is_some() && !is_idx(file) {
        let found = "the model was trained on sequences of its user's, and this is no file of such";
        Err(Error::data(file, found, "give a .npz, .npy, .csv, .tsv, .ts or .safetensors file"))
    } else if is_idx(file) {
        let images = idx::read_images(file)?;
        check_shape(args, model, (images.t, images.i))?;
        let n = images.t * images.i;
        for &row in &args.row {
            if row >= images.n {
                return Err(Error::usage(
                    format!("--row {row}"),
                    format!("{} has {} images", file.display(), images.n),
                    format!("give one from 0 to {}", images.n - 1),
                ));
            }
            show(args, model, engine, file, Some(row), images.bytes[row * n..(row + 1) * n].to_vec())?;
        }
        Ok(())
    } else {
        check_shape(args, model, (28, 28))?;
        show(args, model, engine, file, None, picture::read_digit(file)?)
    }
}

/// A line for each sequence of a file.
fn predict_own(args: &PredictArgs, config: &Config, engine: &mut dyn Engine, file: &Path) -> Result<()> {
    let Dims { t, i, k, .. } = config.model.dims;
    let read = own::read_for(file, args.label_column.as_ref(), (t, i), config.own.as_ref())?;
    let name = |class: usize| match &config.own {
        Some(own) => own.class_names[class].clone(),
        None => class.to_string(),
    };
    let probabilities = if read.sequences.t() == t {
        engine.predict(&read.sequences)?
    } else {
        // A model of any length, for these: an engine has room for one number of steps.
        let mut model = config.model;
        model.dims.t = read.sequences.t();
        let mut other = Chosen::open(&args.device)?.engine(model, config.adam, Arc::new(super::nothing(model)))?;
        other.set_state(&engine.state()?)?;
        other.predict(&read.sequences)?
    };
    for (sequence, shares) in probabilities.chunks_exact(k).enumerate() {
        let ranked = ranked(shares);
        let (best, share) = ranked[0];
        let at = read.lines.as_ref().map(|lines| lines[sequence]);
        if args.json {
            let top: Vec<_> =
                ranked.iter().map(|&(class, p)| json!({ "class": name(class), "probability": p })).collect();
            let file = file.display().to_string();
            let fields = json!({ "file": file, "sequence": sequence, "line": at, "class": name(best), "top": top });
            event("prediction", fields)?;
        } else {
            let place = at.map_or_else(|| format!("sequence {sequence}"), |line| format!("line {line}"));
            line(&format!("{} {place}: {} ({})", file.display(), name(best), percent(share)))?;
        }
    }
    Ok(())
}

/// The likeliest classes and their probabilities, the best first.
pub fn ranked(probabilities: &[f32]) -> Vec<(usize, f64)> {
    let mut ranked: Vec<(usize, f64)> = probabilities.iter().map(|&p| p.into()).enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(TOP);
    ranked
}

fn check_shape(args: &PredictArgs, model: Model, (t, i): (usize, usize)) -> Result<()> {
    let dims = model.dims;
    if (dims.t, dims.i) == (t, i) {
        return Ok(());
    }
    Err(Error::checkpoint(
        &args.model,
        format!("the model reads {} rows of {} numbers, an image here has {t} of {i}", dims.t, dims.i),
        "use a model that was trained on such images",
    ))
}

/// True for an IDX file of bytes or a gz file, by their first bytes.
fn is_idx(file: &Path) -> bool {
    let mut start = [0; 3];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && (start == [0, 0, 8] || start[..2] == [0x1f, 0x8b])
}

fn show(
    args: &PredictArgs,
    model: Model,
    engine: &mut dyn Engine,
    file: &Path,
    row: Option<usize>,
    bytes: Vec<u8>,
) -> Result<()> {
    let values = Values::U8 { bytes, scale: BYTE_SCALE };
    let probabilities = engine.predict(&Sequences::new(model.dims.t, model.dims.i, values, vec![0]))?;
    let ranked = ranked(&probabilities);
    if args.json {
        let top: Vec<_> = ranked.iter().map(|(class, p)| json!({ "class": class, "probability": p })).collect();
        let file = file.display().to_string();
        return event("prediction", json!({ "file": file, "row": row, "class": ranked[0].0, "top": top }));
    }
    let name = match row {
        Some(row) => format!("{} row {row}", file.display()),
        None => file.display().to_string(),
    };
    let top: Vec<_> = ranked.iter().map(|(class, p)| format!("{class} ({})", percent(*p))).collect();
    line(&format!("{name}: {}", top.join(", ")))
}
