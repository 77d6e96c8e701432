//! The training loop, with an engine that computes nothing and writes down what it is asked to do.

use fused_lstm::checkpoint::Checkpoint;
use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::batches::Order;
use fused_lstm::data::{Dataset, Sequences, Split, Values};
use fused_lstm::engine::{Engine, Model, Scores, State, StepMetrics, Trace};
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::Adam;
use fused_lstm::shape::Dims;
use fused_lstm::train::{EvalReport, Observer, Plan, StepReport, Summary, train};
use fused_lstm::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

const MODEL: Model = Model::new(Dims { t: 2, i: 3, p: 2, h: 4, k: 5 });
const BATCH: usize = 4;

fn data() -> Dataset {
    let part = |n: usize, first: u8| {
        let bytes = (0..n * 6).map(|at| first.wrapping_add(at as u8).wrapping_mul(37)).collect();
        let labels = (0..n as u32).map(|at| at % 5).collect();
        Sequences::new(2, 3, Values::U8 { bytes, scale: 1.0 / 255.0 }, labels)
    };
    let (train, validation, test) = (part(22, 0), part(5, 1), part(3, 2));
    Dataset { description: "a few numbers".into(), name: "mnist", classes: 5, train, validation, test, own: None }
}

fn config() -> Config {
    config_with(Adam::default(), BATCH)
}

fn config_with(adam: Adam, batch_size: usize) -> Config {
    Config { model: MODEL, adam, seed: 7, init: Init::Xavier, batch_size, ..Config::new(&data(), 1) }
}

fn plan(steps: u64) -> Plan {
    Plan::new(steps)
}

fn state(step: u64) -> State {
    State { step, ..State::new(vec![0.0; MODEL.layout().len()]) }
}

type Poison = fn(&mut State);

/// The parameters are all equal to the number of steps done, until `poison` makes the state of a step NaN.
struct Fake {
    state: State,
    /// Rows of each call of `train_steps`.
    calls: Vec<Vec<u32>>,
    step_time: Duration,
    /// Loss of a step, before its update, and of an evaluation after it.
    loss: fn(u64) -> f32,
    loss_after: fn(u64) -> f32,
    poison: Option<(u64, Poison)>,
}

impl Default for Fake {
    fn default() -> Self {
        let one = |_| 1.0;
        let step_time = Duration::ZERO;
        Self { state: state(0), calls: Vec::new(), step_time, loss: one, loss_after: one, poison: None }
    }
}

impl Fake {
    /// Steps of each call.
    fn counts(&self) -> Vec<usize> {
        self.calls.iter().map(|rows| rows.len() / BATCH).collect()
    }
}

impl Engine for Fake {
    fn device(&self) -> String {
        "fake".into()
    }
    fn threads(&self) -> usize {
        1
    }
    fn model(&self) -> Model {
        MODEL
    }
    fn state(&mut self) -> Result<State> {
        Ok(self.state.clone())
    }
    fn set_state(&mut self, state: &State) -> Result<()> {
        self.state = state.clone();
        Ok(())
    }
    fn train_steps(&mut self, rows: &[u32], batch_size: usize) -> Result<Vec<StepMetrics>> {
        assert_eq!((batch_size, rows.len() % BATCH), (BATCH, 0));
        self.calls.push(rows.to_vec());
        let mut metrics = Vec::new();
        for _ in 0..rows.len() / BATCH {
            self.state.step += 1;
            std::thread::sleep(self.step_time);
            metrics.push(StepMetrics { loss: (self.loss)(self.state.step), correct: 2 });
            self.state.parameters.fill(self.state.step as f32);
            if let Some((step, poison)) = self.poison
                && self.state.step >= step
            {
                poison(&mut self.state);
            }
        }
        Ok(metrics)
    }
    fn evaluate(&mut self, split: Split, rows: &[u32]) -> Result<Scores> {
        assert!(split != Split::Test, "the test images are not looked at in training");
        Ok(Scores { loss: vec![(self.loss_after)(self.state.step); rows.len()], predicted: vec![0; rows.len()] })
    }
    fn predict(&mut self, _: &Sequences) -> Result<Vec<f32>> {
        unreachable!()
    }
    fn trace(&mut self, _: &Sequences) -> Result<Trace> {
        unreachable!()
    }
}

/// Writes down what it is told; asks to stop once so many steps are done.
#[derive(Default)]
struct Watch {
    reported: Vec<u64>,
    validated: Vec<u64>,
    reports: Vec<StepReport>,
    done: u64,
    stop_at: Option<u64>,
}

