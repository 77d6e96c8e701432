//! `fused-lstm data`: fetch MNIST, or tell what data there is.

use super::output::{event, line, shortened, thousands};
use super::progress::Shown;
use crate::cli::{DataArgs, DataCommand, DataCommandArgs, PrepareArgs, ProgressStyle};
use fused_lstm::data::{Dataset, Split, download, own};
use fused_lstm::{Error, Result};
use serde_json::json;
use std::path::Path;

/// Runs the command.
pub fn run(args: &DataCommandArgs) -> Result<()> {
    match &args.command {
        DataCommand::Fetch { data_dir, mirror, progress } => {
            let folder = data_dir.clone().or_else(super::data_dir_from_environment);
            let folder = folder.map_or_else(download::mnist_dir, Ok)?;
            let mut fetcher = download::Fetcher::default();
            if !mirror.is_empty() {
                fetcher.mirrors.clone_from(mirror);
            }
            fetcher.fetch(&folder, &Shown::new(*progress, false))?;
            line(&format!("MNIST's four files are in {}", folder.display()))
        }
        DataCommand::Info { data, prepare, json } => info(data, prepare, *json),
    }
}

fn info(args: &DataArgs, prepare: &PrepareArgs, json: bool) -> Result<()> {
    if let Some(path) = super::own_path(args) {
        return own_info(path, &super::own_options(args, prepare), json);
    }
    // Looks, but fetches nothing.
    let args = DataArgs { offline: true, ..args.clone() };
    let cache = download::mnist_dir()?;
    let data = super::prepared(&args, prepare, None, &Shown::new(ProgressStyle::None, false))?;
    if json {
        let splits: serde_json::Map<_, _> = SPLITS
            .iter()
            .map(|&(name, split)| {
                (name.to_owned(), json!({ "sequences": data.split(split).len(), "class_counts": counts(&data, split) }))
            })
            .collect();
        return event(
            "data",
            json!({
                "data": data.name,
                "description": data.description,
                "steps_per_sequence": data.train.t(),
                "inputs": data.train.i(),
                "classes": data.classes,
                "splits": splits,
                "cache": cache,
            }),
        );
    }
    line(&format!("data        {}", data.description))?;
    line(&format!("sequence    {} steps of {} inputs, {} classes", data.train.t(), data.train.i(), data.classes))?;
    for (name, split) in SPLITS {
        let counts: String = counts(&data, split).iter().map(|n| format!("{n:>6}")).collect();
        let n = thousands(data.split(split).len() as u64);
        line(&format!("{name:<12}{n:>6} sequences; of each class{counts}"))?;
    }
    line(&format!("cache       {}", cache.display()))
}

/// Inputs that are told one by one.
const TOLD: usize = 8;

/// What there is to know of the user's own data before training: its numbers as they stand in the file. Data that cannot be
/// trained on is an error once all is told.
fn own_info(path: &Path, options: &own::Options, json: bool) -> Result<()> {
    let own::Inspection { data, inputs, lengths, faults, warnings } = own::inspect(path, options)?;
    let is_bytes = data.train.values().is_bytes();
    let told = inputs.iter().flatten();
    let min = told.clone().map(|range| range.min).reduce(f32::min);
    let max = told.map(|range| range.max).reduce(f32::max);
    let [shortest, median, longest] = lengths;
    if json {
        let splits = SPLITS.iter().map(|&(name, split)| {
            let counts =
                counts(&data, split).into_iter().enumerate().map(|(class, n)| json!([data.class_name(class), n]));
            let counts = counts.collect::<Vec<_>>();
            (name.to_owned(), json!({ "sequences": data.split(split).len(), "class_counts": counts }))
        });
        let range =
            |range: &Option<own::InputRange>| range.map(|r| json!({ "min": r.min, "max": r.max, "mean": r.mean }));
        event(
            "data",
            json!({
                "data": data.name,
                "description": data.description,
                "steps_per_sequence": data.train.t(),
                "lengths": { "min": shortest, "median": median, "max": longest },
                "inputs": data.train.i(),
                "classes": data.classes,
                "splits": splits.collect::<serde_json::Map<_, _>>(),
                "bytes": is_bytes,
                "min": min,
                "max": max,
                "ranges": inputs.iter().map(range).collect::<Vec<_>>(),
                "problems": faults,
                "warnings": warnings,
            }),
        )?;
        return refuse(path, &faults);
    }
    line(&format!("data        {}", data.description))?;
    if data.has_lengths() {
        line(&format!("lengths     from {shortest} to {longest} steps, median {median}"))?;
    }
    let kind = if is_bytes { "bytes" } else { "numbers" };
    if let Some((min, max)) = min.zip(max) {
        line(&format!("{kind:<12}from {min} to {max}"))?;
    }
    for (input, range) in inputs.iter().enumerate().take(TOLD) {
        let name = format!("input {input}");
        let found = match range {
            Some(own::InputRange { min, max, mean }) => format!("from {min} to {max}, mean {mean:.4}"),
            None => "no finite number".into(),
        };
        line(&format!("{name:<12}{found}"))?;
    }
    if inputs.len() > TOLD {
        line(&format!("            and {} more inputs (--json tells all)", inputs.len() - TOLD))?;
    }
    line(&format!("{:<16}{:>10}{:>12}{:>10}", "class", "train", "validation", "test"))?;
    let all = SPLITS.map(|(_, split)| counts(&data, split));
    for class in 0..data.classes {
        let [train, validation, test] = all.each_ref().map(|counts| thousands(counts[class] as u64));
        let name = shortened(&data.class_name(class), 15);
        line(&format!("{name:<16}{train:>10}{validation:>12}{test:>10}"))?;
    }
    let [train, validation, test] = SPLITS.map(|(_, split)| thousands(data.split(split).len() as u64));
    line(&format!("{:<16}{train:>10}{validation:>12}{test:>10}", "all"))?;
    for fault in &faults {
        line(&format!("problem     {fault}"))?;
    }
    for warning in &warnings {
        line(&format!("warning     {warning}"))?;
    }
    if faults.is_empty() && warnings.is_empty() {
        line("no problem found")?;
    }
    refuse(path, &faults)
}

fn refuse(path: &Path, faults: &[String]) -> Result<()> {
    match faults.len() {
        0 => Ok(()),
        1 => Err(Error::data(path, "it cannot be trained on", "see the problem told above")),
        n => Err(Error::data(path, "it cannot be trained on", format!("see the {n} problems told above"))),
    }
}

const SPLITS: [(&str, Split); 3] = [("train", Split::Train), ("validation", Split::Validation), ("test", Split::Test)];

fn counts(data: &Dataset, split: Split) -> Vec<usize> {
    let mut counts = vec![0; data.classes];
    for &label in data.split(split).labels() {
        counts[label as usize] += 1;
    }
    counts
}
