//! Does it learn what it should? On synthetic digits always. On real MNIST where FUSED_LSTM_MNIST names the folder with
//! its four files, and in the release build only, for it takes minutes: `cargo test --release --test accuracy`.

use fused_lstm::config::Config;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::{Dataset, Split, mnist, synthetic};
use fused_lstm::engine::Engine;
use fused_lstm::init::Init;
use fused_lstm::train::{EvalReport, Observer, Plan, StepReport, evaluate, train};
use std::path::Path;
use std::sync::Arc;

const SEEDS: u64 = 5;

/// Keeps the batch accuracy of every report.
struct Lines(Vec<f64>);

impl Observer for Lines {
    fn step(&mut self, report: &StepReport) -> fused_lstm::Result<()> {
        self.0.push(report.accuracy);
        Ok(())
    }
    fn validation(&mut self, _: u64, _: &EvalReport) -> fused_lstm::Result<()> {
        Ok(())
    }
}

struct Run {
    engine: CpuEngine,
    data: Arc<Dataset>,
    config: Config,
}

impl Run {
    fn new(data: &Arc<Dataset>, init: Init, seed: u64) -> Self {
        let config = Config { init, seed, ..Config::new(data, 128) };
        let mut engine = CpuEngine::new(config.model, config.adam, data.clone(), 0).unwrap();
        engine.set_state(&config.initial_state()).unwrap();
        Self { engine, data: data.clone(), config }
    }

    /// Goes on to `steps` steps in all; the test accuracy then, and the mean of the last five lines.
    fn to(&mut self, steps: u64) -> (f64, f64) {
        let mut lines = Lines(Vec::new());
        train(&mut self.engine, &self.data, &self.config, &Plan::new(steps), &mut lines).unwrap();
        let last = &lines.0[lines.0.len() - 5..];
        (evaluate(&mut self.engine, &self.data, Split::Test).unwrap().accuracy, last.iter().sum::<f64>() / 5.0)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn real_digits() -> Option<Arc<Dataset>> {
    if cfg!(debug_assertions) {
        println!("skipped: a debug build takes too long");
        return None;
    }
    let folder = std::env::var_os("FUSED_LSTM_MNIST");
    if folder.is_none() {
        println!("skipped: set FUSED_LSTM_MNIST to the folder with MNIST's files");
    }
    folder.map(|folder| Arc::new(mnist::load(Path::new(&folder)).unwrap()))
}

/// PyTorch with the same recipe: 96.5 % (± 0.35 from seed to seed), lines 97.7 % (± 0.8), after 5 epochs 97.4 % (± 0.2).
#[test]
fn the_tutorials_recipe_on_real_digits() {
    let Some(data) = real_digits() else { return };
    let five_epochs = (5 * data.train.len() as u64).div_ceil(128);
    let (mut tests, mut lines, mut later) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let mut run = Run::new(&data, Init::Tutorial, seed);
        let (test, last_lines) = run.to(1000);
        tests.push(test);
        lines.push(last_lines);
        later.push(run.to(five_epochs).0);
    }
    println!("1,000 steps: test {:.4} {tests:?}, lines {:.4} {lines:?}", mean(&tests), mean(&lines));
    println!("5 epochs: test {:.4} {later:?}", mean(&later));
    assert!(mean(&tests) >= 0.962 && mean(&lines) >= 0.965 && mean(&later) >= 0.971);
}

/// PyTorch with the same recipe: 97.7 % (± 0.3 from seed to seed).
#[test]
fn xavier_on_real_digits() {
    let Some(data) = real_digits() else { return };
    let tests: Vec<f64> = (0..SEEDS).map(|seed| Run::new(&data, Init::Xavier, seed).to(1000).0).collect();
    println!("1,000 steps from Xavier: test {:.4} {tests:?}", mean(&tests));
    assert!(mean(&tests) >= 0.973);
}

#[test]
fn a_few_steps_on_synthetic_digits() {
    let data = Arc::new(synthetic::digits(0, 5_000, 0, 1_000));
    let (test, _) = Run::new(&data, Init::Tutorial, 0).to(150);
    println!("150 steps on synthetic digits: test {test:.4}");
    // A tenth would be chance.
    assert!(test >= 0.8, "{test}");
}
