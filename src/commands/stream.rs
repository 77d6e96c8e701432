//! `fused-lstm predict --stream`: what a checkpoint takes a sequence for, step by step, while it comes in.

use super::output::{event, line, percent, shortened};
use super::predict::ranked;
use crate::cli::{Device, PredictArgs};
use fused_lstm::config::Config;
use fused_lstm::stream::Stream;
use fused_lstm::{Error, Result};
use serde_json::json;
use std::io::{self, BufRead, Read};

const INPUT: &str = "standard input";
/// Longer lines are refused: as many numbers as a step can have, each with all its digits.
const MAX_LINE: u64 = 32 << 20;

/// Runs the command, to the end of standard input.
pub fn run(args: &PredictArgs) -> Result<()> {
    if matches!(args.device.device, Device::Cuda(_)) {
        return Err(Error::usage("--device cuda", "a stream runs on the processor", "leave it out"));
    }
    let (config, parameters) = super::load_parameters(&args.model)?;
    let mut stream = Stream::new(&config, &parameters).map_err(|error| match error {
        Error::Usage { found, remedy, .. } => Error::checkpoint(&args.model, found, remedy),
        other => other,
    })?;
    let mut x = Vec::with_capacity(config.model.dims.i);
    let (mut input, mut bytes) = (io::stdin().lock(), Vec::new());
    let mut place = Place { sequence: 0, step: 0, line: 0 };
    loop {
        bytes.clear();
        let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
        if read.map_err(|e| Error::io(INPUT, "read", e, "give it a file or a pipe"))? == 0 {
            return Ok(());
        }
        place.line += 1;
        if bytes.trim_ascii().is_empty() {
            if place.step > 0 {
                stream.reset();
                place = Place { sequence: place.sequence + 1, step: 0, ..place };
            }
            continue;
        }
        parse(&bytes, config.model.dims.i, &mut x).map_err(|found| {
            let remedy = format!("give {} numbers, separated by commas, spaces or tabs", config.model.dims.i);
            Error::data(INPUT, format!("line {}: {found}", place.line), remedy)
        })?;
        place.step += 1;
        show(args, &config, place, stream.push(&x))?;
    }
}

/// Where a step stands.
#[derive(Clone, Copy)]
struct Place {
    /// From 0, as for files.
    sequence: usize,
    /// From 1.
    step: usize,
    /// From 1.
    line: usize,
}

/// The numbers of a line, to `x [I]`; the error says what is wrong.
fn parse(bytes: &[u8], inputs: usize, x: &mut Vec<f32>) -> Result<(), String> {
    x.clear();
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text (UTF-8)")?;
    let mut count = 0;
    for field in text.split(',') {
        if field.trim().is_empty() {
            return Err(format!("number {} is missing", count + 1));
        }
        for word in field.split_whitespace() {
            count += 1;
            let quoted = || format!("number {count}, {:?},", shortened(word, 30));
            let number: f32 = word.parse().map_err(|_| format!("{} is no number", quoted()))?;
            if !number.is_finite() {
                return Err(format!("{} is not a finite f32", quoted()));
            }
            x.push(number);
        }
    }
    if count != inputs {
        return Err(format!("it has {count} number{}", if count == 1 { "" } else { "s" }));
    }
    Ok(())
}

fn show(args: &PredictArgs, config: &Config, place: Place, probabilities: &[f32]) -> Result<()> {
    let ranked = ranked(probabilities);
    let name = |class: usize| config.own.as_ref().map(|own| own.class_names[class].clone());
    let Place { sequence, step, line: at } = place;
    if args.json {
        let named = |class| name(class).map_or(json!(class), |name| json!(name));
        let top: Vec<_> = ranked.iter().map(|&(k, p)| json!({ "class": named(k), "probability": p })).collect();
        let class = named(ranked[0].0);
        let fields = json!({ "sequence": sequence, "step": step, "line": at, "class": class, "top": top, "probabilities": probabilities });
        return event("prediction", fields);
    }
    let named = |class: usize| name(class).unwrap_or_else(|| class.to_string());
    let top: Vec<_> = ranked.iter().map(|&(class, p)| format!("{} ({})", named(class), percent(p))).collect();
    line(&format!("sequence {sequence} step {step}: {}", top.join(", ")))
}