impl Observer for Watch {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        self.reported.push(report.step);
        self.reports.push(*report);
        Ok(())
    }
    fn validation(&mut self, step: u64, _: &EvalReport) -> Result<()> {
        self.validated.push(step);
        Ok(())
    }
    fn progress(&mut self, done: u64) {
        assert!(done > self.done);
        self.done = done;
    }
    fn stop(&self) -> bool {
        self.stop_at.is_some_and(|step| self.done >= step)
    }
}

fn run(engine: &mut Fake, plan: &Plan) -> (Result<Summary>, Watch) {
    let mut watch = Watch::default();
    (train(engine, &data(), &config(), plan, &mut watch), watch)
}

#[test]
fn everything_is_done_at_its_step() {
    for first in [0, 1, 19, 20, 33] {
        let folder = tempfile::tempdir().unwrap();
        let save = folder.path().join("a");
        let mut engine = Fake { state: state(first), ..Fake::default() };
        let plan =
            Plan { log_every: 7, eval_every: Some(11), save_every: Some(13), save: Some(save.clone()), ..plan(53) };
        let (summary, watch) = run(&mut engine, &plan);
        let due = |every: u64| (first + 1..=53).filter(move |step| step % every == 0);
        assert_eq!(watch.reported, due(7).chain([53]).collect::<Vec<_>>(), "and the last step");
        assert_eq!(watch.validated, due(11).collect::<Vec<_>>());
        let summary = summary.unwrap();
        assert_eq!((summary.steps, summary.steps_here), (53, 53 - first));
        assert_eq!(watch.done, 53);
        // No call goes past a step at which there is something to do.
        let mut step = first as usize;
        for count in engine.counts() {
            for every in [7, 11, 13] {
                assert!(step / every == (step + count - 1) / every, "{count} steps after step {step}");
            }
            step += count;
        }
        assert_eq!(Checkpoint::load(&save).unwrap().state, engine.state);
        // The rows are those of the order, from where the run before has stopped.
        let all = Order::new(22, 7).rows(first * BATCH as u64, (53 - first as usize) * BATCH);
        assert_eq!(engine.calls.concat(), all);
    }
}

#[test]
fn saving_happens_at_its_steps_and_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let save = Some(folder.path().join("a"));
    let saved = || Checkpoint::load(&folder.path().join("a")).map_or(0, |checkpoint| checkpoint.state.step);
    /// Notes at each step of the run which checkpoint there is.
    struct Look<'a>(&'a dyn Fn() -> u64, Vec<u64>);
    impl Observer for Look<'_> {
        fn step(&mut self, _: &StepReport) -> Result<()> {
            self.1.push((self.0)());
            Ok(())
        }
        fn validation(&mut self, _: u64, _: &EvalReport) -> Result<()> {
            Ok(())
        }
    }
    let mut look = Look(&saved, Vec::new());
    let plan = Plan { log_every: 1, save_every: Some(3), save, ..plan(8) };
    train(&mut Fake::default(), &data(), &config(), &plan, &mut look).unwrap();
    assert_eq!(look.1, [0, 0, 0, 3, 3, 3, 6, 6], "saved after the report of its step");
    assert_eq!(saved(), 8);
    // Nothing to do, but a folder to save to.
    let elsewhere = folder.path().join("b");
    let plan = Plan { save: Some(elsewhere.clone()), ..plan };
    let summary =
        train(&mut Fake { state: state(8), ..Fake::default() }, &data(), &config(), &plan, &mut look).unwrap();
    assert_eq!((summary.steps_here, summary.ms_per_step()), (0, 0.0));
    assert_eq!(Checkpoint::load(&elsewhere).unwrap().state.step, 8);
}

#[test]
fn a_call_takes_no_more_than_20_steps_and_about_a_fifth_of_a_second() {
    let mut engine = Fake::default();
    run(&mut engine, &Plan { log_every: 1000, ..plan(100) }).0.unwrap();
    assert_eq!((engine.counts()[0], engine.counts().iter().max()), (1, Some(&20)), "{:?}", engine.counts());
    let mut engine = Fake { step_time: Duration::from_millis(60), ..Fake::default() };
    run(&mut engine, &Plan { log_every: 1000, ..plan(10) }).0.unwrap();
    assert!(engine.counts().iter().all(|&count| count <= 3), "{:?}", engine.counts());
    let mut engine = Fake { step_time: Duration::from_millis(250), ..Fake::default() };
    run(&mut engine, &Plan { log_every: 1000, ..plan(3) }).0.unwrap();
    assert_eq!(engine.counts(), [1, 1, 1]);
}

