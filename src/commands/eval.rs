//! `fused-lstm eval`: how good a checkpoint is.

use super::device::Chosen;
use super::output::{event, line, percent, thousands};
use super::progress::Shown;
use crate::cli::{EvalArgs, SplitName};
use fused_lstm::Result;
use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::data::Split;
use fused_lstm::progress::Progress;
use fused_lstm::train::EvalReport;
use serde_json::json;
use std::time::Instant;

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let progress = Shown::new(args.output.progress, args.output.quiet || args.output.json);
    // A broken checkpoint is told before data is looked for.
    let (config, _) = Checkpoint::load_model(&args.model)?;
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
        confusion.print(&names)?;
        line("")?;
    }
    let n = thousands(rows.len() as u64);
    line(&format!("{name:<12}accuracy {}, loss {:.4} ({n} {})", percent(quality.accuracy), quality.loss, data.noun()))
}

/// How often each class was taken for each other.
struct Confusion {
    /// `[K][K]`: the label's row, the prediction's column.
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    fn new(classes: usize, labels: &[u32], predicted: &[u32]) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (&label, &predicted) in labels.iter().zip(predicted) {
            counts[label as usize][predicted as usize] += 1;
        }
        Self { counts }
    }

    fn classes(&self) -> std::ops::Range<usize> {
        0..self.counts.len()
    }

    /// Share of the predictions of class `k` that are right; none if there are none.
    fn precision(&self, k: usize) -> Option<f64> {
        ratio(self.counts[k][k], self.counts.iter().map(|row| row[k]).sum())
    }

    /// Share of class `k` that is found; none if there is none.
    fn recall(&self, k: usize) -> Option<f64> {
        ratio(self.counts[k][k], self.counts[k].iter().sum())
    }

    fn print(&self, names: &[String]) -> Result<()> {
        let names: Vec<String> = names.iter().map(|name| shortened(name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        // As wide as numbers need at least, and one more than the longest name.
        let (first, each) = (width.max(5), (width + 1).max(6));
        let head: String = names.iter().map(|name| format!("{name:>each$}")).collect();
        line(&format!("{:<first$}{head}   precision    recall", "class"))?;
        let share = |share: Option<f64>| share.map_or("-".into(), percent);
        for k in self.classes() {
            let row: String = self.counts[k].iter().map(|n| format!("{n:>each$}")).collect();
            line(&format!("{:>first$}{row}{:>12}{:>10}", names[k], share(self.precision(k)), share(self.recall(k))))?;
        }
        line("(rows: what it is; columns: what it was taken for)")
    }
}

/// A name that a column has room for.
fn shortened(name: &str) -> String {
    const MOST: usize = 14;
    if name.chars().count() <= MOST {
        return name.to_owned();
    }
    name.chars().take(MOST - 1).chain(['…']).collect()
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::Confusion;

    #[test]
    fn precision_and_recall() {
        let confusion = Confusion::new(3, &[0, 0, 1, 1, 1], &[0, 1, 1, 1, 0]);
        assert_eq!(confusion.counts, vec![vec![1, 1, 0], vec![1, 2, 0], vec![0, 0, 0]]);
        assert_eq!((confusion.precision(0), confusion.recall(0)), (Some(0.5), Some(0.5)));
        assert_eq!((confusion.precision(1), confusion.recall(1)), (Some(2.0 / 3.0), Some(2.0 / 3.0)));
        assert_eq!((confusion.precision(2), confusion.recall(2)), (None, None));
    }
}
