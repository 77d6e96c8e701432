//! Does an engine compute what the reference computes? A tiny model, whose every number is compared.

use super::Check;
use crate::commands::output::scientific;
use fused_lstm::Result;
use fused_lstm::cpu::CpuEngine;
use fused_lstm::data::{Dataset, Sequences, Values};
use fused_lstm::engine::{Engine, Model, State};
use fused_lstm::fixture::relative_max;
use fused_lstm::init::{self, Init};
use fused_lstm::optimizer::Adam;
use fused_lstm::reference::ReferenceEngine;
use fused_lstm::shape::Dims;
use std::sync::Arc;
use std::time::Instant;

/// Ragged on purpose: no size is a multiple of a vector or a tile.
const DIMS: Dims = Dims { t: 5, i: 7, p: 12, h: 21, k: 10 };
const BATCH: usize = 19;
/// Steps that are trained: on a GPU one replay of a recording of four, and one of a single one.
const STEPS: usize = 5;
/// Largest error relative to the largest value of its kind; about 10 times what engines show in f32, as in the tests.
const BOUND: f64 = 2e-5;

/// The model, its optimizer, and as many sequences as a batch has.
pub fn tiny() -> (Model, Adam, Arc<Dataset>) {
    let numbers = (0..BATCH * DIMS.sequence_len()).map(|n| ((n * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let labels = (0..BATCH).map(|row| (row * 7 % DIMS.k) as u32).collect();
    let train = Sequences::new(DIMS.t, DIMS.i, Values::F32(numbers), labels);
    let none = train.slice(0, 0);
    let data = Dataset {
        description: "numbers".into(),
        name: "numbers",
        classes: DIMS.k,
        train,
        validation: none.clone(),
        test: none,
        own: None,
    };
    (Model::new(DIMS), Adam::default(), Arc::new(data))
}

/// The check of the CPU engine.
pub fn cpu() -> Check {
    let (model, adam, data) = tiny();
    of("cpu self-test", || CpuEngine::new(model, adam, data, 0))
}

/// The check of the engine that `open` gives.
pub fn of<E: Engine>(name: impl Into<String>, open: impl FnOnce() -> Result<E>) -> Check {
    let name = name.into();
    let started = Instant::now();
    match open().and_then(|mut engine| errors(&mut engine)) {
        Err(error) => Check::of(name, super::Status::Fail, error),
        Ok(errors) => judge(name, &errors, started.elapsed().as_secs_f64()),
    }
}

fn judge(name: String, errors: &[(&str, f64)], seconds: f64) -> Check {
    let told: Vec<_> = errors.iter().map(|(what, error)| format!("{what} {}", scientific(*error, 0))).collect();
    let told = format!("errors against the f64 reference: {}", told.join(", "));
    // Not the other way round: NaN is no good error.
    if errors.iter().all(|(_, error)| *error <= BOUND) {
        return Check::pass(name, format!("{told} (allowed {BOUND:.0e}); {seconds:.2} s"));
    }
    Check::fail(name, format!("{told}, but {BOUND:.0e} is allowed"), "do not trust this device; report this line")
}

/// How far `engine` is from the reference, the name of each kind of numbers before its error.
fn errors(engine: &mut impl Engine) -> Result<Vec<(&'static str, f64)>> {
    let (model, adam, data) = tiny();
    let state = State::new(init::parameters(&model, Init::Xavier, 3));
    let mut reference = ReferenceEngine::<f64>::new(model, adam, data.clone());
    reference.set_state(&state)?;
    engine.set_state(&state)?;
    let (expected, got) = (reference.trace(&data.train)?, engine.trace(&data.train)?);
    let rows: Vec<u32> = (0..STEPS * BATCH).map(|n| (n % BATCH) as u32).collect();
    let losses = |engine: &mut dyn Engine| -> Result<Vec<f32>> {
        Ok(engine.train_steps(&rows, BATCH)?.iter().map(|step| step.loss).collect())
    };
    let (expected_losses, got_losses) = (losses(&mut reference)?, losses(engine)?);
    let (expected_state, got_state) = (reference.state()?, engine.state()?);
    // Tensor by tensor: the small ones would hide behind the large ones.
    let ranges = model.layout().ranges().into_vec();
    let of_tensors = |got: &[f32], expected: &[f32]| {
        ranges.iter().map(|range| error(&got[range.clone()], &expected[range.clone()])).fold(0.0, largest)
    };
    Ok(vec![
        ("logits", error(&got.logits, &expected.logits)),
        ("gradients", of_tensors(&got.gradient, &expected.gradient)),
        ("losses of training", error(&got_losses, &expected_losses)),
        ("trained parameters", of_tensors(&got_state.parameters, &expected_state.parameters)),
    ])
}

fn error(got: &[f32], expected: &[f32]) -> f64 {
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    relative_max(&wide(got), &wide(expected))
}

/// The larger one; NaN, once seen, stays.
fn largest(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Status;
    use fused_lstm::data::Split;
    use fused_lstm::engine::{Scores, StepMetrics, Trace};

    /// The CPU engine with one number of its results spoiled.
    struct Spoiled {
        engine: CpuEngine,
        gradient: f32,
        loss: f32,
    }

    impl Engine for Spoiled {
        fn device(&self) -> String {
            self.engine.device()
        }
        fn threads(&self) -> usize {
            1
        }
        fn model(&self) -> Model {
            self.engine.model()
        }
        fn state(&mut self) -> Result<State> {
            self.engine.state()
        }
        fn set_state(&mut self, state: &State) -> Result<()> {
            self.engine.set_state(state)
        }
        fn train_steps(&mut self, rows: &[u32], batch_size: usize) -> Result<Vec<StepMetrics>> {
            let mut steps = self.engine.train_steps(rows, batch_size)?;
            steps[1].loss += self.loss;
            Ok(steps)
        }
        fn evaluate(&mut self, split: Split, rows: &[u32]) -> Result<Scores> {
            self.engine.evaluate(split, rows)
        }
        fn predict(&mut self, sequences: &Sequences) -> Result<Vec<f32>> {
            self.engine.predict(sequences)
        }
        fn trace(&mut self, batch: &Sequences) -> Result<Trace> {
            let mut trace = self.engine.trace(batch)?;
            *trace.gradient.last_mut().unwrap() += self.gradient;
            Ok(trace)
        }
    }

    #[test]
    fn one_wrong_number_fails() {
        let check = |gradient, loss| {
            let (model, adam, data) = tiny();
            of("spoiled", || Ok(Spoiled { engine: CpuEngine::new(model, adam, data, 1)?, gradient, loss }))
        };
        assert_eq!(check(0.0, 0.0).status, Status::Pass);
        for (gradient, loss) in [(1e-4, 0.0), (0.0, 1e-3), (f32::NAN, 0.0), (0.0, f32::NAN)] {
            let check = check(gradient, loss);
            assert_eq!(check.status, Status::Fail, "{gradient} {loss}: {}", check.line());
            assert!(check.line().contains("FAIL") && check.line().contains("do not trust"), "{}", check.line());
        }
    }
}