#[test]
fn a_report_tells_the_time_of_its_steps() {
    let mut engine = Fake { step_time: Duration::from_millis(5), ..Fake::default() };
    let (summary, watch) = run(&mut engine, &Plan { log_every: 4, ..plan(10) });
    for report in &watch.reports {
        assert!(report.ms_per_step >= 5.0, "{report:?}");
        let samples = BATCH as f64 * 1e3 / report.ms_per_step;
        assert!((report.samples_per_s / samples - 1.0).abs() < 1e-9, "{report:?}");
        assert_eq!(report.loss, 1.0);
    }
    // The fake always answers class 0.
    let right = |step: u64| {
        let rows = Order::new(22, 7).rows((step - 1) * BATCH as u64, BATCH);
        rows.iter().filter(|&row| row % 5 == 0).count() as f64 / BATCH as f64
    };
    let accuracies: Vec<f64> = watch.reports.iter().map(|report| report.accuracy).collect();
    assert_eq!(accuracies, [4, 8, 10].map(right), "of the last step's batch");
    // Steps 1 to 4, 5 to 8, 9 and 10.
    let all: f64 = watch.reports.iter().zip([4.0, 4.0, 2.0]).map(|(report, steps)| report.ms_per_step * steps).sum();
    assert!((summary.unwrap().ms_per_step() * 10.0 / all - 1.0).abs() < 1e-9);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_names_its_step() {
    let loss = |step| if step == 33 { f32::NAN } else { 1.0 };
    for save_every in [None, Some(10)] {
        let folder = tempfile::tempdir().unwrap();
        let save = folder.path().join("a");
        let mut engine = Fake { loss, ..Fake::default() };
        let (result, watch) = run(&mut engine, &Plan { save: Some(save.clone()), save_every, ..plan(100) });
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Diverged { step: 33, .. }), "{error}");
        assert!(engine.state.step <= 33 + 20, "stopped at step {}", engine.state.step);
        assert_eq!(watch.reported, [20]);
        let kept = Checkpoint::load(&save).ok().map(|checkpoint| checkpoint.state);
        assert_eq!(kept.as_ref().map(|state| state.step), save_every.map(|_| 30));
        assert_eq!(error.to_string().contains("the checkpoint of step 30"), kept.is_some(), "{error}");
        assert!(kept.is_none_or(|state| state.parameters[0] == 30.0));
    }
    // Before the update all was well, after it no more: seen at the report.
    let mut engine = Fake { loss_after: |step| if step >= 40 { f32::INFINITY } else { 1.0 }, ..Fake::default() };
    let error = run(&mut engine, &plan(100)).0.unwrap_err();
    assert!(error.to_string().starts_with("the loss became inf at step 40; try a smaller --lr"), "{error}");
}

#[test]
fn what_is_not_finite_is_never_saved() {
    let poisons: [Poison; 3] = [
        |state| state.parameters[3] = f32::NAN,
        |state| state.m[3] = f32::NEG_INFINITY,
        |state| state.v[3] = f32::INFINITY,
    ];
    for poison in poisons {
        for stop_at in [None, Some(7)] {
            let folder = tempfile::tempdir().unwrap();
            let save = folder.path().join("a");
            let mut engine = Fake { poison: Some((7, poison)), ..Fake::default() };
            let plan = Plan { save: Some(save.clone()), save_every: Some(5), ..plan(10) };
            let mut watch = Watch { stop_at, ..Watch::default() };
            let error = train(&mut engine, &data(), &config(), &plan, &mut watch).unwrap_err();
            assert_eq!(error.exit_code(), 6, "{error}");
            assert!(error.to_string().contains("the checkpoint of step 5"), "{error}");
            assert_eq!(Checkpoint::load(&save).unwrap().state.step, 5);
        }
    }
    // Finite numbers whose loss is not.
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("a");
    let mut engine = Fake { loss_after: |step| if step >= 6 { f32::NAN } else { 1.0 }, ..Fake::default() };
    let plan = Plan { save: Some(save.clone()), save_every: Some(1), ..plan(10) };
    assert_eq!(run(&mut engine, &plan).0.unwrap_err().exit_code(), 6);
    assert_eq!(Checkpoint::load(&save).unwrap().state.step, 5);
}

