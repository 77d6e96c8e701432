//! `fused-lstm train`: the main job.

use super::device::Chosen;
use super::output::{event, line, percent, thousands};
use super::progress::Shown;
use crate::cli::{InputLayerArg, LargerArgs, ScheduleName, SettingsArgs, TrainArgs};
use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::data::{Dataset, Split};
use fused_lstm::dropout::Dropout;
use fused_lstm::engine::Engine;
use fused_lstm::model::{InputLayer, Model};
use fused_lstm::optimizer::Schedule;
use fused_lstm::progress::Progress;
use fused_lstm::shape::Dims;
use fused_lstm::train::{self, EvalReport, Observer, Plan, StepReport, Summary};
use fused_lstm::{Error, Result};
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DEFAULT_STEPS: u64 = 1000;
const DEFAULT_HIDDEN: usize = 128;

/// Set by the first Ctrl-C; the second ends the program.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs the command.
pub fn run(args: &TrainArgs) -> Result<()> {
    let progress = Shown::new(args.output.progress, args.output.quiet || args.output.json);
    let resumed = args.resume.as_deref().map(Checkpoint::load).transpose()?;
    let device = Chosen::open(&args.device)?;
    let save = args.save.clone().or_else(|| args.resume.clone());
    if args.save_every.is_some() && save.is_none() {
        return Err(Error::usage("--save-every", "there is no folder to save to", "give one with --save"));
    }
    if let (Some(patience), None) = (args.patience, args.eval_every) {
        let found = "it is a number of evaluations, and there are none on the way";
        return Err(Error::usage(format!("--patience {patience}"), found, "say how often with --eval-every"));
    }
    // That folder is made ready last: a wrong flag, missing data or too small a GPU leaves no trace of it.

    let started = Instant::now();
    let trained = resumed.as_ref().map(|checkpoint| &checkpoint.config);
    let data = super::prepared(&args.data, &args.prepare, trained, &progress)?;
    let data_time = started.elapsed();

    let set_up = Instant::now();
    let config = config(&args.settings, args.resume.as_deref().zip(resumed.as_ref()), &data)?;
    let state = match resumed {
        Some(checkpoint) => checkpoint.state,
        None => config.initial_state(),
    };
    let steps = steps(&args.settings, &config, state.step)?;
    let TrainArgs { log_every, eval_every, patience, save_every, .. } = *args;
    let plan = Plan { steps, log_every, eval_every, patience, save, save_every };
    let mut engine = device.engine(config.model, config.adam, data.clone())?;
    engine.set_state(&state)?;
    if state.step < plan.steps {
        engine.prepare(config.batch_size)?;
    }
    if let Some(folder) = &plan.save {
        Checkpoint::prepare(folder)?;
    }
    let set_up_time = set_up.elapsed();

    let mut report = Report { args, progress: &progress };
    report.start(engine.as_ref(), &data, &config, state.step)?;
    interruptible()?;
    progress.begin("training", plan.steps);
    let trained = train::train(engine.as_mut(), &data, &config, &plan, &mut report);
    progress.end();
    let summary = trained?;

    let evaluation = Instant::now();
    progress.begin("evaluating", 0);
    let validation = train::evaluate(engine.as_mut(), &data, Split::Validation)?;
    let test = train::evaluate(engine.as_mut(), &data, Split::Test)?;
    progress.end();
    let times =
        Times { data: data_time, set_up: set_up_time, evaluation: evaluation.elapsed(), all: started.elapsed() };
    report.done(engine.as_ref(), &data, &config, &summary, &validation, &test, &times)?;
    if let Some(folder) = plan.save.filter(|_| !args.output.json && !args.output.quiet) {
        line(&format!("saved       {}", folder.display()))?;
    }
    Ok(())
}

