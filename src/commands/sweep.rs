//! `fused-lstm sweep`: one training for each combination of seeds and settings, side by side on threads or in a GPU's launches.

#[cfg(feature = "cuda")]
use super::device;
use super::device::Chosen;
use super::output::{line, percent, thousands};
use super::progress::Shown;
use super::train::{config, interrupted, interruptible, steps};
use crate::cli::{OutputArgs, SettingsArgs, SweepArgs};
use fused_lstm::config::Config;
use fused_lstm::cpu::Isa;
#[cfg(feature = "cuda")]
use fused_lstm::cuda::side_by_side;
use fused_lstm::data::{Dataset, Split};
use fused_lstm::engine::Engine;
use fused_lstm::progress::Progress;
use fused_lstm::tensor_file::write_whole;
use fused_lstm::train::{self, EvalReport, Observer, Plan, StepReport, Summary};
use fused_lstm::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Most combinations of one sweep.
const MOST: usize = 10_000;

const REMEDY: &str = "choose another file with --out";

/// One training of the sweep.
struct Run {
    config: Config,
    plan: Plan,
    outcome: Outcome,
    /// How many trainings there were at the same time on the device, this one included.
    side_by_side: usize,
    /// Why there could not be more on a GPU, whatever its memory.
    alone: Option<String>,
}

impl Run {
    /// Keeps how it went.
    fn end(&mut self, trained: Result<Done>, shared: &Shared<'_>) {
        self.outcome = match trained {
            Ok(done) => Outcome::Done(done),
            Err(Error::Interrupted { .. }) => Outcome::Open,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        shared.progress.update(shared.done.fetch_add(1, Ordering::SeqCst) + 1);
    }
}

/// How a training ended, if it began.
enum Outcome {
    /// Not begun, or interrupted.
    Open,
    Done(Done),
    /// It diverged, or the device failed.
    Failed(String),
}

struct Done {
    validation: EvalReport,
    test: EvalReport,
    summary: Summary,
}

/// Runs the command.
pub fn run(args: &SweepArgs) -> Result<()> {
    let progress = Shown::new(args.output.progress, args.output.quiet || args.output.json);
    let device = Where::open(args)?;
    let data = super::prepared(&args.data, &args.prepare, None, &progress)?;
    let mut runs = runs(args, &data)?;
    prepare(&args.out)?;
    interruptible()?;
    let started = Instant::now();
    progress.begin("training", runs.len() as u64);
    let shared = Shared { data: &data, progress: &progress, done: AtomicU64::new(0) };
    match &device {
        Where::Threads { isa, count } => train_on_threads(&mut runs, *isa, *count, &shared),
        #[cfg(feature = "cuda")]
        Where::Gpu => train_on_gpu(&mut runs, args, &shared),
    }
    progress.end();
    let seconds = started.elapsed().as_secs_f64();
    let report = report(&runs, &data, &device.name(&runs), seconds);
    write(&args.out, &report)?;
    match args.output {
        OutputArgs { quiet: true, .. } => {}
        OutputArgs { json: true, .. } => line(&report.to_string())?,
        _ => show(&runs, &device.name(&runs), &args.out, seconds)?,
    }
    if interrupted() {
        let done = runs.iter().filter(|run| !matches!(run.outcome, Outcome::Open)).count();
        let found = format!("interrupted after {done} of {} trainings", runs.len());
        return Err(Error::Stopped { found, remedy: format!("they are in {}", args.out.display()) });
    }
    Ok(())
}

/// Where the trainings run.
enum Where {
    /// On the processor, a training on each of so many threads.
    Threads { isa: Isa, count: usize },
    /// On a GPU, those of one size side by side.
    #[cfg(feature = "cuda")]
    Gpu,
}

impl Where {
    fn open(args: &SweepArgs) -> Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(match Chosen::open(&args.device)? {
            Chosen::Cpu { threads: 0, isa } => Self::Threads { isa, count: cores() },
            Chosen::Cpu { threads, isa } => Self::Threads { isa, count: threads },
            #[cfg(feature = "cuda")]
            Chosen::Cuda { .. } => Self::Gpu,
        })
    }

    fn name(&self, runs: &[Run]) -> String {
        let why = runs.iter().find_map(|run| run.alone.as_ref()).map_or_else(String::new, |why| format!(" ({why})"));
        let at_a_time = match runs.iter().map(|run| run.side_by_side).max() {
            None | Some(1) => format!("one training at a time{why}"),
            Some(count) => format!("up to {count} trainings at a time"),
        };
        match self {
            Self::Threads { isa, .. } => format!("cpu, {}, {at_a_time}", isa.name()),
            #[cfg(feature = "cuda")]
            Self::Gpu => format!("GPU, {at_a_time}"),
        }
    }
}

/// What all trainings have in common while they run.
struct Shared<'a> {
    data: &'a Arc<Dataset>,
    progress: &'a Shown,
    /// Trainings that have ended.
    done: AtomicU64,
}

