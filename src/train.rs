//! The training loop: batches in order, a report every few steps, checkpoints; whatever the engine.

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::data::batches::Order;
use crate::data::{Dataset, Split};
use crate::engine::{Engine, Scores, State};
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most steps between two looks at the loss and at the user's wish to stop.
const MAX_STEPS_AT_ONCE: u64 = 20;
/// Longest time between two looks, as far as it can be foreseen.
const MAX_TIME_AT_ONCE: Duration = Duration::from_millis(200);

/// How far to train and what to do on the way.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Steps in all, those done before included.
    pub steps: u64,
    /// Report every so many steps.
    pub log_every: u64,
    /// Evaluate the validation split every so many steps.
    pub eval_every: Option<u64>,
    /// Stop after so many evaluations in a row without a lower validation loss, and go back to the state of the lowest.
    pub patience: Option<u64>,
    /// Folder for checkpoints.
    pub save: Option<PathBuf>,
    /// Save every so many steps; the end is always saved.
    pub save_every: Option<u64>,
    /// Keep the state of the lowest validation loss. The end is then always evaluated.
    pub keep: Option<Keep>,
}

/// Where the state of the lowest validation loss is kept.
#[derive(Clone, Debug)]
pub struct Keep {
    /// Folder for its checkpoint.
    pub folder: PathBuf,
    /// Loss of the one that lies there already; infinite if there is none.
    pub lowest_loss: f64,
}

impl Plan {
    /// `steps` steps in all, a report every 20, nothing saved.
    pub fn new(steps: u64) -> Self {
        Self { steps, log_every: 20, eval_every: None, patience: None, save: None, save_every: None, keep: None }
    }
}

/// What the user sees of a few steps.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Mean cross-entropy of the last step's batch, measured after its update, in nats.
    pub loss: f64,
    /// Share of that batch that is classified right, measured after its update.
    pub accuracy: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean time of a step since the last report, in milliseconds.
    pub ms_per_step: f64,
    /// Sequences trained on per second, since the last report.
    pub samples_per_s: f64,
}

/// Quality on a whole split.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EvalReport {
    /// Share of sequences classified right.
    pub accuracy: f64,
    /// Mean cross-entropy, in nats.
    #[serde(deserialize_with = "number_or_nan")]
    pub loss: f64,
}

/// Reads a number. JSON has no word for one that is not finite: there it is `null`.
fn number_or_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(<Option<f64> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl EvalReport {
    /// Sums up the scores of sequences with these `labels`.
    pub fn new(scores: &Scores, labels: impl IntoIterator<Item = u32>) -> Self {
        let n = scores.loss.len().max(1) as f64;
        let right = scores.predicted.iter().zip(labels).filter(|(p, label)| *p == label).count();
        Self { accuracy: right as f64 / n, loss: scores.loss.iter().map(|&l| f64::from(l)).sum::<f64>() / n }
    }
}

/// Who watches a training.
pub trait Observer {
    /// A few steps are done.
    fn step(&mut self, report: &StepReport) -> Result<()>;
    /// The validation split was evaluated after `step`.
    fn validation(&mut self, step: u64, report: &EvalReport) -> Result<()>;
    /// Steps done so far, more often than [`Observer::step`].
    fn progress(&mut self, _done: u64) {}
    /// Asked every few steps: true to save and stop.
    fn stop(&self) -> bool {
        false
    }
}

/// Watches nothing.
pub struct Unwatched;

impl Observer for Unwatched {
    fn step(&mut self, _: &StepReport) -> Result<()> {
        Ok(())
    }
    fn validation(&mut self, _: u64, _: &EvalReport) -> Result<()> {
        Ok(())
    }
}

/// What a training did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Steps done, those of earlier runs included.
    pub steps: u64,
    /// Steps done by this run.
    pub steps_here: u64,
    /// With patience, the step of the lowest validation loss, whose state was kept.
    pub best: Option<u64>,
    /// Time spent in training steps, without reports, evaluation and saving.
    pub train_time: Duration,
}

impl Summary {
    /// Mean time of a step in milliseconds; 0 if there was none.
    pub fn ms_per_step(&self) -> f64 {
        if self.steps_here == 0 { 0.0 } else { self.train_time.as_secs_f64() * 1e3 / self.steps_here as f64 }
    }
}