/// What the flags say, else the checkpoint, else the defaults.
pub fn config(args: &SettingsArgs, resumed: Option<(&Path, &Checkpoint)>, data: &Dataset) -> Result<Config> {
    let before = resumed.map(|(_, checkpoint)| &checkpoint.config);
    let fresh = Config::new(data, args.hidden.unwrap_or(DEFAULT_HIDDEN));
    let mut config = before.cloned().unwrap_or_else(|| fresh.clone());
    (config.data, config.train_sequences, config.own) = (fresh.data, fresh.train_sequences, fresh.own);
    let Dims { t, i, p, h, k } = fresh.model.dims;
    let dims = &mut config.model.dims;
    (dims.t, dims.i, dims.k) = (t, i, k);
    if args.hidden.is_some() {
        dims.h = h;
        if config.model.input_layer == InputLayer::Linear {
            dims.p = p;
        }
    }
    set(&mut config.model.forget_bias, args.forget_bias);
    set(&mut config.adam.learning_rate, args.lr);
    config.adam.grad_clip = args.grad_clip.or(config.adam.grad_clip);
    set(&mut config.init, args.init);
    set(&mut config.seed, args.seed);
    set(&mut config.batch_size, args.batch_size);
    set_larger(&args.larger, &mut config);
    set_schedule(args, &mut config)?;
    super::check_sizes(&config.model, format!("--hidden {}", config.model.dims.h), 0)?;
    config.adam.check()?;
    let Config { batch_size, train_sequences, .. } = config;
    if batch_size > train_sequences {
        return Err(Error::usage(
            format!("--batch-size {batch_size}"),
            format!("the training data has only {train_sequences} sequences"),
            "give a smaller one",
        ));
    }
    if let Some((folder, Checkpoint { config: before, .. })) = resumed {
        // The optimizer's settings may change on the way; whatever else differs would be another run.
        let mut same = config.clone();
        same.adam = before.adam;
        if same != *before {
            let (before, now) = differences(before, &config);
            return Err(Error::checkpoint(
                folder,
                format!("it was made with {before}, not with {now}"),
                "leave the flags out that differ, or start a new run",
            ));
        }
    }
    Ok(config)
}

/// Sets what goes beyond the tutorial's model.
fn set_larger(args: &LargerArgs, config: &mut Config) {
    let Config { model, adam, seed, .. } = config;
    set(&mut model.layers, args.layers);
    model.bidirectional |= args.bidirectional;
    match args.input_layer {
        None => {}
        Some(InputLayerArg::None) => (model.input_layer, model.dims.p) = (InputLayer::None, model.dims.i),
        Some(InputLayerArg::Linear(width)) => {
            (model.input_layer, model.dims.p) = (InputLayer::Linear, width.unwrap_or(model.dims.h));
        }
    }
    set(&mut model.pool, args.pool);
    if let Some(rate) = args.dropout {
        model.dropout = (rate != 0.0).then_some(Dropout { rate, seed: *seed });
    }
    set(&mut model.label_smoothing, args.label_smoothing);
    set(&mut adam.weight_decay, args.weight_decay);
}

/// Sets the schedule for all the steps that the flags ask for.
fn set_schedule(args: &SettingsArgs, config: &mut Config) -> Result<()> {
    let LargerArgs { schedule, warmup_steps, .. } = args.larger;
    if let (Some(warm_up), None | Some(ScheduleName::Constant | ScheduleName::Cosine)) = (warmup_steps, schedule) {
        let found = "no other schedule has a warm-up";
        return Err(Error::usage(format!("--warmup-steps {warm_up}"), found, "add --schedule warmup-cosine"));
    }
    let steps = steps(args, config, 0)?;
    match schedule {
        None => {}
        Some(ScheduleName::Constant) => config.adam.schedule = Schedule::Constant,
        Some(ScheduleName::Cosine) => config.adam.schedule = Schedule::Cosine { warm_up: 0, steps },
        Some(ScheduleName::WarmupCosine) => {
            let warm_up = warmup_steps.unwrap_or(steps / 10);
            config.adam.schedule = Schedule::Cosine { warm_up, steps };
        }
    }
    match config.adam.schedule {
        Schedule::Cosine { steps: end, .. } if steps > end => Err(Error::usage(
            format!("--steps {steps}"),
            format!("the checkpoint's schedule ends with step {end}"),
            "give --schedule anew, or no more steps",
        )),
        _ => Ok(()),
    }
}