/// Every combination of the flags' values, checked: a wrong one is told before anything is trained.
fn runs(args: &SweepArgs, data: &Dataset) -> Result<Vec<Run>> {
    let seeds = match args.seeds {
        Some(count) => (0..count).collect(),
        None => args.seed.clone(),
    };
    let count = [seeds.len(), args.lr.len(), args.hidden.len(), args.batch_size.len()];
    let count = count.into_iter().fold(1, |product: usize, n| product.saturating_mul(n.max(1)));
    if count > MOST {
        return Err(Error::usage(
            "sweep",
            format!("that makes {count} trainings, more than {MOST}"),
            "give fewer values",
        ));
    }
    let mut runs = Vec::with_capacity(count);
    for hidden in values(&args.hidden) {
        for batch_size in values(&args.batch_size) {
            for lr in values(&args.lr) {
                for seed in values(&seeds) {
                    let flags = SettingsArgs { hidden, batch_size, lr, seed, ..common(args) };
                    let config = config(&flags, None, data)?;
                    let plan = Plan::new(steps(&flags, &config, 0)?);
                    runs.push(Run { config, plan, outcome: Outcome::Open, side_by_side: 1, alone: None });
                }
            }
        }
    }
    Ok(runs)
}

/// The values of a flag, or once none.
fn values<T: Copy>(given: &[T]) -> Vec<Option<T>> {
    if given.is_empty() { vec![None] } else { given.iter().copied().map(Some).collect() }
}

/// What all trainings have in common.
fn common(args: &SweepArgs) -> SettingsArgs {
    SettingsArgs {
        steps: args.steps,
        epochs: args.epochs,
        forget_bias: args.forget_bias,
        init: args.init,
        grad_clip: args.grad_clip,
        larger: args.larger.clone(),
        ..SettingsArgs::default()
    }
}

/// Trains all, each on one of the threads, which take the next one as they get free. What a training gives does not depend on the
/// thread or on what else is trained.
fn train_on_threads(runs: &mut [Run], isa: Isa, threads: usize, shared: &Shared<'_>) {
    let threads = threads.min(runs.len());
    let next = AtomicUsize::new(0);
    let places: Vec<Mutex<&mut Run>> = runs.iter_mut().map(Mutex::new).collect();
    let work = || {
        while let Some(place) = places.get(next.fetch_add(1, Ordering::SeqCst)).filter(|_| !interrupted()) {
            let mut run = place.lock().unwrap_or_else(PoisonError::into_inner);
            run.side_by_side = threads;
            let Config { model, adam, .. } = run.config;
            let engine = Chosen::Cpu { threads: 1, isa }.engine(model, adam, shared.data.clone());
            let trained = engine.and_then(|mut engine| train(engine.as_mut(), &run.config, &run.plan, shared.data));
            run.end(trained, shared);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

/// Trains all, those of one size side by side, as many at once as the GPU has room for.
#[cfg(feature = "cuda")]
fn train_on_gpu(runs: &mut [Run], args: &SweepArgs, shared: &Shared<'_>) {
    let size = |run: &Run| (run.config.model, run.config.batch_size);
    for mut rest in runs.chunk_by_mut(|a, b| size(a) == size(b)) {
        while !rest.is_empty() && !interrupted() {
            let adams: Vec<_> = rest.iter().map(|run| run.config.adam).collect();
            let (model, batch) = size(&rest[0]);
            let (now, later);
            let work = (batch, rest[0].plan.steps);
            match device::side_by_side(&args.device, model, &adams, shared.data.clone(), work) {
                Ok(mut engine) => {
                    (now, later) = rest.split_at_mut(engine.models());
                    let (count, alone) = (engine.models(), engine.alone());
                    let work = |run: &mut Run, engine: &mut dyn Engine| {
                        (run.side_by_side, run.alone) = (count, alone.clone());
                        run.end(train(engine, &run.config, &run.plan, shared.data), shared);
                    };
                    let trainings = now.iter_mut().map(|run| |engine: &mut dyn Engine| work(run, engine));
                    side_by_side::train(&mut engine, trainings.collect());
                }
                Err(error) => {
                    (now, later) = rest.split_at_mut(1);
                    now[0].end(Err(error), shared);
                }
            }
            rest = later;
        }
    }
}

fn train(engine: &mut dyn Engine, config: &Config, plan: &Plan, data: &Dataset) -> Result<Done> {
    engine.set_state(&config.initial_state())?;
    let summary = train::train(engine, data, config, plan, &mut Silent)?;
    let validation = train::evaluate(engine, data, Split::Validation)?;
    let test = train::evaluate(engine, data, Split::Test)?;
    Ok(Done { validation, test, summary })
}

/// Watches for the user's wish to stop, and for nothing else.
struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &StepReport) -> Result<()> {
        Ok(())
    }
    fn validation(&mut self, _: u64, _: &EvalReport) -> Result<()> {
        Ok(())
    }
    fn stop(&self) -> bool {
        interrupted()
    }
}

/// Everything that the sweep found, as JSON.
fn report(runs: &[Run], data: &Dataset, device: &str, seconds: f64) -> Value {
    let run = |run: &Run| {
        let Config { model, adam, seed, batch_size, .. } = &run.config;
        let mut fields = json!({
            "seed": seed,
            "lr": adam.learning_rate,
            "hidden": model.dims.h,
            "batch_size": batch_size,
            "steps": run.plan.steps,
            "side_by_side": run.side_by_side,
            "outcome": match &run.outcome {
                Outcome::Open => "open",
                Outcome::Done(_) => "done",
                Outcome::Failed(_) => "failed",
            },
        });
        if let Some(why) = &run.alone {
            fields["alone"] = json!(why);
        }
        match &run.outcome {
            Outcome::Open => {}
            Outcome::Failed(error) => fields["error"] = json!(error),
            Outcome::Done(Done { validation, test, summary }) => {
                fields["validation_accuracy"] = json!(validation.accuracy);
                fields["validation_loss"] = json!(validation.loss);
                fields["test_accuracy"] = json!(test.accuracy);
                fields["test_loss"] = json!(test.loss);
                fields["train_seconds"] = json!(summary.train_time.as_secs_f64());
            }
        }
        fields
    };
    json!({
        "event": "sweep",
        "version": env!("CARGO_PKG_VERSION"),
        "data": data.name,
        "data_description": data.description,
        "device": device,
        "seconds": seconds,
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
    })
}

/// Makes sure that the report can be written: now, and not after hours.
fn prepare(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::usage(format!("--out {}", path.display()), "that is a folder", "name a file"));
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = fs::write(&part, "").and_then(|()| fs::remove_file(&part));
    written.map_err(|error| Error::io(path, "write", error, REMEDY))
}

