//! `fused-lstm data`: fetch MNIST, or tell what data there is.

use super::output::{event, line, thousands};
use super::progress::Shown;
use crate::cli::{DataArgs, DataCommand, DataCommandArgs, ProgressStyle};
use fused_lstm::Result;
use fused_lstm::data::{Dataset, Split, download};
use serde_json::json;

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
        DataCommand::Info { data, json } => info(data, *json),
    }
}

fn info(args: &DataArgs, json: bool) -> Result<()> {
    // Looks, but fetches nothing.
    let args = DataArgs { data: args.data.clone(), data_dir: args.data_dir.clone(), offline: true };
    let cache = download::mnist_dir()?;
    let data = super::dataset(&args, None, &Shown::new(ProgressStyle::None, false))?;
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

const SPLITS: [(&str, Split); 3] = [("train", Split::Train), ("validation", Split::Validation), ("test", Split::Test)];

fn counts(data: &Dataset, split: Split) -> Vec<usize> {
    let mut counts = vec![0; data.classes];
    for &label in data.split(split).labels() {
        counts[label as usize] += 1;
    }
    counts
}