/// Takes what the user gave.
fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

/// What a resumed run cannot change, and differs between two configurations: as the one says and as the other.
fn differences(before: &Config, now: &Config) -> (String, String) {
    let parts = |config: &Config| {
        let Model { dims, layers, bidirectional, input_layer, pool, dropout, label_smoothing, forget_bias } =
            config.model;
        let Config { data, train_sequences, batch_size, seed, init, .. } = config;
        [
            format!("{data} ({train_sequences} sequences of {} x {})", dims.t, dims.i),
            format!("hidden {}", dims.h),
            format!("batch {batch_size}"),
            format!("seed {seed}"),
            format!("init {}", format!("{init:?}").to_lowercase()),
            format!("forget bias {forget_bias}"),
            format!("layers {layers}"),
            if bidirectional { "two directions".into() } else { "one direction".into() },
            match input_layer {
                InputLayer::None => "no input layer".into(),
                InputLayer::Linear => format!("an input layer of {}", dims.p),
            },
            format!("pool {}", format!("{pool:?}").to_lowercase()),
            format!("dropout {}", dropout.map_or(0.0, |dropout| dropout.rate)),
            format!("label smoothing {label_smoothing}"),
        ]
    };
    let (before, now): (Vec<_>, Vec<_>) =
        parts(before).into_iter().zip(parts(now)).filter(|(before, now)| before != now).unzip();
    if before.is_empty() {
        return ("other names of classes or another normalisation".into(), "those of this data".into());
    }
    (before.join(", "), now.join(", "))
}

/// Steps to train in all, of which `done` are done.
pub fn steps(args: &SettingsArgs, config: &Config, done: u64) -> Result<u64> {
    let steps = match args.epochs {
        Some(epochs) => (epochs * config.train_sequences as u64).div_ceil(config.batch_size as u64),
        None => args.steps.unwrap_or(DEFAULT_STEPS),
    };
    if steps < done {
        let flag = args.epochs.map_or_else(|| format!("--steps {steps}"), |epochs| format!("--epochs {epochs}"));
        let found = format!("that makes {steps} steps in all, and the checkpoint has done {done} already");
        return Err(Error::usage(flag, found, "ask for more in all"));
    }
    Ok(steps)
}

/// Lets Ctrl-C be seen by [`interrupted`]; a second one ends the program.
pub fn interruptible() -> Result<()> {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Failed(format!("cannot watch for Ctrl-C: {e}; try again")))
}

/// Whether the user wishes to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

struct Times {
    data: Duration,
    set_up: Duration,
    evaluation: Duration,
    /// From the first look for data to the end of the evaluation.
    all: Duration,
}

/// Tells the user what happens, as text or as JSON.
struct Report<'a> {
    args: &'a TrainArgs,
    progress: &'a Shown,
}