fn write(path: &Path, report: &Value) -> Result<()> {
    write_whole(path, format!("{report:#}\n").as_bytes(), REMEDY)
}

/// The table, the best first, and what the seeds of a setting come to together.
fn show(runs: &[Run], device: &str, out: &Path, seconds: f64) -> Result<()> {
    let done = |run: &Run| match &run.outcome {
        Outcome::Done(done) => Some(done.validation.accuracy),
        _ => None,
    };
    let mut order: Vec<&Run> = runs.iter().collect();
    // Chosen by the validation images; the test images have no part in it.
    order.sort_by(|a, b| done(b).partial_cmp(&done(a)).unwrap_or(std::cmp::Ordering::Equal));
    line(&format!(
        "{:>6}{:>10}{:>8}{:>8}{:>12}{:>12}{:>10}{:>10}",
        "seed", "lr", "hidden", "batch", "validation", "test", "loss", "seconds"
    ))?;
    for run in order {
        line(&row(run))?;
    }
    summaries(runs)?;
    let count = thousands(runs.len() as u64);
    line(&format!("\n{count} trainings in {seconds:.1} s on {device}; all of it is in {}", out.display()))
}

fn row(run: &Run) -> String {
    let Config { model, adam, seed, batch_size, .. } = &run.config;
    let settings = format!("{seed:>6}{:>10}{:>8}{batch_size:>8}", rate(adam.learning_rate), model.dims.h);
    match &run.outcome {
        Outcome::Open => format!("{settings}  not trained to its end"),
        Outcome::Failed(error) => format!("{settings}  {error}"),
        Outcome::Done(Done { validation, test, summary }) => format!(
            "{settings}{:>12}{:>12}{:>10.4}{:>10.1}",
            percent(validation.accuracy),
            percent(test.accuracy),
            test.loss,
            summary.train_time.as_secs_f64()
        ),
    }
}

/// `0.003`, `1e30`
fn rate(rate: f64) -> String {
    if (1e-4..1e4).contains(&rate) { rate.to_string() } else { format!("{rate:e}") }
}

/// Mean and spread of the test accuracy over the seeds of each setting, where there are several.
fn summaries(runs: &[Run]) -> Result<()> {
    let mut settings: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in runs {
        if let Outcome::Done(done) = &run.outcome {
            let Config { model, adam, batch_size, .. } = &run.config;
            let name = format!("lr {}, hidden {}, batch {batch_size}", rate(adam.learning_rate), model.dims.h);
            settings.entry(name).or_default().push(done.test.accuracy);
        }
    }
    settings.retain(|_, accuracies| accuracies.len() > 1);
    if !settings.is_empty() {
        line("")?;
    }
    for (name, accuracies) in settings {
        let n = accuracies.len() as f64;
        let mean = accuracies.iter().sum::<f64>() / n;
        let deviation = (accuracies.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        line(&format!("{name}: test {} ± {} ({n} seeds)", percent(mean), percent(deviation)))?;
    }
    Ok(())
}
