//! `fused-lstm train`: the main job.

use super::device::Chosen;
use super::output::{event, line, percent, thousands};
use super::progress::Shown;
use crate::cli::{SettingsArgs, TrainArgs};
use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::data::{Dataset, Split};
use fused_lstm::engine::{Engine, Model, State};
use fused_lstm::progress::Progress;
use fused_lstm::shape::{Dims, ParamLayout};
use fused_lstm::train::{self, EvalReport, Observer, Plan, StepReport, Summary};
use fused_lstm::{Error, Result, init};
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
    // That folder is made ready last: a wrong flag, missing data or too small a GPU leaves no trace of it.

    let started = Instant::now();
    let trained = resumed.as_ref().map(|checkpoint| &checkpoint.config);
    let data = super::prepared(&args.data, &args.prepare, trained, &progress)?;
    let data_time = started.elapsed();

    let set_up = Instant::now();
    let config = config(&args.settings, args.resume.as_deref().zip(resumed.as_ref()), &data)?;
    let state = match resumed {
        Some(checkpoint) => checkpoint.state,
        None => State::new(init::parameters(config.model.dims, config.init, config.seed)),
    };
    let steps = steps(&args.settings, &config, state.step)?;
    let plan =
        Plan { steps, log_every: args.log_every, eval_every: args.eval_every, save, save_every: args.save_every };
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
        (dims.p, dims.h) = (p, h);
    }
    set(&mut config.model.forget_bias, args.forget_bias);
    set(&mut config.adam.learning_rate, args.lr);
    config.adam.grad_clip = args.grad_clip.or(config.adam.grad_clip);
    set(&mut config.init, args.init);
    set(&mut config.seed, args.seed);
    set(&mut config.batch_size, args.batch_size);
    super::check_sizes(config.model.dims, format!("--hidden {}", config.model.dims.h), 0)?;
    config.adam.check()?;
    let Config { model: Model { forget_bias, .. }, batch_size, train_sequences, .. } = config;
    if !forget_bias.is_finite() {
        return Err(Error::usage(
            format!("--forget-bias {forget_bias}"),
            "the forget bias is not a finite number",
            "give one such as 1.0",
        ));
    }
    if batch_size > train_sequences {
        return Err(Error::usage(
            format!("--batch-size {batch_size}"),
            format!("the training data has only {train_sequences} sequences"),
            "give a smaller one",
        ));
    }
    if let Some((folder, Checkpoint { config: before, .. })) = resumed {
        // The learning rate and the clip may change on the way; whatever else differs would be another run.
        let mut same = config.clone();
        same.adam = before.adam;
        if same != *before {
            return Err(Error::checkpoint(
                folder,
                format!("it was made with {}, not with {}", brief(before), brief(&config)),
                "leave the flags out that differ, or start a new run",
            ));
        }
    }
    Ok(config)
}

/// Takes what the user gave.
fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

/// The part of a configuration that a resumed run cannot change.
fn brief(config: &Config) -> String {
    let dims = config.model.dims;
    format!(
        "{} ({} sequences of {} x {}), hidden {}, batch {}, seed {}, init {}, forget bias {}",
        config.data,
        config.train_sequences,
        dims.t,
        dims.i,
        dims.h,
        config.batch_size,
        config.seed,
        format!("{:?}", config.init).to_lowercase(),
        config.model.forget_bias
    )
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
            let names = ParamLayout::NAMES.into_array();
            let tensors = names.iter().zip(layout.shapes().into_array()).map(|(name, shape)| json!([name, shape]));
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
        line(&format!("{:<8}{:>12}{:>14}", "tensor", "shape", "parameters"))?;
        for (name, shape) in ParamLayout::NAMES.into_array().iter().zip(layout.shapes().into_array()) {
            let count = thousands(shape.iter().product::<usize>() as u64);
            let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            line(&format!("{name:<8}{shape:>12}{count:>14}"))?;
        }
        line(&format!("{:<8}{:>26}", "all", thousands(layout.len() as u64)))?;
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