impl Report<'_> {
    fn json(&self) -> bool {
        self.args.output.json && !self.args.output.quiet
    }

    fn text(&self) -> bool {
        !self.args.output.json && !self.args.output.quiet
    }

    fn start(&self, engine: &dyn Engine, data: &Dataset, config: &Config, step: u64) -> Result<()> {
        let layout = config.model.layout();
        if self.json() {
            let names = layout.names().into_vec().into_iter();
            let tensors = names.zip(layout.shapes().into_vec()).map(|(name, shape)| json!([name, shape]));
            return event(
                "start",
                json!({
                    "version": env!("CARGO_PKG_VERSION"),
                    "device": engine.device(),
                    "data": data.name,
                    "data_description": data.description,
                    "config": config,
                    "tensors": tensors.collect::<Vec<_>>(),
                    "parameters": layout.len(),
                    "step": step,
                }),
            );
        }
        if !self.text() {
            return Ok(());
        }
        let names = layout.names().into_vec();
        // As wide as the longest name needs, and one more.
        let width = names.iter().map(String::len).max().unwrap_or(0).max(7) + 1;
        line(&format!("{:<width$}{:>12}{:>14}", "tensor", "shape", "parameters"))?;
        for (name, shape) in names.iter().zip(layout.shapes().into_vec()) {
            let count = thousands(shape.iter().product::<usize>() as u64);
            let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            line(&format!("{name:<width$}{shape:>12}{count:>14}"))?;
        }
        line(&format!("{:<width$}{:>26}", "all", thousands(layout.len() as u64)))?;
        line("")?;
        line(&format!("data        {}", data.description))?;
        line(&format!("device      {}", engine.device()))?;
        if step > 0 {
            line(&format!("resumed     at step {step}"))?;
        }
        line("")?;
        line(&format!("{:>6}{:>10}{:>12}{:>10}{:>12}", "step", "loss", "accuracy", "ms/step", "samples/s"))
    }

    #[expect(clippy::too_many_arguments)]
    fn done(
        &self,
        engine: &dyn Engine,
        data: &Dataset,
        config: &Config,
        summary: &Summary,
        validation: &EvalReport,
        test: &EvalReport,
        times: &Times,
    ) -> Result<()> {
        let train_time = summary.train_time;
        if self.args.output.json {
            return event(
                "done",
                json!({
                    "test_accuracy": test.accuracy,
                    "test_loss": test.loss,
                    "validation_accuracy": validation.accuracy,
                    "validation_loss": validation.loss,
                    "steps": summary.steps,
                    "best_step": summary.best,
                    "train_seconds": train_time.as_secs_f64(),
                    "ms_per_step": summary.ms_per_step(),
                    "device": engine.device(),
                    "data": data.name,
                    "seed": config.seed,
                    "data_seconds": times.data.as_secs_f64(),
                    "setup_seconds": times.set_up.as_secs_f64(),
                    "evaluation_seconds": times.evaluation.as_secs_f64(),
                }),
            );
        }
        if self.text() {
            line("")?;
        }
        let quality = |name: &str, split: Split, report: &EvalReport| {
            let n = thousands(data.split(split).len() as u64);
            line(&format!(
                "{name:<12}accuracy {}, loss {:.4} ({n} {})",
                percent(report.accuracy),
                report.loss,
                data.noun()
            ))
        };
        if let Some(best) = summary.best.filter(|_| self.text()) {
            let steps = summary.steps;
            line(&format!("kept        step {best}, of the lowest validation loss; trained up to step {steps}"))?;
        }
        quality("validation", Split::Validation, validation)?;
        quality("test", Split::Test, test)?;
        if self.text() {
            let rest = times.all.saturating_sub(times.data + times.set_up + train_time + times.evaluation);
            line(&format!(
                "time        data {:.2} s, set-up {:.2} s, training {:.2} s, evaluation {:.2} s, reports and saving {:.2} s",
                times.data.as_secs_f64(),
                times.set_up.as_secs_f64(),
                train_time.as_secs_f64(),
                times.evaluation.as_secs_f64(),
                rest.as_secs_f64(),
            ))?;
        }
        Ok(())
    }
}

impl Observer for Report<'_> {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        if self.json() {
            return event("step", report);
        }
        if !self.text() {
            return Ok(());
        }
        let StepReport { step, loss, accuracy, ms_per_step, samples_per_s } = report;
        let (accuracy, speed) = (percent(*accuracy), thousands(*samples_per_s as u64));
        self.progress.suspend(|| line(&format!("{step:>6}{loss:>10.4}{accuracy:>12}{ms_per_step:>10.2}{speed:>12}")))
    }

    fn validation(&mut self, step: u64, report: &EvalReport) -> Result<()> {
        if self.json() {
            let EvalReport { accuracy, loss } = report;
            return event("eval", json!({ "step": step, "split": "validation", "accuracy": accuracy, "loss": loss }));
        }
        if !self.text() {
            return Ok(());
        }
        let (loss, accuracy) = (report.loss, percent(report.accuracy));
        self.progress.suspend(|| line(&format!("{step:>6}{loss:>10.4}{accuracy:>12}  validation")))
    }

    fn progress(&mut self, done: u64) {
        self.progress.update(done);
    }

    fn stop(&self) -> bool {
        interrupted()
    }
}