/// Evaluates all of `split`.
///
/// # Errors
///
/// If the engine fails.
pub fn evaluate(engine: &mut dyn Engine, data: &Dataset, split: Split) -> Result<EvalReport> {
    let rows: Vec<u32> = (0..data.split(split).len() as u32).collect();
    let scores = engine.evaluate(split, &rows)?;
    Ok(EvalReport::new(&scores, data.split(split).labels().iter().copied()))
}

/// Trains `engine`, which holds `data` and a state of `config`'s model, as `plan` says.
///
/// # Errors
///
/// [`Error::Diverged`] once a loss is not finite, the last checkpoint kept; [`Error::Interrupted`] if the observer asks
/// to stop, after saving; [`Error::Usage`] if an interval or the batch is zero or there is nothing to train on; errors of
/// the engine and of saving.
pub fn train(
    engine: &mut dyn Engine,
    data: &Dataset,
    config: &Config,
    plan: &Plan,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    check(data, config, plan)?;
    let lowest_loss = plan.keep.as_ref().map_or(f64::INFINITY, |keep| keep.lowest_loss);
    let mut run = Run { engine, data, config, plan, batch: Vec::new(), saved: None, lowest_loss, best: None };
    let first = run.engine.state()?.step;
    let mut order = Order::new(data.train.len(), config.seed);
    let (mut step, mut train_time) = (first, Duration::ZERO);
    let (mut logged_step, mut logged_time) = (first, Duration::ZERO);
    let mut at_once = 1;
    while step < plan.steps {
        if observer.stop() {
            return Err(run.interrupted(step)?);
        }
        let count = run.steps_to_next_stop(step).min(at_once);
        let mut rows = order.rows(step * config.batch_size as u64, count as usize * config.batch_size);
        let started = Instant::now();
        let metrics = run.engine.train_steps(&rows, config.batch_size)?;
        let took = started.elapsed();
        train_time += took;
        if let Some(bad) = metrics.iter().position(|m| !m.loss.is_finite()) {
            return Err(run.diverged(step + bad as u64 + 1, metrics[bad].loss));
        }
        step += count;
        run.batch = rows.split_off(rows.len() - config.batch_size);
        let affordable = MAX_TIME_AT_ONCE.as_secs_f64() / took.as_secs_f64().max(1e-9) * count as f64;
        at_once = (affordable as u64).clamp(1, MAX_STEPS_AT_ONCE);
        observer.progress(step);

        let due = |every: u64| step % every == 0;
        if due(plan.log_every) || step == plan.steps {
            let quality = run.quality(step)?;
            let (steps, time) = ((step - logged_step) as f64, (train_time - logged_time).as_secs_f64());
            (logged_step, logged_time) = (step, train_time);
            observer.step(&StepReport {
                step,
                loss: quality.loss,
                accuracy: quality.accuracy,
                learning_rate: config.adam.rate(step),
                ms_per_step: time * 1e3 / steps,
                samples_per_s: steps * config.batch_size as f64 / time,
            })?;
        }
        let mut patience_ends = false;
        if plan.eval_every.is_some_and(due) || plan.keep.is_some() && step == plan.steps {
            let validation = evaluate(run.engine, data, Split::Validation)?;
            observer.validation(step, &validation)?;
            run.keep(step, validation.loss)?;
            patience_ends = run.is_out_of_patience(step, validation.loss)?;
        }
        if plan.save_every.is_some_and(due) {
            run.save(step)?;
        }
        if patience_ends {
            break;
        }
    }
    let best = run.best.take();
    if let Some(best) = &best {
        run.engine.set_state(&best.state)?;
    }
    let best = best.map(|best| best.state.step);
    run.save(best.unwrap_or(step))?;
    Ok(Summary { steps: step, steps_here: step - first, best, train_time })
}

/// Makes sure that the loop ends and has something to do.
fn check(data: &Dataset, config: &Config, plan: &Plan) -> Result<()> {
    let Plan { log_every, eval_every, patience, save_every, .. } = plan;
    let every = [Some(*log_every), *eval_every, *patience, *save_every, Some(config.batch_size as u64)];
    if every.contains(&Some(0)) || data.train.is_empty() {
        let found = "an interval or the batch size is zero, or there are no sequences";
        return Err(Error::usage("training plan", found, "give at least 1 of each"));
    }
    Ok(())
}

