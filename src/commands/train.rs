//! `fused-lstm train`: the main job.

use super::device::Chosen;
use super::output::{event, line, percent, thousands};
use super::progress::Shown;
use crate::cli::{InputLayerArg, LargerArgs, ModelArgs, ScheduleName, SettingsArgs, TrainArgs};
use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::{Dataset, Sequences, Split};
use fused_lstm::dropout::Dropout;
use fused_lstm::engine::{Engine, State};
use fused_lstm::model::{InputLayer, Model};
use fused_lstm::optimizer::Schedule;
use fused_lstm::progress::Progress;
use fused_lstm::run::{self, Environment, Findings, Row, RunFolder, Seconds, Settings};
use fused_lstm::shape::Dims;
use fused_lstm::train::{self, EvalReport, Observer, Plan, StepReport, Summary};
use fused_lstm::{Error, Result};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const DEFAULT_STEPS: u64 = 1000;
const DEFAULT_HIDDEN: usize = 128;
/// Steps between two evaluations of a run with a folder.
const RUN_EVAL_EVERY: u64 = 100;

/// Set by the first Ctrl-C; the second ends the program.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs the command.
pub fn run(args: &TrainArgs) -> Result<()> {
    let progress = Shown::new(args.output.progress, args.output.quiet || args.output.json);
    let from = Origin::of(args.resume.as_deref());
    let resumed = from.checkpoint.as_deref().map(Checkpoint::load).transpose()?;
    let run = run_folder(args, from.run)?;
    let device = Chosen::open(&args.device)?;
    let save = args.save.clone().or_else(|| args.resume.clone());
    if args.save_every.is_some() && save.is_none() && run.is_none() {
        return Err(Error::usage("--save-every", "there is no folder to save to", "give one with --save or --run"));
    }
    if let (Some(patience), None, None) = (args.patience, args.eval_every, &run) {
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
    let plan = match &run {
        None => Plan { steps, log_every, eval_every, patience, save, save_every, keep: None },
        Some(folder) => {
            let (last, keep) = run::checkpoints(folder, state.step);
            // A run that goes on keeps its intervals.
            let before = Settings::load(folder).ok();
            let eval_every = eval_every.or(before.as_ref().map(|run| run.eval_every)).unwrap_or(RUN_EVAL_EVERY);
            let save_every = save_every.or(before.map(|run| run.save_every)).unwrap_or(eval_every);
            Plan {
                steps,
                log_every,
                eval_every: Some(eval_every),
                patience,
                save: Some(last),
                save_every: Some(save_every),
                keep: Some(keep),
            }
        }
    };
    let device = device.for_iterations(plan.steps.saturating_sub(state.step));
    let mut engine = device.engine(config.model, config.adam, data.clone())?;
    engine.set_state(&state)?;
    if state.step < plan.steps {
        engine.prepare(config.batch_size)?;
    }
    let mut recorder = None;
    if let Some(folder) = &run {
        let settings = Settings {
            config: config.clone(),
            steps,
            precision: engine.precision(),
            log_every: plan.log_every,
            eval_every: plan.eval_every.unwrap_or(RUN_EVAL_EVERY),
            save_every: plan.save_every.unwrap_or(RUN_EVAL_EVERY),
            data: data.description.clone(),
        };
        recorder = Some(RunFolder::begin(folder, &settings, &Environment::of(engine.as_ref()), state.step)?);
    }
    for folder in plan.save.iter().chain(plan.keep.iter().map(|keep| &keep.folder)) {
        Checkpoint::prepare(folder)?;
    }
    let set_up_time = set_up.elapsed();

    let mut report = Report { args, progress: &progress, recorder };
    report.start(engine.as_ref(), &data, &config, state.step)?;
    interruptible()?;
    progress.begin("training", plan.steps);
    progress.update(state.step);
    let trained = train::train(engine.as_mut(), &data, &config, &plan, &mut report);
    progress.end();
    let summary = trained.inspect_err(|_| {
        // The error that ended the training is the one to tell.
        let _ = run.as_deref().map(super::report::of_run);
    })?;

    let evaluation = Instant::now();
    progress.begin("evaluating", 0);
    let validation = train::evaluate(engine.as_mut(), &data, Split::Validation)?;
    let rows: Vec<u32> = (0..data.test.len() as u32).collect();
    let scores = engine.evaluate(Split::Test, &rows)?;
    let test = EvalReport::new(&scores, data.test.labels().iter().copied());
    progress.end();
    let evaluation = evaluation.elapsed();
    let reports = started.elapsed().saturating_sub(data_time + set_up_time + summary.train_time + evaluation);
    let seconds = Seconds {
        data: data_time.as_secs_f64(),
        set_up: set_up_time.as_secs_f64(),
        training: summary.train_time.as_secs_f64(),
        evaluation: evaluation.as_secs_f64(),
        reports: reports.as_secs_f64(),
    };
    report.done(engine.as_ref(), &data, &config, &summary, &validation, &test, &seconds)?;
    let text = report.text();
    if let Some((mut recorder, folder)) = report.recorder.zip(run.as_deref()) {
        recorder.record(&Row::Done { time: run::now(), step: summary.steps, validation, test, seconds })?;
        let state = engine.state()?;
        let classify = |sequence: &Sequences| classify(&config, &state, sequence);
        recorder.findings(&Findings::new(engine.as_mut(), &data, &scores, summary.steps, &classify)?)?;
        let page = super::report::of_run(folder)?;
        if text {
            line(&format!("report      {}", page.display()))?;
        }
    }
    if let Some(folder) = run.or(plan.save).filter(|_| text) {
        line(&format!("saved       {}", folder.display()))?;
    }
    Ok(())
}

/// Where a training goes on from.
#[derive(Default)]
struct Origin {
    /// The run, if it is one's.
    run: Option<PathBuf>,
    checkpoint: Option<PathBuf>,
}

impl Origin {
    fn of(resume: Option<&Path>) -> Self {
        let Some(folder) = resume else { return Self::default() };
        match run::run_of(folder) {
            Some(run) => Self { checkpoint: Some(run.join(run::LAST)), run: Some(run) },
            None => Self { run: None, checkpoint: Some(folder.to_owned()) },
        }
    }
}

/// The run's folder, if there is to be one: a new one, or that of the run which goes on.
fn run_folder(args: &TrainArgs, resumed: Option<PathBuf>) -> Result<Option<PathBuf>> {
    let same = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a));
    match (&args.run, resumed) {
        (None, resumed) => Ok(resumed.filter(|_| args.save.is_none())),
        (Some(folder), Some(resumed)) if same(folder, &resumed) => Ok(Some(resumed)),
        (Some(folder), _) => run::check_new(folder).map(|()| Some(folder.clone())),
    }
}

