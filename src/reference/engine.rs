//! The reference as an [`Engine`], so that whatever checks an engine can check this one too.

use super::rounded::{self, Factors, Style};
use super::{Batch, Gradients, Real, adam, forward_backward, model, softmax_xent};
use crate::data::{Dataset, Sequences, Split};
use crate::engine::{Engine, Model, Scores, State, StepMetrics, Trace};
use crate::error::Result;
use crate::optimizer::Adam;
use crate::precision::Precision;
use std::sync::Arc;

/// Sequences that one evaluation step takes at a time.
const EVALUATION_BATCH: usize = 100;

/// The plain model; slow. `F` is the precision of all it computes and keeps.
pub struct ReferenceEngine<F> {
    model: Model,
    adam: Adam,
    data: Arc<Dataset>,
    parameters: Vec<F>,
    m: Vec<F>,
    v: Vec<F>,
    step: u64,
    /// None where nothing is rounded.
    rounding: Option<(Precision, Factors<F>)>,
}

impl<F: Real> ReferenceEngine<F> {
    /// An engine for `model` that trains with `adam` on `data`, all parameters zero until [`Engine::set_state`].
    pub fn new(model: Model, adam: Adam, data: Arc<Dataset>) -> Self {
        let zeros = vec![F::zero(); model.layout().len()];
        let (parameters, m, v) = (zeros.clone(), zeros.clone(), zeros);
        Self { model, adam, data, parameters, m, v, step: 0, rounding: None }
    }

    /// Rounds the factors of the LSTM's products to bf16, for the tutorial's model alone: as the CPU engine of that precision does with [`Style::Cpu`],
    /// as the persistent kernels do with [`Style::Persistent`].
    pub fn rounding_to_bf16(self, style: Style) -> Self {
        assert_eq!(self.model.extras(), None, "there is no engine that rounds the products of such a model");
        Self { rounding: Some((Precision::Bf16, Factors { style, round: F::bf16 })), ..self }
    }

    /// Rounds the factors of the products with the recurrent weights to TF32, for the tutorial's model alone, as the TF32 kernels do.
    pub fn rounding_to_tf32(self) -> Self {
        assert_eq!(self.model.extras(), None, "there is no engine that rounds the products of such a model");
        let factors = Factors { style: Style::Recurrent, round: F::tf32 };
        Self { rounding: Some((Precision::Tf32, factors)), ..self }
    }

    fn gradients(&self, sequences: &Sequences, rows: &[u32]) -> Gradients<F> {
        if let Some((_, factors)) = &self.rounding {
            return rounded::forward_backward(&self.model, &self.parameters, sequences, rows, factors);
        }
        let mask = self.model.dropout.map(|dropout| dropout.mask(self.step + 1));
        forward_backward(&self.model, &self.parameters, &Batch::new(sequences, rows), mask.as_ref())
    }

    fn logits(&self, sequences: &Sequences, rows: &[u32]) -> Vec<F> {
        match &self.rounding {
            Some((_, factors)) => rounded::logits(&self.model, &self.parameters, sequences, rows, factors),
            None => model::logits(&self.model, &self.parameters, &Batch::new(sequences, rows)),
        }
    }

    fn step(&mut self, rows: &[u32]) -> StepMetrics {
        let labels = rows.iter().map(|&row| self.data.train.labels()[row as usize]);
        let out = self.gradients(&self.data.train, rows);
        self.step += 1;
        adam::step(&self.adam, self.step, &out.gradient, &mut self.parameters, &mut self.m, &mut self.v);
        let predicted = out.logits.chunks_exact(self.model.dims.k).map(softmax_xent::arg_max);
        StepMetrics {
            loss: (out.loss.iter().copied().sum::<F>() / F::of(rows.len() as f64)).single(),
            correct: predicted.zip(labels).filter(|(p, label)| p == label).count() as u32,
        }
    }
}

fn to_f32<F: Real>(values: &[F]) -> Vec<f32> {
    values.iter().map(|v| v.single()).collect()
}

fn from_f32<F: Real>(values: &[f32]) -> Vec<F> {
    values.iter().map(|&v| F::of(v.into())).collect()
}

impl<F: Real> Engine for ReferenceEngine<F> {
    fn device(&self) -> String {
        let rounded = match self.rounding {
            Some((Precision::Tf32, _)) => ", recurrent products of tf32",
            Some(_) => ", products of bf16",
            None => "",
        };
        format!("cpu, plain reference in f{}{rounded}", 8 * size_of::<F>())
    }

    fn precision(&self) -> Precision {
        self.rounding.as_ref().map_or(Precision::F32, |(precision, _)| *precision)
    }

    fn threads(&self) -> usize {
        1
    }

    fn model(&self) -> Model {
        self.model
    }

    fn state(&mut self) -> Result<State> {
        Ok(State { parameters: to_f32(&self.parameters), m: to_f32(&self.m), v: to_f32(&self.v), step: self.step })
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        (self.parameters, self.m, self.v) = (from_f32(&state.parameters), from_f32(&state.m), from_f32(&state.v));
        self.step = state.step;
        Ok(())
    }

    fn train_steps(&mut self, rows: &[u32], batch_size: usize) -> Result<Vec<StepMetrics>> {
        Ok(rows.chunks_exact(batch_size).map(|rows| self.step(rows)).collect())
    }

    fn evaluate(&mut self, split: Split, rows: &[u32]) -> Result<Scores> {
        let data = self.data.split(split);
        let mut scores = Scores::default();
        for rows in rows.chunks(EVALUATION_BATCH) {
            let logits = self.logits(data, rows);
            for (logits, &row) in logits.chunks_exact(self.model.dims.k).zip(rows) {
                let label = data.labels()[row as usize] as usize;
                scores.loss.push(softmax_xent::loss(logits, label, F::zero()).single());
                scores.predicted.push(softmax_xent::arg_max(logits));
            }
        }
        Ok(scores)
    }

    fn predict(&mut self, sequences: &Sequences) -> Result<Vec<f32>> {
        let rows: Vec<u32> = (0..sequences.len() as u32).collect();
        let logits = self.logits(sequences, &rows);
        Ok(logits.chunks_exact(self.model.dims.k).flat_map(|row| to_f32(&softmax_xent::softmax(row))).collect())
    }

    fn trace(&mut self, batch: &Sequences) -> Result<Trace> {
        let rows: Vec<u32> = (0..batch.len() as u32).collect();
        let out = self.gradients(batch, &rows);
        Ok(Trace {
            logits: to_f32(&out.logits),
            h_last: to_f32(&out.h_last),
            c_last: to_f32(&out.c_last),
            loss: to_f32(&out.loss),
            gradient: to_f32(&out.gradient),
            dx: to_f32(&out.dx),
        })
    }
}