#[test]
fn who_stops_a_run_finds_it_saved() {
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("a");
    let stopped = |save: Option<std::path::PathBuf>| {
        let mut watch = Watch { stop_at: Some(21), ..Watch::default() };
        let plan = Plan { save, ..plan(100) };
        (train(&mut Fake::default(), &data(), &config(), &plan, &mut watch).unwrap_err(), watch.done)
    };
    let (error, done) = stopped(Some(save.clone()));
    assert!(matches!(&error, Error::Interrupted { step, remedy } if *step == done && remedy.contains("--resume")));
    assert_eq!((error.exit_code(), Checkpoint::load(&save).unwrap().state.step), (130, done));
    let (error, _) = stopped(None);
    assert!(error.to_string().contains("nothing was saved"), "{error}");
}

#[test]
fn patience_ends_a_run_and_keeps_the_best() {
    // Lowest after step 9; equal is not lower.
    let loss_after = |step: u64| if step < 9 { 10.0 - step as f32 } else { 1.0 };
    let folder = tempfile::tempdir().unwrap();
    let save = folder.path().join("a");
    let patient = Plan { eval_every: Some(3), patience: Some(4), save: Some(save.clone()), ..plan(100) };
    let mut engine = Fake { loss_after, ..Fake::default() };
    let (summary, watch) = run(&mut engine, &patient);
    let summary = summary.unwrap();
    assert_eq!((summary.steps, summary.best, watch.validated.last()), (21, Some(9), Some(&21)));
    assert_eq!((engine.state.step, engine.state.parameters[0]), (9, 9.0), "the engine holds the best");
    assert_eq!(Checkpoint::load(&save).unwrap().state, engine.state);
    // Better up to the end: nothing stops it.
    let mut engine = Fake { loss_after: |step| 1.0 / step as f32, ..Fake::default() };
    let summary = run(&mut engine, &Plan { save: None, ..patient.clone() }).0.unwrap();
    assert_eq!((summary.steps, summary.best, engine.state.step), (100, Some(99), 99));
    // A validation loss that is no number any more is no reason to wait.
    let mut engine = Fake { loss_after: |step| if step == 6 { f32::NAN } else { 1.0 }, ..Fake::default() };
    let error = run(&mut engine, &Plan { save: None, ..patient }).0.unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 6, .. }), "{error}");
}

#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    let refused = |config: &Config, plan: &Plan, data: &Dataset| {
        let error = train(&mut Fake::default(), data, config, plan, &mut Watch::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    };
    refused(&config(), &Plan { log_every: 0, ..plan(1) }, &data());
    refused(&config(), &Plan { eval_every: Some(0), ..plan(1) }, &data());
    refused(&config(), &Plan { save_every: Some(0), ..plan(1) }, &data());
    refused(&config(), &Plan { patience: Some(0), ..plan(1) }, &data());
    refused(&config_with(Adam::default(), 0), &plan(1), &data());
    let none = data().train.slice(0, 0);
    refused(&config(), &plan(1), &Dataset { train: none, ..data() });
}

#[test]
fn any_cut_of_a_real_run_changes_no_bit() {
    let data = Arc::new(data());
    for grad_clip in [None, Some(0.1)] {
        let config = config_with(Adam { grad_clip, ..Adam::default() }, BATCH);
        let start = State::new(init::parameters(&MODEL, config.init, config.seed));
        let trained = |state: &State, plan: &Plan| {
            let mut engine = CpuEngine::new(MODEL, config.adam, data.clone(), 2).unwrap();
            engine.set_state(state).unwrap();
            train(&mut engine, &data, &config, plan, &mut Watch::default()).unwrap();
            engine.state().unwrap()
        };
        let whole = trained(&start, &plan(30));
        let folder = tempfile::tempdir().unwrap();
        for cut in 0..=30 {
            let save = folder.path().join("a");
            trained(&start, &Plan { save: Some(save.clone()), log_every: 3, eval_every: Some(4), ..plan(cut) });
            let loaded = Checkpoint::load(&save).unwrap();
            assert_eq!((loaded.state.step, &loaded.config), (cut, &config));
            let resumed = trained(&loaded.state, &Plan { log_every: 7, ..plan(30) });
            assert!(resumed == whole, "cut after step {cut}");
        }
    }
}