/// The probabilities of the classes for one sequence of any length, on the processor in f32.
fn classify(config: &Config, state: &State, sequence: &Sequences) -> Result<Vec<f32>> {
    let mut model = config.model;
    model.dims.t = sequence.t();
    let mut engine = CpuEngine::new(model, config.adam, Arc::new(super::nothing(model)), 1)?;
    engine.set_state(state)?;
    engine.predict(sequence)
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
    set_layers(&args.larger.model, &mut config.model, config.seed);
    set(&mut config.model.label_smoothing, args.larger.label_smoothing);
    set(&mut config.adam.weight_decay, args.larger.weight_decay);
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

/// Sets the layers of a `model` whose hidden units are set; `seed` is dropout's.
pub fn set_layers(args: &ModelArgs, model: &mut Model, seed: u64) {
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
        model.dropout = (rate != 0.0).then_some(Dropout { rate, seed });
    }
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

/// Steps to train in all, of which `done` are done; as many as a schedule has, unless the flags say how many.
pub fn steps(args: &SettingsArgs, config: &Config, done: u64) -> Result<u64> {
    let steps = match args.epochs {
        Some(epochs) => (epochs * config.train_sequences as u64).div_ceil(config.batch_size as u64),
        None => args.steps.unwrap_or(match config.adam.schedule {
            Schedule::Cosine { steps, .. } if args.larger.schedule.is_none() => steps,
            _ => DEFAULT_STEPS,
        }),
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

/// Tells the user what happens, as text or as JSON, and keeps it in the run's folder.
struct Report<'a> {
    args: &'a TrainArgs,
    progress: &'a Shown,
    recorder: Option<RunFolder>,
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
        seconds: &Seconds,
    ) -> Result<()> {
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
                    "train_seconds": seconds.training,
                    "ms_per_step": summary.ms_per_step(),
                    "device": engine.device(),
                    "data": data.name,
                    "seed": config.seed,
                    "data_seconds": seconds.data,
                    "setup_seconds": seconds.set_up,
                    "evaluation_seconds": seconds.evaluation,
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
            let Seconds { data, set_up, training, evaluation, reports } = seconds;
            line(&format!(
                "time        data {data:.2} s, set-up {set_up:.2} s, training {training:.2} s, evaluation {evaluation:.2} s, \
                 reports and saving {reports:.2} s",
            ))?;
        }
        Ok(())
    }
}

impl Observer for Report<'_> {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        if let Some(run) = &mut self.recorder {
            run.record(&Row::Step { time: run::now(), report: *report })?;
        }
        if self.json() {
            return event("step", report);
        }
        if !self.text() {
            return Ok(());
        }
        let StepReport { step, loss, accuracy, ms_per_step, samples_per_s, .. } = report;
        let (accuracy, speed) = (percent(*accuracy), thousands(*samples_per_s as u64));
        self.progress.suspend(|| line(&format!("{step:>6}{loss:>10.4}{accuracy:>12}{ms_per_step:>10.2}{speed:>12}")))
    }

    fn validation(&mut self, step: u64, report: &EvalReport) -> Result<()> {
        if let Some(run) = &mut self.recorder {
            run.record(&Row::Eval { time: run::now(), step, report: *report })?;
        }
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