struct Run<'a> {
    engine: &'a mut dyn Engine,
    data: &'a Dataset,
    config: &'a Config,
    plan: &'a Plan,
    /// Rows of the batch trained on last.
    batch: Vec<u32>,
    /// Step of the checkpoint that this run saved last.
    saved: Option<u64>,
    /// The lowest validation loss of a state that was kept.
    lowest_loss: f64,
    /// With patience, what was best so far.
    best: Option<Best>,
}

/// The lowest validation loss so far.
struct Best {
    loss: f64,
    state: State,
    /// Evaluations since.
    since: u64,
}

impl Run<'_> {
    /// Steps until something is to be done, so that it is done at its step exactly.
    fn steps_to_next_stop(&self, step: u64) -> u64 {
        let Plan { steps, log_every, eval_every, save_every, .. } = self.plan;
        let to_multiple = |every: u64| every - step % every;
        [Some(*log_every), *eval_every, *save_every].into_iter().flatten().map(to_multiple).fold(steps - step, u64::min)
    }

    /// Takes note of the validation loss after `step`; true if there has been no lower one for too long.
    fn is_out_of_patience(&mut self, step: u64, loss: f64) -> Result<bool> {
        let Some(patience) = self.plan.patience else { return Ok(false) };
        if let Some(best) = self.best.as_mut().filter(|best| loss >= best.loss) {
            best.since += 1;
            return Ok(best.since >= patience);
        }
        if !loss.is_finite() {
            return Err(self.diverged(step, loss as f32));
        }
        self.best = Some(Best { loss, state: self.engine.state()?, since: 0 });
        Ok(false)
    }

    /// How good the model is after `step`, on the batch of that step.
    fn quality(&mut self, step: u64) -> Result<EvalReport> {
        let scores = self.engine.evaluate(Split::Train, &self.batch)?;
        let labels = self.data.train.labels();
        let quality = EvalReport::new(&scores, self.batch.iter().map(|&row| labels[row as usize]));
        if quality.loss.is_finite() { Ok(quality) } else { Err(self.diverged(step, quality.loss as f32)) }
    }

    /// Saves the state after `step`, if there is a folder for it and this was not done already.
    fn save(&mut self, step: u64) -> Result<()> {
        let Some(folder) = self.plan.save.as_ref().filter(|_| self.saved != Some(step)) else { return Ok(()) };
        self.checkpoint(step)?.save(folder)?;
        self.saved = Some(step);
        Ok(())
    }

    /// Keeps the state after `step` if its validation `loss` is the lowest so far.
    fn keep(&mut self, step: u64, loss: f64) -> Result<()> {
        let Some(keep) = self.plan.keep.as_ref().filter(|_| loss < self.lowest_loss) else { return Ok(()) };
        self.checkpoint(step)?.save(&keep.folder)?;
        self.lowest_loss = loss;
        Ok(())
    }

    /// The state after `step`. Nothing takes the place of a good checkpoint but another good one.
    fn checkpoint(&mut self, step: u64) -> Result<Checkpoint> {
        self.quality(step)?;
        let state = self.engine.state()?;
        if ![&state.parameters, &state.m, &state.v].into_iter().flatten().all(|number| number.is_finite()) {
            // Adam's v, the squares, can become infinite before the loss does.
            let remedy = format!("parameters or Adam's m and v are not finite any more: {}", self.remedy());
            return Err(Error::Diverged { step, loss: f32::NAN, remedy });
        }
        Ok(Checkpoint { config: self.config.clone(), state })
    }

    fn diverged(&self, step: u64, loss: f32) -> Error {
        Error::Diverged { step, loss, remedy: self.remedy() }
    }

    /// What to do about a run that diverged.
    fn remedy(&self) -> String {
        let kept = self.plan.save.as_ref().and_then(|folder| Some((folder, Checkpoint::load(folder).ok()?.state.step)));
        let kept =
            kept.map(|(folder, step)| format!("; the checkpoint of step {step} in {} is kept", folder.display()));
        let kept = kept.unwrap_or_default();
        format!("try a smaller --lr (it is {}) or --grad-clip{kept}", self.config.adam.learning_rate)
    }

    fn interrupted(&mut self, step: u64) -> Result<Error> {
        self.save(step)?;
        let remedy = match &self.plan.save {
            Some(folder) => format!("saved; go on with --resume {}", folder.display()),
            None => "nothing was saved: --save DIR was not given".into(),
        };
        Ok(Error::Interrupted { step, remedy })
    }
}
