//! `fused-lstm eval`: how good a checkpoint is.

use super::device::Chosen;
use super::output::{event, line, percent, shortened, thousands};
use super::progress::Shown;
use crate::cli::{EvalArgs, SplitName};
use fused_lstm::Result;
use fused_lstm::confusion::Confusion;
use fused_lstm::data::Split;
use fused_lstm::progress::Progress;
use fused_lstm::train::EvalReport;
use serde_json::json;
use std::time::Instant;

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let progress = Shown::new(args.output.progress, args.output.quiet || args.output.json);
    // A broken checkpoint is told before data is looked for.
    let (config, _) = super::load_parameters(&args.model)?;
    let device = Chosen::open(&args.device)?;
    let data = super::dataset(&args.data, Some(&config), &progress)?;
    let (_, mut engine) = super::load_model(&args.model, device, Some(data.clone()))?;
    let (name, split) = match args.split {
        SplitName::Train => ("train", Split::Train),
        SplitName::Validation => ("validation", Split::Validation),
        SplitName::Test => ("test", Split::Test),
    };
    let labels = data.split(split).labels();
    let rows: Vec<u32> = (0..labels.len() as u32).collect();
    progress.begin("evaluating", 0);
    let started = Instant::now();
    let scores = engine.evaluate(split, &rows)?;
    let took = started.elapsed().as_secs_f64();
    progress.end();
    let quality = EvalReport::new(&scores, labels.iter().copied());
    let confusion = Confusion::new(data.classes, labels, &scores.predicted);

    if args.output.json {
        return event(
            "eval",
            json!({
                "split": name,
                "accuracy": quality.accuracy,
                "loss": quality.loss,
                "images": rows.len(),
                "seconds": took,
                "device": engine.device(),
                "data": data.name,
                "class_names": confusion.classes().map(|k| data.class_name(k)).collect::<Vec<_>>(),
                "confusion": confusion.counts,
                "precision": confusion.classes().map(|k| confusion.precision(k)).collect::<Vec<_>>(),
                "recall": confusion.classes().map(|k| confusion.recall(k)).collect::<Vec<_>>(),
            }),
        );
    }
    if !args.output.quiet {
        line(&format!("data        {}", data.description))?;
        line(&format!("device      {}", engine.device()))?;
        line("")?;
        let names: Vec<_> = confusion.classes().map(|k| data.class_name(k)).collect();
        print(&confusion, &names)?;
        line("")?;
    }
    let n = thousands(rows.len() as u64);
    line(&format!("{name:<12}accuracy {}, loss {:.4} ({n} {})", percent(quality.accuracy), quality.loss, data.noun()))
}

/// The table, with the names of the classes.
fn print(confusion: &Confusion, names: &[String]) -> Result<()> {
    let names: Vec<String> = names.iter().map(|name| shortened(name, 14)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    // As wide as numbers need at least, and one more than the longest name.
    let (first, each) = (width.max(5), (width + 1).max(6));
    let head: String = names.iter().map(|name| format!("{name:>each$}")).collect();
    line(&format!("{:<first$}{head}   precision    recall", "class"))?;
    let share = |share: Option<f64>| share.map_or("-".into(), percent);
    for k in confusion.classes() {
        let row: String = confusion.counts[k].iter().map(|n| format!("{n:>each$}")).collect();
        line(&format!(
            "{:>first$}{row}{:>12}{:>10}",
            names[k],
            share(confusion.precision(k)),
            share(confusion.recall(k))
        ))?;
    }
    line("(rows: what it is; columns: what it was taken for)")
}
